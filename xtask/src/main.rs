//! The project's chores: `cargo xtask VERB`.
//!
//! Each verb is one file. Nothing here is part of the product, so this crate depends on nothing of
//! ours and on as little as possible of others': it is built before anything else, on a machine
//! that may have nothing installed yet.

mod arguments;
mod cluster;
mod ebpf;
mod fuzz;
mod gates;
mod image;
mod kubernetes;
mod layers;
mod manifests;
mod programs;
mod setup;
mod step;
mod test;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use arguments::Usage;

const HELP: &str = "\
cargo xtask VERB

  setup [--check]   install what the build and the tests need (Debian); --check only reports
  ebpf              build the eBPF programs into target/ebpf/
  test [--tier T]   everything CI runs; with --tier only that tier: core, bpf, netns, external, kube,
                    cluster, fuzz, soak (repeatable, or T,T); --filter NAME runs the tests whose name
                    contains NAME
  demo [--kubernetes] [--keep]
                    two nodes with pods on this machine, shown at work (root); with --kubernetes as
                    a real cluster
  bench quick       Warren beside direct connections, as ratios (root)
  bench core        what decisions cost, each figure beside its bound
  bench control-plane
                    what a cluster of 100,000 pods costs the control plane, beside its bounds
  bench node        what an agent costs a node of Kubernetes, beside its bounds (root)
  image [--fast]    the product's images as OCI archives in target/images
  manifests [--check]
                    deploy/manifests, rendered from the charts; --check only compares
  layers            check the dependency law and the rules that the compiler cannot
  ci                the gates and the core tests: what to run before a commit
";

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.is_empty() {
        eprint!("{HELP}");
        return ExitCode::from(2);
    }
    let verb = arguments.remove(0);
    match dispatch(&verb, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Usage>() => {
            eprintln!("xtask: {error}\n\n{HELP}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("xtask {verb}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: &str, arguments: &[String]) -> anyhow::Result<()> {
    match verb {
        "setup" => setup::verb(arguments),
        "ebpf" => ebpf::verb(arguments),
        "test" => test::verb(arguments),
        "demo" => programs::demo(arguments),
        "bench" => programs::bench(arguments),
        "manifests" => manifests::verb(arguments),
        "image" => image::verb(arguments),
        "layers" => layers::verb(arguments),
        "ci" => gates::ci(arguments),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        unknown => Err(Usage::new(format!("unknown verb {unknown:?}")).into()),
    }
}
