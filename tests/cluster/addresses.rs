//! A pod that gets the address of another one in the moment in which it is free.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::KubeNode;

/// The plugin that gives addresses, and where it is kept while another is in its place.
const PLUGIN: &str = "/opt/cni/bin/host-local";
const KEPT: &str = "/opt/cni/host-local";
/// Where the plugin writes which addresses are in use, and which one it gave last.
const LEASES: &str = "/var/lib/cni/networks/pods";
/// What is known of an inheritance.
const KNOWN: &str = "/run/inherited";

/// The only address of a pod.
pub(crate) fn address(pod: &Value) -> anyhow::Result<Ipv4Addr> {
    let text = pod["status"]["podIP"].as_str().context("a pod without an address")?;
    text.parse().context("read an address")
}

/// One pod of a node is to have the address of another. Dropping it restores the node's plugin.
pub(crate) struct Inheritance<'c> {
    node: &'c KubeNode,
}

impl<'c> Inheritance<'c> {
    /// From now on the sandbox of `heir` waits for the address, however early it is made: no kubelet is
    /// fast enough to be sure of a second.
    pub(crate) fn of(
        node: &'c KubeNode,
        address: Ipv4Addr,
        owner: &str,
        heir: &str,
    ) -> anyhow::Result<Self> {
        // The plugin gives the one after its last one.
        let last = Ipv4Addr::from_bits(address.to_bits() - 1);
        let plugin = format!(
            r#"#!/bin/sh
case "$CNI_COMMAND $CNI_ARGS" in
"ADD "*"K8S_POD_NAME={heir}"*)
	touch {KNOWN}/awaited
	while [ -e {LEASES}/{address} ]; do sleep 0.01; done
	printf {last} >{LEASES}/last_reserved_ip.0
	{KEPT}
	code=$?
	date +%s%N >{KNOWN}/given
	exit $code
	;;
"DEL "*"K8S_POD_NAME={owner}"*)
	[ -e {KNOWN}/returned ] || date +%s%N >{KNOWN}/returned
	;;
esac
exec {KEPT}
"#
        );
        node.shell(&format!("rm -rf {KNOWN} && mkdir {KNOWN} && mv {PLUGIN} {KEPT}"))?;
        let inheritance = Self { node };
        // Not in place: a runtime would call a part of it.
        node.shell(&format!(
            "cat >{PLUGIN}.new <<'END' && chmod +x {PLUGIN}.new && mv {PLUGIN}.new {PLUGIN}\n{plugin}END\n"
        ))?;
        Ok(inheritance)
    }

    /// Whether the heir's sandbox waits.
    pub(crate) fn is_awaited(&self) -> bool {
        self.node.shell(&format!("test -e {KNOWN}/awaited")).is_ok()
    }

    /// From before the address was given back until it was given again.
    pub(crate) fn gap(&self) -> anyhow::Result<Duration> {
        let time = |of: &str| {
            let said = self.node.shell(&format!("cat {KNOWN}/{of}"))?;
            said.trim().parse::<u64>().with_context(|| format!("read when it was {of}: {said:?}"))
        };
        let (returned, given) = (time("returned")?, time("given")?);
        ensure!(returned < given, "it was given at {given} and returned at {returned}");
        Ok(Duration::from_nanos(given - returned))
    }
}

impl Drop for Inheritance<'_> {
    fn drop(&mut self) {
        let back = format!("mv {KEPT} {PLUGIN} && rm -rf {KNOWN}");
        if let Err(error) = self.node.shell(&back) {
            eprintln!("the plugin of {} is not back: {error:#}", self.node.name());
        }
    }
}
