//! L4 authorization: may this connection reach this workload?
//!
//! Pure: no I/O, no clock, no logging; the shell turns the [`Decision`] into a log line, a metric
//! and an HBONE status. DENY wins; what was not understood denies; no ALLOW policy at all means
//! allow; otherwise one must match. Policies are compiled when they arrive, so that a decision
//! costs what the policies bound to the workload cost, and nothing for the others.

mod compiled;
mod decide;
mod group;
mod miss;
mod policy;
mod principals;
mod rules;
mod sets;
mod settings;
mod shared_map;
mod store;
mod verdict;

pub use decide::{DRY_RUN_NOTES_MAX, Question, authorize, explain};
pub use policy::{
    Action, Clause, Filter, Match, MatchType, MatchTypes, Mode, Policy, Rule, Scope,
    ServiceAccount, StringMatch,
};
pub use settings::{Settings, UnenforceableDeny};
pub use store::{Binding, PolicyChange, PolicyStore, Stored, StoredRef, UnreadablePolicy};
pub use verdict::{
    AllowReason, Decision, Denial, DryRunNote, Miss, NearestMiss, Permit, TypeMiss, Verdict,
};

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod tests;
