//! A child process that is born in a cgroup.
//!
//! To move a process there, the kernel keeps every process of the node from forking, and waits an RCU
//! grace period for that: 10 ms and more, up to half a second on a busy machine. A child that begins its
//! life there costs none of it.
#![expect(unsafe_code, reason = "clone3(2) has no safe form; each call has its SAFETY comment")]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};

use super::agent_cgroup::Cgroup;

/// `CLONE_INTO_CGROUP` (linux/sched.h, since Linux 5.7).
const INTO_CGROUP: u64 = 0x2_0000_0000;
/// What a child says of itself is an error's text.
const TEXT_BYTES_MAX: u64 = 16 * 1024;
/// Exit code of a child that has said nothing.
const SPEECHLESS: i32 = 1;

/// `struct clone_args`, as far as it is used (linux/sched.h).
#[derive(Default)]
#[repr(C)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Does `work` in a child that lives in `cgroup` from its first instruction, and waits for its end. The
/// child dies with this process. An error means that nothing was done: the kernel or a filter knows no
/// such call, the cgroup is full, or this process has several threads.
pub(super) fn run(
    cgroup: &Cgroup,
    work: impl FnOnce() -> Result<(), String>,
) -> io::Result<Result<(), String>> {
    // A lock that another thread holds would stay locked in the child.
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process of several threads"));
    }
    let folder = cgroup.folder()?;
    let (mut reader, writer) = io::pipe()?;
    let parent = getpid();
    let Some(child) = clone_into(&folder)? else {
        drop(reader);
        live(parent, writer, work);
    };
    drop(writer);
    let mut text = String::new();
    let heard = reader.by_ref().take(TEXT_BYTES_MAX).read_to_string(&mut text);
    let ended = loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            result => break result?,
        }
    };
    Ok(match (heard, ended) {
        (Ok(_), WaitStatus::Exited(_, 0)) if text.is_empty() => Ok(()),
        (Ok(_), WaitStatus::Exited(_, 0)) => Err(text),
        (_, ended) => Err(format!("its process ended early: {ended:?}")),
    })
}

/// `None` in the child.
fn clone_into(folder: &File) -> io::Result<Option<Pid>> {
    let arguments = CloneArguments {
        flags: INTO_CGROUP,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        cgroup: u64::from(folder.as_raw_fd().unsigned_abs()),
        ..CloneArguments::default()
    };
    // SAFETY: `arguments` is an initialised prefix of `struct clone_args` of the size given. Without
    // `CLONE_VM` the child has memory of its own, as after `fork`; this process has one thread, so no
    // lock is held by somebody who is not in the child.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArguments>())
    };
    match result {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(Pid::from_raw(pid.try_into().map_err(io::Error::other)?))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The child's life. It must not return into what its parent does.
fn live(parent: Pid, mut writer: io::PipeWriter, work: impl FnOnce() -> Result<(), String>) -> ! {
    let worked = catch_unwind(AssertUnwindSafe(|| {
        // A parent that died before this call tells by its number.
        if set_pdeathsig(Signal::SIGKILL).is_err() || getppid() != parent {
            return false;
        }
        match work() {
            Ok(()) => true,
            Err(text) => writer.write_all(text.as_bytes()).is_ok(),
        }
    }));
    let code = if worked.unwrap_or(false) { 0 } else { SPEECHLESS };
    // SAFETY: ends this process without running what its parent has registered for its own end.
    unsafe { libc::_exit(code) }
}
