//! Clients, a balancer, a switch and servers, each in a namespace of its own.
//!
//! ```text
//! routed:   client eth0 ── c0 balancer b0 ── switch ── eth0 web1, web2, …
//!           10.10.0.0/24                    10.20.0.0/24, default gateway: the balancer
//! segment:  client, balancer (lan0), web1, web2, … all on one switch, 10.10.0.0/24
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use anyhow::Result;
use tempfile::TempDir;

use crate::{
    dual::VIP_V6,
    netns::{Namespace, cable, run},
    requires::{DIRECTORY_PREFIX, pin_directory},
    xdp::PassProgram,
};

/// The virtual address of every topology.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 100);
/// The client's address.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 10, 0, 2);

/// Namespaces and cables, gone when dropped, with a directory for logs, sockets and state.
pub struct Topology {
    /// Where clients live.
    pub client: Namespace,
    /// Where the balancer lives.
    pub balancer: Namespace,
    /// The switch of the servers or, in a segment, of all.
    pub switch: Namespace,
    /// Where servers live, in tiers the gateways; see [`Topology::server_address`].
    pub servers: Vec<Namespace>,
    /// The network behind the gateways; only in [`Topology::tiers`](crate::tiers).
    pub(crate) behind: Option<Behind>,
    shape: Shape,
    number: u32,
    directory: TempDir,
    far_ends: Mutex<Vec<PassProgram>>,
    /// Set by [`Topology::dual_stack`].
    pub(crate) dual: AtomicBool,
}

/// A second network of servers, with a switch of its own.
pub(crate) struct Behind {
    pub(crate) switch: Namespace,
    pub(crate) services: Vec<Namespace>,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Shape {
    Routed,
    Segment,
    Tiers,
}

impl Topology {
    /// Clients and servers in different networks, joined by the balancer.
    pub fn routed(servers: usize) -> Result<Arc<Self>> {
        Self::routed_over(servers, Self::connect_client)
    }

    /// Likewise, over two network cards of this machine that reach each other: the client's and the balancer's.
    pub fn routed_over_cards(servers: usize, client: &str, balancer: &str) -> Result<Arc<Self>> {
        let moves = [(client, "eth0"), (balancer, "c0")];
        Self::routed_over(servers, |topology| {
            for ((card, name), namespace) in moves.into_iter().zip([&topology.client, &topology.balancer]) {
                run(Command::new("ip").args(["link", "set", card, "netns", namespace.name(), "name", name]))?;
                // Not every card lets itself be told.
                let _ = namespace.offload(name, &["tx", "off", "gro", "on"]);
                namespace.ip(&format!("link set {name} up"))?;
            }
            Ok(())
        })
    }

    fn routed_over(servers: usize, connect_client: impl FnOnce(&Self) -> Result<()>) -> Result<Arc<Self>> {
        let topology = Self::create(Shape::Routed, "web", servers)?;
        topology.wire_routed(connect_client)?;
        Ok(Arc::new(topology))
    }

    /// Clients, balancer and servers in their networks.
    pub(crate) fn wire_routed(&self, connect_client: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        connect_client(self)?;
        self.address_client()?;
        self.connect_switch()?;
        self.balancer.sysctl("ipv4/ip_forward", "1")?;
        for (index, server) in self.servers.iter().enumerate() {
            plug_in(server, &self.switch, &format!("p{index}"))?;
            let address = self.server_address(index);
            server.ip(&format!("addr add {address}/24 dev eth0\nroute add default via 10.20.0.1"))?;
        }
        Ok(())
    }

    /// The cable between client and balancer of a routed topology, without addresses.
    pub(crate) fn connect_client(&self) -> Result<()> {
        self.balancer_cable("c0", &self.client, "eth0")
    }

    fn address_client(&self) -> Result<()> {
        self.client.ip(&format!("addr add {CLIENT}/24 dev eth0\nroute add default via 10.10.0.1"))?;
        self.balancer.ip("addr add 10.10.0.1/24 dev c0")
    }

    /// Connects the client of a routed topology anew, after its cable was removed.
    pub fn reconnect_client(&self) -> Result<()> {
        self.connect_client()?;
        self.address_client()
    }

    /// Connects the balancer of a routed topology to the switch, at first and after the cable was removed.
    pub fn connect_switch(&self) -> Result<()> {
        self.balancer_cable("b0", &self.switch, "b0")?;
        self.switch.ip("link set b0 master br0")?;
        self.balancer.ip("addr add 10.20.0.1/24 dev b0")
    }

    /// All in one network; every server also owns the virtual address, but does not answer ARP for it.
    pub fn segment(servers: usize) -> Result<Arc<Self>> {
        let topology = Self::create(Shape::Segment, "web", servers)?;
        let Self { client, balancer, switch, .. } = &topology;
        plug_in(client, switch, "client")?;
        client.ip(&format!("addr add {CLIENT}/24 dev eth0"))?;
        topology.balancer_cable("lan0", switch, "balancer")?;
        switch.ip("link set balancer master br0")?;
        balancer.ip("addr add 10.10.0.1/24 dev lan0")?;
        for (index, server) in topology.servers.iter().enumerate() {
            plug_in(server, switch, &format!("p{index}"))?;
            server.sysctl("ipv4/conf/all/arp_ignore", "1")?;
            server.sysctl("ipv4/conf/all/arp_announce", "2")?;
            for interfaces in ["all", "eth0"] {
                server.sysctl(&format!("ipv4/conf/{interfaces}/rp_filter"), "0")?;
            }
            server.sysctl("ipv4/conf/all/accept_local", "1")?;
            let address = topology.server_address(index);
            server.ip(&format!("addr add {VIP}/32 dev lo\naddr add {address}/24 dev eth0"))?;
        }
        Ok(Arc::new(topology))
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// The interfaces that the balancer attaches to.
    pub fn interfaces(&self) -> &'static [&'static str] {
        match self.shape {
            Shape::Routed => &["c0", "b0"],
            Shape::Segment => &["lan0"],
            Shape::Tiers => &["c0", "b0", "s0"],
        }
    }

    /// The address of the server of this index.
    pub fn server_address(&self, index: usize) -> Ipv4Addr {
        let network = match self.shape {
            Shape::Routed | Shape::Tiers => 20,
            Shape::Segment => 10,
        };
        Ipv4Addr::new(10, network, 0, 11 + index as u8)
    }

    /// Where servers listen for datagrams: their answers come from there, in a segment in the service's name.
    pub fn echo_addresses(&self) -> Vec<IpAddr> {
        match (self.shape, self.is_dual()) {
            (Shape::Routed | Shape::Tiers, false) => vec![Ipv4Addr::UNSPECIFIED.into()],
            (Shape::Routed | Shape::Tiers, true) => vec![Ipv6Addr::UNSPECIFIED.into()],
            (Shape::Segment, false) => vec![VIP.into()],
            (Shape::Segment, true) => vec![VIP.into(), VIP_V6.into()],
        }
    }

    /// Gives a server of a routed topology further addresses, 10.20.0.101 onwards, for a farm in one namespace.
    pub fn add_farm(&self, index: usize, addresses: u8) -> Result<Vec<Ipv4Addr>> {
        let addresses: Vec<_> = (0..addresses).map(|number| Ipv4Addr::new(10, 20, 0, 101 + number)).collect();
        let lines: String =
            addresses.iter().map(|address| format!("addr add {address}/24 dev eth0\n")).collect();
        self.servers[index].ip(&lines)?;
        Ok(addresses)
    }

    /// The virtual address with a port.
    pub fn vip(&self, port: u16) -> SocketAddr {
        SocketAddr::V4(SocketAddrV4::new(VIP, port))
    }

    /// A directory of this topology alone.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where this topology's daemons pin programs and maps.
    pub fn pins(&self) -> PathBuf {
        pin_directory(self.number)
    }

    /// Namespaces without cables; those of servers are called `role` and a number from 1.
    pub(crate) fn create(shape: Shape, role: &str, servers: usize) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let create = |role: &str| Namespace::create(&role_name(number, role));
        let prefix = format!("{DIRECTORY_PREFIX}{}-", std::process::id());
        let topology = Self {
            client: create("client")?,
            balancer: create("balancer")?,
            switch: create("switch")?,
            servers: (1..=servers).map(|index| create(&format!("{role}{index}"))).collect::<Result<_>>()?,
            behind: None,
            shape,
            number,
            directory: tempfile::Builder::new().prefix(&prefix).tempdir()?,
            far_ends: Mutex::default(),
            dual: AtomicBool::new(false),
        };
        // Thousands of short connections to one address: ports are taken again after a second, not a minute.
        topology.client.sysctl("ipv4/tcp_tw_reuse", "1")?;
        topology.client.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
        make_switch(&topology.switch)?;
        Ok(topology)
    }

    /// One more namespace of this topology.
    pub(crate) fn namespace(&self, role: &str) -> Result<Namespace> {
        Namespace::create(&role_name(self.number, role))
    }

    /// A cable whose far end also takes what the balancer sends back where it came from.
    pub(crate) fn balancer_cable(&self, interface: &str, far: &Namespace, far_interface: &str) -> Result<()> {
        cable((&self.balancer, interface), (far, far_interface))?;
        let program = PassProgram::attach(far, far_interface)?;
        self.far_ends.lock().expect("unpoisoned").push(program);
        Ok(())
    }
}

/// A namespace becomes a switch, without ports.
pub(crate) fn make_switch(switch: &Namespace) -> Result<()> {
    switch.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up")
}

/// Connects a host's `eth0` to a port of a switch.
pub(crate) fn plug_in(host: &Namespace, switch: &Namespace, port: &str) -> Result<()> {
    cable((host, "eth0"), (switch, port))?;
    switch.ip(&format!("link set {port} master br0"))
}

fn role_name(topology: u32, role: &str) -> String {
    match topology {
        0 => role.to_string(),
        _ => format!("{topology}-{role}"),
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.pins());
    }
}
