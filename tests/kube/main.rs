//! The tier `kube`: against a real kube-apiserver and etcd.
//!
//! Most tests share one server and keep to namespaces of their own; those that stop a server or
//! make its store forget start their own.

mod definitions;
mod server;
mod tokens;
mod watching;
