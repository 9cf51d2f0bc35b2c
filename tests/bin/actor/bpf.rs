//! Raw `bpf(2)` calls, as a hostile process makes them.
#![expect(unsafe_code, reason = "the system call has no wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use tests::protocol::{Failure, Response};

/// Makes one call. At `netns_at` of the attributes, the descriptor of the own network namespace is
/// filled in. What a success opens stays open until the actor ends.
pub(crate) fn call(
    command: i64,
    attributes: &[u8],
    netns_at: Option<usize>,
) -> Result<Response, Failure> {
    let failed = |error: io::Error| Failure::io("bpf", &error);
    let mut attributes = attributes.to_vec();
    let namespace = File::open("/proc/self/ns/net").map_err(failed)?;
    if let Some(place) = netns_at.and_then(|at| attributes.get_mut(at..at + 4)) {
        place.copy_from_slice(&namespace.as_raw_fd().to_ne_bytes());
    }
    // SAFETY: the attributes live until the call returns, and hold no pointers.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), attributes.len()) };
    if result < 0 { Err(failed(io::Error::last_os_error())) } else { Ok(Response::Done) }
}
