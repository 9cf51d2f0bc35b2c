//! The binary against a scripted agent: what it writes and its exit codes.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use admin::control_plane;
use admin::{
    Direction, Failure, Flow, Handler, Party, Pod, PodCounts, PodState, Reply, Request, Response,
    Server, Status, Why, WhyRoute, WhyVerdict,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Answers by what it is asked, so that one agent serves every case.
struct Scripted {
    degraded: u64,
}

fn flow(code: &str) -> Response {
    Response::Flow(Box::new(Flow {
        time_unix_ms: 1_700_000_000_000,
        direction: Direction::Outbound,
        path: admin::Path::Local,
        source: Party::default(),
        destination: Party::default(),
        service: None,
        hbone: None,
        code: code.to_owned(),
        policy: None,
        detail: None,
        bytes_sent: 0,
        bytes_received: 0,
        duration_ms: 0,
    }))
}

impl Handler for Scripted {
    type Request = Request;
    type Response = Response;

    async fn handle(&self, request: Request) -> Reply {
        let response = match request {
            Request::Status => {
                let pods = PodCounts { total: 1, degraded: self.degraded, ..PodCounts::default() };
                Response::Status(Box::new(Status { pods, ..Status::default() }))
            }
            Request::Pods => Response::Pods(vec![Pod { uid: "u-1".to_owned(), ..Pod::default() }]),
            Request::Enrol(enrol) if enrol.uid == "twice" => {
                Response::Error(Failure::new("DUPLICATE_UID", "pod twice is enrolled already"))
            }
            Request::Enrol(enrol) => {
                assert!(
                    enrol.netns.is_absolute()
                        && enrol.cgroup.as_ref().is_some_and(|path| path.is_absolute())
                );
                assert_eq!(enrol.probe_ports, [8080, 9090]);
                let dns = enrol.uid.strip_prefix("dns-").map(|on| on == "on");
                assert_eq!(enrol.dns, dns);
                let state = match enrol.uid.as_str() {
                    "broken" => PodState::Degraded { reason: "self-test timed out".to_owned() },
                    _ => PodState::Verified,
                };
                Response::Enrolled(Box::new(Pod { uid: enrol.uid, state, ..Pod::default() }))
            }
            Request::Unenrol { uid } => Response::Unenrolled(uid),
            Request::Flows { follow, limit } => {
                let (sender, receiver) = mpsc::channel(admin::FLOW_QUEUE_MAX);
                for event in [flow("OK"), Response::Missed(3), flow("RESET")] {
                    sender.try_send(event).expect("room");
                }
                assert_eq!(limit, (!follow).then_some(5));
                if follow {
                    tokio::spawn(async move { sender.closed().await });
                }
                return Reply::flows(receiver);
            }
            Request::Why { source, destination } => {
                assert_eq!(source, "shop/web");
                let allowed = destination == "10.0.0.1:80";
                let verdict = WhyVerdict { allowed, ..WhyVerdict::default() };
                Response::Why(Box::new(Why {
                    route: WhyRoute { kind: "hbone".to_owned(), ..WhyRoute::default() },
                    verdict: Some(verdict),
                    ..Why::default()
                }))
            }
        };
        Reply::One(response)
    }
}

struct Agent {
    folder: tempfile::TempDir,
    // Its tasks end with it.
    _runtime: Runtime,
}

impl Agent {
    fn start(degraded: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = Runtime::new().expect("a runtime");
        let owner = nix::unistd::Uid::effective().as_raw();
        let path = folder.path().join("admin.sock");
        let entered = runtime.enter();
        let server = Server::bind(&path, owner).expect("bind");
        runtime.spawn(server.serve(Arc::new(Scripted { degraded }), std::future::pending()));
        drop(entered);
        Self { folder, _runtime: runtime }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }
}

fn command(socket: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
    command.env_remove("WARREN_ADMIN_SOCKET").arg("--socket").arg(socket);
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
}

fn run(socket: &Path, line: &str) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(socket, line).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

const ENROL: &str = "--netns run/netns/x --cgroup /sys/fs/cgroup/x --workload a/b/c --probe-port 8080 --probe-port 9090";

#[test]
fn exit_codes_and_first_words() {
    let agent = Agent::start(0);
    let socket = agent.socket();
    for (line, code, out, err) in [
        ("status".to_owned(), 0, "agent", ""),
        ("pods".to_owned(), 0, "UID", ""),
        (format!("pods enrol --uid new {ENROL}"), 0, "pod new enrolled: verified\n", ""),
        (format!("pods enrol --uid dns-on {ENROL} --dns"), 0, "pod dns-on enrolled: ", ""),
        (format!("pods enrol --uid dns-on {ENROL} --dns=true"), 0, "pod dns-on enrolled: ", ""),
        (format!("pods enrol --uid dns-off {ENROL} --dns=false"), 0, "pod dns-off enrolled: ", ""),
        (format!("pods enrol --uid new {ENROL} --dns=maybe"), 2, "", "error: invalid value"),
        (
            format!("pods enrol --uid broken {ENROL}"),
            1,
            "pod broken enrolled: degraded: self-test",
            "",
        ),
        (
            format!("pods enrol --uid twice {ENROL}"),
            1,
            "",
            "warren: DUPLICATE_UID: pod twice is enrolled already\n",
        ),
        ("pods unenrol u-1".to_owned(), 0, "pod u-1 unenrolled\n", ""),
        ("flows -n 5".to_owned(), 0, "TIME", ""),
        ("why shop/web 10.0.0.1:80".to_owned(), 0, "shop/web -> 10.0.0.1:80 would pass\n", ""),
        ("why shop/web 10.0.0.2:80".to_owned(), 1, "shop/web -> 10.0.0.2:80 would not pass\n", ""),
        ("why shop/web 10.0.0.2".to_owned(), 2, "", "error: invalid value"),
        ("pods enrol --uid ../x".to_owned(), 2, "", "error: invalid value"),
        ("nonsense".to_owned(), 2, "", "error: unrecognized subcommand"),
        ("--help".to_owned(), 0, "Operates the Warren agent", ""),
    ] {
        let (status, stdout, stderr) = run(&socket, &line);
        assert_eq!(status, Some(code), "{line}: {stdout}{stderr}");
        assert!(stdout.starts_with(out), "{line}: {stdout}");
        assert!(stderr.starts_with(err), "{line}: {stderr}");
        assert_eq!(stderr.is_empty(), err.is_empty(), "{line}: {stderr}");
    }
}

#[test]
fn status_of_a_degraded_agent_fails() {
    let agent = Agent::start(1);
    let (status, stdout, _) = run(&agent.socket(), "status");
    assert_eq!(status, Some(1));
    assert!(stdout.contains("degraded:\n  1 degraded pods"), "{stdout}");
    let (status, stdout, _) = run(&agent.socket(), "status -o json");
    assert_eq!(status, Some(1));
    assert!(stdout.contains("\"degraded\": 1"), "{stdout}");
}

#[test]
fn json_is_what_the_agent_said() {
    let agent = Agent::start(0);
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("json");
    for (line, pointer, expected) in [
        ("-o json status", "/pods/total", serde_json::json!(1)),
        ("pods -o json", "/0/uid", serde_json::json!("u-1")),
        ("pods unenrol u-1 -o json", "/uid", serde_json::json!("u-1")),
        ("why -o json shop/web 10.0.0.1:80", "/verdict/allowed", serde_json::json!(true)),
    ] {
        let (status, stdout, stderr) = run(&agent.socket(), line);
        assert_eq!(status, Some(0), "{line}: {stderr}");
        assert_eq!(parse(&stdout).pointer(pointer), Some(&expected), "{line}: {stdout}");
    }
    let (_, stdout, _) = run(&agent.socket(), "flows -n 5 -o json");
    let lines: Vec<_> = stdout.lines().map(parse).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["code"], "OK");
    assert_eq!(lines[1]["missed"], 3);
}

#[test]
fn an_agent_that_is_not_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let nobody = folder.path().join("admin.sock");
    for line in ["status", "pods", "flows", "why a/b 10.0.0.1:80", "pods unenrol u"] {
        let (status, stdout, stderr) = run(&nobody, line);
        assert_eq!((status, stdout.as_str()), (Some(3), ""), "{line}: {stderr}");
        assert!(stderr.starts_with("warren: cannot reach "), "{stderr}");
    }
    // The socket comes from the environment where the option is absent.
    let mut from_environment = Command::new(env!("CARGO_BIN_EXE_warren"));
    let from_environment = from_environment.env("WARREN_ADMIN_SOCKET", &nobody).arg("status");
    let output = from_environment.output().expect("it runs");
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&*nobody.to_string_lossy()));
}

#[test]
fn an_agent_that_goes_away_while_it_is_followed() {
    let agent = Agent::start(0);
    let mut follow = command(&agent.socket(), "flows -f");
    let mut child = follow.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
    let stdout = child.stdout.take().expect("piped");
    let mut lines = BufReader::new(stdout).lines();
    // The header, two connections and the note of the missed ones: written as they come.
    for word in ["TIME", "OK", "missed", "RESET"] {
        let line = lines.next().expect("a line").expect("text");
        assert!(line.contains(word), "{line}");
    }
    drop(agent);
    assert_eq!(child.wait().expect("it ends").code(), Some(3));
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let agent = Agent::start(0);
    let mut list = command(&agent.socket(), "pods");
    let mut child = list.stdout(Stdio::piped()).spawn().expect("it runs");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

const CASES: &str = "
situations:
- name: only the shop
  workload: {name: cart, namespace: shop, workloadIps: [10.0.0.2]}
  policies:
  - {name: a, namespace: shop, scope: Namespace, action: Allow,
     rules: [[[{namespaces: [!Exact shop]}]]]}
  cases:
  - {name: web passes, peer: \"spiffe://td/ns/shop/sa/web\", expect: {code: OK, policy: shop/a, rule: 0}}
  - {name: plaintext does not, peer: plaintext, expect: {code: POLICY_NO_MATCH}}
";

#[test]
fn policies_are_tested_without_an_agent() {
    let folder = tempfile::tempdir().expect("a folder");
    let nobody = folder.path().join("admin.sock");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("write");
        format!("policy test -f {}", folder.path().join(name).display())
    };
    let right = write("right.yaml", CASES);
    let wrong = write("wrong.yaml", &CASES.replace("POLICY_NO_MATCH", "OK"));
    let broken = write("broken.yaml", &CASES.replace("peer: plaintext", "peer: nobody"));
    let empty = write("empty.yaml", "situations: []");
    let whole = format!("policy test -f {}", folder.path().display());
    let absent = format!("policy test -f {}/absent", folder.path().display());
    for (line, code, out, err) in [
        (&right, 0, "2 cases, 0 wrong\n", ""),
        (&wrong, 1, "2 cases, 1 wrong\n", ""),
        (
            &format!("{right} -f {}/wrong.yaml", folder.path().display()),
            1,
            "4 cases, 1 wrong\n",
            "",
        ),
        (&broken, 2, "", "situations[0].cases[1].peer: \"nobody\" is not spiffe://"),
        (&empty, 2, "", "situations: no cases\n"),
        // A folder is wrong if one of its files is, and each of those is named.
        (&whole, 2, "", "empty.yaml:1:1: situations: no cases\n"),
        (&absent, 2, "", "absent: No such file or directory"),
    ] {
        let (status, stdout, stderr) = run(&nobody, line);
        assert_eq!(status, Some(code), "{line}: {stdout}{stderr}");
        assert!(stdout.ends_with(out), "{line}: {stdout}");
        assert!(stderr.contains(err), "{line}: {stderr}");
        assert_eq!(stderr.is_empty(), err.is_empty(), "{line}: {stderr}");
    }
    let (_, stdout, _) = run(&nobody, &wrong);
    let difference = "wrong.yaml:10: only the shop: plaintext does not: code: expected OK, got \
                      POLICY_NO_MATCH";
    assert!(stdout.contains(difference), "{stdout}");
    let row = "WRONG   POLICY_NO_MATCH  -       -     only the shop: plaintext does not";
    assert!(stdout.contains(row), "{stdout}");
}

#[test]
fn tested_policies_as_json() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("cases.yaml"), CASES).expect("write");
    std::fs::write(folder.path().join("notes.txt"), "no cases").expect("write");
    let line = format!("policy test -o json -f {}", folder.path().display());
    let (status, stdout, stderr) = run(&folder.path().join("admin.sock"), &line);
    assert_eq!(status, Some(0), "{stderr}");
    let document: serde_json::Value = serde_json::from_str(&stdout).expect("json");
    for (pointer, expected) in [
        ("/total", serde_json::json!(2)),
        ("/wrong", serde_json::json!(0)),
        ("/cases/0/right", serde_json::json!(true)),
        ("/cases/0/policy", serde_json::json!("shop/a")),
        ("/cases/0/rule", serde_json::json!(0)),
        ("/cases/1/code", serde_json::json!("POLICY_NO_MATCH")),
        (
            "/cases/1/nearest_miss",
            serde_json::json!(
                "rule 0 of shop/a namespaces: got no identity (plaintext), want \"shop\""
            ),
        ),
        ("/cases/1/differences", serde_json::json!([])),
    ] {
        assert_eq!(document.pointer(pointer), Some(&expected), "{pointer}: {stdout}");
    }
}

/// A control plane whose answers are fixed.
struct ScriptedControlPlane;

impl Handler for ScriptedControlPlane {
    type Request = control_plane::Request;
    type Response = control_plane::Response;

    async fn handle(&self, request: Self::Request) -> Reply<Self::Response> {
        use control_plane::{
            Authority, ChainCertificate, Condition, Policy, Request, Response, Root, Status,
        };
        Reply::One(match request {
            Request::Status => {
                Response::Status(Box::new(Status { synced: true, ..Status::default() }))
            }
            Request::Policies => Response::Policies(vec![
                Policy {
                    kind: "AuthorizationPolicy".to_owned(),
                    namespace: "shop".to_owned(),
                    name: "wp".to_owned(),
                    action: "ALLOW".to_owned(),
                    enforced: "waypoint shop/waypoint".to_owned(),
                    conditions: vec![Condition {
                        kind: "WaypointAccepted".to_owned(),
                        status: true,
                        reason: "Accepted".to_owned(),
                        message: "Service cart: enforced".to_owned(),
                    }],
                },
                Policy {
                    kind: "AuthorizationPolicy".to_owned(),
                    namespace: "shop".to_owned(),
                    name: "l7".to_owned(),
                    action: "ALLOW".to_owned(),
                    enforced: "namespace shop".to_owned(),
                    conditions: vec![Condition {
                        kind: "ZtunnelAccepted".to_owned(),
                        status: false,
                        reason: "UnsupportedValue".to_owned(),
                        message: "methods".to_owned(),
                    }],
                },
            ]),
            Request::Rotate { step: control_plane::RotationStep::Finish, force: false } => {
                Response::Error(Failure::new("ROOT_IN_USE", "node-a still presents it"))
            }
            Request::Authority | Request::Rotate { .. } => {
                let below =
                    ChainCertificate { fingerprint: "cd34".to_owned(), ..Default::default() };
                let root = Root {
                    fingerprint: "ab12".to_owned(),
                    signs: true,
                    chain: vec![below],
                    certificates: 7,
                    holders: 2,
                    ..Root::default()
                };
                Response::Authority(Box::new(Authority {
                    rotation: "steady".to_owned(),
                    roots: vec![root],
                    ..Authority::default()
                }))
            }
            Request::Objects => Response::Objects(Vec::new()),
            Request::Clients => Response::Clients(Vec::new()),
            Request::Resources { containing } => {
                Response::Resources(vec![control_plane::Resource {
                    name: containing,
                    ..control_plane::Resource::default()
                }])
            }
        })
    }
}

#[test]
fn a_control_plane_is_asked_over_its_own_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("cp.sock");
    let runtime = Runtime::new().expect("a runtime");
    let entered = runtime.enter();
    let owner = nix::unistd::Uid::effective().as_raw();
    let server = Server::bind(&socket, owner).expect("bind");
    runtime.spawn(server.serve(Arc::new(ScriptedControlPlane), std::future::pending()));
    drop(entered);
    let ask = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
        command.env("WARREN_CP_SOCKET", &socket).args(line.split_whitespace());
        let Output { status, stdout, stderr } = command.output().expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (status.code(), text(stdout), text(stderr))
    };
    for (line, code, out, err) in [
        ("cp status", 0, "synced, 0 objects", ""),
        (
            "cp policies",
            1,
            "shop       wp    AuthorizationPolicy  ALLOW   waypoint shop/waypoint  \
             WaypointAccepted (Accepted): Service cart: enforced",
            "",
        ),
        (
            "cp policies",
            1,
            "shop       l7    AuthorizationPolicy  ALLOW   namespace shop          not ZtunnelAccepted \
             (UnsupportedValue): methods",
            "",
        ),
        ("cp ca", 0, "ab12         signs", ""),
        ("cp ca", 0, "cd34         intermediate", ""),
        ("cp ca", 0, "LIVE UNDER IT  HOLDERS", ""),
        ("cp ca rotate prepare", 0, "rotation   steady", ""),
        ("cp ca rotate finish", 1, "", "ROOT_IN_USE: node-a still presents it"),
        ("cp ca rotate finish --force", 0, "rotation   steady", ""),
        ("cp objects", 0, "OBJECT", ""),
        ("cp clients", 0, "PROXY", ""),
        ("cp resources cart", 0, "cart", ""),
        ("cp policies --cp-socket /nowhere", 3, "", "cannot reach /nowhere"),
    ] {
        let (status, stdout, stderr) = ask(line);
        assert_eq!(status, Some(code), "{line}: {stdout}{stderr}");
        assert!(stdout.contains(out), "{line}: {stdout}");
        assert!(stderr.contains(err), "{line}: {stderr}");
    }
}
