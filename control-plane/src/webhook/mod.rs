//! Admission: what would be unreadable or unenforceable is refused, with the reason a person needs.
//!
//! It is a courtesy, not the safeguard: an object that gets past it is still judged when it is
//! translated, and a policy that is not understood denies.

mod ca_bundle;
mod port;
mod review;

pub use ca_bundle::CaBundle;
pub use port::serve;
pub use review::{ReviewError, review};
