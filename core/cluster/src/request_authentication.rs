//! Tokens of requests (`security.istio.io`): waypoints enforce them, nodes do not.

use serde::Deserialize;

use crate::authorization_policy::{PolicyTarget, Selector};
use crate::meta::Meta;
use crate::readable::Readable;

/// `security.istio.io/v1/RequestAuthentication`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RequestAuthentication {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: Readable<RequestAuthenticationSpec>,
}

/// `spec`, as far as it says where it is bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestAuthenticationSpec {
    /// Workloads.
    pub selector: Option<Selector>,
    /// A waypoint's target.
    pub target_ref: Option<PolicyTarget>,
    /// Several.
    pub target_refs: Vec<PolicyTarget>,
}
