//! Three tiers: clients, gateways and services, each in a network of its own, joined by the balancer.
//!
//! ```text
//! client eth0 ── c0 balancer b0 ── switch ── eth0 gateway1, gateway2, …    10.20.0.0/24
//! 10.10.0.0/24         │
//!                      s0 ── switch ── eth0 accounts1, accounts2, …        10.30.0.0/24
//! ```
//!
//! Gateways and services have the balancer as their default gateway, so that whatever passes between two
//! tiers passes the balancer: to a virtual address balanced, to any other address routed.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Context as _, Result};

use crate::{
    netns::Namespace,
    topology::{Behind, Shape, Topology, make_switch, plug_in},
};

impl Topology {
    /// So many gateways, as this topology's servers, and a namespace for each of these instances of services.
    pub fn tiers(gateways: usize, services: &[&str]) -> Result<Arc<Self>> {
        let mut topology = Self::create(Shape::Tiers, "gateway", gateways)?;
        topology.wire_routed(Self::connect_client)?;
        topology.behind = Some(Behind {
            switch: topology.namespace("service-switch")?,
            services: services.iter().map(|name| topology.namespace(name)).collect::<Result<_>>()?,
        });
        topology.wire_services()?;
        Ok(Arc::new(topology))
    }

    fn wire_services(&self) -> Result<()> {
        let Behind { switch, services } = self.behind.as_ref().context("tiers")?;
        make_switch(switch)?;
        self.balancer_cable("s0", switch, "s0")?;
        switch.ip("link set s0 master br0")?;
        self.balancer.ip("addr add 10.30.0.1/24 dev s0")?;
        for (index, service) in services.iter().enumerate() {
            plug_in(service, switch, &format!("p{index}"))?;
            let address = Self::service_address(index);
            service.ip(&format!("addr add {address}/24 dev eth0\nroute add default via 10.30.0.1"))?;
        }
        Ok(())
    }

    /// Where the instance of this index lives.
    pub fn service_namespace(&self, index: usize) -> Result<&Namespace> {
        let behind = self.behind.as_ref().context("a topology of tiers")?;
        behind.services.get(index).with_context(|| format!("an instance of index {index}"))
    }

    /// Its address.
    pub fn service_address(index: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 30, 0, 11 + index as u8)
    }
}
