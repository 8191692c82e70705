//! Parts that are scripts in `tests/peers`: they send what they must to one gateway and print a line of JSON for each
//! case.

use std::{fs, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{origin::Origin, recorder, report::Report, stage::Stage};
use crate::{certificate, process::Process};

/// What must be installed.
pub const PROGRAMS: [&str; 3] = ["curl", "openssl", "python"];
/// Where the gateway listens without TLS, as `tests/peers/gateway.yaml` says.
pub const CLEAR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8020);

/// A line that a script prints.
#[derive(Deserialize)]
struct Case {
    class: String,
    /// Why it failed.
    why: Option<String>,
}

/// Runs one script beside a gateway and a recorder.
pub fn run_script(stage: &Stage, script: &str) -> Result<Report> {
    let gateway = start(stage)?;
    let mut python = stage.namespace.command(stage.venv.join("bin/python"));
    python.current_dir(stage.folder()).args(["-B", script]);
    let output = python.output().context("python")?;
    let mut report = Report::default();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let case: Case = serde_json::from_str(line).with_context(|| format!("{script} printed {line:?}"))?;
        match case.why {
            None => report.pass(&case.class),
            Some(why) => report.fail(&case.class, why),
        }
    }
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    ensure!(!gateway.log_tail().contains("panic"), "the gateway panicked: {}", gateway.log_tail());
    Ok(report)
}

/// The gateway of all parts but smuggling, a recorder behind it, and a certificate for `a.example`.
pub fn start(stage: &Stage) -> Result<Process> {
    recorder::start(&stage.namespace, vec![(Origin::Hyper.address(), Origin::Hyper.seen(stage))])?;
    certificate::self_signed(stage.folder(), "a.example")?;
    let configuration = fs::read_to_string(stage.file("gateway.yaml"))?;
    let configuration = configuration.replace("FOLDER", &stage.folder().display().to_string());
    stage.gateway("gateway", &configuration, CLEAR)
}
