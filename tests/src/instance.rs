//! `story_server`: one instance of a service, in a namespace of its own.

use std::{
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

/// Listening takes milliseconds, on a busy machine tenths of a second.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A running instance.
pub struct Instance {
    process: Process,
}

impl Instance {
    /// Starts the instance `name`, such as `accounts2`, of a service in the namespace of this index; done
    /// when it answers.
    pub fn start(topology: &Topology, index: usize, service: &str, name: &str) -> Result<Self> {
        let namespace = topology.service_namespace(index)?;
        let mut command = namespace.command(binary("story_server")?);
        command.args(["--service", service, "--name", name, "--listen", &format!("0.0.0.0:{PORT}")]);
        command.arg("--journal").arg(journal(topology.directory(), name));
        let log = topology.directory().join(format!("{name}.log"));
        let mut process = Process::start(command, name, &log)?;
        process.ready(START_LIMIT, || served(namespace))?;
        Ok(Self { process })
    }

    /// Asks it to close without losing a request.
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
}

/// Where an instance of `checkout` writes its orders; they outlive it.
pub fn journal(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.journal"))
}

/// How many requests the instance in this namespace answered, asked on its own host.
pub fn served(namespace: &Namespace) -> Result<u64> {
    let answer = http::get_at_home(namespace, PORT, "/served", START_LIMIT)?;
    std::str::from_utf8(&answer.body)?.parse().context("a number")
}
