//! A cgroup of one test, and processes in it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};
use lb_control::datapath::socket::cgroup_root;

use crate::{netns::Namespace, requires::DIRECTORY_PREFIX};

/// A child of the cgroup2 root, gone when dropped.
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Creates one.
    pub fn create() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = cgroup_root()?.join(format!("{DIRECTORY_PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that will run in it, and in a namespace.
    pub fn command(&self, namespace: &Namespace, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = namespace.command(program);
        let file = File::options().write(true).open(self.path.join("cgroup.procs"))?;
        // SAFETY: between fork and exec only write(2) is called, on a descriptor opened before the fork. Zero is the
        // process that writes.
        unsafe {
            command.pre_exec(move || (&file).write_all(b"0"));
        }
        Ok(command)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes have ended: who ran them has waited for them.
        let _ = fs::remove_dir(&self.path);
    }
}
