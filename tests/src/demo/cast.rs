//! Who plays: topologies, stories, their services, and where the files lie that configure them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use clap::ValueEnum;

use crate::{gateway, server::PORT, topology::VIP};

/// Gateways that a story with several knows; it opens with all but the last.
pub const GATEWAYS: usize = 4;
/// The balancer's service before the gateways.
pub const GATEWAY_SERVICE: &str = "gateways";

/// Where the balancer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Before the gateways: it spreads clients' connections over them
    Before,
    /// After one gateway: every service has a virtual address of its own
    After,
    /// Before the gateways and after them
    Hybrid,
}

/// What is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Story {
    /// A mobile bank: one call returns account, transactions and exchange rates of three services
    Bank,
    /// An e-commerce site under load: catalogue, cart and checkout
    Shop,
}

/// An instance of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The service.
    pub service: &'static str,
    /// From 1.
    pub number: usize,
    /// Among all instances of the story; its namespace and its address.
    pub index: usize,
}

impl Shape {
    /// Whether clients reach the gateways through the balancer.
    pub fn balances_gateways(self) -> bool {
        self != Self::After
    }

    /// Whether gateways reach services through the balancer.
    pub fn balances_services(self) -> bool {
        self != Self::Before
    }

    /// Gateways that there are in the course of a story.
    pub fn gateways(self) -> usize {
        if self.balances_gateways() { GATEWAYS } else { 1 }
    }

    /// Where clients go.
    pub fn entrance(self) -> SocketAddr {
        match self.balances_gateways() {
            true => SocketAddr::from((VIP, 80)),
            false => SocketAddr::from((Ipv4Addr::new(10, 20, 0, 11), PORT)),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
            Self::Hybrid => "hybrid",
        }
    }
}

impl Story {
    /// The service whose instances come and go.
    pub fn moving(self) -> &'static str {
        match self {
            Self::Bank => "accounts",
            Self::Shop => "checkout",
        }
    }

    /// All instances: three of the moving service, two of each other one.
    pub fn parts(self) -> Vec<Part> {
        let others = match self {
            Self::Bank => ["transactions", "rates"],
            Self::Shop => ["catalogue", "cart"],
        };
        let counts = [(self.moving(), 3), (others[0], 2), (others[1], 2)];
        let named = counts.into_iter().flat_map(|(service, count)| (1..=count).map(move |n| (service, n)));
        named.enumerate().map(|(index, (service, number))| Part { service, number, index }).collect()
    }

    /// An instance of the moving service.
    pub fn mover(self, number: usize) -> Part {
        Part { service: self.moving(), number, index: number - 1 }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bank => "bank",
            Self::Shop => "shop",
        }
    }
}

impl Part {
    /// Such as `accounts2`.
    pub fn name(self) -> String {
        format!("{}{}", self.service, self.number)
    }
}

/// The folder in the checkout with `gateway.yaml` and `lb-control.toml`.
pub fn configuration(shape: Shape, story: Story) -> PathBuf {
    let checkout = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    checkout.join("examples").join(shape.name()).join(story.name())
}

/// What the table shows: gateways and moving instances, as far as the balancer has to do with them.
pub fn columns(shape: Shape, story: Story) -> Vec<String> {
    let gateways = (0..shape.gateways()).map(gateway::name);
    let services = (1..=3).map(|number| story.mover(number).name());
    match shape {
        Shape::Before => gateways.chain(services).collect(),
        Shape::After => services.collect(),
        Shape::Hybrid => gateways.chain(services).collect(),
    }
}
