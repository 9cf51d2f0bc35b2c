//! What the engine needs to know besides the policies.

use std::sync::Arc;

use model::TrustDomain;

/// Settings of a [`crate::PolicyStore`]; the same for every policy in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Policies of this namespace that are bound to their namespace are bound to the mesh. Empty:
    /// there is none.
    pub root_namespace: Arc<str>,
    /// What becomes of a DENY that layer 4 cannot check.
    pub unenforceable_deny: UnenforceableDeny,
    /// This mesh's own trust domain.
    pub trust_domain: TrustDomain,
    /// Its other names, such as the one before a migration: where principals are compared, each of
    /// them and `trust_domain` are one and the same.
    pub trust_domain_aliases: Vec<TrustDomain>,
}

/// What becomes of a match in a DENY policy that holds no condition layer 4 can check. Istio's
/// control plane sends one for a DENY of, say, an HTTP method only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UnenforceableDeny {
    /// It counts as matching: what was to be denied is denied, and more besides.
    #[default]
    Deny,
    /// It never matches, as in Istio's ztunnel: what was to be denied passes.
    Ignore,
}

impl Settings {
    /// The default settings with that root namespace.
    #[must_use]
    pub fn rooted(root_namespace: &str) -> Self {
        Self { root_namespace: root_namespace.into(), ..Self::default() }
    }
}
