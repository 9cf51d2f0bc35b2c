//! Who leads, as a machine: leases that were seen in, what to do out. Time is an argument.
//!
//! The clock of another replica is never compared with ours: a lease is over when it has been seen
//! unchanged for as long as it lasts. Its holder stops writing earlier than that.

use std::time::{Duration, Instant};

/// How long a lease lasts after it was renewed: another replica takes over so long after the leader
/// was lost.
pub const LEASE: Duration = Duration::from_secs(15);
/// How long the leader writes after the request that renewed its lease *began*: what remains until
/// [`LEASE`] is for the last request that it sent and for clocks that run at different speeds.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two looks at the lease, and between two renewals.
pub const RETRY: Duration = Duration::from_secs(2);

/// A lease as an API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who holds it; empty: nobody, it was released.
    pub holder: String,
    /// Changes with each renewal.
    pub version: String,
    /// How long it lasts, as its holder says.
    pub lasts: Duration,
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is none: make it.
    Create,
    /// It is nobody's, or over: take it.
    Take,
    /// It is ours: renew it.
    Renew,
    /// Somebody else has it.
    Wait,
}

/// A replica that wants to lead.
#[derive(Clone, Debug)]
pub struct Candidate {
    identity: String,
    /// The latest version of somebody else's lease, and when it was first seen.
    other: Option<(Seen, Instant)>,
    /// Until when we may write.
    until: Option<Instant>,
}

impl Candidate {
    /// One of that name, which no other replica has.
    #[must_use]
    pub fn new(identity: String) -> Self {
        Self { identity, other: None, until: None }
    }

    /// Takes what the lease looks like.
    pub fn see(&mut self, lease: Option<&Seen>, now: Instant) -> Step {
        let Some(lease) = lease else {
            self.lose();
            return Step::Create;
        };
        if lease.holder == self.identity {
            self.other = None;
            return Step::Renew;
        }
        // Somebody took it from us, or has it.
        self.until = None;
        if lease.holder.is_empty() {
            self.other = None;
            return Step::Take;
        }
        let since = match &self.other {
            Some((seen, since)) if seen == lease => *since,
            _ => {
                self.other = Some((lease.clone(), now));
                now
            }
        };
        if now.saturating_duration_since(since) >= lease.lasts { Step::Take } else { Step::Wait }
    }

    /// The lease was written with our name, by a request that began at `began`.
    pub fn wrote(&mut self, began: Instant) {
        self.other = None;
        self.until = Some(began + RENEW_DEADLINE);
    }

    /// It is not ours any more, or it was given back.
    pub fn lose(&mut self) {
        self.other = None;
        self.until = None;
    }

    /// Until when we lead, if we do.
    #[must_use]
    pub fn leads(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One step of a story: the second it happens in, and what happens.
    enum Then {
        /// A look at a lease of a holder and a version, and what is done about it.
        Sees(Option<(&'static str, &'static str)>, Step),
        /// A request that began this many seconds before succeeded.
        Wrote(u64),
        Lost,
        Leads(bool),
    }
    use Then::{Leads, Lost, Sees, Wrote};

    fn check(what: &str, story: &[(u64, Then)]) {
        let start = Instant::now();
        let mut candidate = Candidate::new("me".to_owned());
        for (second, then) in story {
            let now = start + Duration::from_secs(*second);
            match then {
                Sees(lease, expected) => {
                    let lease = lease.map(|(holder, version)| Seen {
                        holder: holder.to_owned(),
                        version: version.to_owned(),
                        lasts: LEASE,
                    });
                    let step = candidate.see(lease.as_ref(), now);
                    assert_eq!(step, *expected, "{what}, second {second}");
                }
                Wrote(ago) => candidate.wrote(start + Duration::from_secs(second - ago)),
                Lost => candidate.lose(),
                Leads(expected) => {
                    assert_eq!(candidate.leads(now).is_some(), *expected, "{what}, {second}");
                }
            }
        }
    }

    const MINE: Option<(&str, &str)> = Some(("me", "1"));

    #[test]
    fn a_lease_is_taken_renewed_and_lost() {
        check(
            "made, renewed, and lapsed without an answer",
            &[
                (0, Leads(false)),
                (0, Sees(None, Step::Create)),
                (0, Wrote(0)),
                (9, Leads(true)),
                (9, Sees(MINE, Step::Renew)),
                (9, Wrote(1)),
                (17, Leads(true)),
                (18, Leads(false)),
                (18, Sees(MINE, Step::Renew)),
                (18, Wrote(0)),
                (19, Leads(true)),
            ],
        );
        check(
            "another's, which stops being renewed",
            &[
                (0, Sees(Some(("other", "1")), Step::Wait)),
                (14, Sees(Some(("other", "1")), Step::Wait)),
                (15, Sees(Some(("other", "1")), Step::Take)),
                (15, Leads(false)),
                (15, Wrote(0)),
                (15, Leads(true)),
            ],
        );
        check(
            "another's, which is renewed late",
            &[
                (0, Sees(Some(("other", "1")), Step::Wait)),
                (14, Sees(Some(("other", "2")), Step::Wait)),
                (28, Sees(Some(("other", "2")), Step::Wait)),
                (29, Sees(Some(("other", "2")), Step::Take)),
            ],
        );
        check("released", &[(0, Sees(Some(("", "7")), Step::Take)), (0, Leads(false))]);
        check(
            "taken from us",
            &[
                (0, Wrote(0)),
                (1, Leads(true)),
                (1, Sees(Some(("other", "9")), Step::Wait)),
                (1, Leads(false)),
            ],
        );
        check("given back", &[(0, Wrote(0)), (0, Lost), (0, Leads(false))]);
        check(
            "deleted by somebody",
            &[(0, Wrote(0)), (1, Sees(None, Step::Create)), (1, Leads(false))],
        );
    }

    #[test]
    fn two_never_lead_at_once() {
        // The worst case: our last renewal took effect at the server when its request began, the
        // other saw it at once, and we heard of it as late as can be.
        let start = Instant::now();
        let (mut ours, mut other) =
            (Candidate::new("a".to_owned()), Candidate::new("b".to_owned()));
        ours.wrote(start);
        let lease = Seen { holder: "a".to_owned(), version: "1".to_owned(), lasts: LEASE };
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            if other.see(Some(&lease), now) == Step::Take {
                assert!(ours.leads(now).is_none());
                other.wrote(now);
                assert!(other.leads(now).is_some());
                return;
            }
        }
        panic!("never taken");
    }
}
