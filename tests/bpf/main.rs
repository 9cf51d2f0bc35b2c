//! The bpf tier: the eBPF programs and the code that attaches them, on this kernel.
//!
//! Needs root, and says so instead of passing without it. Everything happens in namespaces, cgroups and
//! BPF file systems that the tests make themselves, named `wbpf-…`.

mod capture;
mod lifecycle;
mod questions;
mod roles;
mod root;
mod sockopt;
mod steering;
mod world;
