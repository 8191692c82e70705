//! One network namespace, named so that `ip netns exec` reaches it, gone when dropped.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};

/// Where `ip netns` keeps its names.
pub const NAMES: &str = "/run/netns";

/// A network namespace of this process, `pc-<pid>-<role>`.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates one; `role` tells it apart from the others of this process.
    pub fn create(role: &str) -> Result<Self> {
        let name = format!("pc-{}-{role}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        // Neither duplicate address detection nor router solicitations: tests count packets.
        for interfaces in ["all", "default"] {
            let _ = namespace.sysctl(&format!("ipv6/conf/{interfaces}/disable_ipv6"), "1");
        }
        Ok(namespace)
    }

    /// Its name for `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs lines of `ip` inside, all or up to the first that fails.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("stdin")?.write_all(lines.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "ip -n {}: {}\nwhile running:\n{lines}",
            self.name,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Sets a sysctl below `/proc/sys/net`, which shows each thread its own namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.enter(|| fs::write(&path, value))?.with_context(|| path.clone())
    }

    /// Turns offloads of one interface on or off, as `ethtool -K` spells them.
    pub fn offload(&self, interface: &str, features: &[&str]) -> Result<()> {
        run(self.command("ethtool").arg("-K").arg(interface).args(features))
    }

    /// A command that will run inside. Only the network namespace changes: what it pins into bpffs or
    /// writes elsewhere is where everybody sees it, unlike under `ip netns exec`, which mounts another /sys.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let path = self.path();
        let file = File::open(&path);
        // SAFETY: between fork and exec only setns(2) is called, on a descriptor opened before the fork.
        unsafe {
            command.pre_exec(move || match &file {
                Ok(file) => set_namespace(file),
                Err(error) => Err(io::Error::from(error.kind())),
            });
        }
        command
    }

    /// Runs `work` on a thread inside; sockets that it opens stay here wherever they are used.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path())?;
        thread::scope(|scope| {
            let worker = scope.spawn(move || set_namespace(&file).map(|()| work()));
            match worker.join() {
                Ok(result) => Ok(result?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Like [`Self::enter`] for work that goes on by itself.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>> {
        let file = File::open(self.path())?;
        let name = self.name.clone();
        Ok(thread::Builder::new().name(name).spawn(move || {
            set_namespace(&file).expect("the namespace was open");
            work()
        })?)
    }

    /// A counter of `/proc/net/snmp` or `/proc/net/netstat` inside, such as `Tcp`, `OutRsts`.
    pub fn counter(&self, group: &str, name: &str) -> Result<u64> {
        let text = self.enter(|| -> io::Result<String> {
            Ok(fs::read_to_string("/proc/thread-self/net/snmp")?
                + &fs::read_to_string("/proc/thread-self/net/netstat")?)
        })??;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(&format!("{group}:")));
        let (names, values) = (lines.next().context("group")?, lines.next().context("values")?);
        let position = names.split_whitespace().position(|word| word == name).context("name")?;
        Ok(values.split_whitespace().nth(position).context("value")?.parse()?)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(NAMES).join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A virtual cable between two interfaces, given as (namespace, name). Both ends compute checksums in
/// full, because a partial one would be adjusted as if it were complete, and take redirected frames,
/// which veth only does with NAPI, hence GRO.
pub fn cable(left: (&Namespace, &str), right: (&Namespace, &str)) -> Result<()> {
    // From within one of them: Linux 6.1 also looks for these names where the request comes from.
    run(Command::new("ip").args(["-n", left.0.name(), "link", "add", left.1, "type", "veth"]).args([
        "peer",
        "name",
        right.1,
        "netns",
        right.0.name(),
    ]))?;
    for (namespace, interface) in [left, right] {
        namespace.offload(interface, &["tx", "off", "gro", "on"])?;
        namespace.ip(&format!("link set {interface} up"))?;
    }
    Ok(())
}

/// Runs a command to its end; its error output is the error.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
}

fn set_namespace(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open; setns changes only the calling thread.
    match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
