//! Over real sockets, with TLS.

mod callers;
mod following;
mod support;
