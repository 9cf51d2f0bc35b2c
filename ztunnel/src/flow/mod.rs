//! The story of a connection, stage by stage. `outbound.rs`, `inbound.rs`, `plaintext.rs`,
//! `passthrough.rs` and `questions.rs` each read from top to bottom in the order in which things happen;
//! only this folder knows the stages' order.

mod accept;
mod across;
mod admit;
mod attempt;
mod distrust;
mod handshakes;
mod inbound;
mod outbound;
mod passthrough;
mod plaintext;
mod pods;
mod questions;
mod record;
mod stop;
mod target;
mod worker;

pub(crate) use accept::serve_pod;
pub(crate) use pods::{LocalPods, Pod};
pub(crate) use stop::Stop;
pub(crate) use worker::{Shared, Worker};
