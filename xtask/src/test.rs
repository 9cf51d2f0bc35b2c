//! Runs the tests, tier by tier, and counts them.
//!
//! The core tier needs nothing but cargo, the tier kube also Go and etcd. The others need root, a
//! kernel with eBPF, and the binaries under test; the tier cluster both. A test that lacks one of these
//! fails and says so.

mod report;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use report::Report;
pub(crate) use report::Tally;

use crate::arguments::Usage;
use crate::programs::{BINARIES_VARIABLE, CRATES, PROFILE, binaries};
use crate::workspace::{cargo, root, target};
use crate::{cluster, ebpf, fuzz, gates, image, kubernetes, manifests, setup};

/// What the names of long tests begin with.
const SOAK: &str = "soak_";
/// Tells the support library to redirect by rules, and agents to follow it.
const EXTERNAL_VARIABLE: &str = "WARREN_TEST_EXTERNAL";
/// What does not apply there: capture of DNS questions, and agents that take over from one another.
const NOT_EXTERNAL: [&str; 1] = ["questions::"];
/// Suites of the tier netns that run at once.
const SUITES_AT_ONCE: usize = 2;
/// Tests of the tier kube mostly wait, and a few start servers of their own.
const KUBE_TESTS_AT_ONCE: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    /// Unit tests of every crate but `tests`. No root, no eBPF toolchain.
    Core,
    /// One eBPF hook at a time, in the kernel.
    Bpf,
    /// Pods as network namespaces and cgroups, nodes as processes, real sockets.
    Netns,
    /// Traffic, identity and policy of the netns tier once more, where rules of somebody else redirect.
    External,
    /// A real kube-apiserver and etcd.
    Kube,
    /// Our charts on real nodes: kubelets, containerd, pods.
    Cluster,
    /// Each fuzz target, briefly.
    Fuzz,
    /// Tests of the tiers netns and cluster that take long, named `soak_…`. Only when asked for.
    Soak,
}

impl Tier {
    const ALL: [Self; 8] = [
        Self::Core,
        Self::Bpf,
        Self::Netns,
        Self::External,
        Self::Kube,
        Self::Cluster,
        Self::Fuzz,
        Self::Soak,
    ];
    /// What runs when no tier is named: all that CI has time for.
    const DEFAULT: [Self; 6] =
        [Self::Core, Self::Bpf, Self::Netns, Self::Kube, Self::Cluster, Self::Fuzz];

    fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Bpf => "bpf",
            Self::Netns => "netns",
            Self::External => "external",
            Self::Kube => "kube",
            Self::Cluster => "cluster",
            Self::Fuzz => "fuzz",
            Self::Soak => "soak",
        }
    }

    /// The suites of the crate `tests` that make it up.
    fn suites(self) -> &'static [&'static str] {
        match self {
            Self::Bpf => &["bpf"],
            Self::Netns => &[
                "harness",
                "netns_capture",
                "netns_control",
                "netns_enrolment",
                "netns_life",
                "netns_traffic",
            ],
            Self::External => &["netns_control", "netns_traffic"],
            Self::Kube => &["kube"],
            Self::Cluster => &["cluster"],
            Self::Soak => &["netns_life", "netns_traffic"],
            Self::Core | Self::Fuzz => &[],
        }
    }

    /// Which tests of its suites it runs beside the filter, for the command lines of these. Filters add
    /// up: to one that names a long test, all long ones must not be added.
    fn choice(self, filter: Option<&str>) -> &'static [&'static str] {
        match (self, filter) {
            (Self::Soak, None) => &[SOAK],
            (Self::Soak, Some(_)) => &[],
            _ => &["--skip", SOAK],
        }
    }

    /// Whether it needs what setup provides, and the eBPF programs: the crate `tests` is built with
    /// the agent, which embeds them.
    fn needs_setup(self) -> bool {
        !self.suites().is_empty()
    }
}

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    /// Empty: everything, the gates included.
    tiers: Vec<Tier>,
    filter: Option<String>,
}

impl Request {
    fn parse(arguments: &[String]) -> Result<Self, Usage> {
        let mut request = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (argument.as_str(), None),
            };
            let mut value = || {
                inline.or_else(|| rest.next().map(String::as_str)).ok_or_else(|| {
                    Usage::new(format!("{name} takes a value; tiers: {}", tier_names()))
                })
            };
            match name {
                "--tier" => {
                    for name in value()?.split(',') {
                        request.add(name)?;
                    }
                }
                "--filter" => request.filter = Some(value()?.to_owned()),
                _ => return Err(Usage::new(format!("unknown argument {argument:?}"))),
            }
        }
        Ok(request)
    }

    fn add(&mut self, name: &str) -> Result<(), Usage> {
        let tier = Tier::ALL
            .into_iter()
            .find(|tier| tier.name() == name)
            .ok_or_else(|| Usage::new(format!("no tier {name:?}; tiers: {}", tier_names())))?;
        if !self.tiers.contains(&tier) {
            self.tiers.push(tier);
        }
        Ok(())
    }
}

fn tier_names() -> String {
    Tier::ALL.map(Tier::name).join(", ")
}

pub(crate) fn verb(arguments: &[String]) -> anyhow::Result<()> {
    let mut request = Request::parse(arguments)?;
    if request.tiers.is_empty() {
        setup::install()?;
        ebpf::build()?;
        gates::all()?;
        request.tiers.extend(Tier::DEFAULT);
    } else if request.tiers.iter().any(|tier| tier.needs_setup()) {
        setup::install()?;
        ebpf::build()?;
    }
    run_tiers(&request)
}

/// The last part of `cargo xtask ci`.
pub(crate) fn core_only() -> anyhow::Result<()> {
    run_tiers(&Request { tiers: vec![Tier::Core], filter: None })
}

/// What became of one tier.
struct Outcome {
    tier: Tier,
    report: Report,
    took: Duration,
    /// Why it failed, beyond the tests that it counted as failed.
    trouble: Option<String>,
}

fn run_tiers(request: &Request) -> anyhow::Result<()> {
    let mut outcomes = Vec::new();
    for tier in &request.tiers {
        println!("==> tier {}", tier.name());
        let start = Instant::now();
        let mut outcome =
            Outcome { tier: *tier, report: Report::default(), took: Duration::ZERO, trouble: None };
        match run_tier(*tier, request.filter.as_deref()) {
            Ok(report) => outcome.report = report,
            Err(error) => outcome.trouble = Some(format!("{error:#}")),
        }
        if outcome.trouble.is_none() && outcome.report.tally.ran() == 0 && request.filter.is_none()
        {
            outcome.trouble = Some("no test ran".to_owned());
        }
        outcome.took = start.elapsed();
        outcomes.push(outcome);
    }
    summarize(&outcomes)
}

fn summarize(outcomes: &[Outcome]) -> anyhow::Result<()> {
    let mut total = Tally::default();
    println!();
    for Outcome { tier, report, took, trouble } in outcomes {
        let mut tally = report.tally;
        // A tier in trouble is a failure of its own, so that the last line never hides it.
        tally.failed += u64::from(trouble.is_some());
        total += tally;
        let trouble = trouble.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let seconds = took.as_secs_f64();
        for cases in &report.cases {
            println!("{cases}");
        }
        println!("tier {}: {tally} ({seconds:.1} s){trouble}", tier.name());
    }
    println!("{total}");
    if total.failed > 0 {
        bail!("tests failed");
    }
    if total.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

fn run_tier(tier: Tier, filter: Option<&str>) -> anyhow::Result<Report> {
    match tier {
        Tier::Core => core(filter),
        Tier::Bpf | Tier::Netns | Tier::External => privileged(tier, filter),
        Tier::Soak => {
            let mut report = privileged(tier, filter)?;
            report += cluster(tier, filter)?;
            Ok(report)
        }
        Tier::Kube => kube(tier, filter),
        Tier::Cluster => cluster(tier, filter),
        Tier::Fuzz => Ok(Report { tally: fuzz::run_all(filter)?, cases: Vec::new() }),
    }
}

fn core(filter: Option<&str>) -> anyhow::Result<Report> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--exclude", "tests", "--no-fail-fast"]);
    command.args(filter);
    report::watch(&mut command)
}

/// Suites of the crate `tests`, two at once and of each one test at a time: most tests wait, and what
/// they make in the kernel has names of its own.
fn privileged(tier: Tier, filter: Option<&str>) -> anyhow::Result<Report> {
    let suites = build_suites(tier.suites())?;
    // What takes long is looked at for itself.
    let at_once = if tier == Tier::Soak { 1 } else { SUITES_AT_ONCE };
    report::watch_all(&suites, at_once, |suite| {
        let mut command = suite_command(suite, filter);
        command.args(tier.choice(filter)).arg("--test-threads=1");
        if tier == Tier::External {
            command.env(EXTERNAL_VARIABLE, "1");
            command.args(NOT_EXTERNAL.iter().flat_map(|name| ["--skip", name]));
        }
        command
    })
}

/// The suites that share an API server, in namespaces of their own.
fn kube(tier: Tier, filter: Option<&str>) -> anyhow::Result<Report> {
    let assets = kubernetes::assets()?;
    let mut report = Report::default();
    for suite in build_suites(tier.suites())? {
        let mut command = suite_command(&suite, filter);
        command
            .arg(format!("--test-threads={KUBE_TESTS_AT_ONCE}"))
            .env(kubernetes::ASSETS_VARIABLE, &assets);
        report += report::watch(&mut command)?;
    }
    Ok(report)
}

/// The suite that shares a cluster: one test at a time, since most disturb all of it.
fn cluster(tier: Tier, filter: Option<&str>) -> anyhow::Result<Report> {
    let tools = cluster::tools()?;
    manifests::check()?;
    let suites = build_suites(&["cluster"])?;
    let images = image::build_for_cluster(&tools, &binaries())?;
    let mut report = Report::default();
    for suite in suites {
        let mut command = suite_command(&suite, filter);
        command
            .args(tier.choice(filter))
            .args(["--test-threads=1", "--nocapture"])
            .env(cluster::TOOLS_VARIABLE, &tools)
            .env(image::IMAGES_VARIABLE, &images)
            .env(cluster::LOGS_VARIABLE, target().join("cluster-logs"));
        report += report::watch(&mut command)?;
    }
    Ok(report)
}

fn suite_command(suite: &str, filter: Option<&str>) -> Command {
    let mut command = Command::new(suite);
    command
        .args(filter)
        .current_dir(root().join("tests"))
        .env("CARGO_MANIFEST_DIR", root().join("tests"))
        .env(BINARIES_VARIABLE, binaries());
    command
}

/// Builds the suites together with the binaries that they start; returns the suites' programs.
fn build_suites(names: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut command = cargo();
    command.args(["build", "--profile", PROFILE, "--bins"]);
    for name in names {
        command.args(["--test", name]);
    }
    for package in CRATES {
        command.args(["--package", package]);
    }
    command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = command.output().context("start cargo build")?;
    if !output.status.success() {
        bail!("cargo build ended with {}", output.status);
    }
    let messages = String::from_utf8(output.stdout).context("read cargo's messages")?;
    let mut built = suites(&messages);
    let program =
        |name: &&str| built.remove(*name).ok_or_else(|| anyhow!("cargo built no suite {name}"));
    names.iter().map(program).collect()
}

/// Test programs by target name, from cargo's JSON messages.
fn suites(messages: &str) -> BTreeMap<String, String> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    messages
        .filter(|message: &serde_json::Value| message["target"]["kind"][0] == "test")
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?;
            Some((name.to_owned(), message["executable"].as_str()?.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, Usage> {
        Request::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn requests_name_tiers_and_a_filter() {
        assert_eq!(parse("").expect("nothing is everything"), Request::default());
        let request = parse("--tier core --tier=bpf,core --filter deny").expect("a request");
        assert_eq!(request.tiers, [Tier::Core, Tier::Bpf]);
        assert_eq!(request.filter.as_deref(), Some("deny"));
    }

    #[test]
    fn an_unknown_tier_is_answered_with_the_list() {
        for line in ["--tier moon", "--tier"] {
            let error = parse(line).expect_err("not a tier").to_string();
            assert!(
                error.contains("core, bpf, netns, external, kube, cluster, fuzz, soak"),
                "{error}"
            );
        }
        assert!(parse("--fast").is_err());
    }

    #[test]
    fn suites_are_found_among_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"tests"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"bpf"},"executable":"/t/bpf-1"}
not json
{"reason":"build-finished","success":true}"#;
        let suites = suites(messages);
        assert_eq!(suites.len(), 1);
        assert_eq!(suites["bpf"], "/t/bpf-1");
    }

    #[test]
    fn a_tier_in_trouble_fails_the_run() {
        let outcome = |passed, trouble: Option<&str>| Outcome {
            tier: Tier::Core,
            report: Report { tally: Tally { passed, failed: 0, ignored: 0 }, cases: Vec::new() },
            took: Duration::ZERO,
            trouble: trouble.map(str::to_owned),
        };
        assert!(summarize(&[outcome(3, None)]).is_ok());
        assert!(summarize(&[outcome(3, None), outcome(0, Some("did not build"))]).is_err());
        assert!(summarize(&[outcome(0, None)]).is_err());
    }
}
