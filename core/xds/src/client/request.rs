//! Requests, and the text of a refusal.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proto::discovery::{DeltaDiscoveryRequest, Node, Status};

use super::RejectedResource;
use crate::kind::Kind;

/// Longest text of a refusal, in bytes. It says how many resources it leaves out.
pub const NACK_BYTES_MAX: usize = 4096;
/// `INVALID_ARGUMENT` (`grpc/status.h`).
const INVALID: i32 = 3;

/// The first request of a type in a stream.
pub(super) fn initial(
    node: &Node,
    kind: Kind,
    subscribe: Vec<String>,
    unsubscribe: Vec<String>,
    held: BTreeMap<String, String>,
) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(node.clone()),
        type_url: kind.url().to_owned(),
        resource_names_subscribe: subscribe,
        resource_names_unsubscribe: unsubscribe,
        initial_resource_versions: held,
        ..DeltaDiscoveryRequest::default()
    }
}

/// A change of what is subscribed to.
pub(super) fn subscription(
    subscribe: Vec<String>,
    unsubscribe: Vec<String>,
) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: Kind::Address.url().to_owned(),
        resource_names_subscribe: subscribe,
        resource_names_unsubscribe: unsubscribe,
        ..DeltaDiscoveryRequest::default()
    }
}

/// The answer to a response: accepted, if there is no text.
pub(super) fn answer(
    type_url: String,
    nonce: String,
    refusal: Option<String>,
) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url,
        response_nonce: nonce,
        error_detail: refusal.map(|message| Status { code: INVALID, message, details: vec![] }),
        ..DeltaDiscoveryRequest::default()
    }
}

/// Names and causes of rejected resources, as many as fit; `None` if there are none.
pub(super) fn rejections(rejected: &[RejectedResource]) -> Option<String> {
    if rejected.is_empty() {
        return None;
    }
    let mut text = String::new();
    for (index, resource) in rejected.iter().enumerate() {
        let line = format!("{resource}; ");
        if text.len() + line.len() > NACK_BYTES_MAX - 32 {
            // Writing to a string cannot fail.
            let _ = write!(text, "and {} more", rejected.len() - index);
            return Some(text);
        }
        text.push_str(&line);
    }
    text.truncate(text.trim_end_matches("; ").len());
    Some(text)
}
