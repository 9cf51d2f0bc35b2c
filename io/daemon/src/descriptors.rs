//! How many files and sockets a process may have open.

/// Raises the limit to what the system allows: every connection costs a descriptor or two, and the
/// usual limit of 1,024 is less than our own bounds.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "raising the limit of open files failed");
    }
}
