//! Connections through whole agents: who reaches whom, by which way, with which bytes, and what a
//! hostile peer achieves.
//!
//! Each test sets a stage of its own (a world, an agent on each node, enrolled pods) and makes
//! several named checks on it.

mod allowed;
mod certificates;
mod ejected;
mod gateways;
mod golden;
mod hostile_http2;
mod hostile_tls;
mod peer;
mod questions;
mod ready;
mod refused;
mod relay;
mod stage;
mod tunnels;
mod waypoints;
