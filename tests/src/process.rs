//! A daemon: started with its log in a file, known by its process id, killed when dropped.

use std::{
    fs::{self, File},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::eventually::eventually;

/// A running child process.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`. It is killed with the thread that started it, so that a killed run leaves no
    /// daemon: start it from a test's own thread. It gets a process group of its own, so that Ctrl-C in
    /// a terminal reaches only the one who cleans up.
    pub fn start(mut command: Command, name: &str, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        // SAFETY: prctl with plain values is safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { child, name: name.to_string(), log: log.to_path_buf() })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        // SAFETY: plain values; the child is not reaped while `self` holds it.
        match unsafe { libc::kill(self.child.id() as libc::pid_t, signal) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()).with_context(|| self.name.clone()),
        }
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Whether it ended, without waiting.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Whether it ended, without waiting; an error, with its log, if it did not end well.
    pub fn ended_well(&mut self) -> Result<bool> {
        match self.ended()? {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => bail!("{} ended with {}: {}", self.name, describe(status), self.log_tail()),
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        eventually(&what, limit, || self.child.try_wait()?.ok_or_else(|| anyhow!("it still runs")))
    }

    /// Waits until `look` succeeds; fails at once, with the log, when the process ends before.
    pub fn ready<T>(&mut self, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
        let mut ended = None;
        let found = eventually(&format!("{} is ready", self.name), limit, || {
            if ended.is_none() {
                ended = self.child.try_wait()?;
            }
            match ended {
                None => look().map(Ok),
                Some(status) => Ok(Err(status)),
            }
        });
        match found {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(status)) => bail!("{} ended with {}: {}", self.name, describe(status), self.log_tail()),
            Err(error) => bail!("{error:#}; its log: {}", self.log_tail()),
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
        if std::thread::panicking() {
            eprintln!("--- the end of {}'s log ---\n{}\n---", self.name, self.log_tail());
        }
    }
}

/// A program of this workspace: beside this one, or one folder up, where cargo keeps test binaries in `deps`.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("`{name}` is not built beside {}: cargo build --workspace", own.display()))
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "an unknown status".to_string(),
    }
}
