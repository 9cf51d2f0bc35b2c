//! What the API server refuses because the charts say so: changes of an agent beyond its own, and
//! policies that nobody could enforce.

use anyhow::{bail, ensure};
use tests::{Kubernetes, Room, eventually};

use crate::stage::{SETTLE, installed};

/// The account of the agents.
const AGENT: &str = "--as=system:serviceaccount:istio-system:ztunnel";

/// Patches a pod as the agent of a node would; what became of it.
fn patch(
    cluster: &Kubernetes,
    room: &Room<'_>,
    node: &str,
    subresource: &[&str],
    patch: &str,
) -> anyhow::Result<String> {
    let node = format!("--as-user-extra=authentication.kubernetes.io/node-name={node}");
    let mut arguments =
        vec!["-n", room.name(), "patch", "pod", "server", "--type=merge", "-p", patch];
    arguments.extend(["--as-group=system:serviceaccounts", "--as-group=system:authenticated"]);
    arguments.extend([AGENT, &node]);
    arguments.extend(subresource);
    cluster.kubectl(arguments)
}

#[test]
fn an_agent_marks_pods_of_its_own_node_and_changes_nothing_else() -> anyhow::Result<()> {
    const STATUS: &[&str] = &["--subresource=status"];
    const MARK: &str = r#"{"metadata":{"annotations":{"ambient.istio.io/redirection":"enabled"}}}"#;
    let cluster = installed()?;
    let room = Room::new(cluster, "marked", false)?;
    room.pod("server", "node1")?;
    // kubectl looks at what it patches; agents do not.
    room.apply(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\n\
         metadata: {name: look, namespace: NAMESPACE}\n\
         rules: [{apiGroups: [''], resources: [pods/status], verbs: [get]}]\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n\
         metadata: {name: look, namespace: NAMESPACE}\n\
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: look}\n\
         subjects: [{kind: ServiceAccount, name: ztunnel, namespace: istio-system}]\n",
    )?;
    // A policy is in force a little after it was made.
    eventually("another node's agent is refused", SETTLE, || {
        let Err(error) = patch(cluster, &room, "node2", STATUS, MARK) else { return Ok(None) };
        ensure!(format!("{error:#}").contains("own node only"), "{error:#}");
        Ok(Some(()))
    })?;
    patch(cluster, &room, "node1", STATUS, MARK)?;
    let refused = [
        (r#"{"metadata":{"annotations":{"other":"x"}}}"#, "no other annotation"),
        (r#"{"metadata":{"labels":{"istio.io/dataplane-mode":"none"}}}"#, "nothing of a pod"),
        (r#"{"status":{"podIP":"10.9.9.9","podIPs":[{"ip":"10.9.9.9"}]}}"#, "nothing of a pod"),
    ];
    for (change, reason) in refused {
        let Err(error) = patch(cluster, &room, "node1", STATUS, change) else {
            bail!("{change} was taken");
        };
        ensure!(format!("{error:#}").contains(reason), "{change}: {error:#}");
        would_be_taken(cluster, &room, STATUS, change)?;
    }
    // The rest of a pod is not even asked about: it has no right to it.
    let error = patch(cluster, &room, "node1", &[], MARK).expect_err("no right to change pods");
    ensure!(format!("{error:#}").contains("forbidden"), "{error:#}");
    would_be_taken(cluster, &room, &[], r#"{"metadata":{"annotations":{"other":"x"}}}"#)
}

/// Somebody else may: there is nothing wrong with the change itself.
fn would_be_taken(
    cluster: &Kubernetes,
    room: &Room<'_>,
    subresource: &[&str],
    change: &str,
) -> anyhow::Result<()> {
    let patch = ["patch", "pod", "server", "--type=merge", "--dry-run=server", "-p", change];
    let all = ["-n", room.name()].into_iter().chain(patch).chain(subresource.iter().copied());
    let said = cluster.kubectl(all)?;
    ensure!(!said.contains("no change"), "{change} changes nothing: {said}");
    Ok(())
}

#[test]
fn a_policy_that_nobody_could_enforce_is_refused_with_its_reason() -> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "policies", false)?;
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                  metadata: {name: paths, namespace: NAMESPACE}\n\
                  spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}\n";
    // The webhook is asked once it is told the roots.
    eventually("the webhook is asked", SETTLE, || {
        let Err(error) = room.apply(policy) else {
            cluster.kubectl(["-n", room.name(), "delete", "authorizationpolicy", "paths"])?;
            return Ok(None);
        };
        let error = format!("{error:#}");
        ensure!(error.contains("validation.warren.dev") && error.contains("paths"), "{error}");
        Ok(Some(()))
    })?;
    room.apply(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {name: ports, namespace: NAMESPACE}\n\
         spec: {action: DENY, rules: [{to: [{operation: {ports: ['9090']}}]}]}\n",
    )?;
    eventually("the policy's condition says that it is enforced", SETTLE, || {
        let policy = cluster.get("authorizationpolicy", room.name(), "ports")?;
        let said = policy.is_some_and(|policy| policy["status"].to_string().contains("True"));
        Ok(said.then_some(()))
    })?;
    Ok(())
}
