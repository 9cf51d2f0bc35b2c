//! Small programs on cgroups, instruction by instruction: no loader of ours is involved.
#![expect(unsafe_code, reason = "the system call has no wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::Context;

/// Commands of bpf(2).
const PROG_LOAD: i64 = 5;
const PROG_ATTACH: i64 = 8;
const PROG_DETACH: i64 = 9;
/// `BPF_F_ALLOW_MULTI`.
const ALLOW_MULTI: u32 = 2;
/// Programs that touch nothing of the kernel's need no other.
const LICENSE: &[u8] = b"GPL\0";

/// Places in the context of a program on `connect`.
const USER_IP4: i16 = 4;
const USER_PORT: i16 = 24;

/// Whether a program bears others on its cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Shared,
    Alone,
}

/// A kind of program, and where such are attached.
#[derive(Clone, Copy)]
struct Kind {
    program: u32,
    attach: u32,
}

/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`, `BPF_CGROUP_INET4_CONNECT`.
const CONNECT4: Kind = Kind { program: 18, attach: 10 };
/// `BPF_PROG_TYPE_SOCK_OPS`, `BPF_CGROUP_SOCK_OPS`.
const SOCK_OPS: Kind = Kind { program: 13, attach: 3 };

/// A program in the kernel.
pub(super) struct Program {
    fd: OwnedFd,
    kind: Kind,
}

impl Program {
    /// Lets IPv4 connections pass, but those to a port.
    pub(super) fn forbids(port: u16) -> anyhow::Result<Self> {
        let wanted = i32::from(port.to_be());
        let instructions = [
            load_word(2, 1, USER_PORT),
            set(0, 1),
            skip_unless_equal(2, wanted, 1),
            set(0, 0),
            exit(),
        ];
        Self::load(CONNECT4, &instructions)
    }

    /// Sends IPv4 connections to the loopback address.
    pub(super) fn redirects() -> anyhow::Result<Self> {
        let loopback = i32::from_ne_bytes([127, 0, 0, 1]);
        let instructions = [set(2, loopback), store_word(1, 2, USER_IP4), set(0, 1), exit()];
        Self::load(CONNECT4, &instructions)
    }

    /// Hears of connections and does nothing.
    pub(super) fn watches() -> anyhow::Result<Self> {
        Self::load(SOCK_OPS, &[set(0, 1), exit()])
    }

    fn load(kind: Kind, instructions: &[[u8; 8]]) -> anyhow::Result<Self> {
        let count = u32::try_from(instructions.len()).context("a short program")?;
        let instructions = instructions.concat();
        let mut attributes = [0; 72];
        put(&mut attributes, 0, &kind.program.to_ne_bytes());
        put(&mut attributes, 4, &count.to_ne_bytes());
        put(&mut attributes, 8, &address(&instructions).to_ne_bytes());
        put(&mut attributes, 16, &address(LICENSE).to_ne_bytes());
        put(&mut attributes, 68, &kind.attach.to_ne_bytes());
        // The instructions and the license live until the call returns.
        let fd = bpf(PROG_LOAD, &mut attributes).context("load a program")?;
        let fd = i32::try_from(fd).context("a descriptor")?;
        // SAFETY: the kernel has just made this descriptor for this process.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, kind })
    }
}

/// A program on a cgroup, until this is dropped.
pub(super) struct Attached {
    cgroup: File,
    program: OwnedFd,
    attach: u32,
}

impl Attached {
    pub(super) fn to(cgroup: &Path, program: &Program, manner: Manner) -> anyhow::Result<Self> {
        let cgroup = File::open(cgroup).context("open a cgroup")?;
        let program_fd = program.fd.try_clone().context("keep a program")?;
        let attached = Self { cgroup, program: program_fd, attach: program.kind.attach };
        let flags = match manner {
            Manner::Shared => ALLOW_MULTI,
            Manner::Alone => 0,
        };
        let mut attributes = attached.attributes();
        put(&mut attributes, 12, &flags.to_ne_bytes());
        bpf(PROG_ATTACH, &mut attributes).context("attach a program")?;
        Ok(attached)
    }

    fn attributes(&self) -> [u8; 20] {
        let mut attributes = [0; 20];
        put(&mut attributes, 0, &self.cgroup.as_raw_fd().to_ne_bytes());
        put(&mut attributes, 4, &self.program.as_raw_fd().to_ne_bytes());
        put(&mut attributes, 8, &self.attach.to_ne_bytes());
        attributes
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // It goes with its cgroup at the latest.
        let _ = bpf(PROG_DETACH, &mut self.attributes());
    }
}

fn bpf(command: i64, attributes: &mut [u8]) -> io::Result<i64> {
    let length = attributes.len();
    // SAFETY: the attributes, and what they point to, live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn address(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.as_ptr().addr()).unwrap_or(u64::MAX)
}

fn put(attributes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = attributes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// `struct bpf_insn`.
fn instruction(code: u8, target: u8, source: u8, offset: i16, value: i32) -> [u8; 8] {
    let [o0, o1] = offset.to_ne_bytes();
    let [v0, v1, v2, v3] = value.to_ne_bytes();
    [code, source << 4 | target, o0, o1, v0, v1, v2, v3]
}

fn set(register: u8, value: i32) -> [u8; 8] {
    instruction(0xb7, register, 0, 0, value)
}

fn load_word(target: u8, base: u8, offset: i16) -> [u8; 8] {
    instruction(0x61, target, base, offset, 0)
}

fn store_word(base: u8, source: u8, offset: i16) -> [u8; 8] {
    instruction(0x63, base, source, offset, 0)
}

fn skip_unless_equal(register: u8, value: i32, skipped: i16) -> [u8; 8] {
    instruction(0x55, register, 0, skipped, value)
}

fn exit() -> [u8; 8] {
    instruction(0x95, 0, 0, 0, 0)
}
