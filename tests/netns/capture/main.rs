//! Capture by whole agents: what pods and their neighbours open reaches the proxy, with its true
//! destination, and nothing else reaches an application. One theme a file.

mod families;
mod forged;
mod hostile_client;
mod hostile_server;
mod inbound;
mod inside;
mod kubelet;
mod outbound;
mod registry;
mod source;
mod stage;
mod virtual_addresses;
