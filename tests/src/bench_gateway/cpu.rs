//! Cores, the time that processes used on them, and memory.

use std::{fs, io, os::unix::process::CommandExt as _, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};

/// Before other programs of the machine, but they still run.
const NICENESS: i32 = -10;

/// The core of the proxy, and that of everything else.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Only the proxy.
    pub proxy: usize,
    /// Origin and clients.
    pub others: usize,
}

/// Ticks of a core since boot.
#[derive(Clone, Copy, Debug)]
pub struct CoreTicks {
    all: u64,
    idle: u64,
}

impl Cores {
    /// The last two that this process may use: the first serves most interrupts.
    pub fn choose() -> Result<Self> {
        // SAFETY: a zeroed set is empty; the call takes it by pointer and length.
        let usable: Vec<usize> = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
            (0..libc::CPU_SETSIZE as usize).filter(|&core| libc::CPU_ISSET(core, &set)).collect()
        };
        ensure!(usable.len() >= 2, "the proxy needs a core and its origin another; usable here: {usable:?}");
        Ok(Self { proxy: usable[usable.len() - 1], others: usable[usable.len() - 2] })
    }
}

/// Keeps what the command will run to one core, ahead of other programs where that is allowed.
pub fn pin(command: &mut Command, core: usize) -> &mut Command {
    // SAFETY: between fork and exec two system calls on plain values; the set lives on the stack.
    unsafe {
        command.pre_exec(move || {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core, &mut set);
            libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS);
            match libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    }
}

/// The process and its children, as they are now.
pub fn family(process: u32) -> Result<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"))?;
    let mut family = vec![process];
    for child in children.split_whitespace() {
        family.push(child.parse()?);
    }
    Ok(family)
}

/// User and system time of processes so far, ended threads included: what `/proc/PID/stat` shows in ticks, in
/// nanoseconds.
pub fn time_used(processes: &[u32]) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for &process in processes {
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both calls write to live variables.
        let found = unsafe {
            libc::clock_getcpuclockid(process as libc::pid_t, &mut clock) == 0
                && libc::clock_gettime(clock, &mut time) == 0
        };
        ensure!(found, "process {process} has ended");
        sum += Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
    }
    Ok(sum)
}

/// Resident memory of processes in KiB; pages that they share count for each.
pub fn resident_kib(processes: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for process in processes {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        sum += line.trim().trim_end_matches("kB").trim().parse::<u64>()?;
    }
    Ok(sum)
}

/// What a core did so far.
pub fn core_ticks(core: usize) -> Result<CoreTicks> {
    let text = fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{core} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name)).context("no such core")?;
    let ticks = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    // user nice system idle iowait irq softirq steal; what follows is part of user and nice.
    ensure!(ticks.len() >= 8, "/proc/stat: {line}");
    Ok(CoreTicks { all: ticks[..8].iter().sum(), idle: ticks[3] + ticks[4] })
}

impl CoreTicks {
    /// The part of the time since `earlier` in which the core was not idle, 0 to 1.
    pub fn busy_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        1.0 - self.idle.saturating_sub(earlier.idle) as f64 / all as f64
    }
}
