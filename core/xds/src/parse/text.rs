//! Bounded texts.

use std::sync::Arc;

use super::intern::Interner;
use super::invalid::Problem;

/// Longest text read, in bytes: a uid made of a cluster's and three Kubernetes names fits, and so
/// does a SPIFFE ID. A resource with a longer one is rejected.
pub const TEXT_BYTES_MAX: usize = 2048;

/// A bounded text, as the one copy of it.
pub(super) fn text(interner: &mut Interner, text: &str) -> Result<Arc<str>, Problem> {
    bounded(text).map(|text| interner.text(text))
}

/// A bounded text that no other resource is expected to have, as a copy of its own.
pub(super) fn own_text(text: &str) -> Result<Arc<str>, Problem> {
    bounded(text).map(Arc::from)
}

/// A bounded text.
pub(super) fn bounded(text: &str) -> Result<&str, Problem> {
    match text.len() {
        length if length > TEXT_BYTES_MAX => Err(Problem::TooLong { length, max: TEXT_BYTES_MAX }),
        _ => Ok(text),
    }
}
