//! `--kubernetes`: the product on a real cluster with two nodes, from helm to a refused stranger.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::Value;
use tests::{Kubernetes, Room, SYSTEM, eventually};

use crate::narrator::{self, Narrator};

/// From a label to captured pods, asking included.
const CAPTURED: Duration = Duration::from_secs(3);
/// From a policy to its effect.
const EFFECT: Duration = Duration::from_secs(10);
const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                      metadata: {name: strict, namespace: NAMESPACE}\n\
                      spec: {mtls: {mode: STRICT}}\n";
const NOBODY: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                      metadata: {name: nobody, namespace: NAMESPACE}\nspec: {}\n";

/// What is up.
pub(crate) struct Stage<'c> {
    cluster: &'c Kubernetes,
    shop: Room<'c>,
    outside: Room<'c>,
    cart: Value,
    front: Value,
}

impl<'c> Stage<'c> {
    /// Installs the product, and makes pods outside the mesh.
    pub(crate) fn set(cluster: &'c Kubernetes, narrator: &mut Narrator) -> anyhow::Result<Self> {
        narrator.step("Two nodes: kubelet, containerd, kube-proxy, in namespaces of this machine");
        narrator::command("kubectl get nodes", &cluster.kubectl(["get", "nodes", "-o", "wide"])?);
        narrator::say(&format!("Ready after {:.1} s", cluster.ready_after().as_secs_f64()));
        narrator.step("helm install, from the charts and the images of this clone");
        let start = Instant::now();
        cluster.install_product()?;
        narrator::say(&format!("rolled out after {:.1} s", start.elapsed().as_secs_f64()));
        let pods = cluster.kubectl(["-n", SYSTEM, "get", "pods", "-o", "wide"])?;
        narrator::command("kubectl -n istio-system get pods", &pods);
        narrator.step("A shop that is not in the mesh yet, and a stranger");
        let shop = Room::new(cluster, "shop", false)?;
        let outside = Room::new(cluster, "elsewhere", false)?;
        let cart = shop.pod("cart", "node1")?;
        let front = shop.pod("front", "node2")?;
        outside.pod("stranger", "node2")?;
        Ok(Self { cluster, shop, outside, cart, front })
    }

    fn target(&self) -> String {
        format!("{}:8080", self.cart["status"]["podIP"].as_str().unwrap_or_default())
    }

    /// Commands to try, for `--keep`.
    pub(crate) fn invite(&self) -> anyhow::Result<()> {
        let kubectl = self.cluster.kubectl_command()?;
        let mut words = vec![kubectl.get_program().to_string_lossy().into_owned()];
        words.extend(kubectl.get_args().map(|word| word.to_string_lossy().into_owned()));
        let config = self.cluster.path().join("pki/admin.kubeconfig");
        println!("\nEverything stays up until Ctrl-C. kubectl:\n");
        println!("  export KUBECONFIG={}\n  {} get pods -A\n", config.display(), words.join(" "));
        Ok(())
    }
}

/// Shows it. Only a broken stage ends it early; a failed check does not.
pub(crate) fn run(stage: &Stage<'_>, narrator: &mut Narrator) {
    let (cluster, target) = (stage.cluster, stage.target());
    narrator.step("kubectl label namespace shop istio.io/dataplane-mode=ambient");
    narrator.check("running pods are captured, verified by the kernel", || {
        stage.shop.label(true)?;
        let took = cluster.wait_until_captured(&[&stage.cart, &stage.front], CAPTURED)?;
        narrator::command("warren pods        # node1", &cluster.warren("node1", &["pods"])?);
        Ok(format!("{:.1} s after the label, without a restart", took.as_secs_f64()))
    });
    narrator.check("front asks cart across nodes, by its own name", || {
        let report = stage.shop.ask("front", &target, 10)?;
        ensure!(report["failed"] == 0, "{report}");
        let flows = cluster.warren("node1", &["flows", "-n", "1"])?;
        narrator::command("warren flows -n 1        # node1", &flows);
        Ok(format!("{} answers, the last: {}", report["answered"], report["answer"]))
    });
    narrator.step("PeerAuthentication STRICT");
    narrator.check("plaintext from outside is refused, the mesh goes on", || {
        stage.shop.apply(STRICT)?;
        eventually("the stranger is refused", EFFECT, || {
            Ok((stage.outside.ask("stranger", &target, 1)?["answered"] == 0).then_some(()))
        })?;
        let report = stage.shop.ask("front", &target, 10)?;
        ensure!(report["failed"] == 0, "{report}");
        Ok(format!("stranger: {}", stage.outside.ask("stranger", &target, 1)?["first_error"]))
    });
    narrator.step("AuthorizationPolicy: nobody");
    narrator.check("front is refused, and told why", || {
        stage.shop.apply(NOBODY)?;
        eventually("front is refused", EFFECT, || {
            Ok((stage.shop.ask("front", &target, 1)?["answered"] == 0).then_some(()))
        })?;
        let flows = cluster.warren("node1", &["flows", "-n", "1"])?;
        narrator::command("warren flows -n 1        # node1", &flows);
        Ok("denied by shop/nobody".to_owned())
    });
    narrator.step("A pod that starts in the mesh");
    narrator.check("it is captured before its first process runs", || {
        let late = stage.shop.pod("late", "node1")?;
        let took = cluster.wait_until_captured(&[&late], CAPTURED)?;
        Ok(format!("Ready, and verified {:.1} s later", took.as_secs_f64()))
    });
}
