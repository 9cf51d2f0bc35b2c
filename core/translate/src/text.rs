//! Which texts may be sent.

use crate::problem::Problem;

/// Longest text that an agent reads, in bytes. What has a longer one is left out.
pub(crate) const TEXT_BYTES_MAX: usize = 2048;
/// Longest name of an object or a host, as in DNS.
const NAME_BYTES_MAX: usize = 253;

/// Whether a text can be an object's name or namespace. An API server is stricter; this keeps
/// together what names are put together from.
pub(crate) fn is_name(text: &str) -> bool {
    let is_sound = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(is_sound)
}

/// Whether a text can be a host's name; `*` may stand for its first label.
pub(crate) fn is_host(text: &str) -> bool {
    is_name(text) && !text.contains(':')
}

/// Adds a problem if a text is too long.
pub(crate) fn check(field: &'static str, text: &str) -> Result<(), Problem> {
    if text.len() > TEXT_BYTES_MAX { Err(Problem::TooLong { field }) } else { Ok(()) }
}
