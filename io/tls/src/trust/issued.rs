//! The roots that our authority's answers named: the newest answer's, and those before it for as
//! long as certificates under them may be in use. No clock: the time is an argument.
//!
//! When an answer leaves a root out, the authority has stopped signing with it at that moment or
//! before. Whatever it had signed expires within one lifetime of a certificate. So a node whose
//! certificate is still from the old root is accepted until that certificate expires, and no root
//! stays for longer.

use std::time::{Duration, SystemTime};

use crate::bundle::{ROOTS_MAX, Root};

/// Longest lifetime of a certificate that a root is kept for: istiod's limit. One that claims more
/// is refused by nobody, but its root may go first.
pub const LIFETIME_MAX: Duration = Duration::from_hours(90 * 24);

/// Until when a root is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Term {
    /// The newest answer named it; certificates under it live at most this long.
    Current(Duration),
    /// An answer left it out.
    Retired(SystemTime),
}

/// The roots of one trust domain, from answers of its authority. At most [`ROOTS_MAX`]: beyond it
/// those retire first that would have gone first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct IssuedRoots(Vec<(Root, Term)>);

impl IssuedRoots {
    /// Takes the roots of an answer whose certificate lives for `lifetime`.
    pub(super) fn observe(&mut self, roots: &[Root], lifetime: Duration, now: SystemTime) {
        let lifetime = lifetime.min(LIFETIME_MAX);
        let before = std::mem::take(&mut self.0);
        for root in roots {
            let known = before.iter().find(|(known, _)| known == root).map(|(_, term)| *term);
            // Certificates of before may live longer than the newest.
            let longest = match known {
                Some(Term::Current(longest)) => longest.max(lifetime),
                Some(Term::Retired(_)) | None => lifetime,
            };
            self.0.push((root.clone(), Term::Current(longest)));
        }
        for (root, term) in before {
            let until = match term {
                Term::Current(longest) => later(now, longest.max(lifetime)),
                Term::Retired(until) => until,
            };
            self.retire(root, until);
        }
        self.bound();
    }

    /// Takes a root from the store of an agent before this one.
    pub(super) fn restore(&mut self, root: Root, until: SystemTime, now: SystemTime) {
        if until > now {
            self.retire(root, until.min(later(now, LIFETIME_MAX)));
            self.bound();
        }
    }

    /// Forgets roots whose time is over; tells whether there were any.
    pub(super) fn prune(&mut self, now: SystemTime) -> bool {
        let before = self.0.len();
        self.0.retain(|(root, term)| {
            let is_due = match term {
                Term::Current(_) => false,
                Term::Retired(until) => *until <= now,
            };
            !is_due && root.not_after > now
        });
        self.0.len() < before
    }

    /// The roots believed now.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Root> {
        self.0.iter().map(|(root, _)| root)
    }

    /// Each root with the time until which it would be believed if it retired now.
    pub(super) fn terms(&self, now: SystemTime) -> impl Iterator<Item = (&Root, SystemTime)> {
        self.0.iter().map(move |(root, term)| match term {
            Term::Current(longest) => (root, later(now, *longest)),
            Term::Retired(until) => (root, *until),
        })
    }

    fn retire(&mut self, root: Root, until: SystemTime) {
        match self.0.iter_mut().find(|(known, _)| *known == root) {
            None => self.0.push((root, Term::Retired(until))),
            // Each certificate that is kept needs it to its own end.
            Some((_, Term::Retired(known))) => *known = until.max(*known),
            Some((_, Term::Current(_))) => {}
        }
    }

    fn bound(&mut self) {
        let rank = |term: &Term| match term {
            Term::Current(_) => None,
            Term::Retired(until) => Some(std::cmp::Reverse(*until)),
        };
        // Stable: the current ones come first and keep their order.
        self.0.sort_by_key(|(_, term)| rank(term));
        self.0.truncate(ROOTS_MAX);
    }
}

fn later(now: SystemTime, by: Duration) -> SystemTime {
    now.checked_add(by).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn at(hours: u32) -> SystemTime {
        // Within the validity of the roots below.
        UNIX_EPOCH + Duration::from_hours(24 * 365 * 55) + HOUR * hours
    }

    fn root(name: &str) -> Root {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("key");
        let certificate = params.self_signed(&key).expect("root");
        Root::parse(certificate.der().clone()).expect("parses")
    }

    fn holds(issued: &IssuedRoots, want: &[&Root]) {
        let got: Vec<_> = issued.roots().collect();
        assert_eq!(got.len(), want.len());
        assert!(want.iter().all(|root| got.contains(root)));
    }

    #[test]
    fn an_old_root_stays_for_one_lifetime_after_it_was_left_out() {
        let (old, new) = (root("old"), root("new"));
        let mut issued = IssuedRoots::default();
        issued.observe(std::slice::from_ref(&old), HOUR * 2, at(0));
        // The authority announces the new root before it signs with it.
        issued.observe(&[old.clone(), new.clone()], HOUR, at(1));
        issued.prune(at(100));
        holds(&issued, &[&old, &new]);
        issued.observe(std::slice::from_ref(&new), HOUR, at(100));
        issued.prune(at(101));
        holds(&issued, &[&old, &new]);
        // Again without it: its time does not start anew.
        issued.observe(std::slice::from_ref(&new), HOUR, at(101));
        issued.prune(at(102));
        holds(&issued, &[&new]);
    }

    #[test]
    fn a_root_that_comes_back_is_current_again() {
        let (a, b) = (root("a"), root("b"));
        let mut issued = IssuedRoots::default();
        issued.observe(std::slice::from_ref(&a), HOUR, at(0));
        // Two replicas of the authority, one of them behind.
        for hour in 0..10 {
            let named = if hour % 2 == 0 { &b } else { &a };
            issued.observe(std::slice::from_ref(named), HOUR, at(hour));
            issued.prune(at(hour));
            holds(&issued, &[&a, &b]);
        }
    }

    #[test]
    fn restored_roots_go_when_their_time_is_over() {
        let (a, b) = (root("a"), root("b"));
        let mut issued = IssuedRoots::default();
        issued.restore(a.clone(), at(5), at(0));
        issued.restore(b.clone(), at(0), at(0));
        holds(&issued, &[&a]);
        issued.prune(at(5));
        holds(&issued, &[]);
        // The longest time counts, whichever was told first.
        for hour in [5, 9, 7] {
            issued.restore(a.clone(), at(hour), at(0));
        }
        issued.prune(at(8));
        holds(&issued, &[&a]);
        issued.prune(at(9));
        holds(&issued, &[]);
        // No store may keep a root for ever.
        issued.restore(a.clone(), at(1_000_000), at(0));
        issued.prune(at(0) + LIFETIME_MAX);
        holds(&issued, &[]);
    }

    #[test]
    fn the_number_of_roots_is_bounded_and_current_ones_stay() {
        let roots: Vec<_> = (0..ROOTS_MAX + 4).map(|n| root(&n.to_string())).collect();
        let mut issued = IssuedRoots::default();
        for (hour, root) in (0..).zip(&roots) {
            issued.observe(std::slice::from_ref(root), HOUR, at(hour));
        }
        let want: Vec<_> = roots.iter().rev().take(ROOTS_MAX).collect();
        holds(&issued, &want);
    }

    #[test]
    fn an_expired_root_is_not_believed() {
        let a = root("a");
        let mut issued = IssuedRoots::default();
        issued.observe(std::slice::from_ref(&a), HOUR, at(0));
        issued.prune(a.not_after);
        holds(&issued, &[]);
    }
}
