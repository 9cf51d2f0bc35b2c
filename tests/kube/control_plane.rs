//! A whole control plane: objects of a real API server in, resources at a real agent's stream and
//! conditions on the objects out.

use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use proto::workload::{TunnelProtocol, Workload, WorkloadStatus, WorkloadType};
use serde_json::json;
use tests::{ClusterPlane, ClusterPod};

use crate::agent::Agent;
use crate::stage::{NODES, Stage};

const POLICY: (&str, &str) = ("security.istio.io/v1", "AuthorizationPolicy");
const POD: &str = "web-5d4f-1";
const BINDING: &str = "istio.io/WaypointBound";
const STATIC_STRICT: &str = "istio-system/istio_converted_static_strict";

/// What people write: a service and who may reach its pods, one policy among them that no node can
/// check, and a service of elsewhere without an address.
fn written(namespace: &str) -> String {
    let policies = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n";
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web, \
         labels: {{istio.io/use-waypoint: wp}}}}, \
         spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}}}\n---\n\
         {policies}metadata: {{name: shoppers}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n  \
         rules: [{{from: [{{source: {{principals: [cluster.local/ns/{namespace}/sa/shop]}}}}]}}]\n\
         ---\n{policies}metadata: {{name: no-admin}}\nspec:\n  \
         selector: {{matchLabels: {{app: web}}}}\n  action: DENY\n  \
         rules: [{{to: [{{operation: {{paths: [/admin]}}}}]}}]\n---\n\
         {policies}metadata: {{name: reads}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: web}}]\n  \
         rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}]\n---\n\
         {{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: default}}, \
         spec: {{mtls: {{mode: STRICT}}}}}}\n---\n\
         {{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: db}}, \
         spec: {{hosts: [db.test], resolution: DNS, ports: [{{number: 5432, name: tcp, \
         protocol: TCP}}]}}}}\n"
    )
}

/// A waypoint, and later its address.
const WAYPOINT: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
     metadata: {name: wp}\nspec:\n  gatewayClassName: istio-waypoint\n  \
     listeners: [{name: mesh, port: 15008, protocol: HBONE}]\n";
const WAYPOINT_ADDRESS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
     metadata: {name: wp}\nstatus: {addresses: [{type: IPAddress, value: 192.0.2.99}]}\n";

/// One pod of a Deployment.
async fn deploy(stage: &Stage, namespace: &str) -> anyhow::Result<()> {
    stage.cluster.account(namespace, "web").await?;
    let mut pod = ClusterPod::new(POD, NODES[0])
        .at(Ipv4Addr::new(192, 0, 2, 20))
        .label("app", "web")
        .label("pod-template-hash", "5d4f");
    // The namespace says that it is in the mesh, and the node's agent that it serves it.
    pod.labels.remove("istio.io/dataplane-mode");
    pod.annotations.insert("ambient.istio.io/redirection".to_owned(), "enabled".to_owned());
    "web".clone_into(&mut pod.account);
    stage.cluster.pod(namespace, &pod).await?;
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f", "controller": true,
        "uid": "11111111-2222-3333-4444-555555555555",
    });
    let change = json!({ "metadata": { "ownerReferences": [owner] } });
    stage.patch_pod((namespace, POD), &change).await
}

/// The policies that bind the pod, each known.
fn policies<'a>(agent: &'a Agent, namespace: &str) -> &'a [String] {
    agent.pod(namespace, POD).map_or(&[], |pod| &pod.authorization_policies)
}

fn check_workload(pod: &Workload, namespace: &str) -> anyhow::Result<()> {
    ensure!(pod.addresses.len() == 1 && *pod.addresses[0] == [192, 0, 2, 20], "{pod:?}");
    ensure!(pod.node == NODES[0] && pod.service_account == "web", "{pod:?}");
    ensure!(pod.tunnel_protocol() == TunnelProtocol::Hbone, "{pod:?}");
    ensure!(pod.workload_name == "web" && pod.workload_type() == WorkloadType::Deployment);
    ensure!(pod.status() == WorkloadStatus::Healthy, "{pod:?}");
    let zone = pod.locality.as_ref().context("no locality")?;
    ensure!((&*zone.region, &*zone.zone) == ("north", "north-1"), "{zone:?}");
    let key = format!("{namespace}/web.{namespace}.svc.cluster.local");
    let ports = pod.services.get(&key).with_context(|| format!("{:?}", pod.services))?;
    let ports: Vec<_> = ports.ports.iter().map(|p| (p.service_port, p.target_port)).collect();
    ensure!(ports == [(80, 8080)], "{ports:?}");
    Ok(())
}

/// What of the objects arrives, also as they change and go.
async fn follow(stage: &Stage, agent: &mut Agent, namespace: &str) -> anyhow::Result<()> {
    let no_admin = format!("{namespace}/no-admin");
    let all = [no_admin.clone(), format!("{namespace}/shoppers"), STATIC_STRICT.to_owned()];
    agent
        .until("the pod with its policies and service", |agent| {
            let named = policies(agent, namespace);
            all.iter().all(|name| named.contains(name) && agent.policies.contains_key(name))
                && agent.service(namespace, "web").is_some()
                && agent.pod(namespace, POD).is_some_and(|p| p.workload_name == "web")
        })
        .await?;
    let pod = agent.pod(namespace, POD).context("no pod")?;
    check_workload(pod, namespace)?;
    let denied = &agent.policies[&no_admin];
    ensure!(denied.action() == proto::security::Action::Deny, "{denied:?}");
    ensure!(denied.rules.len() == 1 && denied.rules[0].clauses.is_empty(), "{denied:?}");
    let service = stage.cluster.get("v1", "Service", namespace, "web").await?.context("gone")?;
    let address: Ipv4Addr = service["spec"]["clusterIP"].as_str().context("no VIP")?.parse()?;
    let web = agent.service(namespace, "web").context("no service")?;
    ensure!(web.addresses.len() == 1 && *web.addresses[0].address == address.octets(), "{web:?}");
    ensure!(web.waypoint.is_none(), "a waypoint that there is not: {web:?}");

    for (is_ready, status) in
        [("False", WorkloadStatus::Unhealthy), ("True", WorkloadStatus::Healthy)]
    {
        stage.ready((namespace, POD), is_ready).await?;
        let is = |agent: &Agent| agent.pod(namespace, POD).is_some_and(|p| p.status() == status);
        agent.until("a pod's readiness", is).await?;
    }
    stage.cluster.delete(POLICY.0, POLICY.1, namespace, "shoppers").await?;
    agent
        .until("a deleted policy is gone, and nobody names it", |agent| {
            let name = &all[1];
            !agent.policies.contains_key(name) && !policies(agent, namespace).contains(name)
        })
        .await
}

/// What is written back.
async fn written_back(
    stage: &Stage,
    plane: &ClusterPlane,
    agent: &mut Agent,
    namespace: &str,
) -> anyhow::Result<()> {
    let roots = plane.roots()?;
    for namespace in [namespace, "istio-system", "default"] {
        ensure!(stage.roots(namespace).await? == roots, "other roots in {namespace}");
    }
    stage.condition(POLICY, (namespace, "shoppers"), ("ZtunnelAccepted", "True")).await?;
    let refused = (namespace, "no-admin");
    let why = stage.condition(POLICY, refused, ("ZtunnelAccepted", "False")).await?;
    ensure!(why.contains("paths"), "{why}");
    let shown = plane.warren(&["policies"])?;
    ensure!(shown.status == 1 && shown.stdout.contains("no-admin"), "{shown:?}");

    let (service, object) = (("v1", "Service"), (namespace, "web"));
    let why = stage.condition(service, object, (BINDING, "False")).await?;
    ensure!(why.contains("WaypointIsNotReady"), "{why}");
    let of_waypoint = (namespace, "reads");
    let why = stage.condition(POLICY, of_waypoint, ("WaypointAccepted", "False")).await?;
    ensure!(why.contains("AncestorNotBound"), "{why}");
    stage.cluster.apply(namespace, WAYPOINT).await?;
    stage.cluster.apply_status(namespace, "waypoints", WAYPOINT_ADDRESS).await?;
    stage.condition(service, object, (BINDING, "True")).await?;
    stage.condition(POLICY, of_waypoint, ("WaypointAccepted", "True")).await?;
    let shown = plane.warren(&["policies"])?;
    ensure!(shown.stdout.contains(&format!("waypoint {namespace}/wp")), "{shown:?}");
    let is_bound = |agent: &Agent| {
        agent.service(namespace, "web").is_some_and(|service| service.waypoint.is_some())
    };
    agent.until("the service's waypoint", is_bound).await?;

    let name = format!("{namespace}/db.test");
    let entry = stage.cluster.api("networking.istio.io/v1", "ServiceEntry", namespace).await?;
    let addresses =
        tests::until("addresses of an entry", crate::stage::WRITTEN_WITHIN, async || {
            let entry = entry.get("db").await?;
            Ok(entry.data["status"]["addresses"].as_array().filter(|all| !all.is_empty()).cloned())
        })
        .await?;
    let told = &agent.services.get(&name).context("no entry")?.addresses;
    ensure!(told.len() == addresses.len(), "{told:?} {addresses:?}");
    Ok(())
}

#[tokio::test]
async fn objects_reach_an_agent_and_conditions_the_objects() -> anyhow::Result<()> {
    let mut stage = Stage::start().await?;
    let namespace = stage.namespace("shop").await?;
    let plane = ClusterPlane::start(&stage.server, "only", &[]).await?;
    let result = async {
        let mut agent = Agent::open(&plane, &stage.agent_token("istio-ca").await?).await?;
        // Objects come after the agent: everything is a change.
        stage.cluster.apply(&namespace, &written(&namespace)).await?;
        deploy(&stage, &namespace).await?;
        written_back(&stage, &plane, &mut agent, &namespace).await?;
        stage.cluster.delete("gateway.networking.k8s.io/v1", "Gateway", &namespace, "wp").await?;
        let unbound = |agent: &Agent| {
            agent.service(&namespace, "web").is_some_and(|service| service.waypoint.is_none())
        };
        agent.until("a waypoint that is gone", unbound).await?;
        follow(&stage, &mut agent, &namespace).await?;

        // The same stream goes on over a restart of the API server.
        stage.server.restart().await?;
        stage.cluster = stage.server.cluster().await?;
        stage.ready((&namespace, POD), "False").await?;
        let is_unready = |agent: &Agent| {
            let pod = agent.pod(&namespace, POD);
            pod.is_some_and(|pod| pod.status() == WorkloadStatus::Unhealthy)
        };
        agent.until("a change from after a restart", is_unready).await?;

        stage.cluster.delete("v1", "Pod", &namespace, POD).await?;
        let is_gone = |agent: &Agent| agent.pod(&namespace, POD).is_none();
        agent.until("a deleted pod is gone", is_gone).await?;
        stage.cluster.delete_namespace(&namespace).await?;
        let prefix = format!("{namespace}/");
        let nothing = |agent: &Agent| {
            let mut names = agent.services.keys().chain(agent.policies.keys());
            !names.any(|name| name.starts_with(&prefix))
        };
        agent.until("nothing of a deleted namespace", nothing).await?;
        ensure!(agent.late.is_empty(), "named before they were there: {:?}", agent.late);
        Ok(())
    }
    .await;
    plane.explain(result)
}
