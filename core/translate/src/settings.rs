//! What an operator decides for the whole mesh.

use cluster::{LabelSelector, Text, WorkloadSelector};
use model::TrustDomain;

/// The mesh as its operator set it up. A change of any of it is a new translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Ours.
    pub trust_domain: TrustDomain,
    /// Others that mean ours: principals are written for each of them.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// The namespace whose policies hold for the whole mesh.
    pub root_namespace: Text,
    /// This cluster.
    pub cluster: Text,
    /// The network of this cluster's addresses, where the root namespace has no label for it.
    pub network: Text,
    /// What host names of services end with: `name.namespace.svc.<this>`.
    pub domain: Text,
    /// Which revision's objects are ours (`istio.io/rev`). An object without the label is everybody's.
    pub revision: Text,
    /// Namespaces that are seen at all, by their labels, OR-ed. Empty: every one.
    pub discovery_selectors: Vec<LabelSelector>,
    /// Who may see service entries: the first rule that matches counts; none: [`EntryVisibility::Public`].
    pub entry_visibility: Vec<VisibilityRule>,
    /// Whether policies that only record (`istio.io/dry-run`) are sent. Agents that do not know them
    /// enforce them.
    pub dry_run: bool,
    /// Whether workloads behind a waypoint allow its service account without a policy for it.
    pub allow_waypoints: bool,
}

/// A rule of [`Settings::entry_visibility`]. Both selectors must match; an empty one matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VisibilityRule {
    /// Of the entry's namespace.
    pub namespaces: LabelSelector,
    /// Of the entry.
    pub entries: WorkloadSelector,
    /// What it says.
    pub visibility: EntryVisibility,
}

/// Who may see a service entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EntryVisibility {
    /// Everybody.
    #[default]
    Public,
    /// Its own namespace.
    Namespace,
    /// Nobody: it is not published.
    None,
}

impl Settings {
    /// As Istio's defaults are.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            trust_domain_aliases: Vec::new(),
            root_namespace: "istio-system".into(),
            cluster: "Kubernetes".into(),
            network: Text::default(),
            domain: "cluster.local".into(),
            revision: "default".into(),
            discovery_selectors: Vec::new(),
            entry_visibility: Vec::new(),
            dry_run: false,
            allow_waypoints: false,
        }
    }
}
