//! Authorization policies (`security.istio.io`).
//!
//! An API server with the CRD drops fields it does not know; a folder of manifests keeps them, and a
//! newer CRD has more than we know. A field that restricts a rule and is overlooked makes an ALLOW
//! wider, so those of a rule are kept by name: [`Source::unknown`] and its like.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::meta::{Meta, Text};
use crate::readable::Readable;
use crate::selector::WorkloadSelector;

/// `security.istio.io/v1/AuthorizationPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AuthorizationPolicy {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: Readable<AuthorizationPolicySpec>,
}

/// Where a policy is bound, read on its own: it is known even when the rules are not readable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Binding {
    /// Workloads.
    pub selector: Option<Selector>,
    /// A waypoint's target.
    pub target_ref: Option<PolicyTarget>,
    /// Several.
    pub target_refs: Vec<PolicyTarget>,
}

/// `spec` of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationPolicySpec {
    /// Workloads.
    pub selector: Option<Selector>,
    /// A waypoint's target.
    pub target_ref: Option<PolicyTarget>,
    /// Several.
    pub target_refs: Vec<PolicyTarget>,
    /// What becomes of what matches.
    pub action: Action,
    /// Rules, OR-ed. None: nothing matches.
    #[serde(deserialize_with = "crate::meta::nullable")]
    pub rules: Vec<Rule>,
    /// Fields we do not know.
    #[serde(flatten, deserialize_with = "unknown")]
    pub unknown: Vec<Text>,
}

/// `selector` of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    /// Equality on every pair.
    pub match_labels: WorkloadSelector,
    /// Fields we do not know.
    #[serde(flatten, deserialize_with = "unknown")]
    pub unknown: Vec<Text>,
}

/// What a policy is attached to instead of workloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PolicyTarget {
    /// API group; empty for core.
    pub group: Text,
    /// Such as `Gateway`, `Service`, `ServiceEntry`, `GatewayClass`.
    pub kind: Text,
    /// Name.
    pub name: Text,
    /// Namespace; only the policy's own is allowed.
    pub namespace: Option<Text>,
}

/// What becomes of a connection that matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
pub enum Action {
    /// It is allowed.
    #[default]
    #[serde(rename = "ALLOW")]
    Allow,
    /// It is denied.
    #[serde(rename = "DENY")]
    Deny,
    /// It is recorded.
    #[serde(rename = "AUDIT")]
    Audit,
    /// An extension decides.
    #[serde(rename = "CUSTOM")]
    Custom,
}

/// One rule: parts AND-ed. An empty rule matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Sources, OR-ed. Empty: any.
    #[serde(deserialize_with = "crate::meta::nullable")]
    pub from: Vec<RuleFrom>,
    /// Operations, OR-ed. Empty: any.
    #[serde(deserialize_with = "crate::meta::nullable")]
    pub to: Vec<RuleTo>,
    /// Conditions, AND-ed.
    #[serde(deserialize_with = "crate::meta::nullable")]
    pub when: Vec<Condition>,
    /// Fields we do not know.
    #[serde(flatten, deserialize_with = "unknown")]
    pub unknown: Vec<Text>,
}

/// An entry of `from`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RuleFrom {
    /// The source.
    #[serde(deserialize_with = "crate::meta::nullable")]
    pub source: Source,
    /// Fields we do not know.
    #[serde(flatten, deserialize_with = "unknown")]
    pub unknown: Vec<Text>,
}

/// An entry of `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RuleTo {
    /// The operation.
    #[serde(deserialize_with = "crate::meta::nullable")]
    pub operation: Operation,
    /// Fields we do not know.
    #[serde(flatten, deserialize_with = "unknown")]
    pub unknown: Vec<Text>,
}

/// A source: fields AND-ed, values of a field OR-ed, a negated field excludes every value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are those of the API, each with its negation")]
pub struct Source {
    pub principals: Vec<Text>,
    pub not_principals: Vec<Text>,
    pub request_principals: Vec<Text>,
    pub not_request_principals: Vec<Text>,
    pub namespaces: Vec<Text>,
    pub not_namespaces: Vec<Text>,
    pub service_accounts: Vec<Text>,
    pub not_service_accounts: Vec<Text>,
    pub ip_blocks: Vec<Text>,
    pub not_ip_blocks: Vec<Text>,
    pub remote_ip_blocks: Vec<Text>,
    pub not_remote_ip_blocks: Vec<Text>,
    pub trust_domains: Vec<Text>,
    pub not_trust_domains: Vec<Text>,
    /// Fields we do not know.
    #[serde(flatten, deserialize_with = "unknown")]
    pub unknown: Vec<Text>,
}

/// An operation: fields AND-ed, values of a field OR-ed, a negated field excludes every value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the fields are those of the API, each with its negation")]
pub struct Operation {
    pub hosts: Vec<Text>,
    pub not_hosts: Vec<Text>,
    pub ports: Vec<Text>,
    pub not_ports: Vec<Text>,
    pub methods: Vec<Text>,
    pub not_methods: Vec<Text>,
    pub paths: Vec<Text>,
    pub not_paths: Vec<Text>,
    /// Fields we do not know.
    #[serde(flatten, deserialize_with = "unknown")]
    pub unknown: Vec<Text>,
}

/// A condition on an attribute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// The attribute, such as `source.ip`.
    pub key: Text,
    /// Values, OR-ed.
    pub values: Vec<Text>,
    /// Values that it must not have.
    pub not_values: Vec<Text>,
    /// Fields we do not know.
    #[serde(flatten, deserialize_with = "unknown")]
    pub unknown: Vec<Text>,
}

#[expect(clippy::zero_sized_map_values, reason = "serde reads a set as a sequence")]
fn unknown<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Text>, D::Error> {
    Ok(BTreeMap::<Text, IgnoredAny>::deserialize(from)?.into_keys().collect())
}
