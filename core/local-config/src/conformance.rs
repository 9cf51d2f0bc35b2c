//! Policy tests as files: policies, connections, and the verdict that each must get.
//!
//! The shape of policies and workloads is that of the mesh file. One function decides a case for
//! the project's own tests and for `warren policy test`, and it is the one that decides
//! connections. `docs/policy-tests.md` is the reference.

mod read;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use authz::{PolicyStore, Question};
use model::{Code, PolicyName, SpiffeId, Workload};

use crate::ConfigErrors;
use crate::error::Collector;
use crate::node;

/// One connection and the verdict that it must get.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows: the name of its situation and its own.
    pub name: String,
    /// Where it is in its file, from 1.
    pub line: u64,
    situation: Arc<Situation>,
    connection: Asked,
    expected: Expected,
}

/// What cases have in common.
#[derive(Debug)]
struct Situation {
    store: PolicyStore,
    workload: Workload,
}

/// A connection as the file has it.
#[derive(Clone, Debug)]
struct Asked {
    source: IpAddr,
    peer: Option<SpiffeId>,
    destination: SocketAddr,
}

/// What must come out.
#[derive(Clone, Debug)]
struct Expected {
    code: Code,
    policy: Option<PolicyName>,
    rule: Option<usize>,
    /// Compared where the file names it.
    nearest_miss: Option<String>,
    dry_run: Vec<String>,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The reason; `OK` for a connection that may pass.
    pub code: Code,
    /// The policy that decided.
    pub policy: Option<PolicyName>,
    /// Index of its rule, from 0.
    pub rule: Option<usize>,
    /// What came closest, if no ALLOW policy matched.
    pub nearest_miss: Option<String>,
    /// What policies in dry-run mode would have said.
    pub dry_run: Vec<String>,
}

/// Something that came out differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key of the file.
    pub field: &'static str,
    /// What the file says; `-` for nothing.
    pub expected: String,
    /// What came out; `-` for nothing.
    pub got: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, got {}", self.field, self.expected, self.got)
    }
}

/// Parses a file of cases. `file_name` appears in the errors and is not opened. A file without
/// cases is an error: it would test nothing.
pub fn parse(file_name: &str, text: &str) -> Result<Vec<Case>, ConfigErrors> {
    let mut errors = Collector::new(file_name);
    let cases = match node::parse(text) {
        Ok(root) => read::cases(&mut errors, &root),
        Err(error) => {
            errors.push(error.position, "", None, error.cause);
            None
        }
    };
    errors.finish(cases.unwrap_or_default())
}

impl Case {
    /// Decides the connection.
    #[must_use]
    pub fn judge(&self) -> Got {
        let Asked { source, peer, destination } = &self.connection;
        let question =
            Question { source: *source, identity: peer.as_ref(), destination: *destination };
        let Situation { store, workload } = &*self.situation;
        let (result, dry_run) = authz::explain(store, workload, &question);
        let dry_run = dry_run.iter().map(ToString::to_string).collect();
        match result {
            Ok(reason) => Got {
                code: Code::Ok,
                policy: reason.policy().cloned(),
                rule: reason.rule(),
                nearest_miss: None,
                dry_run,
            },
            Err(denial) => Got {
                code: denial.code,
                nearest_miss: denial.nearest_miss.as_ref().map(ToString::to_string),
                policy: denial.policy,
                rule: denial.rule,
                dry_run,
            },
        }
    }

    /// What of a decision is not as the file says; nothing if it is right.
    #[must_use]
    pub fn differences(&self, got: &Got) -> Vec<Difference> {
        let Expected { code, policy, rule, nearest_miss, dry_run } = &self.expected;
        let mut differences = vec![
            difference("code", code.to_string(), got.code.to_string()),
            difference("policy", or_dash(policy.as_ref()), or_dash(got.policy.as_ref())),
            difference("rule", or_dash(*rule), or_dash(got.rule)),
            difference("dryRun", or_dash(lines(dry_run)), or_dash(lines(&got.dry_run))),
        ];
        if let Some(nearest_miss) = nearest_miss {
            let got = or_dash(got.nearest_miss.as_ref());
            differences.push(difference("nearestMiss", nearest_miss.clone(), got));
        }
        differences.into_iter().flatten().collect()
    }
}

fn difference(field: &'static str, expected: String, got: String) -> Option<Difference> {
    (expected != got).then_some(Difference { field, expected, got })
}

fn or_dash(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn lines(notes: &[String]) -> Option<String> {
    (!notes.is_empty()).then(|| notes.join("; "))
}

#[cfg(test)]
mod tests;
