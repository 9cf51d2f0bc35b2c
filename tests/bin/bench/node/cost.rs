//! What an agent takes of the machine: memory of its process and of the kernel's eBPF objects, and CPU.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use anyhow::{Context, ensure};
use aya::maps::loaded_maps;
use aya::programs::loaded_programs;
use nix::unistd::{SysconfVar, sysconf};

const MEBIBYTE: f64 = 1_048_576.0;

/// eBPF objects that were loaded before an agent was.
#[derive(Debug)]
pub(crate) struct Others {
    maps: BTreeSet<u32>,
    programs: BTreeSet<u32>,
}

impl Others {
    pub(crate) fn now() -> anyhow::Result<Self> {
        let maps = loaded_maps().map(|map| map.map(|map| map.id()));
        let programs = loaded_programs().map(|program| program.map(|program| program.id()));
        Ok(Self {
            maps: maps.collect::<Result<_, _>>().context("list the maps")?,
            programs: programs.collect::<Result<_, _>>().context("list the programs")?,
        })
    }
}

/// Memory, in MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Resident memory of the process.
    pub(crate) process: f64,
    /// Maps and programs.
    pub(crate) bpf: f64,
}

impl Memory {
    /// Of an agent and of what was loaded since `others`.
    pub(crate) fn of(pid: u32, others: &Others) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read memory")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = resident.and_then(|line| line.trim().strip_suffix(" kB"));
        let kibibytes: u32 = kibibytes.context("VmRSS")?.trim().parse().context("VmRSS")?;
        let mut bytes = 0;
        for map in loaded_maps() {
            let map = map.context("list the maps")?;
            if others.maps.contains(&map.id()) {
                continue;
            }
            // One that has just gone takes nothing.
            let Ok(fd) = map.fd() else { continue };
            bytes += locked(fd.as_fd().as_raw_fd())?;
        }
        for program in loaded_programs() {
            let program = program.context("list the programs")?;
            if others.programs.contains(&program.id()) {
                continue;
            }
            let Ok(fd) = program.fd() else { continue };
            bytes += locked(fd.as_fd().as_raw_fd())?;
        }
        Ok(Self { process: f64::from(kibibytes) / 1024.0, bpf: bytes_to_f64(bytes)? / MEBIBYTE })
    }
}

/// What the kernel says that an eBPF object takes.
fn locked(fd: i32) -> anyhow::Result<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).context("read an object")?;
    let locked = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    locked.context("memlock")?.trim().parse().context("memlock")
}

fn bytes_to_f64(bytes: u64) -> anyhow::Result<f64> {
    // Exact: in pages.
    Ok(f64::from(u32::try_from(bytes / 4096).context("too much memory")?) * 4096.0)
}

/// The share of one core that a process takes, over a time.
pub(crate) fn share_of_a_core(pid: u32, over: Duration) -> anyhow::Result<f64> {
    let before = ticks(pid)?;
    std::thread::sleep(over);
    let ticks = ticks(pid)?.saturating_sub(before);
    let each = sysconf(SysconfVar::CLK_TCK).context("read the clock's rate")?.unwrap_or(100);
    let seconds = f64::from(u32::try_from(ticks)?) / f64::from(u32::try_from(each)?);
    Ok(seconds / over.as_secs_f64())
}

/// CPU time of a process, in the kernel's ticks (`proc_pid_stat(5)`, utime and stime).
fn ticks(pid: u32) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read CPU time")?;
    let (_, rest) = stat.rsplit_once(')').context("stat")?;
    let fields: Vec<_> = rest.split_ascii_whitespace().collect();
    ensure!(fields.len() > 12, "stat has {} fields", fields.len());
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}
