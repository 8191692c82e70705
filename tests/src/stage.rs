//! What most tests begin with: a topology, a server in each of its namespaces, and a controller.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Result;

use crate::{
    control::{Control, at},
    controller::Controller,
    requires::requires,
    server::{PORT, Server},
    topology::Topology,
};

/// Everything that is up, without a service yet. Fields are dropped in this order: namespaces last.
pub struct Stage {
    /// The controller's API, also of one that is started again.
    pub control: Control,
    /// Where the servers listen, in their order.
    pub backends: Vec<SocketAddr>,
    /// The controller.
    pub controller: Controller,
    /// The running servers, in the order of the topology's namespaces.
    pub servers: Vec<Server>,
    /// Clients, balancer and the servers' namespaces.
    pub topology: Arc<Topology>,
}

impl Stage {
    /// So many servers in [`Topology::routed`].
    pub fn routed(servers: usize) -> Result<Self> {
        Self::routed_in("auto", servers)
    }

    /// Likewise, with the program attached in this mode; see [`Controller::start_in`].
    pub fn routed_in(mode: &'static str, servers: usize) -> Result<Self> {
        requires();
        Self::over(Topology::routed(servers)?, mode)
    }

    /// So many servers in [`Topology::segment`].
    pub fn segment(servers: usize) -> Result<Self> {
        requires();
        Self::over(Topology::segment(servers)?, "auto")
    }

    /// [`Self::routed`] with IPv6 beside IPv4.
    pub fn dual_routed(servers: usize) -> Result<Self> {
        requires();
        let topology = Topology::routed(servers)?;
        topology.dual_stack()?;
        Self::configured(topology)
    }

    /// [`Self::segment`] with IPv6 beside IPv4.
    pub fn dual_segment(servers: usize) -> Result<Self> {
        requires();
        let topology = Topology::segment(servers)?;
        topology.dual_stack()?;
        Self::configured(topology)
    }

    /// One server at so many addresses, each of them a backend.
    pub fn farm(addresses: u8) -> Result<Self> {
        requires();
        let topology = Topology::routed(1)?;
        let backends = at(topology.add_farm(0, addresses)?, PORT);
        let servers = vec![Server::start_farm(&topology, 0)?];
        Self::with(topology, servers, backends, "auto")
    }

    /// The servers' addresses with another port.
    pub fn at(&self, port: u16) -> Vec<SocketAddr> {
        addresses(&self.topology, port)
    }

    /// With a pool for `full-nat` in the servers' network.
    fn configured(topology: Arc<Topology>) -> Result<Self> {
        let file = topology.directory().join("lb-control.toml");
        let [v4, v6] = topology.pool();
        std::fs::write(&file, format!("[full_nat]\naddresses = [\"{v4}\", \"{v6}\"]\n"))?;
        let indices = 0..topology.servers.len();
        let servers = indices.map(|index| Server::start(&topology, index)).collect::<Result<_>>()?;
        let controller = Controller::start_configured(&topology, &file)?;
        let backends = addresses(&topology, PORT);
        Ok(Self { control: controller.control().clone(), backends, controller, servers, topology })
    }

    fn over(topology: Arc<Topology>, mode: &'static str) -> Result<Self> {
        let indices = 0..topology.servers.len();
        let servers = indices.map(|index| Server::start(&topology, index)).collect::<Result<_>>()?;
        let backends = addresses(&topology, PORT);
        Self::with(topology, servers, backends, mode)
    }

    fn with(
        topology: Arc<Topology>,
        servers: Vec<Server>,
        backends: Vec<SocketAddr>,
        mode: &'static str,
    ) -> Result<Self> {
        let controller = Controller::start_in(&topology, mode)?;
        Ok(Self { control: controller.control().clone(), backends, controller, servers, topology })
    }
}

fn addresses(topology: &Topology, port: u16) -> Vec<SocketAddr> {
    at((0..topology.servers.len()).map(|index| topology.server_address(index)), port)
}
