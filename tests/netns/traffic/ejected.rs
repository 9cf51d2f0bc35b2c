//! Passive health: an endpoint that refuses connections is left alone for a while.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::ensure;
use tests::protocol::Behaviour;
use tests::{AgentOptions, PodSpec, ServiceSpec};

use crate::stage::{Cast, Stage, any, enrolled};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
const ECHO: u16 = 7000;
/// Made within the second that a first ejection lasts, or a little longer.
const CONNECTIONS: usize = 60;
/// Without ejection it would be half of them. The first fails, and one for each ejection that ended
/// meanwhile.
const FAILURES_MAX: usize = 6;

fn cast() -> [Cast; 4] {
    [
        enrolled(PodSpec::new(1, "web")),
        enrolled(PodSpec::new(2, "well")),
        enrolled(PodSpec::new(2, "sick")),
        enrolled(PodSpec::new(1, "near")),
    ]
}

/// On the same node and on another one: the refusal is seen in a connect, or told by the far node.
#[test]
fn an_endpoint_that_refuses_is_left_alone() {
    let options = AgentOptions::default().set("ZTUNNEL_WORKER_THREADS", 1);
    for sick in ["sick", "near"] {
        let mesh = move |stage: &Stage| {
            let service = ServiceSpec::new("shop", "two").vip(VIP).port(80, ECHO);
            let service = service.endpoint(stage.pod("well")).endpoint(stage.pod(sick));
            stage.mesh().service(service)
        };
        Stage::play(&options, cast(), mesh, |stage| {
            let server = stage.pod("well").actor()?;
            server.listen(any(ECHO), Behaviour::Echo)?;
            let client = stage.pod("web").actor()?;
            let (mut failed, mut served) = (0, 0);
            for _ in 0..CONNECTIONS {
                let connection = client.connect(SocketAddr::new(VIP, 80))?;
                match connection.exchange(b"x") {
                    Ok(answer) if answer == b"x" => served += 1,
                    Ok(_) | Err(_) => failed += 1,
                }
            }
            ensure!(served > 0, "{sick}: nothing was served");
            ensure!(failed <= FAILURES_MAX, "{sick}: {failed} of {CONNECTIONS} failed");
            ensure!(failed > 0, "{sick}: the refusing endpoint was never tried");
            Ok(())
        });
    }
}
