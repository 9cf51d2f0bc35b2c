//! What both objects share: a pod's map types and the calls that read and write them.
//!
//! Programs are loop-free and small. They read the kernel's contexts word by word and volatile,
//! because the compiler otherwise merges reads into context accesses that the verifier refuses, and
//! leave every decision to `ebpf-abi`, where host tests reach it.
#![no_std]

pub mod access;
pub mod pod;
