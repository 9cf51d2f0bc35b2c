//! Request authentication: tokens are in requests, which nodes do not see.

use cluster::{Readable, RequestAuthentication};

use super::Attachment;
use super::problem::{Cause, Effect, Remarks};

/// What is said about one. Nothing of it is sent to nodes, and nothing is denied for it: a request
/// without a token passes one, and what demands a token is an authorization policy.
pub(super) fn remarks(request: &RequestAuthentication) -> Remarks {
    match &request.spec {
        Readable::Unreadable(unread) => {
            let problem = Cause::unreadable(&unread.cause).at("spec");
            Remarks::new(vec![problem], Effect::None)
        }
        Readable::Read(spec) if spec.target_ref.is_some() || !spec.target_refs.is_empty() => {
            Remarks::new(Vec::new(), Effect::Waypoint)
        }
        Readable::Read(_) => Remarks::new(Vec::new(), Effect::None),
    }
}

/// What one is attached to. Of one that cannot be read it is not known, and it does nothing.
pub(super) fn attachment(request: &RequestAuthentication) -> Option<Attachment> {
    let Readable::Read(spec) = &request.spec else { return None };
    let targets = spec.target_ref.iter().chain(&spec.target_refs).cloned().collect::<Vec<_>>();
    (!targets.is_empty()).then_some(Attachment { targets, doubt: None })
}
