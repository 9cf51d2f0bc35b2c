//! Whom a whole control plane gives certificates and discovery, by tokens that a real API server
//! reviews.

use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;
use tests::{ClusterPlane, ClusterPod};
use tonic::Code;

use crate::agent::{Agent, For, certify, identity, speaks_for};
use crate::stage::{NODES, Stage};

/// A pod of an account of its own.
struct Placed {
    account: &'static str,
    node: &'static str,
    phase: &'static str,
    host_network: bool,
}

/// Pods in the mesh, of which an agent on the first node may ask for some.
const PODS: [Placed; 4] = [
    Placed { account: "here", node: NODES[0], phase: "Running", host_network: false },
    Placed { account: "there", node: NODES[1], phase: "Running", host_network: false },
    Placed { account: "host", node: NODES[0], phase: "Running", host_network: true },
    Placed { account: "done", node: NODES[0], phase: "Succeeded", host_network: false },
];

/// Makes the pods; the first one is returned.
async fn place(stage: &Stage, namespace: &str) -> anyhow::Result<Pod> {
    let mut first = None;
    for (host, placed) in (30u8..).zip(PODS) {
        stage.cluster.account(namespace, placed.account).await?;
        let address = Ipv4Addr::new(192, 0, 2, host);
        let mut pod = ClusterPod::new(placed.account, placed.node).at(address);
        pod.account = placed.account.to_owned();
        pod.host_network = placed.host_network;
        let made = stage.cluster.pod(namespace, &pod).await?;
        stage.cluster.pod_status(namespace, &pod, placed.phase).await?;
        first.get_or_insert(made);
    }
    first.context("no pod")
}

/// Asks and checks how it is refused.
async fn refused(
    what: &str,
    plane: &ClusterPlane,
    token: Option<&str>,
    wanted: For<'_>,
    code: Code,
) -> anyhow::Result<()> {
    let status = certify(plane, token, wanted).await?.err();
    let status = status.with_context(|| format!("{what}: granted"))?;
    ensure!(status.code() == code, "{what}: {status:?}");
    Ok(())
}

#[tokio::test]
async fn a_nodes_agent_gets_certificates_of_its_own_pods_only() -> anyhow::Result<()> {
    let stage = Stage::start().await?;
    let namespace = stage.namespace("certified").await?;
    place(&stage, &namespace).await?;
    let plane = ClusterPlane::start(&stage.server, "only", &[]).await?;
    let result = async {
        let roots = stage.roots(&namespace).await?;
        let token = stage.agent_token("istio-ca").await?;
        let token = Some(&*token);
        let here = identity(&namespace, "here")?;
        let chain = certify(&plane, token, For::Pod(&here)).await?.context("refused")?;
        ensure!(speaks_for(&chain, &roots)? == here);

        let denied = Code::PermissionDenied;
        for account in ["there", "host", "done", "nobody"] {
            let wanted = identity(&namespace, account)?;
            refused(account, &plane, token, For::Pod(&wanted), denied).await?;
        }
        let elsewhere = stage.agent_token("vault").await?;
        let unknown = Code::Unauthenticated;
        refused("another audience", &plane, Some(&elsewhere), For::Pod(&here), unknown).await?;
        refused("no token", &plane, None, For::Pod(&here), unknown).await?;
        refused("no JWT", &plane, Some("a.b.c"), For::Pod(&here), unknown).await?;
        let unbound = stage.cluster.token("istio-system", "ztunnel", "istio-ca", None).await?;
        refused("bound to no pod", &plane, Some(&unbound), For::Pod(&here), denied).await?;

        // The pod goes, and with it what its node may have.
        stage.cluster.delete("v1", "Pod", &namespace, "here").await?;
        tests::until("a deleted pod's certificate", crate::stage::WRITTEN_WITHIN, async || {
            Ok(certify(&plane, token, For::Pod(&here)).await?.err())
        })
        .await?;
        Ok(())
    }
    .await;
    plane.explain(result)
}

#[tokio::test]
async fn a_workload_gets_its_own_identity_and_no_discovery() -> anyhow::Result<()> {
    let stage = Stage::start().await?;
    let namespace = stage.namespace("own").await?;
    let pod = place(&stage, &namespace).await?;
    let plane = ClusterPlane::start(&stage.server, "only", &[]).await?;
    let result = async {
        let roots = stage.roots(&namespace).await?;
        let token = stage.cluster.token(&namespace, "here", "istio-ca", Some(&pod)).await?;
        let (own, other) = (identity(&namespace, "here")?, identity(&namespace, "host")?);
        let chain = certify(&plane, Some(&token), For::Itself(&own)).await?.context("refused")?;
        ensure!(speaks_for(&chain, &roots)? == own);
        let denied = Code::PermissionDenied;
        refused("its own as a pod", &plane, Some(&token), For::Pod(&own), denied).await?;
        refused("another's", &plane, Some(&token), For::Pod(&other), denied).await?;
        let forged = Code::InvalidArgument;
        refused("another's name", &plane, Some(&token), For::Itself(&other), forged).await?;

        let agent = stage.agent_token("istio-ca").await?;
        let elsewhere = stage.agent_token("vault").await?;
        for (what, token, code) in [
            ("a workload", Some(&*token), Some(denied)),
            ("another audience", Some(&*elsewhere), Some(Code::Unauthenticated)),
            ("nobody", None, Some(Code::Unauthenticated)),
            ("an agent", Some(&*agent), None),
        ] {
            let answer = Agent::call(&plane, token).await?.err().map(|status| status.code());
            ensure!(answer == code, "discovery for {what}: {answer:?}");
        }
        Ok(())
    }
    .await;
    plane.explain(result)
}
