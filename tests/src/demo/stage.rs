//! Namespaces, controller, gateways, services and the load.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    control::Control,
    controller::Controller,
    curl::{self, Reply},
    demo::{
        bank::{self, Bank},
        cast::{GATEWAY_SERVICE, Part, Shape, Story, configuration},
        shop::Shop,
    },
    gateway::{self, Gateway},
    instance::{Instance, served},
    load::{Load, Plan, Script, Tally},
    process::binary,
    requires::is_installed,
    server::PORT,
    topology::Topology,
};

/// Customers of the load: half of them keep their connection for a while.
const CUSTOMERS: usize = 40;
/// As in the examples: what the balancer's checks take to find a death, interval × fall + timeout.
pub const DETECTION: Duration = Duration::from_millis(500 * 3 + 500);
/// Likewise the gateway's, before which no balancer stands.
pub const GATEWAY_DETECTION: Duration = Duration::from_millis(500 * 2 + 500);
/// As in the examples: the oldest connection that a gateway still uses.
pub const POOL_AGE_MAX: Duration = Duration::from_secs(3);

/// Everything that is up. Fields are dropped in this order: traffic first, namespaces last.
pub struct Stage {
    load: Option<Load>,
    /// Counts of loads that have ended.
    past_load: Tally,
    gateways: Vec<Option<Gateway>>,
    instances: BTreeMap<usize, Instance>,
    /// What instances served that no longer run, by name.
    past_served: BTreeMap<String, u64>,
    controller: Controller,
    topology: Arc<Topology>,
    /// The topology that is shown.
    pub shape: Shape,
    /// The story that is played.
    pub story: Story,
    /// Who asks.
    pub customers: Customers,
}

/// The load's script, by story.
#[derive(Clone)]
pub enum Customers {
    /// Of the bank.
    Bank(Arc<Bank>),
    /// Of the shop.
    Shop(Arc<Shop>),
}

impl Stage {
    /// Builds it all, with the load running.
    pub fn set(shape: Shape, story: Story) -> Result<Self> {
        let parts = story.parts();
        let names: Vec<String> = parts.iter().map(|part| part.name()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let topology = Topology::tiers(shape.gateways(), &names)?;
        let customers = match story {
            Story::Bank => Customers::Bank(Arc::new(Bank::new(CUSTOMERS)?)),
            Story::Shop => Customers::Shop(Arc::default()),
        };
        let file = configuration(shape, story).join("lb-control.toml");
        let controller = Controller::start_configured(&topology, &file)?;
        let mut stage = Self {
            load: None,
            past_load: Tally::default(),
            gateways: (0..shape.gateways()).map(|_| None).collect(),
            instances: BTreeMap::new(),
            past_served: BTreeMap::new(),
            controller,
            topology,
            shape,
            story,
            customers,
        };
        // A balanced service opens with one instance less than it has in the end, and so do the gateways.
        let joining = story.mover(3);
        for part in parts.into_iter().filter(|part| !(shape.balances_services() && *part == joining)) {
            stage.open_instance(part)?;
        }
        stage.control().installed()?;
        for index in 0..shape.gateways().saturating_sub(1).max(1) {
            stage.open_gateway(index)?;
        }
        stage.resume()?;
        Ok(stage)
    }

    /// Starts the load if it is stopped.
    pub fn resume(&mut self) -> Result<()> {
        if self.load.is_none() {
            let plan = Plan {
                keep_alive: CUSTOMERS / 2,
                fresh: CUSTOMERS / 2,
                requests_kept: 30,
                pause: Duration::from_millis(100),
                ..Plan::steady(self.shape.entrance())
            };
            let script: Arc<dyn Script> = match &self.customers {
                Customers::Bank(bank) => bank.clone(),
                Customers::Shop(shop) => shop.clone(),
            };
            self.load = Some(Load::start_script(&self.topology.client, plan, script)?);
        }
        Ok(())
    }

    /// Lets every customer finish, and no longer ask.
    pub fn pause(&mut self) -> Result<()> {
        if let Some(load) = self.load.take() {
            let tally = load.stop()?;
            self.past_load.add(&tally);
        }
        Ok(())
    }

    /// All counts so far.
    pub fn tally(&self) -> Tally {
        let mut tally = self.past_load.clone();
        if let Some(load) = &self.load {
            tally.add(&load.tally());
        }
        tally
    }

    /// Requests so far by gateway, as customers saw it, and by instance, as it says itself.
    pub fn served(&self) -> Result<BTreeMap<String, u64>> {
        let mut counts = self.tally().by_server;
        for (name, count) in &self.past_served {
            *counts.entry(name.clone()).or_default() += count;
        }
        for part in self.story.parts().iter().filter(|part| self.instances.contains_key(&part.index)) {
            *counts.entry(part.name()).or_default() += served(self.topology.service_namespace(part.index)?)?;
        }
        Ok(counts)
    }

    /// The controller's API.
    pub fn control(&self) -> &Control {
        self.controller.control()
    }

    /// The ends of the daemons' logs.
    pub fn log_tails(&mut self) -> String {
        let mut text = self.controller.process().map(|process| process.log_tail()).unwrap_or_default();
        for gateway in self.gateways.iter().flatten() {
            text += &format!("\n---\n{}", gateway.log_tail());
        }
        text
    }

    /// This topology's directory: logs, journals, the gateways' configuration.
    pub fn directory(&self) -> &Path {
        self.topology.directory()
    }

    /// A gateway as the balancer knows it.
    pub fn gateway_address(&self, index: usize) -> SocketAddr {
        SocketAddr::from((self.topology.server_address(index), PORT))
    }

    /// An instance as balancer or gateway know it.
    pub fn part_address(part: Part) -> SocketAddr {
        SocketAddr::from((Topology::service_address(part.index), PORT))
    }

    /// Starts a gateway that does not run.
    pub fn open_gateway(&mut self, index: usize) -> Result<()> {
        let file = configuration(self.shape, self.story).join("gateway.yaml");
        let keys = match &self.customers {
            Customers::Bank(bank) => vec![bank.keys()?],
            Customers::Shop(_) => vec![],
        };
        self.gateways[index] = Some(Gateway::start(&self.topology, index, &file, &keys)?);
        Ok(())
    }

    /// Takes a gateway that runs.
    pub fn take_gateway(&mut self, index: usize) -> Result<Gateway> {
        self.gateways[index].take().with_context(|| format!("{} runs", gateway::name(index)))
    }

    /// Starts an instance that does not run.
    pub fn open_instance(&mut self, part: Part) -> Result<()> {
        let instance = Instance::start(&self.topology, part.index, part.service, &part.name())?;
        self.instances.insert(part.index, instance);
        Ok(())
    }

    /// Takes an instance that runs; what it served until now is remembered.
    pub fn take_instance(&mut self, part: Part) -> Result<Instance> {
        let count = self.instance_served(part)?;
        *self.past_served.entry(part.name()).or_default() += count;
        self.instances.remove(&part.index).with_context(|| format!("{} runs", part.name()))
    }

    /// What an instance served since it was started.
    pub fn instance_served(&self, part: Part) -> Result<u64> {
        served(self.topology.service_namespace(part.index)?)
    }

    /// What curl gets, with these header lines.
    pub fn curl(&self, path: &str, headers: &[&str]) -> Result<Reply> {
        curl::get(&self.topology.client, &self.url(path), headers)
    }

    /// What curl gets of every URL of a pattern.
    pub fn curl_all(&self, pattern: &str, headers: &[&str]) -> Result<Vec<Reply>> {
        curl::get_all(&self.topology.client, &self.url(pattern), headers)
    }

    /// Lets wrk ask for two seconds, where it is installed; its summary.
    pub fn wrk(&self, path: &str) -> Result<Option<String>> {
        if !is_installed("wrk") {
            return Ok(None);
        }
        let mut command = self.topology.client.command("wrk");
        let output = command.args(["-t1", "-c30", "-d2s", "--timeout", "5s", &self.url(path)]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "wrk: {}: {text}", output.status);
        let errors = text.lines().find(|line| line.contains("errors") || line.contains("Non-2xx"));
        ensure!(errors.is_none(), "wrk saw {}", errors.unwrap_or_default().trim());
        Ok(text.lines().find(|line| line.contains("requests in")).map(|line| line.trim().to_string()))
    }

    /// What to try while it stays up.
    pub fn invitation(&self) -> Result<String> {
        let client = self.topology.client.name();
        let lbctl = format!("{} --socket {}", binary("lbctl")?.display(), self.control().socket().display());
        let curl = match &self.customers {
            Customers::Bank(bank) => {
                let token: PathBuf = self.directory().join("token");
                std::fs::write(&token, format!("authorization: Bearer {}", bank.token("you")?))?;
                let url = self.url(&bank::path(1));
                format!(
                    "ip netns exec {client} curl -i {url}\n  \
                     ip netns exec {client} curl -i -H @{} {url}",
                    token.display()
                )
            }
            Customers::Shop(_) => format!("ip netns exec {client} curl -i {}", self.url("/shop/items")),
        };
        let service = if self.shape.balances_services() { self.story.moving() } else { GATEWAY_SERVICE };
        let gateway = self.topology.servers[0].name();
        Ok(format!(
            "Everything stays up, the load goes on. In another terminal, as root, try\n\n  {curl}\n  \
             {lbctl} status\n  \
             {lbctl} service get {service}\n  \
             {lbctl} reasons\n  \
             ip netns exec {gateway} curl -s http://127.0.0.1:9100/metrics\n\n\
             The configuration is in {}, logs are in {}. Ctrl-C ends it and cleans up.",
            configuration(self.shape, self.story).display(),
            self.directory().display(),
        ))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.shape.entrance())
    }
}
