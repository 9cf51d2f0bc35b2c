//! A hook further up that rewrites service addresses, as Cilium's and Calico's do: the proxy still
//! gets the address that was dialled.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::Context;
use tests::{AgentOptions, Mesh, PodSpec, ServiceSpec, World};
use ztunnel::capture::bpf::{self, AttachType, Instruction, ProgramType};

use crate::stage::{House, answered, any, brief, reach, ready};

const KNOWN4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const KNOWN6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10);
/// Nobody told the mesh of this one.
const UNKNOWN4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);

/// Offsets in `struct bpf_sock_addr`.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;

fn word(octets: [u8; 4]) -> i32 {
    i32::from_ne_bytes(octets)
}

fn words(address: Ipv6Addr) -> [i32; 4] {
    let octets = address.octets();
    let (words, _) = octets.as_chunks::<4>();
    [words[0], words[1], words[2], words[3]].map(word)
}

/// `r2 = *(u32 *)(ctx + at); if (r2 != value) goto +skip`.
fn unless(at: i16, value: i32, skip: i16) -> [Instruction; 2] {
    [Instruction::new(0x61, 2, 1, at, 0), Instruction::new(0x56, 2, 0, skip, value)]
}

/// `*(u32 *)(ctx + at) = value`.
fn put(at: i16, value: i32) -> [Instruction; 2] {
    [Instruction::mov(3, value), Instruction::new(0x63, 1, 3, at, 0)]
}

/// Attaches a program to a cgroup that turns one address into another at connect.
fn rewrite(cgroup: &Path, from: IpAddr, to: IpAddr) -> anyhow::Result<OwnedFd> {
    let (attach, mut program) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let program =
                [unless(USER_IP4, word(from.octets()), 2), put(USER_IP4, word(to.octets()))];
            (AttachType::Connect4, program.concat())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            // The last word tells the service's address from all others here.
            let mut program = vec![unless(USER_IP6 + 12, words(from)[3], 10)];
            program.push(unless(USER_IP6, words(from)[0], 8));
            program.extend((0..4).zip(words(to)).map(|(n, word)| put(USER_IP6 + 4 * n, word)));
            (AttachType::Connect6, program.concat())
        }
        _ => anyhow::bail!("two families"),
    };
    program.extend([Instruction::mov(0, 1), Instruction::exit()]);
    let program = bpf::load(ProgramType::CgroupSockAddr, attach, &program)
        .map_err(|refused| anyhow::anyhow!("{refused}: {}", refused.source))?;
    let cgroup = File::open(cgroup).context("open a cgroup")?;
    bpf::link_create(&program, &cgroup, attach).context("attach to a cgroup")
}

#[test]
fn a_parents_rewrite_of_service_addresses_comes_after_capture() -> anyhow::Result<()> {
    let world = World::new(2)?;
    let client = House::new(&world, PodSpec::new(1, "client"))?;
    let stranger = House::new(&world, PodSpec::new(1, "stranger").outside())?;
    let decoy = House::new(&world, PodSpec::new(2, "decoy").outside())?;
    let orders = House::new(&world, PodSpec::new(2, "orders"))?;
    let service = ServiceSpec::new("shop", "orders")
        .vip(KNOWN4.into())
        .vip(KNOWN6.into())
        .port(80, 8080)
        .endpoint(&orders.pod);
    world.set_mesh(&Mesh::new().workloads([&client.pod, &orders.pod]).service(service))?;
    let west = ready(&world, 1, AgentOptions::default())?;
    let east = ready(&world, 2, AgentOptions::default())?;
    west.enrol(&client.pod)?;
    east.enrol(&orders.pod)?;
    let decoys = decoy.echo(80)?;
    let served = orders.actor.listen(any(8080), tests::protocol::Behaviour::Echo)?;
    let parent = client.pod.cgroup().parent().context("a pod's cgroup has a parent")?;
    let _links = [
        rewrite(parent, KNOWN4.into(), decoy.pod.ipv4())?,
        rewrite(parent, UNKNOWN4.into(), decoy.pod.ipv4())?,
        rewrite(parent, KNOWN6.into(), decoy.pod.ipv6())?,
    ];
    for vip in [IpAddr::from(KNOWN4), KNOWN6.into(), UNKNOWN4.into()] {
        let target = SocketAddr::new(vip, 80);
        assert!(answered(&stranger.actor, target, brief()), "{target}: the hook does not work");
    }
    assert_eq!(decoys.report()?.accepted, 3);

    let mark = west.log_mark();
    for vip in [IpAddr::from(KNOWN4), KNOWN6.into()] {
        let target = SocketAddr::new(vip, 80);
        let connection = reach(&client.actor, target, brief())?;
        assert_eq!(connection.peer(), Some(target), "getpeername");
        connection.close()?;
        let line = west.wait_access(mark, &format!("of {target}"), |line| {
            line.destination == target.to_string()
        })?;
        assert_eq!(line.service, "orders.shop.svc.cluster.local", "{line:?}");
        assert_eq!((&*line.path, &*line.destination_workload), ("hbone", "orders"), "{line:?}");
    }
    assert_eq!(served.report()?.accepted, 2, "the service's pod");
    assert_eq!(decoys.report()?.accepted, 3, "the parent's choice won");

    // What the mesh does not know leaves as it was dialled, and then it is the parent's turn.
    let target = SocketAddr::from((UNKNOWN4, 80));
    let connection = reach(&client.actor, target, brief())?;
    assert_eq!(connection.peer(), Some(target), "getpeername");
    connection.close()?;
    let line = west.wait_access(mark, &format!("of {target}"), |line| {
        line.destination == target.to_string()
    })?;
    assert_eq!((&*line.path, &*line.code), ("passthrough", "OK"), "{line:?}");
    assert_eq!(decoys.report()?.accepted, 4);
    Ok(())
}
