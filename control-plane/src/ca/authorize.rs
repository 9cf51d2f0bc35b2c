//! Whose certificate a caller may have.

use cluster::ObjectName;
use model::{SpiffeId, TrustDomain};

use super::pods::{PodIndex, Pods};
use crate::caller::{Caller, Proof, Refusal, RefusalCode, Role};

/// Decides by what runs where now.
#[derive(Clone, Debug)]
pub struct Authorizer {
    trust_domain: TrustDomain,
    pods: Pods,
}

/// Who gets a certificate, and who answers for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Whose certificate it is.
    pub identity: SpiffeId,
    /// The node that holds it, or the identity itself: for the ledger.
    pub holder: String,
}

impl Authorizer {
    /// For identities of our trust domain.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, pods: Pods) -> Self {
        Self { trust_domain, pods }
    }

    /// `impersonated`: in whose name a node's agent asks. Everybody else gets their own identity
    /// and no other: by a certificate, only agents and gateways that live do.
    pub fn grant(&self, caller: &Caller, impersonated: Option<&str>) -> Result<Granted, Refusal> {
        if caller.identity.trust_domain() != self.trust_domain.as_str() {
            let why = format!("{} is of another trust domain", caller.identity);
            return Err(Refusal::new(RefusalCode::IdentityNotOurs, why));
        }
        match impersonated {
            Some(wanted) => self.impersonate(caller, wanted),
            None => self.own(caller),
        }
    }

    /// A token is revoked with its pod or by an operator. A certificate is not: a stolen one would
    /// renew itself for ever. So it renews only that of an agent or gateway, and only while a pod
    /// of it lives; workloads get theirs by their node's agent, or show a token.
    fn own(&self, caller: &Caller) -> Result<Granted, Refusal> {
        let identity = &caller.identity;
        match (caller.proof, caller.role) {
            (Proof::ServiceAccountToken | Proof::JoinToken, _) => {}
            (Proof::Certificate, Role::Workload) => {
                let why = format!("{identity} may not renew its certificate by that certificate");
                return Err(Refusal::new(RefusalCode::MayNotRenew, why));
            }
            (Proof::Certificate, Role::NodeProxy | Role::Gateway) => {
                let (namespace, account) = (identity.namespace(), identity.service_account());
                if !self.pods.read(|pods| pods.lives(namespace, account)) {
                    let why = format!("no pod of {identity} lives");
                    return Err(Refusal::new(RefusalCode::NoPodLives, why));
                }
            }
        }
        let holder = caller.node.as_deref().unwrap_or(identity.as_str()).to_owned();
        Ok(Granted { identity: identity.clone(), holder })
    }

    fn impersonate(&self, caller: &Caller, wanted: &str) -> Result<Granted, Refusal> {
        const SHOWN: usize = 256;
        match caller.role {
            Role::NodeProxy => {}
            Role::Gateway | Role::Workload => {
                let why = format!("{} may not ask in the name of others", caller.identity);
                return Err(Refusal::new(RefusalCode::MayNotImpersonate, why));
            }
        }
        let identity = SpiffeId::parse(wanted).map_err(|_| {
            let shown: String = wanted.chars().take(SHOWN).collect();
            let why = format!("{shown:?} is no workload's identity");
            Refusal::new(RefusalCode::IdentityNotOurs, why)
        })?;
        if identity.trust_domain() != self.trust_domain.as_str() {
            let why = format!("{identity} is not of our trust domain");
            return Err(Refusal::new(RefusalCode::IdentityNotOurs, why));
        }
        self.pods.read(|pods| {
            let node = node(pods, caller)?;
            if pods.runs(node, identity.namespace(), identity.service_account()) {
                return Ok(Granted { identity: identity.clone(), holder: node.to_owned() });
            }
            let why = format!("no pod of {identity} that is in the mesh runs on node {node}");
            Err(Refusal::new(RefusalCode::NoPodOnNode, why))
        })
    }
}

/// The caller's node, proved: by its join token, or by its own pod as it is now.
fn node<'a>(pods: &'a PodIndex, caller: &'a Caller) -> Result<&'a str, Refusal> {
    let unproved = |why: String| Refusal::new(RefusalCode::NodeNotProved, why);
    let mismatch = |why: String| Refusal::new(RefusalCode::CallersPodMismatch, why);
    match caller.proof {
        Proof::JoinToken => {
            caller.node.as_deref().ok_or_else(|| unproved("a token without a node".to_owned()))
        }
        Proof::Certificate => {
            Err(unproved(format!("a certificate does not say where {} runs", caller.identity)))
        }
        Proof::ServiceAccountToken => {
            let pod = caller.pod.as_ref();
            let pod = pod.ok_or_else(|| unproved("the token is bound to no pod".to_owned()))?;
            let name = ObjectName::new(caller.identity.namespace(), &pod.name);
            // Perhaps not yet: pods and tokens come by different ways.
            let found = pods.pod(&name).ok_or_else(|| {
                let why = format!("the caller's pod {name} is not known");
                Refusal::new(RefusalCode::CallersPodUnknown, why)
            })?;
            if found.uid != pod.uid {
                return Err(mismatch(format!("pod {name} is another instance than the token's")));
            }
            if *found.account != *caller.identity.service_account() {
                return Err(mismatch(format!("pod {name} runs as another account")));
            }
            if !found.lives() || found.node.is_empty() {
                return Err(mismatch(format!("pod {name} does not run")));
            }
            Ok(&found.node)
        }
    }
}

#[cfg(test)]
mod tests;
