//! The demo's mesh: who is on which node, what they serve, and who may reach whom.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::ensure;
use tests::protocol::Behaviour;
use tests::{Actor, Agent, AgentOptions, Mesh, Pod, PodSpec, ServiceSpec, World};

use crate::narrator::{self, Narrator};

/// The service's address; no pod has it.
pub(crate) const SERVICE_VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 10));
pub(crate) const SERVICE_PORT: u16 = 80;
pub(crate) const HTTP_PORT: u16 = 8080;
pub(crate) const MAIL_PORT: u16 = 2525;
pub(crate) const GREETING: &str = "220 mail.shop ready\r\n";
/// The policy that decides.
pub(crate) const POLICY: &str = "shop/who-may-shop";

/// Everything the checks use. The world outlives it.
pub(crate) struct Stage<'a> {
    pub(crate) world: &'a World,
    pub(crate) web: Pod,
    pub(crate) cart: Pod,
    pub(crate) intruder: Pod,
    pub(crate) legacy: Pod,
    pub(crate) orders: Pod,
    pub(crate) mail: Pod,
    pub(crate) clients: Clients,
    /// Of node 1 and node 2.
    pub(crate) agents: [Agent; 2],
    /// Kept, because dropping them ends the servers.
    _servers: Vec<Actor>,
}

/// Processes in the client pods.
pub(crate) struct Clients {
    pub(crate) web: Actor,
    pub(crate) intruder: Actor,
    pub(crate) legacy: Actor,
}

impl<'a> Stage<'a> {
    /// Makes the pods, starts servers and agents, and enrols.
    pub(crate) fn set(world: &'a World, narrator: &mut Narrator) -> anyhow::Result<Self> {
        narrator.step("Nodes, pods and a policy");
        let start = Instant::now();
        let pod = |spec| world.pod(spec);
        let web = pod(PodSpec::new(1, "web"))?;
        let cart = pod(PodSpec::new(1, "cart"))?;
        let intruder = pod(PodSpec::new(1, "intruder").namespace("elsewhere"))?;
        let legacy = pod(PodSpec::new(1, "legacy").outside())?;
        let orders = pod(PodSpec::new(2, "orders"))?;
        let mail = pod(PodSpec::new(2, "mail"))?;
        let service = ServiceSpec::new("shop", "orders")
            .vip(SERVICE_VIP)
            .port(SERVICE_PORT, HTTP_PORT)
            .endpoint(&orders);
        world.set_mesh(
            &Mesh::new()
                .workloads([&web, &cart, &intruder, &legacy, &orders, &mail])
                .service(service)
                .policy(&policy(&web, &legacy)),
        )?;
        let servers = serve([&cart, &orders, &mail])?;
        let clients =
            Clients { web: web.actor()?, intruder: intruder.actor()?, legacy: legacy.actor()? };
        for (pod, what) in [
            (&web, "a client, in the mesh"),
            (&cart, "an HTTP server, in the mesh"),
            (&intruder, "a client, in the mesh, not in the policy"),
            (&legacy, "a client, not in the mesh"),
            (&orders, "an HTTP server, in the mesh, behind a service"),
            (&mail, "a server that speaks first, in the mesh"),
        ] {
            let (name, ip) = (pod.name(), pod.ipv4());
            narrator::say(&format!("node-{}  {name:<9} {ip:<9} {what}", pod.node()));
        }
        narrator::say(&format!(
            "policy {POLICY}: shop/web may reach namespace shop; so may legacy's address, on 8080"
        ));
        narrator::say(&format!("made in {} ms", start.elapsed().as_millis()));

        narrator.step("One agent a node");
        let start = Instant::now();
        let mut agents =
            [world.agent(1, AgentOptions::default())?, world.agent(2, AgentOptions::default())?];
        for agent in &mut agents {
            agent.wait_ready()?;
            let status = agent.status()?;
            narrator::say(&format!(
                "{}: ztunnel {} ready, capture mode {}, kernel {}",
                status.node, status.version, status.mode, status.kernel.release
            ));
        }
        narrator::say(&format!("ready after {} ms", start.elapsed().as_millis()));
        let stage = Self {
            world,
            web,
            cart,
            intruder,
            legacy,
            orders,
            mail,
            clients,
            agents,
            _servers: servers,
        };
        stage.enrol(narrator);
        Ok(stage)
    }

    /// The agent of a pod's node.
    pub(crate) fn agent_of(&self, pod: &Pod) -> &Agent {
        let [first, second] = &self.agents;
        if pod.node() == 1 { first } else { second }
    }

    fn enrol(&self, narrator: &mut Narrator) {
        narrator.step("Pods join the mesh while they run; no restart, no sidecar");
        let example = Agent::enrolment(&self.web).join(" ");
        narrator::command(&format!("warren {example}"), "");
        narrator.check("pods join, proved by a self-test", || {
            let pods = [&self.web, &self.cart, &self.intruder, &self.orders, &self.mail];
            for pod in pods {
                let enrolled = self.agent_of(pod).enrol(pod)?;
                ensure!(enrolled.state == admin::PodState::Verified, "{enrolled:?}");
            }
            for agent in &self.agents {
                let answer = agent.warren_text(&["pods"])?;
                narrator::command(
                    &format!("warren pods        # {}", agent.node().name()),
                    &answer.stdout,
                );
                answer.ok()?;
            }
            Ok(format!("{} pods verified by the kernel", pods.len()))
        });
    }
}

/// web by its identity; legacy has none, so by its address and for one port.
fn policy(web: &Pod, legacy: &Pod) -> String {
    format!(
        "name: who-may-shop\n\
         namespace: shop\n\
         scope: Namespace\n\
         action: Allow\n\
         rules:\n\
         - - - principals: [!Exact {}]\n  \
           - - destinationPorts: [{HTTP_PORT}, {MAIL_PORT}]\n\
         - - - sourceIps: [\"{}/32\"]\n  \
           - - destinationPorts: [{HTTP_PORT}]\n",
        web.identity(),
        legacy.ipv4(),
    )
}

fn serve(pods: [&Pod; 3]) -> anyhow::Result<Vec<Actor>> {
    let [cart, orders, mail] = pods;
    let any = |port| SocketAddr::from(([0_u16; 8], port));
    let mut servers = Vec::new();
    for pod in [cart, orders] {
        let server = pod.actor()?;
        server.listen(any(HTTP_PORT), Behaviour::Http { name: pod.name().to_owned() })?;
        servers.push(server);
    }
    let server = mail.actor()?;
    server.listen(any(MAIL_PORT), Behaviour::Banner { text: GREETING.to_owned() })?;
    servers.push(server);
    Ok(servers)
}
