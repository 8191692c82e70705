//! The gateway daemon in one of the gateways' namespaces.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    http,
    netns::Namespace,
    process::{Process, binary},
    server::PORT,
    topology::Topology,
};

/// Compiling the configuration and listening take milliseconds, on an emulated CPU seconds.
const START_LIMIT: Duration = Duration::from_secs(30);
/// An answer from one's own host.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The name in the example files, in whose place each gateway puts its own.
const EXAMPLE_NAME: &str = "gateway1";

/// A running gateway.
pub struct Gateway {
    process: Process,
}

impl Gateway {
    /// Starts the gateway of this index with the configuration `file`, which lies in a directory of its own
    /// together with these further files (name and content); done when it says that it is ready.
    pub fn start(topology: &Topology, index: usize, file: &Path, further: &[(&str, String)]) -> Result<Self> {
        let name = name(index);
        let directory = topology.directory().join(&name);
        let configuration = prepare(&directory, &name, file, further)?;
        let namespace = &topology.servers[index];
        let mut command = namespace.command(binary("gateway")?);
        command.args(["run", "--config"]).arg(&configuration).current_dir(&directory);
        let log = topology.directory().join(format!("{name}.log"));
        let mut process = Process::start(command, &name, &log)?;
        process.ready(START_LIMIT, || is_ready(namespace))?;
        Ok(Self { process })
    }

    /// SIGTERM: it becomes unready, says `Connection: close`, closes idle connections last, and ends.
    pub fn begin_closing(&self) -> Result<()> {
        self.process.signal(libc::SIGTERM)
    }

    /// Whether it has ended, well.
    pub fn has_ended(&mut self) -> Result<bool> {
        self.process.ended_well()
    }

    /// SIGKILL: what a crash is.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

/// What the gateway of this index calls itself.
pub fn name(index: usize) -> String {
    format!("gateway{}", index + 1)
}

fn prepare(directory: &Path, name: &str, file: &Path, further: &[(&str, String)]) -> Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    for (file, content) in further {
        fs::write(directory.join(file), content)?;
    }
    let configuration = directory.join("gateway.yaml");
    fs::write(&configuration, text.replace(EXAMPLE_NAME, name))?;
    Ok(configuration)
}

fn is_ready(namespace: &Namespace) -> Result<()> {
    http::get_at_home(namespace, PORT, "/healthz", ANSWER_LIMIT).map(drop)
}
