//! What an agent refuses to start with: it says why, ends with the right code, and leaves the one
//! that runs alone.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use anyhow::{Context, ensure};
use tests::{AgentOptions, Mesh, PodSpec, World, eventually};

use crate::common::{House, SOON, layout, names, wait_verified};

const NOBODY: u32 = 65534;

/// Starts an agent that must not start: its exit code and what it wrote.
fn refused(world: &World, node: u8, options: AgentOptions) -> anyhow::Result<(i32, String)> {
    let mark = fs::read_to_string(log_path(world, node)).unwrap_or_default().len();
    let mut agent = world.agent(node, options)?;
    let status = eventually("the agent refuses to start", SOON, || agent.ended())?;
    let text = fs::read_to_string(log_path(world, node))?;
    let said = text.get(mark..).unwrap_or_default().to_owned();
    Ok((status.code().unwrap_or(-1), said))
}

fn log_path(world: &World, node: u8) -> std::path::PathBuf {
    world.folder().join(world.node(node).name()).join("ztunnel.log")
}

#[test]
fn wrong_settings_and_files_are_named() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let plain = AgentOptions::default;
    let mesh = world.mesh_path();
    let good = fs::read_to_string(&mesh)?;
    let wrong =
        "workloads:\n- uid: a\n  name: web\n  namespace: shop\n  workloadIps: [\"10.0.0.300\"]\n";
    let unknown = "workloads: []\nwrokloads: []\n";
    // Each: what, the file, the options, the exit code, what must be said.
    let cases: [(&str, &str, AgentOptions, i32, &[&str]); 8] = [
        (
            "a wrong address in the mesh",
            wrong,
            plain(),
            2,
            &["mesh.yaml:5:", "workloadIps", "10.0.0.300"],
        ),
        ("an unknown key in the mesh", unknown, plain(), 2, &["mesh.yaml:2:", "wrokloads"]),
        ("no YAML", "workloads: [", plain(), 2, &["mesh.yaml:"]),
        (
            "no mesh file",
            &good,
            plain().set("LOCAL_XDS_PATH", "/nowhere/mesh.yaml"),
            2,
            &["/nowhere/mesh.yaml"],
        ),
        (
            "settings that are no values",
            &good,
            plain().set("ZTUNNEL_WORKER_THREADS", "many").set("KEEPALIVE_TIME", "soon"),
            2,
            &["ZTUNNEL_WORKER_THREADS=\"many\"", "KEEPALIVE_TIME=\"soon\""],
        ),
        (
            "two authorities",
            &good,
            plain().set("CA_ADDRESS", "https://istiod:15012"),
            2,
            &["CA_ADDRESS", "WARREN_DEV_CA_DIR"],
        ),
        (
            "pins on another file system",
            &good,
            plain().set("WARREN_BPF_PIN_DIR", world.folder().join("pins").display()),
            1,
            &["not on a BPF file system", "WARREN_BPF_PIN_DIR"],
        ),
        (
            "a kubelet's cgroup that does not exist",
            &good,
            plain().set("WARREN_KUBELET_CGROUP", "/sys/fs/cgroup/nowhere"),
            1,
            &["kubelet", "/sys/fs/cgroup/nowhere"],
        ),
    ];
    for (what, text, options, code, wanted) in cases {
        world.set_mesh_text(text)?;
        let (status, said) = refused(&world, 1, options).context(what)?;
        ensure!(status == code, "{what}: ended with {status}: {said}");
        for word in wanted {
            ensure!(said.contains(word), "{what}: does not say {word:?}: {said}");
        }
    }
    world.set_mesh_text(&good)?;
    let mut agent = world.agent(1, plain())?;
    agent.wait_ready()?;
    agent.terminate()?;
    // The key of the development CA is for nobody else.
    let key = names(&world.folder().join("ca")).into_iter().find(|name| name.contains("key"));
    let key = world.folder().join("ca").join(key.context("the CA has no key file")?);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    let (status, said) = refused(&world, 1, plain())?;
    ensure!(status != 0 && said.contains("644") && said.contains("key"), "{status}: {said}");
    Ok(())
}

#[test]
fn a_second_agent_beside_a_running_one_is_refused() -> anyhow::Result<()> {
    let world = World::new(1)?;
    let (web, old) = (
        House::new(&world, PodSpec::new(1, "web"))?,
        House::new(&world, PodSpec::new(1, "old").outside())?,
    );
    world.set_mesh(&Mesh::new().workloads([&web.pod, &old.pod]))?;
    let mut agent = world.agent(1, AgentOptions::default())?;
    agent.wait_ready()?;
    agent.enrol(&web.pod)?;
    let open = old.connect(&web)?;
    let run = |name: &str| world.folder().join(name);
    let apart = |name: &str| {
        AgentOptions::default()
            .set("WARREN_RUN_DIR", run(name).display())
            .set("WARREN_ADMIN_SOCKET", run(name).join("admin.sock").display())
            .set("WARREN_STATS_ADDR", "127.0.0.1:0")
            .set("WARREN_READINESS_ADDR", "127.0.0.1:0")
    };
    // In the same cgroup, its connections would pass for the first one's.
    let pins = agent.setting("WARREN_BPF_PIN_DIR").context("a setting")?.to_owned();
    let (status, said) = refused(
        &world,
        1,
        apart("same-cgroup").set("WARREN_BPF_PIN_DIR", format!("{pins}-other")),
    )?;
    ensure!(status == 1 && said.contains("holds other processes"), "{status}: {said}");
    // On the same pins, both would serve the same pods.
    let cgroup = world.node(1).cgroup().join("second");
    let (status, said) =
        refused(&world, 1, apart("same-pins").set("WARREN_CGROUP", cgroup.display()))?;
    ensure!(status == 1 && said.contains(&pins), "{status}: {said}");
    // With everything in common, as when somebody starts it by hand.
    let (status, said) = refused(&world, 1, AgentOptions::default())?;
    ensure!(status == 1, "{status}: {said}");
    // The first one did not notice.
    wait_verified(&agent, &web.pod)?;
    crate::common::talk(&open, "still open")?;
    web.greet(&old, "and serving")?;
    old.greet(&web, "both ways")
}

#[test]
fn pins_of_somebody_else_are_not_used() -> anyhow::Result<()> {
    let world = World::new(1)?;
    world.set_mesh(&Mesh::new())?;
    let mut agent = world.agent(1, AgentOptions::default())?;
    agent.wait_ready()?;
    let layout = layout(&agent);
    let root = layout.parent().context("it has a parent")?.to_owned();
    agent.terminate()?;
    // A lock on one of them would stop the agent, and needs no more than to open it.
    let mode = fs::metadata(&layout)?.permissions().mode() & 0o777;
    ensure!(mode == 0o700, "{mode:o}");

    // The pods of another version would be captured twice.
    let pod = root.join("v1/pods/uid-web-1");
    fs::create_dir_all(&pod)?;
    let (status, said) = refused(&world, 1, AgentOptions::default())?;
    ensure!(status == 1 && said.contains("v1/pods"), "{status}: {said}");
    fs::remove_dir(&pod)?;

    // Whoever owns a folder above can put another in its place.
    chown(&root, Some(NOBODY), None)?;
    let (status, said) = refused(&world, 1, AgentOptions::default())?;
    ensure!(status == 1 && said.contains("belongs to user 65534"), "{status}: {said}");
    chown(&root, Some(0), None)?;
    let mut agent = world.agent(1, AgentOptions::default())?;
    agent.wait_ready()
}
