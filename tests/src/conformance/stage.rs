//! A namespace with nothing but loopback, a folder with the peers' configurations, and gateways in it.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{
    netns::Namespace,
    process::Process,
    requires::{DIRECTORY_PREFIX, is_installed, sweep},
};

/// Varnish compiles its rules, gunicorn imports Python's library: seconds on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Where a part's processes live.
pub struct Stage {
    /// Theirs alone.
    pub namespace: Namespace,
    /// Python with the pinned packages.
    pub venv: PathBuf,
    gateway: PathBuf,
    folder: TempDir,
}

impl Stage {
    /// Makes namespace and folder. `gateway` is our program, `venv` Python's environment, `programs` what must be
    /// installed.
    pub fn build(gateway: &Path, venv: &Path, programs: &[&str]) -> Result<Self> {
        // SAFETY: takes nothing and cannot fail.
        ensure!(unsafe { libc::geteuid() } == 0, "it makes a network namespace: run it as root");
        for program in programs {
            ensure!(
                is_installed(program) || venv.join("bin").join(program).is_file(),
                "`{program}` is not installed: run `cargo xtask conformance gateway`, which installs it"
            );
        }
        sweep();
        let namespace = Namespace::create("conform")?;
        let prefix = format!("{DIRECTORY_PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        for entry in fs::read_dir(&peers).with_context(|| peers.display().to_string())? {
            let entry = entry?;
            fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
        }
        Ok(Self { namespace, venv: venv.to_path_buf(), gateway: gateway.to_path_buf(), folder })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file in its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a process whose log is named after it; done when `address` accepts.
    pub fn start(&self, command: Command, name: &str, address: SocketAddr) -> Result<Process> {
        let mut process = Process::start(command, name, &self.file(&format!("{name}.log")))?;
        process.ready(START_LIMIT, || {
            Ok(self.namespace.enter(|| TcpStream::connect(address))?.map(|_connection| ())?)
        })?;
        Ok(process)
    }

    /// Starts a gateway with this configuration; done when `address` accepts.
    pub fn gateway(&self, name: &str, configuration: &str, address: SocketAddr) -> Result<Process> {
        let file = self.file(&format!("{name}.yaml"));
        fs::write(&file, configuration)?;
        let mut command = self.namespace.command(&self.gateway);
        command.args(["run", "--config"]).arg(&file).current_dir(self.folder());
        self.start(command, name, address)
    }
}
