//! The definitions of custom resources in `deploy/crds`: each is accepted, and accepts and refuses
//! what it should.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use kube::api::PostParams;
use serde_json::{Value, json};
use tests::{ApiServer, Cluster};
use tokio::sync::OnceCell;

static DEFINED: OnceCell<()> = OnceCell::const_new();

/// The shared server, with every kind of ours defined.
pub(crate) async fn cluster() -> anyhow::Result<Cluster> {
    let cluster = ApiServer::shared().await?.cluster().await?;
    DEFINED.get_or_try_init(async || define(&cluster).await).await?;
    Ok(cluster)
}

/// Defines every kind of ours, and Gateway API's.
pub(crate) async fn define(cluster: &Cluster) -> anyhow::Result<()> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in [tests.join("../deploy/crds"), tests.join("kube/crds")] {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            files.push(entry.context("list definitions")?.path());
        }
    }
    ensure!(files.len() >= 6, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).context("read a definition")?;
        cluster.apply("", &text).await.with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// One object of a kind and version.
fn object(api_version: &str, kind: &str, name: &str, spec: &Value) -> String {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": { "name": name },
        "spec": spec,
    })
    .to_string()
}

/// A spec that uses every field of its kind, the versions that serve it, and how the API server may
/// give it back.
fn full_specs() -> Vec<(&'static str, &'static [&'static str], &'static str, Value)> {
    const ISTIO_SECURITY: &[&str] = &["v1", "v1beta1"];
    const ISTIO_NETWORKING: &[&str] = &["v1", "v1beta1", "v1alpha3"];
    let selector = json!({ "matchLabels": { "app": "shop" } });
    let values = json!(["a", "b"]);
    let policy = json!({
        "selector": selector,
        "action": "DENY",
        "rules": [{
            "from": [{ "source": {
                "principals": values, "notPrincipals": values,
                "requestPrincipals": values, "notRequestPrincipals": values,
                "namespaces": values, "notNamespaces": values,
                "serviceAccounts": ["ns/sa"], "notServiceAccounts": ["sa"],
                "ipBlocks": ["192.0.2.0/24"], "notIpBlocks": ["192.0.2.1"],
                "remoteIpBlocks": values, "notRemoteIpBlocks": values,
                "trustDomains": values, "notTrustDomains": values,
            }}],
            "to": [{ "operation": {
                "hosts": values, "notHosts": values, "ports": ["80"], "notPorts": ["81"],
                "methods": ["GET"], "notMethods": ["PUT"], "paths": ["/a"], "notPaths": ["/b"],
            }}],
            "when": [{ "key": "source.ip", "values": values, "notValues": values }],
        }],
    });
    let targets = json!([{ "group": "", "kind": "Service", "name": "shop" }]);
    let tokens = json!({
        "targetRefs": targets,
        "jwtRules": [{
            "issuer": "https://issuer.test", "audiences": values,
            "jwksUri": "https://issuer.test/keys",
            "fromHeaders": [{ "name": "x-token", "prefix": "Bearer " }],
            "fromParams": values, "fromCookies": values, "outputPayloadToHeader": "x-payload",
            "forwardOriginalToken": true, "timeout": "5s", "spaceDelimitedClaims": values,
            "outputClaimToHeaders": [{ "header": "x-group", "claim": "group" }],
        }],
    });
    let peers = json!({
        "selector": selector,
        "mtls": { "mode": "STRICT" },
        "portLevelMtls": { "8080": { "mode": "PERMISSIVE" } },
    });
    let workload = json!({
        "address": "192.0.2.7", "ports": { "http": 8080 }, "labels": { "app": "vm" },
        "network": "n1", "locality": "r/z/s", "weight": 2, "serviceAccount": "vm",
    });
    let service = json!({
        "hosts": ["db.test"], "addresses": ["192.0.2.10", "198.51.100.0/24"],
        "ports": [{ "number": 80, "protocol": "HTTP", "name": "http", "targetPort": 8080 }],
        "location": "MESH_INTERNAL", "resolution": "STATIC", "endpoints": [workload],
        "exportTo": ["."], "subjectAltNames": ["spiffe://cluster.local/ns/a/sa/b"],
    });
    let class = json!({ "controllerName": "istio.io/mesh-controller" });
    let gateway = json!({
        "gatewayClassName": "istio-waypoint",
        "listeners": [{
            "name": "mesh", "port": 15008, "protocol": "HBONE",
            "allowedRoutes": { "namespaces": {
                "from": "Selector",
                "selector": {
                    "matchLabels": { "a": "b" },
                    "matchExpressions": [{ "key": "c", "operator": "In", "values": ["d"] }],
                },
            }},
        }],
    });
    vec![
        ("security.istio.io", ISTIO_SECURITY, "AuthorizationPolicy", policy),
        ("security.istio.io", ISTIO_SECURITY, "PeerAuthentication", peers),
        ("security.istio.io", ISTIO_SECURITY, "RequestAuthentication", tokens),
        ("networking.istio.io", ISTIO_NETWORKING, "ServiceEntry", service),
        ("networking.istio.io", ISTIO_NETWORKING, "WorkloadEntry", workload),
        ("gateway.networking.k8s.io", ISTIO_SECURITY, "GatewayClass", class),
        ("gateway.networking.k8s.io", ISTIO_SECURITY, "Gateway", gateway),
    ]
}

#[tokio::test]
async fn every_field_is_kept_in_every_version() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let namespace = cluster.namespace("fields").await?;
    for (group, versions, kind, spec) in full_specs() {
        for version in versions {
            let api_version = format!("{group}/{version}");
            let name = format!("of-{version}");
            cluster.apply(&namespace, &object(&api_version, kind, &name, &spec)).await?;
            // Whoever writes an old version is read in the new one.
            let read = cluster.get(&format!("{group}/v1"), kind, &namespace, &name).await?;
            let read = read.context("an object that is not there")?;
            ensure!(read["spec"] == spec, "{api_version} {kind}: {} is not {spec}", read["spec"]);
        }
    }
    Ok(())
}

/// What may not be applied, and a part of the reason.
fn refused_specs() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    const SECURITY: &str = "security.istio.io/v1";
    const NETWORKING: &str = "networking.istio.io/v1";
    const GATEWAY: &str = "gateway.networking.k8s.io/v1";
    let target = json!({ "kind": "Service", "name": "shop" });
    vec![
        (SECURITY, "AuthorizationPolicy", json!({ "action": "allow" }), "spec.action"),
        (
            SECURITY,
            "AuthorizationPolicy",
            json!({ "selector": { "matchLabels": { "a": "b" } }, "targetRef": target }),
            "at most one of selector",
        ),
        (
            SECURITY,
            "AuthorizationPolicy",
            json!({ "rules": [{ "when": [{ "values": ["a"] }] }] }),
            "key",
        ),
        (
            SECURITY,
            "AuthorizationPolicy",
            json!({ "rules": [{ "from": [{ "source": { "namespaces": "a" } }] }] }),
            "namespaces",
        ),
        (SECURITY, "PeerAuthentication", json!({ "mtls": { "mode": "strict" } }), "mode"),
        (
            SECURITY,
            "PeerAuthentication",
            json!({ "portLevelMtls": { "80": { "mode": "STRICT" } } }),
            "needs a selector",
        ),
        (
            SECURITY,
            "PeerAuthentication",
            json!({ "selector": {}, "portLevelMtls": { "http": { "mode": "STRICT" } } }),
            "not a port number",
        ),
        (SECURITY, "RequestAuthentication", json!({ "jwtRules": [{}] }), "issuer"),
        (
            NETWORKING,
            "ServiceEntry",
            json!({ "hosts": ["a.test"], "resolution": "STATIK" }),
            "spec.resolution",
        ),
        (
            NETWORKING,
            "ServiceEntry",
            json!({ "hosts": ["a.test"], "location": "MESH" }),
            "spec.location",
        ),
        (NETWORKING, "ServiceEntry", json!({ "hosts": [] }), "spec.hosts"),
        (
            NETWORKING,
            "ServiceEntry",
            json!({ "hosts": ["a.test"], "ports": [{ "name": "http", "number": 65536 }] }),
            "number",
        ),
        (NETWORKING, "WorkloadEntry", json!({ "weight": 1 }), "needs an address"),
        (
            GATEWAY,
            "Gateway",
            json!({ "gatewayClassName": "a", "listeners": [{
                "name": "mesh", "port": 1, "protocol": "HBONE",
                "allowedRoutes": { "namespaces": { "from": "Everywhere" } },
            }]}),
            "from",
        ),
    ]
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_with_its_field() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let namespace = cluster.namespace("refused").await?;
    for (api_version, kind, spec, reason) in refused_specs() {
        let applied = cluster.apply(&namespace, &object(api_version, kind, "bad", &spec)).await;
        let Err(error) = applied else { anyhow::bail!("{kind} {spec} was accepted") };
        let error = format!("{error:#}");
        ensure!(error.contains(reason), "{kind} {spec}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn unknown_fields_of_a_policy_are_kept_and_others_dropped() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let namespace = cluster.namespace("unknown").await?;
    let spec = json!({
        "futureScope": "x",
        "selector": { "matchLabels": { "a": "b" }, "matchExpressions": [{ "key": "c" }] },
        "rules": [{
            "futureRule": 1,
            "from": [{ "futureFrom": 1, "source": { "futureSource": ["x"] } }],
            "to": [{ "futureTo": 1, "operation": { "futureOperation": ["x"] } }],
            "when": [{ "key": "source.ip", "futureCondition": ["x"] }],
        }],
    });
    let api = "security.istio.io/v1";
    cluster.apply(&namespace, &object(api, "AuthorizationPolicy", "p", &spec)).await?;
    let read = cluster.get(api, "AuthorizationPolicy", &namespace, "p").await?;
    let read = read.context("no policy")?;
    ensure!(read["spec"] == spec, "{} is not {spec}", read["spec"]);

    let spec = json!({ "address": "192.0.2.1", "future": 1 });
    let api = "networking.istio.io/v1";
    // Not applied: server-side apply is stricter, and refuses what it would drop.
    let entries = cluster.api(api, "WorkloadEntry", &namespace).await?;
    let entry = serde_json::from_str(&object(api, "WorkloadEntry", "w", &spec))?;
    entries.create(&PostParams::default(), &entry).await.context("make an entry")?;
    let read = cluster.get(api, "WorkloadEntry", &namespace, "w").await?.context("no entry")?;
    ensure!(read["spec"] == json!({ "address": "192.0.2.1" }), "{}", read["spec"]);
    Ok(())
}

/// The status of a policy with one condition.
fn status(condition: &str, value: &str) -> String {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": { "name": "p" },
        "status": { "conditions": [{
            "type": condition, "status": value, "reason": "Accepted", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1,
        }]},
    })
    .to_string()
}

#[tokio::test]
async fn writers_of_a_status_own_their_conditions() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let namespace = cluster.namespace("status").await?;
    let api = "security.istio.io/v1";
    let spec = json!({ "action": "ALLOW" });
    cluster.apply(&namespace, &object(api, "AuthorizationPolicy", "p", &spec)).await?;

    cluster.apply_status(&namespace, "nodes", &status("ZtunnelAccepted", "True")).await?;
    cluster.apply_status(&namespace, "waypoints", &status("WaypointAccepted", "False")).await?;
    let read = cluster.get(api, "AuthorizationPolicy", &namespace, "p").await?;
    let read = read.context("no policy")?;
    let conditions = read["status"]["conditions"].as_array().context("no conditions")?;
    ensure!(conditions.len() == 2, "{conditions:?}");
    ensure!(read["metadata"]["generation"] == 1, "a status is no change of the spec: {read}");

    let other = status("ZtunnelAccepted", "False");
    let stolen = cluster.apply_status(&namespace, "other", &other).await;
    let error = stolen.err().context("another's condition was overwritten")?;
    ensure!(format!("{error:#}").contains("conflict"), "{error:#}");
    let unknown = cluster.apply_status(&namespace, "other", &status("Other", "Maybe")).await;
    ensure!(unknown.is_err(), "a status that is neither true, false nor unknown");
    Ok(())
}
