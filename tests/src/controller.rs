//! `lb-control` in the balancer's namespace: started, killed, started again.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    control::Control,
    process::{Process, binary},
    topology::Topology,
};

/// Loading takes a second; on an emulated CPU, several.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A controller of one topology. Packets go on being balanced while it is not running.
pub struct Controller {
    topology: Arc<Topology>,
    mode: &'static str,
    configuration: Option<PathBuf>,
    process: Option<Process>,
    control: Control,
}

impl Controller {
    /// Starts one on the topology's interfaces; done when it answers and is attached to each of them.
    pub fn start(topology: &Arc<Topology>) -> Result<Self> {
        Self::start_in(topology, "auto")
    }

    /// Likewise, attached in this mode: `auto`, `driver` or `generic`.
    pub fn start_in(topology: &Arc<Topology>, mode: &'static str) -> Result<Self> {
        Self::start_with(topology, mode, None)
    }

    /// Starts one with a configuration file, whose directories and interfaces are replaced by the topology's.
    pub fn start_configured(topology: &Arc<Topology>, configuration: &Path) -> Result<Self> {
        Self::start_with(topology, "auto", Some(configuration.to_path_buf()))
    }

    fn start_with(
        topology: &Arc<Topology>,
        mode: &'static str,
        configuration: Option<PathBuf>,
    ) -> Result<Self> {
        let control = Control::new(&topology.directory().join("run/control.sock"));
        let mut controller = Self { topology: topology.clone(), mode, configuration, process: None, control };
        controller.start_again()?;
        Ok(controller)
    }

    /// Starts it again after [`Self::kill`], with the same state, pins and interfaces.
    pub fn start_again(&mut self) -> Result<()> {
        self.begin_again()?;
        let control = self.control.clone();
        self.process.as_mut().context("started")?.ready(START_LIMIT, || {
            let status = control.get("/v1/status")?;
            let interfaces = status["interfaces"].as_array().context("interfaces")?;
            ensure!(!interfaces.is_empty(), "no interface yet: {status}");
            let all = interfaces.iter().all(|interface| interface["attached"] == true);
            ensure!(all, "not attached yet: {status}");
            Ok(())
        })
    }

    /// Starts it without waiting.
    pub fn begin_again(&mut self) -> Result<()> {
        let log = self.topology.directory().join("lb-control.log");
        let mut command = command_in(&self.topology, self.mode)?;
        if let Some(configuration) = &self.configuration {
            command.arg("--config").arg(configuration);
        }
        self.process = Some(Process::start(command, "lb-control", &log)?);
        Ok(())
    }

    /// SIGKILL: what a crash is.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("it does not run")?.kill()
    }

    /// Its API.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The running daemon.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("it does not run")
    }
}

/// The command line that runs a topology's controller, for those who expect it to fail or who add to it.
pub fn command(topology: &Topology) -> Result<Command> {
    command_in(topology, "auto")
}

fn command_in(topology: &Topology, mode: &str) -> Result<Command> {
    let directory = topology.directory();
    let mut command = topology.balancer.command(binary("lb-control")?);
    command.args(["run", "--iface", &topology.interfaces().join(","), "--mode", mode]);
    command.arg("--state-dir").arg(directory.join("state"));
    command.arg("--runtime-dir").arg(directory.join("run"));
    command.arg("--pin-dir").arg(topology.pins());
    Ok(command)
}
