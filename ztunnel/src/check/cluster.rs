//! What the agent may do at the API server.

use std::time::Duration;

use api_server::{Access, ApiClient, ApiError};
use model::causes;

use super::report::{Check, Kind, Outcome};

/// All questions together. Those that are not answered by then are not known.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What the agent does there, and what for.
const WANTED: [Wanted; 8] = [
    (of("list", "", "pods", ""), "finding this node's pods"),
    (of("watch", "", "pods", ""), "following this node's pods"),
    (of("get", "", "pods", ""), "reading a pod whose sandbox is made"),
    (of("list", "", "namespaces", ""), "finding enrolled namespaces"),
    (of("watch", "", "namespaces", ""), "following enrolled namespaces"),
    (of("get", "", "namespaces", ""), "reading the namespace of such a pod"),
    (of("patch", "", "pods", "status"), "the annotation of captured pods"),
    (of("create", "events.k8s.io", "events", ""), "telling a pod's owner of a failure"),
];

/// What it does besides, where it takes a taint from its node.
pub(super) const NODE_TAINT: &[Wanted] = &[
    (of("get", "", "nodes", ""), "reading this node's taints"),
    (of("patch", "", "nodes", ""), "removing this node's taint"),
];

/// A right, and what for.
type Wanted = (Access<'static>, &'static str);

const fn of(
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
) -> Access<'static> {
    Access { verb, group, resource, subresource }
}

/// Asks for what every agent needs, and for more.
pub(super) fn checks(node: Option<&str>, more: &[Wanted]) -> Vec<Check> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(ask(node, more)),
        Err(error) => vec![server(Outcome::Unknown(format!("cannot ask: {error}")))],
    }
}

async fn ask(node: Option<&str>, more: &[Wanted]) -> Vec<Check> {
    let client = match ApiClient::in_cluster() {
        Ok(client) => client,
        Err(error) => return vec![server(Outcome::Missing(causes(&error)))],
    };
    let mut checks = Vec::with_capacity(WANTED.len() + more.len() + 1);
    let asking = async {
        if let Some(node) = node {
            let found = client.get(&format!("/api/v1/nodes/{node}")).await;
            checks.push(server(reached(found.map(|found| found.is_some()))));
        }
        for (access, needed_for) in WANTED.iter().chain(more) {
            let outcome = allowed(client.may(access).await);
            let is_away = matches!(outcome, Outcome::Unknown(_));
            checks.push(Check::new(Kind::Api, access.to_string(), needed_for, outcome));
            if is_away {
                // The others would wait for the same server.
                break;
            }
        }
    };
    if tokio::time::timeout(TIMEOUT, asking).await.is_err() {
        checks.push(server(Outcome::Unknown(format!("no answer within {TIMEOUT:?}"))));
    }
    checks
}

fn server(outcome: Outcome) -> Check {
    Check::new(Kind::Api, "the API server", "enrolment by labels", outcome)
}

/// Of a request for this node, which needs no right to it: a refusal comes from the server, too.
fn reached(found: Result<bool, ApiError>) -> Outcome {
    match found {
        Ok(true) => Outcome::Fine,
        Ok(false) => Outcome::Missing("NODE_NAME is not the name of a node".to_owned()),
        Err(error) if error.status() == Some(403) => Outcome::Fine,
        Err(error) => Outcome::Missing(causes(&error)),
    }
}

fn allowed(answer: Result<bool, ApiError>) -> Outcome {
    match answer {
        Ok(true) => Outcome::Fine,
        Ok(false) => {
            Outcome::Missing("not allowed: bind the agent's service account to its role".to_owned())
        }
        Err(error) => Outcome::Unknown(causes(&error)),
    }
}

#[cfg(test)]
mod tests {
    use api_server::{Cause, Operation};

    use super::*;

    fn no_answer() -> ApiError {
        let cause = Cause::Timeout(Duration::from_secs(1));
        ApiError::Request { operation: Operation::Get, path: "/x".to_owned(), cause }
    }

    #[test]
    fn only_a_yes_is_a_right() {
        assert_eq!(allowed(Ok(true)), Outcome::Fine);
        assert!(matches!(allowed(Ok(false)), Outcome::Missing(_)));
        let want = "get /x at the API server: no answer within 1s";
        assert_eq!(allowed(Err(no_answer())), Outcome::Unknown(want.to_owned()));
    }

    #[test]
    fn a_node_of_another_name_is_found_out() {
        assert_eq!(reached(Ok(true)), Outcome::Fine);
        assert!(matches!(reached(Ok(false)), Outcome::Missing(why) if why.contains("NODE_NAME")));
        assert!(matches!(reached(Err(no_answer())), Outcome::Missing(_)));
    }
}
