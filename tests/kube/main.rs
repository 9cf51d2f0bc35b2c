//! The tier `kube`: against a real kube-apiserver and etcd.
//!
//! Most tests share one server and keep to namespaces of their own; those that stop a server or
//! make its store forget, and those of whole control planes, start their own.

mod admitting;
mod agent;
mod authorities;
mod certificates;
mod control_plane;
mod definitions;
mod replicas;
mod server;
mod stage;
mod tokens;
mod watching;
mod writing;
