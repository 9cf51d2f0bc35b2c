//! Readiness on port 15021: 500 until the pods of an earlier agent are served again, then 200.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use tests::protocol::Behaviour;
use tests::{AgentOptions, Namespace, PodSpec, eventually};

use crate::stage::{SOON, Stage, any, echoes, enrolled};

const READINESS: u16 = 15021;
const ECHO: u16 = 7000;

#[test]
fn an_agent_is_ready_once_it_serves_its_pods() {
    let cast = [enrolled(PodSpec::new(1, "web")), enrolled(PodSpec::new(2, "far"))];
    Stage::play(&AgentOptions::default(), cast, Stage::mesh, |stage| {
        let server = stage.pod("far").actor()?;
        server.listen(any(ECHO), Behaviour::Echo)?;
        let node = stage.world.node(1).namespace().clone();
        let (status, _) = ask(&node, "/healthz/ready")?;
        ensure!(status == 200, "a running agent answers {status}");
        ensure!(ask(&node, "/nothing")?.0 == 404, "another path exists");

        // A pod whose processes cannot run cannot be proved to be in the mesh.
        let freezer = stage.pod("web").cgroup().join("cgroup.freeze");
        let freeze = |word| fs::write(&freezer, word).context("freeze or thaw a pod");
        stage.agent_mut(1).kill9()?;
        freeze("1")?;
        stage.agent_mut(1).restart()?;
        let (status, body) = eventually("the agent answers", SOON, || {
            // Nobody listens yet.
            Ok(ask(&node, "/healthz/ready").ok())
        })?;
        ensure!(status == 500, "before its pods are served, it answers {status}: {body}");
        ensure!(body.contains("pods"), "it does not say what it waits for: {body}");
        freeze("0")?;
        stage.agent_mut(1).wait_ready()?;
        echoes(&stage.pod("web").actor()?, stage.pod("far").at(ECHO))
    });
}

/// Status and body of an answer from inside a namespace.
fn ask(node: &Namespace, path: &str) -> anyhow::Result<(u16, String)> {
    let target = (Ipv4Addr::LOCALHOST, READINESS);
    let mut stream = node.within(|| TcpStream::connect(target))??;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}
