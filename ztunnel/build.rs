//! Embeds the two eBPF objects that `cargo xtask ebpf` builds. Without them the crate still compiles,
//! so that checks need no eBPF toolchain, and the agent refuses to start.

use std::{env, fs, path::PathBuf};

const OBJECTS: [&str; 2] = ["pod-cgroup.o", "pod-netns.o"];

fn main() {
    println!("cargo::rerun-if-env-changed=WARREN_EBPF_DIR");
    println!("cargo::rerun-if-changed=build.rs");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let built = env::var_os("WARREN_EBPF_DIR")
        .map_or_else(|| manifest.join("../target/ebpf"), PathBuf::from);
    for object in OBJECTS {
        let source = built.join(object);
        println!("cargo::rerun-if-changed={}", source.display());
        let bytes = fs::read(&source).unwrap_or_default();
        fs::write(out.join(object), bytes).expect("OUT_DIR is writable");
    }
}
