//! Which texts may be sent.

use cluster::{Kind, ObjectKey, ObjectName};

use crate::problem::Problem;

/// Longest text that an agent reads, in bytes. What has a longer one is left out.
pub(crate) const TEXT_BYTES_MAX: usize = 2048;
/// Longest name of an object or a host, as in DNS.
const NAME_BYTES_MAX: usize = 253;

/// Longest name of a namespace or a Service: a label of DNS.
const LABEL_BYTES_MAX: usize = 63;

/// Whether a key is one that an API server would take. A folder of manifests may have any: what is
/// no name in DNS cannot be asked for, and would make others of what it is put together with.
///
/// A policy is told from others by any name, and leaving one out would allow more: of it the
/// namespace alone is looked at.
pub(crate) fn is_key(key: &ObjectKey) -> bool {
    let ObjectName { namespace, name } = &key.name;
    let has_namespace = !key.kind.names().is_namespaced || is_label(namespace);
    let has_name = match key.kind {
        Kind::AuthorizationPolicy | Kind::PeerAuthentication | Kind::RequestAuthentication => {
            !name.is_empty()
        }
        Kind::Namespace | Kind::Service => is_label(name),
        Kind::Node
        | Kind::GatewayClass
        | Kind::Gateway
        | Kind::ServiceEntry
        | Kind::EndpointSlice
        | Kind::WorkloadEntry
        | Kind::Pod => is_subdomain(name),
    };
    has_namespace && has_name
}

/// Whether a text can be the name of a namespace: a label of DNS.
#[must_use]
pub fn is_label(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX && !text.contains('.') && is_subdomain(text)
}

/// Labels of small letters, digits and hyphens, with a letter or digit at both ends.
fn is_subdomain(text: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| {
        let ends = part.bytes().next().zip(part.bytes().next_back());
        ends.is_some_and(|(first, last)| is_alphanumeric(first) && is_alphanumeric(last))
            && part.bytes().all(|byte| is_alphanumeric(byte) || byte == b'-')
    };
    text.len() <= NAME_BYTES_MAX && text.split('.').all(is_part)
}

/// Whether a text can be a part of a name that is sent: this keeps together what names are put
/// together from.
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
