//! One copy of each text that many resources repeat.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use model::{IdentityError, TrustDomain};

/// Texts below this count are not worth sweeping.
const SWEEP_MIN: usize = 4096;

/// Texts in use. Namespaces, nodes, host names and the like repeat in every workload; one copy of
/// each is what keeps 100,000 workloads small.
#[derive(Debug, Default)]
pub struct Interner {
    texts: HashSet<Arc<str>>,
    trust_domains: HashMap<Box<str>, TrustDomain>,
    /// Texts left by the last sweep.
    swept: usize,
}

impl Interner {
    /// The one copy of `text`.
    pub(crate) fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.texts.insert(new.clone());
        new
    }

    /// The one copy of a trust domain; empty is Istio's default.
    pub(crate) fn trust_domain(&mut self, name: &str) -> Result<TrustDomain, IdentityError> {
        if let Some(known) = self.trust_domains.get(name) {
            return Ok(known.clone());
        }
        let domain = match name {
            "" => TrustDomain::default(),
            name => TrustDomain::parse(name)?,
        };
        // A mesh has a handful; a flood of others is not kept.
        if self.trust_domains.len() < SWEEP_MIN {
            self.trust_domains.insert(name.into(), domain.clone());
        }
        Ok(domain)
    }

    /// Forgets texts that nothing uses any more, once there may be as many of them as of others.
    /// Called after a change was applied.
    pub(crate) fn sweep(&mut self) {
        if self.texts.len() / 2 > self.swept.max(SWEEP_MIN) {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.texts.shrink_to_fit();
            self.swept = self.texts.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_shared_while_used_and_forgotten_after() {
        let mut interner = Interner::default();
        let kept = interner.text("shop");
        assert!(Arc::ptr_eq(&kept, &interner.text("shop")));
        for number in 0..3 * SWEEP_MIN {
            interner.text(&number.to_string());
        }
        interner.sweep();
        assert_eq!(interner.texts.len(), 1);
        assert!(Arc::ptr_eq(&kept, &interner.text("shop")));
    }
}
