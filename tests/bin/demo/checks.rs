//! What the demo shows, one function a step.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::protocol::Amount;
use tests::{AccessLine, Actor, HttpAnswer, LogMark, Pod, eventually};

use crate::narrator::{self, Narrator};
use crate::stage::{GREETING, HTTP_PORT, MAIL_PORT, POLICY, SERVICE_PORT, SERVICE_VIP, Stage};
use crate::wire::{Secret, Wire};

/// A refusal must arrive within this.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);
/// A flow is in the ring when its connection has ended on both sides.
const FLOW_TIMEOUT: Duration = Duration::from_secs(5);

/// From the edit of a policy to its effect.
const POLICY_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs them all. Only a broken stage ends it early; a failed check does not.
pub(crate) fn run(stage: &Stage<'_>, narrator: &mut Narrator) -> anyhow::Result<()> {
    let wire = Wire::tap(stage)?;
    across_nodes(stage, narrator, &wire);
    on_one_node(stage, narrator);
    by_service(stage, narrator, &wire);
    server_first(stage, narrator);
    denied(stage, narrator);
    from_outside(stage, narrator, &wire);
    everywhere(stage, narrator);
    policy_changes(stage, narrator);
    narrator.step("What the wire between the nodes carried");
    narrator.check("the wire holds TLS, not the requests", || wire.judge());
    Ok(())
}

fn across_nodes(stage: &Stage<'_>, narrator: &mut Narrator, wire: &Wire) {
    narrator.step("web (node-1) asks orders (node-2): allowed");
    let (agent, mark) = marked(stage, &stage.orders);
    narrator.check("request across nodes, both identities", || {
        let target = stage.orders.at(HTTP_PORT);
        let answer = get(&stage.clients.web, "web", target, wire.secret(Secret::InMesh))?;
        answered_by(&answer, "orders")?;
        let line = agent.wait_access(mark, "of web's request", |line| {
            line.direction == "inbound" && line.source_workload == "web"
        })?;
        show_line("node-2", &line);
        between(&line, &stage.web, &stage.orders, "hbone")
    });
    narrator.check("the server sees the client's true address", || {
        for target in [stage.orders.at(HTTP_PORT), stage.orders.at_v6(HTTP_PORT)] {
            let secret = wire.secret(Secret::InMesh);
            let answer = get(&stage.clients.web, "web", target, secret)?;
            true_client(&answer, &stage.web)?;
        }
        Ok(format!("orders was called by {} and {}", stage.web.ipv4(), stage.web.ipv6()))
    });
}

fn on_one_node(stage: &Stage<'_>, narrator: &mut Narrator) {
    narrator.step("web asks cart on the same node: the same decision, joined in the agent");
    let (agent, mark) = marked(stage, &stage.cart);
    narrator.check("request on one node, both identities", || {
        let target = stage.cart.at(HTTP_PORT);
        let answer = get(&stage.clients.web, "web", target, "")?;
        answered_by(&answer, "cart")?;
        true_client(&answer, &stage.web)?;
        let line = agent.wait_access(mark, "of web's request", |line| {
            line.direction == "inbound" && line.source_workload == "web"
        })?;
        show_line("node-1", &line);
        between(&line, &stage.web, &stage.cart, "local")
    });
}

fn by_service(stage: &Stage<'_>, narrator: &mut Narrator, wire: &Wire) {
    narrator.step("web asks the service's address, which is no pod's");
    let (agent, mark) = marked(stage, &stage.web);
    narrator.check("request to a service's address", || {
        let target = SocketAddr::new(SERVICE_VIP, SERVICE_PORT);
        let secret = wire.secret(Secret::InMesh);
        let answer = get(&stage.clients.web, "web", target, secret)?;
        answered_by(&answer, "orders")?;
        let line = agent.wait_access(mark, "the service", |line| {
            line.direction == "outbound" && line.service == "orders.shop.svc.cluster.local"
        })?;
        Ok(format!("{} led to {} ({})", line.service, line.destination_workload, line.destination))
    });
}

fn server_first(stage: &Stage<'_>, narrator: &mut Narrator) {
    narrator.step("mail speaks first: no protocol is guessed, no byte is waited for");
    narrator.check("server-first protocol", || {
        let connection = stage.clients.web.connect(stage.mail.at(MAIL_PORT))?;
        let greeting = connection.receive(GREETING.len())?;
        let greeting = String::from_utf8_lossy(&greeting).into_owned();
        narrator::command(&format!("nc {}        # in web", stage.mail.at(MAIL_PORT)), &greeting);
        ensure!(greeting == GREETING, "another greeting");
        ensure!(connection.exchange(b"NOOP\r\n")? == b"NOOP\r\n", "no answer to NOOP");
        connection.shutdown_write()?;
        ensure!(connection.receive_all()?.is_empty(), "more than was sent");
        connection.close()?;
        Ok("greeted before sending a byte; then an exchange and an orderly end".to_owned())
    });
}

fn denied(stage: &Stage<'_>, narrator: &mut Narrator) {
    narrator.step("intruder asks orders: denied, and the reason is the same everywhere");
    let (agent, mark) = marked(stage, &stage.orders);
    let target = stage.orders.at(HTTP_PORT);
    narrator.check("denied by policy, with code and nearest miss", || {
        let end = refused(&stage.clients.intruder, target)?;
        narrator::command(&format!("curl http://{target}/        # in intruder"), &end);
        let line = agent.wait_access(mark, "of the refusal", |line| {
            line.direction == "inbound" && line.source_workload == "intruder"
        })?;
        show_line("node-2", &line);
        ensure!(line.code == "POLICY_NO_MATCH", "the code is {}", line.code);
        ensure!(line.source_identity == stage.intruder.identity(), "{}", line.source_identity);
        let flow = eventually("a flow tells the refusal", FLOW_TIMEOUT, || {
            let flows = agent.flows()?.into_iter();
            Ok(flows.rev().find(|flow| flow.code == "POLICY_NO_MATCH"))
        })?;
        let miss = flow.detail.context("the flow has no detail")?;
        ensure!(miss.contains(POLICY), "the nearest miss does not name {POLICY}: {miss}");
        Ok(miss)
    });
    narrator.check("warren why gives the same reason", || {
        let words = ["why", "elsewhere/intruder", &target.to_string()];
        let answer = agent.warren_text(&words)?;
        narrator::command(&format!("warren {}        # node-2", words.join(" ")), &answer.stdout);
        ensure!(answer.status == 1, "exit code {} is not 1: {}", answer.status, answer.stderr);
        let verdict = agent.why(words[1], words[2])?.verdict.context("no verdict")?;
        ensure!(!verdict.allowed && verdict.code == "POLICY_NO_MATCH", "{verdict:?}");
        let allowed = agent.why("shop/web", words[2])?;
        ensure!(allowed.passes(), "web would not pass: {allowed:?}");
        Ok(format!("{}; shop/web would pass", verdict.code))
    });
}

fn from_outside(stage: &Stage<'_>, narrator: &mut Narrator, wire: &Wire) {
    narrator.step("legacy, outside the mesh, asks orders: in plaintext, judged without identity");
    let (agent, mark) = marked(stage, &stage.orders);
    narrator.check("plaintext from outside, judged by address", || {
        let target = stage.orders.at(HTTP_PORT);
        let secret = wire.secret(Secret::Outside);
        let answer = get(&stage.clients.legacy, "legacy", target, secret)?;
        answered_by(&answer, "orders")?;
        true_client(&answer, &stage.legacy)?;
        let line = agent.wait_access(mark, "of legacy's request", |line| {
            line.path == "plaintext" && line.code == "OK"
        })?;
        show_line("node-2", &line);
        ensure!(line.source_identity.is_empty(), "an identity was made up");
        let end = refused(&stage.clients.legacy, stage.mail.at(MAIL_PORT))?;
        Ok(format!("allowed on {HTTP_PORT}, without identity; on {MAIL_PORT}: {end}"))
    });
}

fn everywhere(stage: &Stage<'_>, narrator: &mut Narrator) {
    narrator.step("web asks every other server of its namespace, on both nodes");
    narrator.check("each server answers under its own identity", || {
        for pod in &stage.others {
            let (agent, mark) = marked(stage, pod);
            let target = pod.at(HTTP_PORT);
            let answer = stage.clients.web.http_get(target, "/", "")?;
            answered_by(&answer, pod.name())?;
            let line = agent.wait_access(mark, "of web's request", |line| {
                line.direction == "inbound" && line.destination_workload == pod.name()
            })?;
            let path = if pod.node() == stage.web.node() { "local" } else { "hbone" };
            narrator::say(&between(&line, &stage.web, pod, path)?);
        }
        Ok(format!("{} servers", stage.others.len()))
    });
}

fn policy_changes(stage: &Stage<'_>, narrator: &mut Narrator) {
    narrator.step("The policy is edited in the folder: web is taken out of it");
    narrator.check("verdicts follow, and open connections end", || {
        let open = stage.clients.web.connect(stage.mail.at(MAIL_PORT))?;
        open.receive(GREETING.len())?;
        stage.write_policy(false)?;
        let start = Instant::now();
        let end = match open.receive_within(Amount::All(1000), REFUSAL_TIMEOUT) {
            Ok((data, true)) => {
                ensure!(data.is_empty(), "got {:?}", String::from_utf8_lossy(&data));
                "closed".to_owned()
            }
            Ok((_, false)) => anyhow::bail!("it was answered"),
            Err(failure) if failure.errno == Some(libc::ETIMEDOUT) => anyhow::bail!("{failure}"),
            Err(failure) => failure.to_string(),
        };
        let elapsed = start.elapsed();
        // Whether its socket is closed cleanly is not what is shown.
        let _ = open.close();
        let refusal = refused(&stage.clients.web, stage.orders.at(HTTP_PORT))?;
        ensure!(elapsed < POLICY_TIMEOUT, "only after {} ms", elapsed.as_millis());
        Ok(format!("{end} after {} ms; a new one: {refusal}", elapsed.as_millis()))
    });
    narrator.check("put back, it holds again", || {
        stage.write_policy(true)?;
        let start = Instant::now();
        eventually("web is answered", POLICY_TIMEOUT, || {
            let answer = stage.clients.web.http_get(stage.orders.at(HTTP_PORT), "/", "");
            Ok(answer.ok().filter(|answer| answer.status == 200))
        })?;
        Ok(format!("after {} ms", start.elapsed().as_millis()))
    });
    narrator.check("the control plane tells where it is enforced", || {
        let answer = stage.plane.warren(&["policies"])?;
        narrator::command("warren cp policies", &answer.stdout);
        ensure!(answer.status == 0, "exit code {}: {}", answer.status, answer.stderr);
        let line = answer.stdout.lines().find(|line| line.contains("who-may-shop"));
        let line = line.context("the policy is not listed")?;
        ensure!(line.contains("namespace shop") && line.contains("ZtunnelAccepted"), "{line}");
        Ok("namespace shop, accepted".to_owned())
    });
}

/// The agent of a pod's node, and where its log stands.
fn marked<'a>(stage: &'a Stage<'_>, pod: &Pod) -> (&'a tests::Agent, LogMark) {
    let agent = stage.agent_of(pod);
    (agent, agent.log_mark())
}

fn get(client: &Actor, name: &str, target: SocketAddr, secret: &str) -> anyhow::Result<HttpAnswer> {
    let header = if secret.is_empty() { String::new() } else { format!("X-Secret: {secret}") };
    let answer = client.http_get(target, "/", &header)?;
    let header = if secret.is_empty() { String::new() } else { format!("-H '{header}' ") };
    narrator::command(&format!("curl {header}http://{target}/        # in {name}"), &answer.body);
    Ok(answer)
}

fn answered_by(answer: &HttpAnswer, server: &str) -> anyhow::Result<()> {
    ensure!(answer.status == 200, "status {}", answer.status);
    let name = answer.field("server");
    ensure!(name == server, "{name:?} answered instead of {server}");
    Ok(())
}

fn true_client(answer: &HttpAnswer, client: &Pod) -> anyhow::Result<()> {
    let peer: SocketAddr = answer.field("peer").parse().context("the server's view")?;
    let peer = peer.ip().to_canonical();
    ensure!([client.ipv4(), client.ipv6()].contains(&peer), "the server saw {peer}");
    ensure!(peer == answer.local.ip().to_canonical(), "the server saw {peer}");
    Ok(())
}

/// That a connection carries nothing back and ends in time; how it ended.
fn refused(client: &Actor, target: SocketAddr) -> anyhow::Result<String> {
    let connection = match client.connect(target) {
        Ok(connection) => connection,
        Err(failure) => return Ok(failure.to_string()),
    };
    // The end may arrive before or after this is sent.
    let sent = connection.send(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
    let received = connection.receive_within(Amount::All(1000), REFUSAL_TIMEOUT);
    let closed = connection.close();
    let end = match sent.and(received) {
        Ok((data, true)) => {
            ensure!(data.is_empty(), "got {:?}", String::from_utf8_lossy(&data));
            "closed without a byte".to_owned()
        }
        Ok((_, false)) => anyhow::bail!("it was answered"),
        Err(failure) if failure.errno == Some(libc::ETIMEDOUT) => anyhow::bail!("{failure}"),
        Err(failure) => failure.to_string(),
    };
    closed?;
    Ok(end)
}

fn between(line: &AccessLine, client: &Pod, server: &Pod, path: &str) -> anyhow::Result<String> {
    ensure!(line.code == "OK", "the code is {}: {}", line.code, line.error);
    ensure!(line.path == path, "the path is {:?}", line.path);
    ensure!(line.source_identity == client.identity(), "client: {:?}", line.source_identity);
    ensure!(
        line.destination_identity == server.identity(),
        "server: {:?}",
        line.destination_identity
    );
    Ok(format!("{} -> {}, path={path}", client.identity(), server.identity()))
}

fn show_line(node: &str, line: &AccessLine) {
    let mut fields = Vec::new();
    for (name, value) in [
        ("src.identity", &line.source_identity),
        ("dst.identity", &line.destination_identity),
        ("path", &line.path),
        ("code", &line.code),
        ("policy", &line.policy),
        ("error", &line.error),
    ] {
        if !value.is_empty() {
            fields.push(format!("{name}={value}"));
        }
    }
    narrator::say(&format!("access log of {node}: {}", line.message));
    for field in fields {
        narrator::say(&format!("  {field}"));
    }
}
