//! Connections that do not pass: each has its code, its policy and its nearest miss, in the log,
//! the flows and the counters, and the client sees a reset. `warren why` says the same beforehand.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, ensure};
use tests::protocol::Behaviour;
use tests::{Actor, AgentOptions, Mesh, Pod, PodSpec, ServiceSpec};

use crate::stage::{Cast, Stage, any, echoes, enrolled, is_reset, plain};

const ECHO: u16 = 7000;
const FORBIDDEN: u16 = 7001;
const CLOSED: u16 = 7002;
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
const EMPTY_VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 2));

fn cast() -> [Cast; 7] {
    [
        enrolled(PodSpec::new(1, "web")),
        enrolled(PodSpec::new(1, "thief").namespace("elsewhere")),
        enrolled(PodSpec::new(1, "near")),
        enrolled(PodSpec::new(2, "far")),
        enrolled(PodSpec::new(2, "odd").namespace("odd")),
        plain(PodSpec::new(1, "legacy")),
        plain(PodSpec::new(2, "old")),
    ]
}

/// In `shop`: only web, and nobody on `FORBIDDEN`.
fn mesh(stage: &Stage) -> Mesh {
    let service = ServiceSpec::new("shop", "far").vip(VIP).port(80, ECHO);
    stage
        .mesh()
        .service(service.endpoint(stage.pod("far")))
        .service(ServiceSpec::new("shop", "empty").vip(EMPTY_VIP).port(80, ECHO))
        .allow("shop", "only-web", &[&stage.pod("web").identity()])
        .policy(&format!(
            "name: not-there\nnamespace: shop\nscope: Namespace\naction: Deny\nrules:\n\
             - - - destinationPorts: [{FORBIDDEN}]\n"
        ))
}

/// The mesh file with a policy reference for pod `odd` that nothing defines.
fn mesh_text(stage: &Stage) -> String {
    let text = mesh(stage).to_string();
    let name = "  name: odd\n";
    text.replace(name, &format!("{name}  authorizationPolicies: [\"odd/not-written-yet\"]\n"))
}

struct Clients {
    web: Actor,
    thief: Actor,
    legacy: Actor,
}

impl Clients {
    fn of(&self, name: &str) -> &Actor {
        match name {
            "web" => &self.web,
            "thief" => &self.thief,
            _ => &self.legacy,
        }
    }
}

#[test]
fn refused_connections_are_reset_and_explained() {
    Stage::play(&AgentOptions::default(), cast(), mesh, |stage| {
        stage.change_mesh(&mesh_text(stage))?;
        let mut servers = Vec::new();
        for name in ["near", "far", "odd", "old"] {
            let server = stage.pod(name).actor()?;
            server.listen(any(ECHO), Behaviour::Echo)?;
            server.listen(any(FORBIDDEN), Behaviour::Echo)?;
            servers.push(server);
        }
        let clients = Clients {
            web: stage.pod("web").actor()?,
            thief: stage.pod("thief").actor()?,
            legacy: stage.pod("legacy").actor()?,
        };
        let far = |port| stage.pod("far").at(port);
        let near = |port| stage.pod("near").at(port);
        let across = [
            Denial::new("thief", far(ECHO), "POLICY_NO_MATCH", "", "shop/only-web"),
            Denial::new("web", far(FORBIDDEN), "POLICY_DENIED", "shop/not-there", ""),
            Denial::new(
                "web",
                stage.pod("odd").at_v6(ECHO),
                "POLICY_UNKNOWN",
                "odd/not-written-yet",
                "",
            ),
        ];
        for denial in across {
            denial.check(stage, &clients, "hbone", "POLICY_DENIED_BY_PEER")?;
        }
        let local = [
            Denial::new("thief", near(ECHO), "POLICY_NO_MATCH", "", "shop/only-web"),
            Denial::new("web", near(FORBIDDEN), "POLICY_DENIED", "shop/not-there", ""),
        ];
        for denial in local {
            denial.check(stage, &clients, "local", denial.code)?;
        }
        let outside = [
            Denial::new("legacy", far(ECHO), "POLICY_NO_MATCH", "", "shop/only-web"),
            Denial::new("legacy", near(FORBIDDEN), "POLICY_DENIED", "shop/not-there", ""),
        ];
        for denial in outside {
            denial.check(stage, &clients, "plaintext", "")?;
        }
        for (target, code) in [
            (SocketAddr::new(EMPTY_VIP, 80), "NO_HEALTHY_ENDPOINT"),
            (SocketAddr::new(VIP, 81), "NO_SERVICE_PORT"),
        ] {
            no_route(stage, &clients.web, target, code).with_context(|| code.to_owned())?;
        }
        nobody_listens(stage, &clients.web).context("nobody listens")?;
        why_agrees(stage, &clients).context("warren why")
    });
}

/// A connection that policy refuses.
struct Denial {
    client: &'static str,
    target: SocketAddr,
    /// On the server's side.
    code: &'static str,
    policy: &'static str,
    /// What the nearest miss names.
    miss: &'static str,
}

impl Denial {
    fn new(
        client: &'static str,
        target: SocketAddr,
        code: &'static str,
        policy: &'static str,
        miss: &'static str,
    ) -> Self {
        Self { client, target, code, policy, miss }
    }

    fn check(
        &self,
        stage: &Stage,
        clients: &Clients,
        path: &str,
        client_code: &str,
    ) -> anyhow::Result<()> {
        let Self { client, target, code, .. } = self;
        self.checked(stage, clients, path, client_code)
            .with_context(|| format!("{client} to {target}: {code} on {path}"))
    }

    fn checked(
        &self,
        stage: &Stage,
        clients: &Clients,
        path: &str,
        client_code: &str,
    ) -> anyhow::Result<()> {
        let client = stage.pod(self.client);
        let server = owner(stage, self.target);
        let (there, here) = (stage.watch(server.node())?, stage.watch(client.node())?);
        is_reset(clients.of(self.client), self.target)?;
        let line = there.outcome(self.code, |line| line.direction == "inbound")?;
        ensure!(line.path == path && line.message == "connection denied", "{line:?}");
        ensure!(line.policy == self.policy, "the policy is not {:?}: {line:?}", self.policy);
        ensure!(line.error.contains(self.miss), "the miss names no {:?}: {line:?}", self.miss);
        ensure!(line.destination == self.target.to_string(), "{line:?}");
        let identity = if path == "plaintext" { String::new() } else { client.identity() };
        ensure!(line.source_identity == identity, "{line:?}");
        if !client_code.is_empty() {
            let line = here.outcome(client_code, |line| line.direction == "outbound")?;
            ensure!(line.path == path && line.source_workload == self.client, "{line:?}");
            ensure!(line.destination_workload == server.name(), "{line:?}");
        }
        Ok(())
    }
}

fn owner(stage: &Stage, address: SocketAddr) -> &Pod {
    let names = ["web", "thief", "near", "far", "odd", "legacy", "old"];
    let pods = names.map(|name| stage.pod(name));
    let found = pods.into_iter().find(|pod| [pod.ipv4(), pod.ipv6()].contains(&address.ip()));
    found.expect("a pod has the address")
}

fn no_route(stage: &Stage, web: &Actor, target: SocketAddr, code: &str) -> anyhow::Result<()> {
    let watch = stage.watch(1)?;
    is_reset(web, target)?;
    let line = watch.outcome(code, |line| line.destination == target.to_string())?;
    ensure!(line.direction == "outbound" && !line.error.is_empty(), "{line:?}");
    ensure!(!line.service.is_empty(), "the service is not named: {line:?}");
    Ok(())
}

/// Policy allows it, but the application's port is closed: nobody's policy is to blame.
fn nobody_listens(stage: &Stage, web: &Actor) -> anyhow::Result<()> {
    let (here, there) = (stage.watch(1)?, stage.watch(2)?);
    is_reset(web, stage.pod("far").at(CLOSED))?;
    there.outcome("CONNECT_REFUSED", |line| line.direction == "inbound")?;
    here.outcome("PEER_REFUSED", |line| line.direction == "outbound")?;
    let here = stage.watch(1)?;
    is_reset(web, stage.pod("near").at(CLOSED))?;
    here.outcome("CONNECT_REFUSED", |line| line.direction == "outbound")?;
    let here = stage.watch(1)?;
    is_reset(web, stage.pod("old").at(CLOSED))?;
    let line = here.outcome("CONNECT_REFUSED", |line| line.direction == "outbound")?;
    ensure!(line.path == "passthrough", "{line:?}");
    Ok(())
}

/// For each pair, what both agents foretell is what happens.
fn why_agrees(stage: &Stage, clients: &Clients) -> anyhow::Result<()> {
    let pods = ["near", "far", "odd", "old"];
    let mut targets: Vec<_> = pods
        .iter()
        .flat_map(|name| [ECHO, FORBIDDEN].map(|port| stage.pod(name).at(port)))
        .collect();
    targets.push(stage.pod("far").at_v6(ECHO));
    targets.push(SocketAddr::new(VIP, 80));
    targets.push(SocketAddr::new(VIP, 81));
    targets.push(SocketAddr::new(EMPTY_VIP, 80));
    let mut passed = 0;
    for client in ["web", "thief", "legacy"] {
        let subject = format!("{}/{client}", stage.pod(client).namespace());
        for target in &targets {
            // Without a mesh of its own, nothing turns a service's address into a pod's.
            if client == "legacy" && [VIP, EMPTY_VIP].contains(&target.ip()) {
                continue;
            }
            let real = echoes(clients.of(client), *target);
            for node in [1, 2] {
                let why = stage.agent(node).why(&subject, &target.to_string())?;
                let agrees = why.passes() == real.is_ok();
                ensure!(agrees, "{subject} -> {target}: node {node} said {why:?}, got {real:?}");
            }
            passed += u32::from(real.is_ok());
        }
    }
    ensure!(passed >= 6, "only {passed} connections passed: the table proves little");
    Ok(())
}
