//! IPv6 beside IPv4 in a topology, and tunnels' far ends on its servers.
//!
//! ```text
//! routed:   client 2001:db8:10::2 ── c0 ::1 balancer b0 2001:db8:20::1 ── switch ── web1 2001:db8:20::b, …
//! segment:  all in 2001:db8:10::/64; servers own the virtual addresses on `lo`, which nobody asks them for
//! ```

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::atomic::Ordering,
};

use anyhow::{Result, ensure};

use crate::{
    netns::Namespace,
    process::binary,
    topology::{Shape, Topology, VIP},
};

/// The IPv6 virtual address of every topology.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x10, 0, 0, 0, 0, 0x100);
/// The client's IPv6 address.
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x10, 0, 0, 0, 0, 2);

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The virtual address.
    pub fn vip(self) -> IpAddr {
        match self {
            Self::V4 => VIP.into(),
            Self::V6 => VIP_V6.into(),
        }
    }
}

impl Topology {
    /// Gives every host an IPv6 address as well; before servers are started.
    pub fn dual_stack(&self) -> Result<()> {
        self.dual.store(true, Ordering::Relaxed);
        let segment = self.shape() == Shape::Segment;
        enable(&self.client, &["eth0"])?;
        enable(&self.balancer, self.interfaces())?;
        self.client.ip(&format!("addr add {CLIENT_V6}/64 dev eth0 nodad"))?;
        let router = |network: u16| Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, 1);
        self.balancer.ip(&format!("addr add {}/64 dev {} nodad", router(0x10), self.interfaces()[0]))?;
        if !segment {
            self.client.ip(&format!("route add default via {}", router(0x10)))?;
            self.balancer.ip(&format!("addr add {}/64 dev {} nodad", router(0x20), self.interfaces()[1]))?;
        }
        for (index, server) in self.servers.iter().enumerate() {
            enable(server, &["eth0", "lo"])?;
            server.ip(&format!("addr add {}/64 dev eth0 nodad", self.server_address_v6(index)))?;
            if segment {
                server.ip(&format!("addr add {VIP_V6}/128 dev lo nodad"))?;
            } else {
                server.ip(&format!("route add default via {}", router(0x20)))?;
            }
        }
        Ok(())
    }

    /// Whether it has IPv6 addresses.
    pub fn is_dual(&self) -> bool {
        self.dual.load(Ordering::Relaxed)
    }

    /// The IPv6 address of the server of this index.
    pub fn server_address_v6(&self, index: usize) -> Ipv6Addr {
        let network = if self.shape() == Shape::Segment { 0x10 } else { 0x20 };
        Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, 11 + index as u16)
    }

    /// Addresses in the servers' network that nobody has: what `full-nat` sends from.
    pub fn pool(&self) -> [IpAddr; 2] {
        let mut v4 = self.server_address(0).octets();
        let mut v6 = self.server_address_v6(0).segments();
        (v4[3], v6[7]) = (50, 0x50);
        [v4.into(), v6.into()]
    }

    /// Where the servers are reached, on this port.
    pub fn servers_at(&self, family: Family, port: u16) -> Vec<SocketAddr> {
        let address = |index| -> IpAddr {
            match family {
                Family::V4 => self.server_address(index).into(),
                Family::V6 => self.server_address_v6(index).into(),
            }
        };
        (0..self.servers.len()).map(|index| SocketAddr::new(address(index), port)).collect()
    }

    /// Has every server take packets out of tunnels, by `lbctl decap`, until the guard is dropped.
    pub fn open_tunnels(&self) -> Result<Vec<TunnelEnd<'_>>> {
        self.servers.iter().map(TunnelEnd::open).collect()
    }
}

/// A server that takes packets out of tunnels.
pub struct TunnelEnd<'t>(&'t Namespace);

impl<'t> TunnelEnd<'t> {
    fn open(server: &'t Namespace) -> Result<Self> {
        let end = Self(server);
        end.run("attach")?;
        Ok(end)
    }

    /// What `lbctl decap status` says.
    pub fn status(&self) -> Result<String> {
        self.run("status")
    }

    fn run(&self, order: &str) -> Result<String> {
        let pins = format!("/sys/fs/bpf/{}-decap", self.0.name());
        let output = self
            .0
            .command(binary("lbctl")?)
            .args(["decap", order, "--interface", "eth0", "--pin-dir", &pins])
            .output()?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.success(),
            "lbctl decap {order}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        Ok(text(&output.stdout))
    }
}

impl Drop for TunnelEnd<'_> {
    fn drop(&mut self) {
        let _ = self.run("detach");
    }
}

/// Neither duplicate address detection nor router advertisements: tests count packets, and wait for nothing.
fn enable(namespace: &Namespace, interfaces: &[&str]) -> Result<()> {
    for interface in interfaces {
        for (key, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("disable_ipv6", "0")] {
            namespace.sysctl(&format!("ipv6/conf/{interface}/{key}"), value)?;
        }
    }
    Ok(())
}
