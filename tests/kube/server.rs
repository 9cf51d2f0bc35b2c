//! The harness itself: the server, what outlives its restart, and what it forgets when told to.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use tests::{ApiServer, ApiServerOptions, ClusterPod, wait_until};
use tokio_stream::StreamExt;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn objects_come_back_as_they_were_written() -> anyhow::Result<()> {
    let cluster = ApiServer::shared().await?.cluster().await?;
    let namespace = cluster.namespace("objects").await?;
    let service = "apiVersion: v1\nkind: Service\nmetadata:\n  name: shop\nspec:\n  \
                   ports:\n  - name: http\n    port: 80\n    targetPort: web\n";
    cluster.apply(&namespace, service).await?;
    let service = cluster.get("v1", "Service", &namespace, "shop").await?.context("no service")?;
    ensure!(service["spec"]["ports"][0]["targetPort"] == "web", "{service}");
    ensure!(service["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.96.")));

    cluster.delete("v1", "Service", &namespace, "shop").await?;
    ensure!(cluster.get("v1", "Service", &namespace, "shop").await?.is_none());
    Ok(())
}

/// The shared server is never dropped. This runs the test above in a process of its own, and looks
/// at what that leaves behind.
#[test]
fn a_process_that_ends_takes_its_server_along() -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let program = std::env::current_exe().context("find the running program")?;
    let output = Command::new(program)
        .args(["--exact", "server::objects_come_back_as_they_were_written"])
        .env("TMPDIR", folder.path())
        .output()
        .context("run a test in another process")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success() && said.contains("1 passed"), "{said}");
    let is_empty = || folder.path().read_dir().is_ok_and(|mut entries| entries.next().is_none());
    let left = || processes_that_name(folder.path());
    ensure!(wait_until(ANSWER_TIMEOUT, || is_empty() && left().is_empty()), "{:?}", left());
    Ok(())
}

/// Command lines of running processes with a path in them.
fn processes_that_name(path: &Path) -> Vec<String> {
    let path = path.display().to_string();
    let processes = Path::new("/proc").read_dir().into_iter().flatten().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&path)).collect()
}

#[tokio::test]
async fn nodes_and_pods_need_no_kubelet() -> anyhow::Result<()> {
    let cluster = ApiServer::shared().await?.cluster().await?;
    let namespace = cluster.namespace("pods").await?;
    let address = |last| IpAddr::from(Ipv4Addr::new(192, 0, 2, last));
    let node = cluster.node("node-of-pods", address(1)).await?;
    ensure!(node.status.is_some_and(|status| status.addresses.is_some()));

    let wanted = ClusterPod::new("web", "node-of-pods").at(address(2)).label("app", "web");
    let pod = cluster.pod(&namespace, &wanted).await?;
    let status = pod.status.context("a pod without a status")?;
    ensure!(status.phase.as_deref() == Some("Running"), "{status:?}");
    ensure!(status.pod_ip.as_deref() == Some("192.0.2.2"), "{status:?}");
    let pod = cluster.pod_status(&namespace, &wanted, "Succeeded").await?;
    ensure!(pod.status.is_some_and(|status| status.phase.as_deref() == Some("Succeeded")));
    cluster.delete("v1", "Pod", &namespace, "web").await
}

#[tokio::test]
async fn a_deleted_namespace_takes_its_objects_along() -> anyhow::Result<()> {
    let cluster = ApiServer::shared().await?.cluster().await?;
    let namespace = cluster.namespace("doomed").await?;
    let pod = ClusterPod::new("web", "nowhere").at(Ipv4Addr::new(192, 0, 2, 9));
    cluster.pod(&namespace, &pod).await?;
    cluster.delete_namespace(&namespace).await?;
    ensure!(cluster.get("v1", "Pod", &namespace, "web").await?.is_none());
    ensure!(cluster.get("v1", "Namespace", "", &namespace).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_restarted_server_knows_what_it_knew() -> anyhow::Result<()> {
    let mut server = ApiServer::start().await?;
    let cluster = server.cluster().await?;
    let namespace = cluster.namespace("kept").await?;
    cluster.account(&namespace, "app").await?;
    let token = cluster.token(&namespace, "app", "istio-ca", None).await?;
    let pod = cluster.pod(&namespace, &ClusterPod::new("web", "node")).await?;

    server.stop();
    ensure!(cluster.get("v1", "Pod", &namespace, "web").await.is_err(), "it still answers");
    server.start_again().await?;

    let pods: Api<Pod> = Api::namespaced(cluster.client(), &namespace);
    let after = pods.get("web").await.context("get the pod of before")?;
    ensure!((after.uid(), after.resource_version()) == (pod.uid(), pod.resource_version()));
    ensure!(crate::tokens::review(&cluster, &token, "istio-ca").await?.is_ok(), "new keys");
    Ok(())
}

#[tokio::test]
async fn a_compacted_store_ends_old_watches_with_410() -> anyhow::Result<()> {
    let server = ApiServer::start_with(ApiServerOptions::WithoutWatchCache).await?;
    let cluster = server.cluster().await?;
    let namespace = cluster.namespace("past").await?;
    let map = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n");
    let old = cluster.apply(&namespace, &map("first")).await?;
    let old = old[0].resource_version().context("an object without a version")?;
    cluster.apply(&namespace, &map("second")).await?;
    ensure!(code_of_watch(cluster.client(), &namespace, &old).await? == 0, "the past is there");
    server.compact()?;
    let code = code_of_watch(cluster.client(), &namespace, &old).await?;
    ensure!(code == 410, "a watch from before was answered with {code}");
    Ok(())
}

/// The error code that a watch from `version` begins with; 0 if it begins with an event.
async fn code_of_watch(client: Client, namespace: &str, version: &str) -> anyhow::Result<u16> {
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    let watch = maps.watch(&WatchParams::default(), version).await;
    let mut watch = match watch {
        Ok(watch) => Box::pin(watch),
        Err(kube::Error::Api(status)) => return Ok(status.code),
        Err(error) => return Err(error).context("watch"),
    };
    let first = tokio::time::timeout(ANSWER_TIMEOUT, watch.next()).await;
    let first = first.context("a watch that says nothing")?.context("a watch that ends")?;
    match first.context("read an event")? {
        WatchEvent::Error(status) => Ok(status.code),
        WatchEvent::Added(_)
        | WatchEvent::Modified(_)
        | WatchEvent::Deleted(_)
        | WatchEvent::Bookmark(_) => Ok(0),
    }
}
