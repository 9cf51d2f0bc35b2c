//! A node and a pod to test with: a BPF file system, cgroups, two network namespaces joined by a veth
//! pair, and processes inside them.
#![expect(unsafe_code, reason = "copying a socket out of another process needs pidfd_getfd")]

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use ebpf_abi::{Family, Kind};
use model::PodUid;
use netns::NetnsFd;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use ztunnel::capture::{
    Cgroup, DnsCapture, DnsPorts,
    hooks::{AttachSpec, Expected, PodHooks, PodMaps, PodPrefixes, PodSettings},
    programs::{HookPlace, Predecessor, Programs, RolesConfig},
};

/// Where cgroup v2 may be mounted.
const CGROUP_ROOTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// Addresses in the pod's namespace and beyond the veth pair.
pub(crate) const POD4: &str = "10.77.0.2";
pub(crate) const POD6: &str = "fd77::2";
pub(crate) const WORLD4: &str = "10.77.0.1";
pub(crate) const WORLD6: &str = "fd77::1";
/// In nobody's namespace; reachable only when a hook rewrites it.
pub(crate) const SERVICE4: &str = "10.96.0.10";
pub(crate) const SERVICE6: &str = "fd96::10";

/// A node: pins, cgroups, namespaces. Taken down when dropped.
pub(crate) struct Node {
    name: String,
    cgroups: PathBuf,
    bpffs: tempfile::TempDir,
}

impl Node {
    /// Fails the test when it does not run as root.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "needs root");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wbpf-{}-{number}", std::process::id());
        let root = CGROUP_ROOTS
            .into_iter()
            .map(Path::new)
            .find(|root| root.join("cgroup.controllers").exists())
            .expect("needs cgroup v2");
        let cgroups = root.join(&name);
        fs::create_dir(&cgroups).expect("create a cgroup");
        let bpffs = tempfile::Builder::new().prefix("wbpf-").tempdir().expect("temporary folder");
        mount(Some("bpf"), bpffs.path(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .expect("mount a BPF file system");
        let node = Self { name, cgroups, bpffs };
        for cgroup in [
            "agent",
            "kubelet",
            "kubelet/below",
            "neutral",
            "neutral/below",
            "pod",
            "pod/leaf",
            "other",
        ] {
            fs::create_dir(node.cgroup(cgroup)).expect("create a cgroup");
        }
        node.make_namespaces();
        node
    }

    fn make_namespaces(&self) {
        let (world, pod) = (self.netns_name("world"), self.netns_name("pod"));
        for netns in [&world, &pod] {
            ip(&["netns", "add", netns]);
            ip(&["-n", netns, "link", "set", "lo", "up"]);
        }
        ip(&[
            "-n", &world, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns",
            &pod,
        ]);
        for (netns, v4, v6, gateway4, gateway6) in
            [(&world, WORLD4, WORLD6, POD4, POD6), (&pod, POD4, POD6, WORLD4, WORLD6)]
        {
            ip(&["-n", netns, "addr", "add", &format!("{v4}/24"), "dev", "eth0"]);
            ip(&["-n", netns, "addr", "add", &format!("{v6}/64"), "dev", "eth0", "nodad"]);
            ip(&["-n", netns, "link", "set", "eth0", "up"]);
            ip(&["-n", netns, "route", "add", "default", "via", gateway4]);
            ip(&["-n", netns, "-6", "route", "add", "default", "via", gateway6]);
        }
    }

    pub(crate) fn pin_root(&self) -> PathBuf {
        self.bpffs.path().join("warren")
    }

    pub(crate) fn cgroup(&self, name: &str) -> PathBuf {
        self.cgroups.join(name)
    }

    /// Id of a cgroup: the inode of its folder.
    pub(crate) fn cgroup_id(&self, name: &str) -> u64 {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(self.cgroup(name)).expect("cgroup exists").ino()
    }

    pub(crate) fn cgroup_fd(&self, name: &str) -> File {
        File::open(self.cgroup(name)).expect("cgroup exists")
    }

    pub(crate) fn netns_name(&self, which: &str) -> String {
        format!("{}-{which}", self.name)
    }

    pub(crate) fn netns(&self, which: &str) -> NetnsFd {
        NetnsFd::open(&self.netns_path(which)).expect("namespace exists")
    }

    pub(crate) fn netns_path(&self, which: &str) -> PathBuf {
        Path::new("/run/netns").join(self.netns_name(which))
    }

    /// Loads the programs. "Host" is the namespace on the other end of the pod's veth pair.
    pub(crate) fn load(&self) -> Programs {
        self.load_as("agent", Predecessor::Gone)
    }

    /// The same for an agent in another cgroup.
    pub(crate) fn load_as(&self, cgroup: &str, predecessor: Predecessor) -> Programs {
        self.load_at(HookPlace::Pods, cgroup, predecessor)
    }

    /// The same for pods' hooks on the root of the hierarchy. That is this node's own top here, so that the
    /// machine is left alone.
    pub(crate) fn load_on_root(&self) -> Programs {
        let cgroup = Cgroup::open(&self.cgroups).expect("cgroup exists");
        let place = HookPlace::Root { cgroup };
        self.load_at(place, "agent", Predecessor::Gone)
    }

    fn load_at(&self, place: HookPlace, cgroup: &str, predecessor: Predecessor) -> Programs {
        let roles = RolesConfig {
            predecessor,
            agent_cgroup_id: self.cgroup_id(cgroup),
            neutral_cgroup_id: self.cgroup_id("neutral"),
            kubelet_cgroup_id: Some(self.cgroup_id("kubelet")),
            host_netns_cookie: self.netns("world").cookie(),
        };
        Programs::load(&self.pin_root(), place, roles).expect("load the eBPF programs")
    }

    /// Attaches the role hooks to the agent's and the kubelet's cgroups.
    pub(crate) fn attach_roles(&self, programs: &Programs) {
        self.attach_roles_to(programs, "agent");
    }

    /// The same for an agent in another cgroup.
    pub(crate) fn attach_roles_to(&self, programs: &Programs, cgroup: &str) {
        let (agent, kubelet) = (self.cgroup_fd(cgroup), self.cgroup_fd("kubelet"));
        programs.attach_roles(agent.as_fd(), Some(kubelet.as_fd())).expect("attach the role hooks");
    }

    pub(crate) fn spec(&self) -> AttachSpec {
        AttachSpec {
            netns_cookie: self.netns("pod").cookie(),
            settings: PodSettings {
                v4: Some(POD4.parse().expect("address")),
                v6: Some(POD6.parse().expect("address")),
                threads: 1,
                probe_ports: vec![8080],
                ..PodSettings::default()
            },
            prefixes: PodPrefixes {
                own: [POD4, POD6].map(|ip| ip.parse().expect("address")).to_vec(),
                bypass: vec!["192.0.2.0/24".parse().expect("prefix")],
                ..PodPrefixes::default()
            },
        }
    }

    /// The same, with questions captured for sockets on these ports.
    pub(crate) fn spec_with_dns(&self, ports: DnsPorts) -> AttachSpec {
        let mut spec = self.spec();
        spec.settings.dns = Some(ports);
        spec
    }

    /// Attaches the pod's hooks without listeners.
    pub(crate) fn attach(&self, programs: &Programs) -> PodHooks {
        self.attach_with(programs, |_| {})
    }

    /// Attaches the pod's hooks after `listeners` has filled the slots.
    pub(crate) fn attach_with(
        &self,
        programs: &Programs,
        listeners: impl FnOnce(&PodMaps),
    ) -> PodHooks {
        let prepared = PodHooks::prepare(programs, &uid(), &self.spec()).expect("prepare the pod");
        listeners(prepared.maps());
        prepared
            .activate(Some(self.cgroup_fd("pod").as_fd()), self.netns("pod").as_fd())
            .expect("attach the hooks")
    }

    pub(crate) fn expected(&self) -> Expected {
        Expected {
            cgroup_id: Some(self.cgroup_id("pod")),
            netns_inode: self.netns("pod").inode(),
            dns: DnsCapture::Off,
        }
    }

    /// Starts a process in a cgroup and a namespace.
    pub(crate) fn actor(&self, cgroup: &str, netns: &str) -> Actor {
        Actor::start(&self.cgroup(cgroup), &self.netns_path(netns))
    }

    /// Runs a shell command in a namespace.
    pub(crate) fn shell(&self, netns: &str, command: &str) {
        let netns = self.netns_name(netns);
        let status = Command::new("ip")
            .args(["netns", "exec", &netns, "sh", "-c", command])
            .status()
            .expect("run ip");
        assert!(status.success(), "{command}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for which in ["world", "pod"] {
            let name = self.netns_name(which);
            drop(Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status());
        }
        let _gone = umount2(self.bpffs.path(), MntFlags::MNT_DETACH);
        let deep = ["kubelet/below", "pod/leaf", "neutral/below"];
        let below = deep.into_iter().chain(["agent", "kubelet", "neutral", "pod", "other", ""]);
        for cgroup in below {
            // Processes that were just killed leave their cgroup a moment later.
            let removed = |path: &Path| !path.exists() || fs::remove_dir(path).is_ok();
            eventually(|| removed(&self.cgroup(cgroup)));
        }
    }
}

pub(crate) fn uid() -> PodUid {
    PodUid::parse("11111111-2222-3333-4444-555555555555").expect("a uid")
}

/// Waits up to three seconds for `condition`; the last answer.
pub(crate) fn eventually(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    condition()
}

/// Value of a counter of the pod.
pub(crate) fn counter(maps: &PodMaps, name: &str) -> u64 {
    let counters = maps.counters().expect("read the counters");
    let found = counters.iter().find(|(counter, _)| *counter == name);
    found.unwrap_or_else(|| panic!("no counter {name}")).1
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("run ip");
    assert!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A process that opens sockets where it is told to; killed when dropped.
pub(crate) struct Actor {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// A socket of an actor.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) id: String,
    pub(crate) local: SocketAddr,
    pub(crate) peer: Option<SocketAddr>,
}

impl Actor {
    fn start(cgroup: &Path, netns: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bpf-actor"))
            .args([cgroup, netns])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start an actor");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut actor = Self { child, input, output };
        assert_eq!(actor.answer(), Ok("ready".to_owned()));
        actor
    }

    /// Sends a command; an error is the errno.
    pub(crate) fn run(&mut self, command: &str) -> Result<String, i32> {
        writeln!(self.input, "{command}").expect("the actor listens");
        self.answer()
    }

    fn answer(&mut self) -> Result<String, i32> {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the actor answers");
        let line = line.trim_end();
        if let Some(errno) = line.strip_prefix("err ") {
            return Err(errno.parse().expect("a number"));
        }
        Ok(line.strip_prefix("ok").expect("an answer").trim_start().to_owned())
    }

    /// Sends a command that yields a socket.
    pub(crate) fn socket(&mut self, command: &str) -> Result<Remote, i32> {
        let answer = self.run(command)?;
        let words: Vec<&str> = answer.split_whitespace().collect();
        let [id, local, peer] = words.as_slice() else { panic!("{command}: {answer}") };
        Ok(Remote {
            id: (*id).to_owned(),
            local: local.parse().expect("an address"),
            peer: peer.parse().ok(),
        })
    }

    pub(crate) fn connect(&mut self, to: &str, options: &str) -> Result<Remote, i32> {
        self.socket(&format!("connect {to} {options}"))
    }

    pub(crate) fn listen(&mut self, at: &str) -> Remote {
        self.socket(&format!("listen {at}")).expect("listen")
    }

    pub(crate) fn accept(&mut self, listener: &Remote) -> Result<Remote, i32> {
        self.socket(&format!("accept {}", listener.id))
    }

    pub(crate) fn close(&mut self, socket: &Remote) {
        self.run(&format!("close {}", socket.id)).expect("close");
    }

    /// A copy of a socket.
    pub(crate) fn copy(&self, socket: &Remote) -> OwnedFd {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid");
        let number: libc::c_int = socket.id.parse().expect("a number");
        // SAFETY: no pointers; both calls return a new descriptor or an error.
        unsafe {
            let pidfd = owned(libc::syscall(libc::SYS_pidfd_open, pid, 0));
            let raw = std::os::fd::AsRawFd::as_raw_fd(&pidfd);
            owned(libc::syscall(libc::SYS_pidfd_getfd, raw, number, 0))
        }
    }
}

/// # Safety
///
/// `result` is a descriptor that nobody else owns, or negative.
unsafe fn owned(result: libc::c_long) -> OwnedFd {
    assert!(result >= 0, "{}", io::Error::last_os_error());
    // SAFETY: upheld by the caller.
    unsafe { OwnedFd::from_raw_fd(libc::c_int::try_from(result).expect("a descriptor")) }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The agent's listeners in the pod, one of each kind and family.
pub(crate) struct Agent {
    pub(crate) actor: Actor,
    listeners: Vec<(Kind, Family, Remote)>,
}

impl Agent {
    /// Listens on ephemeral loopback ports in the pod's namespace, from the agent's cgroup.
    pub(crate) fn start(node: &Node) -> Self {
        let mut actor = node.actor("agent", "pod");
        let mut listeners = Vec::new();
        for kind in Kind::ALL {
            for family in Family::ALL {
                let at = match family {
                    Family::V4 => "127.0.0.1:0",
                    Family::V6 => "[::1]:0",
                };
                listeners.push((kind, family, actor.listen(at)));
            }
        }
        Self { actor, listeners }
    }

    /// Puts the listeners into their slots.
    pub(crate) fn install(&self, maps: &PodMaps) {
        for (kind, family, listener) in &self.listeners {
            maps.set_listener(*kind, *family, 0, self.actor.copy(listener)).expect("set a slot");
        }
    }

    /// Accepts on the listener of `kind` for the family of `ip`.
    pub(crate) fn accept(&mut self, kind: Kind, ip: IpAddr) -> Result<Remote, i32> {
        let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
        let found = self.listeners.iter().find(|(k, f, _)| (*k, *f) == (kind, family));
        let listener = found.expect("one of each").2.clone();
        self.actor.accept(&listener)
    }
}

pub(crate) fn socket_address(text: &str) -> SocketAddr {
    text.parse().expect(text)
}
