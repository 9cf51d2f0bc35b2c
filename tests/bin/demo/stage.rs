//! The demo's mesh: who is on which node, what they serve, and who may reach whom.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::ensure;
use tests::protocol::Behaviour;
use tests::{Actor, Agent, AgentOptions, Plane, Pod, PodSpec, ServiceSpec, World};

use crate::narrator::{self, Narrator};

/// The service's address; no pod has it.
pub(crate) const SERVICE_VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 10));
pub(crate) const SERVICE_PORT: u16 = 80;
pub(crate) const HTTP_PORT: u16 = 8080;
pub(crate) const MAIL_PORT: u16 = 2525;
pub(crate) const GREETING: &str = "220 mail.shop ready\r\n";
/// The policy that decides, and its file.
pub(crate) const POLICY: &str = "shop/who-may-shop";
const POLICY_FILE: &str = "policy.yaml";
/// Pods that only serve: name and node.
const SERVERS: [(&str, u8); 4] = [("stock", 1), ("pay", 2), ("search", 1), ("ship", 2)];

/// Everything the checks use. The world outlives it.
pub(crate) struct Stage<'a> {
    pub(crate) world: &'a World,
    pub(crate) web: Pod,
    pub(crate) cart: Pod,
    pub(crate) intruder: Pod,
    pub(crate) legacy: Pod,
    pub(crate) orders: Pod,
    pub(crate) mail: Pod,
    /// Further servers.
    pub(crate) others: Vec<Pod>,
    pub(crate) clients: Clients,
    pub(crate) plane: Plane,
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
    /// Makes the pods, starts servers, the control plane and agents, and enrols.
    pub(crate) fn set(world: &'a World, narrator: &mut Narrator) -> anyhow::Result<Self> {
        narrator.step("Nodes and pods");
        let start = Instant::now();
        let pod = |spec| world.pod(spec);
        let web = pod(PodSpec::new(1, "web"))?;
        let cart = pod(PodSpec::new(1, "cart"))?;
        let intruder = pod(PodSpec::new(1, "intruder").namespace("elsewhere"))?;
        let legacy = pod(PodSpec::new(1, "legacy").outside())?;
        let orders = pod(PodSpec::new(2, "orders"))?;
        let mail = pod(PodSpec::new(2, "mail"))?;
        let others = SERVERS.iter().map(|(name, node)| pod(PodSpec::new(*node, name)));
        let others = others.collect::<anyhow::Result<Vec<_>>>()?;
        let servers = serve([&cart, &orders].into_iter().chain(&others), &mail)?;
        let clients =
            Clients { web: web.actor()?, intruder: intruder.actor()?, legacy: legacy.actor()? };
        let further = others.iter().map(|pod| (pod, "an HTTP server, in the mesh"));
        for (pod, what) in [
            (&web, "a client, in the mesh"),
            (&cart, "an HTTP server, in the mesh"),
            (&intruder, "a client, in the mesh, not in the policy"),
            (&legacy, "a client, not in the mesh: a WorkloadEntry"),
            (&orders, "an HTTP server, in the mesh, behind a service"),
            (&mail, "a server that speaks first, in the mesh"),
        ]
        .into_iter()
        .chain(further)
        {
            let (name, ip) = (pod.name(), pod.ipv4());
            narrator::say(&format!("node-{}  {name:<9} {ip:<9} {what}", pod.node()));
        }
        narrator::say(&format!("made in {} ms", start.elapsed().as_millis()));

        let in_mesh = [&web, &cart, &intruder, &orders, &mail];
        let in_mesh: Vec<&Pod> = in_mesh.into_iter().chain(&others).collect();
        let plane = control_plane(world, narrator, &in_mesh, &web, &legacy)?;
        let agents = agents(world, narrator, &plane)?;
        let stage = Self {
            world,
            web,
            cart,
            intruder,
            legacy,
            orders,
            mail,
            others,
            clients,
            plane,
            agents,
            _servers: servers,
        };
        stage.enrol(narrator);
        Ok(stage)
    }

    /// Writes the policy anew: web may shop, or nobody but legacy.
    pub(crate) fn write_policy(&self, web_may_shop: bool) -> anyhow::Result<()> {
        let text = policy(web_may_shop.then_some(&self.web), &self.legacy);
        self.plane.manifests().write(POLICY_FILE, &text)
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
            let pods: Vec<&Pod> = pods.into_iter().chain(&self.others).collect();
            for pod in &pods {
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

/// Starts it over a folder that describes everything.
fn control_plane(
    world: &World,
    narrator: &mut Narrator,
    in_mesh: &[&Pod],
    web: &Pod,
    legacy: &Pod,
) -> anyhow::Result<Plane> {
    narrator.step("A control plane over a folder of manifests");
    let start = Instant::now();
    let mut plane = Plane::start(world, &[])?;
    let manifests = plane.manifests();
    manifests.pods(in_mesh.iter().copied())?;
    manifests.write("legacy.yaml", &workload_entry(legacy))?;
    let service = ServiceSpec::new("shop", "orders").vip(SERVICE_VIP).port(SERVICE_PORT, HTTP_PORT);
    manifests.service(&service, "orders")?;
    manifests.write(POLICY_FILE, &policy(Some(web), legacy))?;
    plane.wait_ready()?;
    narrator::say(&format!(
        "{} pods, a WorkloadEntry, a Service and an AuthorizationPolicy, as Kubernetes has them",
        in_mesh.len()
    ));
    narrator::say(&format!(
        "policy {POLICY}: shop/web may reach namespace shop; so may legacy's address, on 8080"
    ));
    narrator::say(&format!("ready after {} ms", start.elapsed().as_millis()));
    Ok(plane)
}

fn agents(world: &World, narrator: &mut Narrator, plane: &Plane) -> anyhow::Result<[Agent; 2]> {
    narrator.step("One agent a node");
    let start = Instant::now();
    let options = || plane.options(AgentOptions::default());
    let mut agents = [world.agent(1, options())?, world.agent(2, options())?];
    for agent in &mut agents {
        agent.wait_ready()?;
        let status = agent.status()?;
        narrator::say(&format!(
            "{}: ztunnel {} ready, capture mode {}, kernel {}",
            status.node, status.version, status.mode, status.kernel.release
        ));
    }
    narrator::say(&format!("ready after {} ms", start.elapsed().as_millis()));
    Ok(agents)
}

/// web by its identity; legacy has none, so by its address and for one port.
fn policy(web: Option<&Pod>, legacy: &Pod) -> String {
    let by_identity = web.map_or_else(String::new, |web| {
        format!(
            "  - from: [{{source: {{principals: [cluster.local/ns/{}/sa/{}]}}}}]\n    \
             to: [{{operation: {{ports: [\"{HTTP_PORT}\", \"{MAIL_PORT}\"]}}}}]\n",
            web.namespace(),
            web.account(),
        )
    });
    format!(
        "apiVersion: security.istio.io/v1\n\
         kind: AuthorizationPolicy\n\
         metadata: {{name: who-may-shop, namespace: shop}}\n\
         spec:\n  action: ALLOW\n  rules:\n\
         {by_identity}  \
         - from: [{{source: {{ipBlocks: [\"{}/32\"]}}}}]\n    \
         to: [{{operation: {{ports: [\"{HTTP_PORT}\"]}}}}]\n",
        legacy.ipv4(),
    )
}

fn workload_entry(legacy: &Pod) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\n\
         kind: WorkloadEntry\n\
         metadata: {{name: legacy, namespace: shop}}\n\
         spec: {{address: {}, serviceAccount: legacy, labels: {{app: legacy}}}}\n",
        legacy.ipv4(),
    )
}

fn serve<'p>(http: impl Iterator<Item = &'p Pod>, mail: &Pod) -> anyhow::Result<Vec<Actor>> {
    let any = |port| SocketAddr::from(([0_u16; 8], port));
    let mut servers = Vec::new();
    for pod in http {
        let server = pod.actor()?;
        server.listen(any(HTTP_PORT), Behaviour::Http { name: pod.name().to_owned() })?;
        servers.push(server);
    }
    let server = mail.actor()?;
    server.listen(any(MAIL_PORT), Behaviour::Banner { text: GREETING.to_owned() })?;
    servers.push(server);
    Ok(servers)
}
