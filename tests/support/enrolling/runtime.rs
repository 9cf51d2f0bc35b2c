//! A container runtime, as far as it calls CNI plugins: it takes the first configuration of the node's
//! folder, and of that chain runs the plugin under test. The network is there already.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::pod::Pod;

/// The network of the node before the agent comes.
const PRIMARY: &str = r#"{
  "cniVersion": "1.1.0",
  "name": "pods",
  "plugins": [{"type": "bridge", "bridge": "br0"}, {"type": "portmap"}]
}
"#;
const PLUGIN: &str = "warren-cni";

/// The folders of a node that a runtime reads.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Of network configurations.
    pub conf_dir: PathBuf,
    /// Of plugins.
    pub bin_dir: PathBuf,
}

/// What a runtime knows of a sandbox that it makes.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub id: String,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// The pod's namespace in Kubernetes.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// What the plugins before said that it has.
    pub addresses: Vec<IpAddr>,
}

impl Sandbox {
    /// Of a pod of the world.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        Self {
            id: format!("sandbox-{}", pod.uid()),
            netns: pod.netns().path(),
            namespace: pod.namespace().to_owned(),
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            addresses: vec![pod.ipv4(), pod.ipv6()],
        }
    }
}

/// How a call of the chain ended.
#[derive(Clone, Debug)]
pub struct CniAnswer {
    /// The plugin's exit code.
    pub status: i32,
    /// Its result or its error.
    pub json: Value,
    /// Its line for the log.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl CniAnswer {
    /// The code of a refusal; empty if there is none.
    #[must_use]
    pub fn code(&self) -> &str {
        self.json["msg"].as_str().unwrap_or_default()
    }

    /// An error that holds what was said unless it went well.
    pub fn ok(self) -> anyhow::Result<Self> {
        ensure!(self.status == 0, "refused after {:?}: {} {}", self.took, self.json, self.stderr);
        Ok(self)
    }

    /// An error unless it was refused with this code.
    pub fn refused(self, code: &str) -> anyhow::Result<Self> {
        ensure!(self.status != 0 && self.code() == code, "expected {code}: {self:?}");
        Ok(self)
    }
}

impl Runtime {
    /// Makes the folders, with a network.
    pub(super) fn create(folder: &Path) -> anyhow::Result<Self> {
        let runtime = Self { conf_dir: folder.join("net.d"), bin_dir: folder.join("bin") };
        for folder in [&runtime.conf_dir, &runtime.bin_dir] {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        fs::write(runtime.conf_dir.join("10-pods.conflist"), PRIMARY).context("write a network")?;
        Ok(runtime)
    }

    /// Whether the chain that counts has the plugin, and the plugin is there.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.bin_dir.join(PLUGIN).exists() && self.netconf().is_ok_and(|found| found.is_some())
    }

    /// Makes a sandbox: whether the pod may start.
    pub fn add(&self, sandbox: &Sandbox) -> anyhow::Result<CniAnswer> {
        self.call("ADD", sandbox)
    }

    /// Calls the chain with one of CNI's commands. Where the plugin is not part of it, nothing holds a pod.
    pub fn call(&self, command: &str, sandbox: &Sandbox) -> anyhow::Result<CniAnswer> {
        let Some(mut netconf) = self.netconf()? else {
            let stderr = format!("{PLUGIN} is not in the chain");
            return Ok(CniAnswer { status: 0, json: json!({}), stderr, took: Duration::ZERO });
        };
        netconf["prevResult"] = previous(&netconf, sandbox);
        let Sandbox { id, netns, namespace, name, uid, .. } = sandbox;
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
             K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={uid}"
        );
        let start = Instant::now();
        let mut child = Command::new(self.bin_dir.join(PLUGIN))
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", arguments)
            .env("CNI_PATH", &self.bin_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start the CNI plugin")?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends before it has read all says why.
            let _ = stdin.write_all(netconf.to_string().as_bytes());
        }
        let output = child.wait_with_output().context("wait for the CNI plugin")?;
        Ok(CniAnswer {
            status: output.status.code().unwrap_or(-1),
            json: serde_json::from_slice(&output.stdout).unwrap_or_default(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            took: start.elapsed(),
        })
    }

    /// The plugin's part of the first configuration by name, as a runtime completes it.
    fn netconf(&self) -> anyhow::Result<Option<Value>> {
        let entries = fs::read_dir(&self.conf_dir).context("list the networks")?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let read = [".conflist", ".conf", ".json"];
        let names = names.filter(|name| read.iter().any(|ending| name.ends_with(ending)));
        let first = names.min().context("there is no network")?;
        let text = fs::read_to_string(self.conf_dir.join(first)).context("read the network")?;
        let list: Value = serde_json::from_str(&text).context("read the network")?;
        let mut plugins = list["plugins"].as_array().into_iter().flatten();
        let found = plugins.rfind(|plugin| plugin["type"] == PLUGIN).cloned();
        Ok(found.map(|mut plugin| {
            plugin["cniVersion"] = list["cniVersion"].clone();
            plugin["name"] = list["name"].clone();
            plugin
        }))
    }
}

fn previous(netconf: &Value, sandbox: &Sandbox) -> Value {
    let ips = sandbox.addresses.iter().map(|ip| {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        json!({"address": format!("{ip}/{bits}"), "interface": 0})
    });
    json!({
        "cniVersion": netconf["cniVersion"],
        "interfaces": [{"name": "eth0", "sandbox": sandbox.netns}],
        "ips": ips.collect::<Vec<_>>(),
    })
}
