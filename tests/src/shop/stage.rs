//! Namespaces, controller, servers and the load.

use std::{net::SocketAddr, process::Output, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::{
    control::{Control, at, service},
    controller::Controller,
    load::{Load, Plan},
    process::binary,
    requires::is_installed,
    server::{PORT, Server, name},
    topology::Topology,
};

/// The service's name.
pub const SHOP: &str = "shop";
/// Servers that the story knows; it opens with all but the last.
pub const SERVERS: usize = 4;
const VIP_PORT: u16 = 80;

/// How servers are checked.
const INTERVAL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_millis(500);
const RISE: u32 = 2;
const FALL: u32 = 3;

/// Everything that is up. Fields are dropped in this order: traffic first, namespaces last.
pub struct Stage {
    /// The steady load.
    pub load: Load,
    /// By index; `None` while it does not run.
    pub servers: Vec<Option<Server>>,
    controller: Controller,
    topology: Arc<Topology>,
}

impl Stage {
    /// Builds it all, with the load running.
    pub fn set() -> Result<Self> {
        let topology = Topology::routed(SERVERS)?;
        let mut servers: Vec<_> = (0..SERVERS).map(|_| None).collect();
        let open = 0..SERVERS - 1;
        for index in open.clone() {
            servers[index] = Some(Server::start(&topology, index)?);
        }
        let controller = Controller::start(&topology)?;
        let backends = at(open.map(|index| topology.server_address(index)), PORT);
        let mut shop = service(SHOP, VIP_PORT, "nat", &backends);
        shop["flow_idle_seconds"] = json!(10);
        shop["health_check"] = json!({
            "type": "http", "path": "/healthz", "interval_ms": INTERVAL.as_millis() as u64,
            "timeout_ms": TIMEOUT.as_millis() as u64, "rise": RISE, "fall": FALL,
        });
        controller.control().create(&shop)?;
        let load = Load::start(&topology.client, Plan::steady(topology.vip(VIP_PORT)))?;
        Ok(Self { load, servers, controller, topology })
    }

    /// The longest time from a server's death to its detection.
    pub fn detection() -> Duration {
        INTERVAL * FALL + TIMEOUT
    }

    /// The controller's API.
    pub fn control(&self) -> &Control {
        self.controller.control()
    }

    /// The end of the controller's log.
    pub fn log_tail(&mut self) -> String {
        self.controller.process().map(|process| process.log_tail()).unwrap_or_default()
    }

    /// A server as the service knows it.
    pub fn backend(&self, index: usize) -> SocketAddr {
        SocketAddr::from((self.topology.server_address(index), PORT))
    }

    /// Starts a server that does not run.
    pub fn open(&mut self, index: usize) -> Result<()> {
        self.servers[index] = Some(Server::start(&self.topology, index)?);
        Ok(())
    }

    /// Takes a server that runs.
    pub fn take(&mut self, index: usize) -> Result<Server> {
        self.servers[index].take().with_context(|| format!("{} runs", name(index)))
    }

    /// What curl gets of the shop, on a connection of its own.
    pub fn curl(&self) -> Result<String> {
        let url = format!("http://{}/whoami", self.topology.vip(VIP_PORT));
        let output = self.topology.client.command("curl").args(["-sS", "-m", "5", &url]).output()?;
        Ok(success(&output, "curl")?.trim().to_string())
    }

    /// Lets wrk load the shop for two seconds, where it is installed; its summary.
    pub fn wrk(&self) -> Result<Option<String>> {
        if !is_installed("wrk") {
            return Ok(None);
        }
        let url = format!("http://{}/", self.topology.vip(VIP_PORT));
        let output = self.topology.client.command("wrk").args(["-t1", "-c50", "-d2s", &url]).output()?;
        let text = success(&output, "wrk")?;
        let errors = text.lines().find(|line| line.contains("errors") || line.contains("Non-2xx"));
        ensure!(errors.is_none(), "wrk saw {}", errors.unwrap_or_default().trim());
        Ok(text.lines().find(|line| line.contains("requests in")).map(|line| line.trim().to_string()))
    }

    /// What to try while it stays up.
    pub fn invitation(&self) -> Result<String> {
        let (client, vip) = (self.topology.client.name(), self.topology.vip(VIP_PORT));
        let lbctl = format!("{} --socket {}", binary("lbctl")?.display(), self.control().socket().display());
        Ok(format!(
            "The shop stays open, the load goes on. In another terminal, as root, try\n\n  \
             ip netns exec {client} curl -s http://{vip}/whoami\n  \
             ip netns exec {client} wrk -t1 -c50 -d5s http://{vip}/\n  \
             {lbctl} status\n  \
             {lbctl} service get {SHOP}\n  \
             {lbctl} backend drain {SHOP} {}\n  \
             {lbctl} reasons\n  \
             {lbctl} --help\n\n\
             Logs are in {}. Ctrl-C ends it and cleans up.",
            self.backend(0),
            self.topology.directory().display(),
        ))
    }
}

fn success(output: &Output, tool: &str) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{tool}: {}: {text}{}", output.status, error.trim());
    Ok(text)
}
