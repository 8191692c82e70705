//! So many services and backends, in the store of a controller, and the servers that they mean.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_control::{
    desired::{Condition, DesiredState},
    model::{Service, ServiceSpec},
};
use serde_json::{Value, json};

use crate::{control::Control, process::Process, topology::Topology};

/// The service whose backends are changed.
pub const BIG: &str = "big";
/// Where its backends listen.
pub const BIG_PORT: u16 = 9_999;
/// Its virtual address.
pub const BIG_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
/// Its virtual port.
pub const BIG_VIP_PORT: u16 = 7_000;
/// Ports of an address that small services share.
const SERVICES_PER_ADDRESS: usize = 40;
/// Addresses of backends of small services; each is the host of several.
const SMALL_HOSTS: usize = 1_000;
const SMALL_FIRST_PORT: u16 = 10_000;
const START_LIMIT: Duration = Duration::from_secs(600);

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Services, the big one among them.
    pub services: usize,
    /// Backends of all services together.
    pub backends: usize,
    /// Backends of the big one, at most 64,000.
    pub big: usize,
}

/// A topology, the servers' sockets, and a controller that is started and killed.
pub struct World {
    /// How much there is.
    pub size: Size,
    /// Clients, balancer, and one host that has the address of every backend.
    pub topology: Arc<Topology>,
    program: PathBuf,
    process: Option<Process>,
    control: Control,
    /// Of small services: what arrives is dropped, and nobody is told that a port is closed.
    _sinks: Vec<UdpSocket>,
}

impl World {
    /// A world whose store holds `size`; no controller runs yet.
    pub fn build(size: Size, program: PathBuf) -> Result<Self> {
        ensure!(size.services > 1 && size.backends > size.big, "there are small services beside the big one");
        let topology = Topology::routed(1)?;
        let host = topology.server_address(0);
        // One neighbour leads to all backends: what is measured is the controller, not the kernel's neighbours.
        topology.balancer.ip(&format!("route add 10.64.0.0/10 via {host}"))?;
        topology.servers[0].ip("route add local 10.64.0.0/10 dev lo")?;
        let ports = (size.backends - size.big).div_ceil(SMALL_HOSTS) as u16;
        let bind = || (0..ports).map(|port| UdpSocket::bind(("0.0.0.0", SMALL_FIRST_PORT + port))).collect();
        let sinks: std::io::Result<Vec<UdpSocket>> = topology.servers[0].enter(bind)?;
        let control = Control::new(&topology.directory().join("run/control.sock"));
        let world = Self { size, topology, program, process: None, control, _sinks: sinks? };
        world.fill()?;
        Ok(world)
    }

    /// Starts the controller; how long it took until everything in the store was installed and every interface
    /// attached.
    pub fn start(&mut self) -> Result<Duration> {
        let directory = self.topology.directory();
        let mut command = self.topology.balancer.command(&self.program);
        command.args(["run", "--iface", &self.topology.interfaces().join(",")]);
        command.arg("--state-dir").arg(directory.join("state"));
        command.arg("--runtime-dir").arg(directory.join("run"));
        command.arg("--pin-dir").arg(self.topology.pins());
        let file = directory.join("lb-control.toml");
        command.arg("--config").arg(&file);
        let slots = (2 * self.size.services * 1_024).next_power_of_two();
        fs::write(&file, format!("[limits]\nslots = {slots}\n"))?;
        let begun = Instant::now();
        let process = Process::start(command, "lb-control", &directory.join("lb-control.log"))?;
        let control = self.control.clone();
        self.process.insert(process).ready(START_LIMIT, || {
            let status = control.get("/v1/status")?;
            let interfaces = status["interfaces"].as_array().context("interfaces")?;
            let attached = interfaces.iter().filter(|interface| interface["attached"] == true).count();
            ensure!(attached == self.topology.interfaces().len() && status["installed"] == true, "{status}");
            Ok(())
        })?;
        Ok(begun.elapsed())
    }

    /// Kills the controller; what it installed stays.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("it does not run")?.kill()
    }

    /// Removes the programs and tables, as a reboot does.
    pub fn unload(&self) -> Result<()> {
        let pins = self.topology.pins();
        let status = self
            .topology
            .balancer
            .command(&self.program)
            .arg("unload")
            .arg("--pin-dir")
            .arg(pins)
            .status()?;
        ensure!(status.success(), "lb-control unload: {status}");
        Ok(())
    }

    /// The controller's API.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The running daemon.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("it does not run")
    }

    /// Where a small service is reached.
    pub fn small_vip(&self, index: usize) -> SocketAddr {
        let (address, port) = (index / SERVICES_PER_ADDRESS, index % SERVICES_PER_ADDRESS);
        SocketAddr::from((small_address(address), 1_000 + port as u16))
    }

    fn fill(&self) -> Result<()> {
        let state = self.topology.directory().join("state");
        fs::create_dir_all(&state)?;
        let desired = DesiredState::open(&state.join("desired.redb"))?;
        desired.set_slots(u32::MAX);
        let services = self.services()?;
        let filled = desired.order(Condition::None, |all| {
            for service in services {
                all.services.insert(service.name.clone(), service);
            }
            Ok(())
        });
        filled.map(drop).map_err(|refusal| anyhow::anyhow!("{}", refusal.in_words()))
    }

    fn services(&self) -> Result<Vec<Service>> {
        let big = (0..self.size.big).map(|index| backend(big_host(index), BIG_PORT));
        let mut services = vec![service(BIG, (BIG_VIP, BIG_VIP_PORT).into(), big.collect())?];
        let (small, mut left) = (self.size.services - 1, self.size.backends - self.size.big);
        let mut next = 0;
        for index in 0..small {
            let count = left.div_ceil(small - index);
            let backends = (next..next + count).map(|number| {
                let host = Ipv4Addr::from(0x0a40_0000 + (number % SMALL_HOSTS) as u32);
                backend(host, SMALL_FIRST_PORT + (number / SMALL_HOSTS) as u16)
            });
            services.push(service(&small_name(index), self.small_vip(index), backends.collect())?);
            (next, left) = (next + count, left - count);
        }
        Ok(services)
    }
}

/// The name of a small service.
pub fn small_name(index: usize) -> String {
    format!("small-{index}")
}

/// The address of a backend of the big service.
pub fn big_host(index: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a50_0000 + index as u32)
}

fn small_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::from(0xc612_0000 + index as u32)
}

fn backend(host: Ipv4Addr, port: u16) -> Value {
    json!({ "address": host.to_string(), "port": port })
}

/// Nothing is remembered of flows: every packet goes where the table says now.
fn service(name: &str, vip: SocketAddr, backends: Vec<Value>) -> Result<Service> {
    let IpAddr::V4(address) = vip.ip() else { anyhow::bail!("{vip} is IPv6") };
    let spec = json!({
        "name": name, "address": address.to_string(), "port": vip.port(), "protocol": "udp", "mode": "nat",
        "connectionless": true, "backends": backends,
    });
    let spec: ServiceSpec = serde_json::from_value(spec)?;
    Service::new(&spec).map_err(|errors| anyhow::anyhow!("{name}: {errors:?}"))
}
