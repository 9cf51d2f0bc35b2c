//! The control plane: cluster objects in, workloads, policies, certificates and status out.
//!
//! `watch` feeds objects from an API server or a folder into one model, `core/translate` turns them
//! into resources, `serve` gives them to proxies, `ca` signs their certificates, `status` writes back
//! what became of each object. `app` puts them together.

pub mod app;
pub mod backoff;
pub mod ca;
pub mod caller;
pub mod config;
pub mod serve;
pub mod status;
pub mod translation;
pub mod watch;
pub mod webhook;
