//! Builds every fuzz target and lets it run for a moment.
//!
//! The targets are the binaries of `fuzz/`, each a libFuzzer program. The flags below are what
//! makes a stable compiler instrument them; no further tool is needed.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow, bail};

use crate::step::{output, run};
use crate::test::Tally;
use crate::workspace::{cargo, root, target};

/// Enough to run some 100,000 inputs through a parser; finding more is a long run's job.
const SECONDS_PER_TARGET: u32 = 5;
/// An input that takes longer is a finding.
const TIMEOUT_SECONDS: u32 = 10;
/// A target that needs more memory is a finding.
const MEMORY_MIB: u32 = 1024;
const INSTRUMENT: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cdebug-assertions=yes",
    "-Coverflow-checks=yes",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Runs the targets whose name contains `filter`.
pub(crate) fn run_all(filter: Option<&str>) -> anyhow::Result<Tally> {
    let manifest = root().join("fuzz/Cargo.toml");
    if !manifest.exists() {
        bail!("{} does not exist", manifest.display());
    }
    let output_folder = target().join("fuzz");
    run(cargo()
        .args(["build", "--release", "--bins", "--target", &host()?, "--manifest-path"])
        .arg(&manifest)
        .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENT.join("\x1f"))
        .env("CARGO_TARGET_DIR", &output_folder))?;
    let mut tally = Tally::default();
    for name in targets(&manifest)? {
        if filter.is_some_and(|part| !name.contains(part)) {
            continue;
        }
        let program = output_folder.join(host()?).join("release").join(&name);
        match fuzz(&program, &output_folder.join("corpus").join(&name)) {
            Ok(()) => tally.passed += 1,
            Err(error) => {
                eprintln!("fuzz target {name}: {error:#}");
                tally.failed += 1;
            }
        }
    }
    Ok(tally)
}

fn fuzz(program: &Path, corpus: &Path) -> anyhow::Result<()> {
    let name = program.file_name().unwrap_or_default();
    // Where an input that crashes the target is kept.
    let findings = root().join("fuzz/artifacts").join(name);
    for folder in [corpus, &findings] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let mut command = std::process::Command::new(program);
    command
        .current_dir(corpus)
        .arg(format!("-max_total_time={SECONDS_PER_TARGET}"))
        .arg(format!("-timeout={TIMEOUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .args(["-verbosity=0", "-print_final_stats=1"])
        .arg(corpus);
    // Inputs that people found worth keeping.
    let seeds = root().join("fuzz/seeds").join(name);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    println!("    {}", name.to_string_lossy());
    run(&mut command)
}

/// An explicit target keeps the instrumentation out of build scripts.
fn host() -> anyhow::Result<String> {
    let about = output(std::process::Command::new("rustc").arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| anyhow!("rustc -vV names no host"))
}

fn targets(manifest: &Path) -> anyhow::Result<Vec<String>> {
    let text = output(
        cargo()
            .args(["metadata", "--format-version=1", "--no-deps", "--manifest-path"])
            .arg(manifest),
    )?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let mut names: Vec<_> = targets
        .filter(|target| target["kind"][0] == "bin")
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}
