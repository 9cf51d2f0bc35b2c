//! What somebody may do, from who they are.

use std::collections::BTreeSet;

use model::{SpiffeId, TrustDomain};

use super::{CallerPod, Role};
use crate::ca::pods::Pods;
use cluster::ObjectName;

/// Namespace and name of a service account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A text that is not `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a service account: namespace/name")]
pub struct NotAnAccount(pub String);

impl std::str::FromStr for Account {
    type Err = NotAnAccount;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let account = text.split_once('/').and_then(|(namespace, name)| {
            SpiffeId::new(&TrustDomain::default(), namespace, name).ok()?;
            Some(Self { namespace: namespace.to_owned(), name: name.to_owned() })
        });
        account.ok_or_else(|| NotAnAccount(text.to_owned()))
    }
}

/// Which accounts are more than workloads.
#[derive(Clone, Debug)]
pub struct Roles {
    /// Accounts of nodes' agents: only these may ask in the name of others.
    pub node_proxies: BTreeSet<Account>,
    /// Accounts of gateways, beside those whose pods are labelled so for a Gateway that is there.
    pub gateways: BTreeSet<Account>,
    /// Our own trust domain: others are guests, whatever they are called.
    pub trust_domain: TrustDomain,
    /// Pods, which say who is a waypoint.
    pub pods: Pods,
}

impl Roles {
    /// The role of an identity, and of its pod if that is known.
    #[must_use]
    pub fn of(&self, identity: &SpiffeId, pod: Option<&CallerPod>) -> Role {
        if identity.trust_domain() != self.trust_domain.as_str() {
            return Role::Workload;
        }
        let (namespace, name) = (identity.namespace(), identity.service_account());
        let account = Account { namespace: namespace.to_owned(), name: name.to_owned() };
        if self.node_proxies.contains(&account) {
            return Role::NodeProxy;
        }
        let is_gateway = self.gateways.contains(&account)
            || self.pods.read(|pods| match pod {
                Some(pod) => {
                    let name = ObjectName::new(namespace, &pod.name);
                    let found = pods.pod(&name);
                    found.is_some_and(|found| found.uid == pod.uid) && pods.is_gateway_pod(&name)
                }
                None => pods.is_gateway(namespace, name),
            });
        if is_gateway { Role::Gateway } else { Role::Workload }
    }
}
