//! Services, names and policies, as people write them.

use anyhow::{Context, ensure};
use tests::{Room, eventually};

use crate::stage::{CAPTURED, SETTLE, START, all_answered, at, example, installed, none_answered};

#[test]
fn services_of_each_kind_lead_into_the_mesh() -> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "services", true)?;
    room.apply(
        r"apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, namespace: NAMESPACE}
spec:
  replicas: 2
  podManagementPolicy: Parallel
  serviceName: web-each
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {matchLabels: {app: web}}
      containers:
      - name: pod
        image: warren.test/pod:test
        args: [serve]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NAMESPACE}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-each, namespace: NAMESPACE}
spec: {selector: {app: web}, clusterIP: None, ports: [{port: 8080}]}
",
    )?;
    let client = room.pod("client", "node1")?;
    let pods = cluster.wait_for_pods(room.name(), "app=web", 2, START)?;
    cluster.wait_until_captured(&[&client, &pods[0], &pods[1]], CAPTURED)?;
    let service = cluster.get("service", room.name(), "web")?.context("the service")?;
    let virtual_address = service["spec"]["clusterIP"].as_str().context("its address")?;
    let targets = [
        format!("{virtual_address}:80"),
        "web:80".to_owned(),
        "web.services.svc.cluster.local:80".to_owned(),
        "web-each:8080".to_owned(),
        "web-0.web-each.services.svc.cluster.local:8080".to_owned(),
    ];
    for target in targets {
        eventually(&format!("{target} answers"), SETTLE, || {
            Ok((room.ask("client", &target, 1)?["answered"] == 1).then_some(()))
        })?;
        all_answered(&room.ask("client", &target, 10)?).with_context(|| target.clone())?;
    }
    Ok(())
}

#[test]
fn the_example_policies_do_what_they_say() -> anyhow::Result<()> {
    let cluster = installed()?;
    let room = Room::new(cluster, "shop", true)?;
    let cart = room.pod("cart", "node1")?;
    let front = room.pod("front", "node2")?;
    let other = room.pod("other", "node1")?;
    cluster.wait_until_captured(&[&cart, &front, &other], CAPTURED)?;
    let target = at(&cart, 8080);
    all_answered(&room.ask("other", &target, 1)?)?;
    let other_port = at(&cart, 9090);
    let before = room.hold("front", &other_port)?;
    room.apply(&example("deny-by-default.yaml")?)?;
    eventually("others are refused", SETTLE, || {
        Ok((room.ask("other", &target, 1)?["answered"] == 0).then_some(()))
    })?;
    none_answered(&room.ask("other", &target, 5)?)?;
    eventually("the front end is let in", SETTLE, || {
        Ok((room.ask("front", &target, 1)?["answered"] == 1).then_some(()))
    })?;
    all_answered(&room.ask("front", &target, 5)?)?;
    // It was open to the front end, and is not any more.
    let report = before.report()?;
    ensure!(report["beats"] != 0 && !report["broke"].is_null(), "it was not cut: {report}");
    // The refusal comes before or after the connection to the agent is there.
    match room.hold("front", &other_port) {
        Ok(held) => {
            let report = held.report()?;
            ensure!(report["beats"] == 0 && !report["broke"].is_null(), "it is open: {report}");
        }
        Err(error) => ensure!(error.to_string().contains("did not connect"), "{error:#}"),
    }
    Ok(())
}
