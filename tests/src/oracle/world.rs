//! What the oracle knows: the configuration, and what is remembered before a packet. Plain data. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{
    Address, Answers, BackendState, Flow, FlowKey, FragmentPolicy, Interface, NextHop, Owed, Port,
    ServiceKey, ServiceSettings, Settings, Slot, Translation,
};

use super::memory::{FragmentKey, Way};

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The interface that packets come in by.
    pub ingress: u32,
    /// The second of the monotonic clock.
    pub now: u32,
    /// Hash keys, tunnels, pool, limits.
    pub settings: Settings,
    /// Addresses of the pool of `full-nat`.
    pub pool: Vec<IpAddr>,
    /// By index.
    pub services: Vec<Service>,
    /// Exact ones by (address, port, protocol number): index into `services`.
    pub exact: HashMap<(IpAddr, u16, u8), usize>,
    /// By id.
    pub backends: HashMap<u32, Backend>,
    /// Ids below this exist.
    pub backend_ids: u32,
    /// By their index.
    pub interfaces: HashMap<u16, Interface>,
    /// The balancer's own addresses.
    pub locals: Vec<IpAddr>,
    /// Servers by (service number, id in connection ids).
    pub quic_servers: HashMap<(u32, u64), u32>,
    /// Remembered flows, and how many there is room for.
    pub flows: HashMap<FlowKey, Flow>,
    /// Room for flows.
    pub flows_max: usize,
    /// Both directions of translated flows.
    pub translations: HashMap<FlowKey, Translation>,
    /// Room for directions.
    pub translations_max: usize,
    /// Where first fragments went.
    pub fragments: HashMap<FragmentKey, Way>,
    /// Of each kind of ICMP errors: the second in which the last was owed, and how many were in it.
    pub answers: HashMap<u8, (u32, u32)>,
    /// What outer headers were filled with, by flow and by whether they are IPv4: a function of the tuple.
    pub entropy: HashMap<(FlowKey, bool), Entropy>,
}

/// One service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Where clients reach it.
    pub key: ServiceKey,
    /// The highest port.
    pub last_port: u16,
    /// Its number.
    pub id: u32,
    /// Mode, tracking, timeouts.
    pub settings: ServiceSettings,
    /// Its table.
    pub slots: Vec<Slot>,
    /// Of unknown fragments.
    pub fragments: FragmentPolicy,
    /// Whether ARP and neighbour solicitations for its address are answered.
    pub answers_arp: bool,
    /// Whether echo requests are.
    pub answers_echo: bool,
}

/// One backend.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 keeps the packet's.
    pub port: u16,
    /// The number of its service.
    pub service: u32,
    /// See [`BackendState`].
    pub state: BackendState,
    /// The way to it, if the controller knows one.
    pub next_hop: Option<NextHop>,
}

/// What varies with the flow in an outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entropy {
    /// Outer source.
    pub source: IpAddr,
    /// GUE's source port.
    pub port: Option<u16>,
    /// The flow label.
    pub label: Option<u32>,
}

/// Where the routes of a lane lead, whatever the destination.
#[derive(Clone, Copy, Debug)]
pub struct Routed {
    /// Egress interface.
    pub ifindex: u32,
    /// Its address.
    pub source: [u8; 6],
    /// The router's.
    pub destination: [u8; 6],
    /// Larger IP packets do not fit, if there is a limit.
    pub mtu: Option<u32>,
    /// Whether only ordinary destinations are routed so; of others nothing is said.
    pub real: bool,
}

/// The form in which tables hold an address.
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::from_ipv4(ip.octets()),
        IpAddr::V6(ip) => {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(ip.octets().chunks_exact(4)) {
                *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            Address::from_words(words)
        }
    }
}

/// The address that tables hold in this form.
pub fn ip_addr(address: Address) -> IpAddr {
    if address.is_ipv4() {
        return IpAddr::V4(Ipv4Addr::from(address.ipv4_word().to_ne_bytes()));
    }
    let mut octets = [0; 16];
    for (bytes, word) in octets.chunks_exact_mut(4).zip(address.words()) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    IpAddr::V6(Ipv6Addr::from(octets))
}

/// A tuple as tables hold it.
pub fn flow_key(source: IpAddr, source_port: u16, destination: IpAddr, port: u16, protocol: u8) -> FlowKey {
    FlowKey {
        client: address(source),
        vip: address(destination),
        client_port: Port::new(source_port),
        vip_port: Port::new(port),
        protocol,
        reserved: [0; 3],
    }
}

impl World {
    /// ICMP errors of a kind that were owed in this second.
    pub fn sent(&self, owed: Owed) -> u32 {
        self.answers.get(&(owed as u8)).filter(|(second, _)| *second == self.now).map_or(0, |(_, sent)| *sent)
    }

    /// The same as the balancer counts them.
    pub fn all_sent(&self) -> Answers {
        Answers {
            second: self.now,
            too_big: self.sent(Owed::TooBig),
            time_exceeded: self.sent(Owed::TimeExceeded),
            reserved: 0,
        }
    }

    /// The service of a destination.
    pub fn service_at(&self, destination: IpAddr, port: u16, protocol: u8) -> Option<&Service> {
        if let Some(&index) = self.exact.get(&(destination, port, protocol)) {
            return Some(&self.services[index]);
        }
        // The longest prefix alone decides; its services' ports do not overlap.
        self.widest(destination, protocol)
            .into_iter()
            .find(|service| service.key.port.number() <= port && port <= service.last_port)
    }

    /// Services that stand at exactly this address, not only at a network that contains it.
    pub fn services_of(&self, address: IpAddr) -> impl Iterator<Item = &Service> {
        self.services.iter().filter(move |service| {
            matches!(service.key.width, 0 | 129) && ip_addr(service.key.address) == address
        })
    }

    /// A service by its number.
    pub fn by_id(&self, id: u32) -> Option<&Service> {
        self.services.iter().find(|service| service.id == id)
    }

    /// Whether the address is virtual: a service stands there, or it is of the pool.
    pub fn is_virtual(&self, address: IpAddr) -> bool {
        self.services_of(address).next().is_some() || self.pool.contains(&address)
    }

    /// Whether questions for its neighbour are answered.
    pub fn answers_neighbours(&self, address: IpAddr) -> bool {
        self.services_of(address).any(|service| service.answers_arp) || self.pool.contains(&address)
    }

    /// Whether the pool has this port.
    pub fn is_pool_port(&self, port: u16) -> bool {
        let (first, ports) = (self.settings.pool_first_port, self.settings.pool_ports);
        port >= first && u32::from(port) < u32::from(first) + u32::from(ports)
    }

    /// Services of the longest network that contains an address.
    fn widest(&self, destination: IpAddr, protocol: u8) -> Vec<&Service> {
        let wide = |service: &&Service| {
            service.key.width != 0
                && service.key.protocol == protocol
                && address(destination).is_ipv4() == service.key.address.is_ipv4()
                && address(destination).network(service.key.width - 1) == service.key.address
        };
        let found: Vec<&Service> = self.services.iter().filter(wide).collect();
        let longest = found.iter().map(|service| service.key.width).max();
        found.into_iter().filter(|service| Some(service.key.width) == longest).collect()
    }

    /// The `nat` service in whose name a backend replies.
    pub fn reply_of(&self, source: IpAddr, port: u16, protocol: u8) -> Option<(&Service, u32)> {
        self.backends.iter().find_map(|(&id, backend)| {
            let service = self.services.iter().find(|service| service.id == backend.service)?;
            let ports = backend.port == port
                || (backend.port == 0 && service.key.port.number() <= port && port <= service.last_port);
            let found = backend.address == source
                && ports
                && service.key.protocol == protocol
                && service.settings.mode == lb_common::Mode::Nat;
            found.then_some((service, id))
        })
    }

    /// Whether the backend exists, belongs to the service and takes packets of old flows.
    pub fn serves(&self, service: &Service, id: u32) -> bool {
        self.backends
            .get(&id)
            .is_some_and(|backend| backend.service == service.id && backend.state != BackendState::Down)
    }

    /// The policy for a protocol's fragments to an address, and the service that they would go to by address. Of services
    /// that differ, the one that drops less decides.
    pub fn fragment_policy(&self, destination: IpAddr, protocol: u8) -> Option<(FragmentPolicy, &Service)> {
        let lenient = |services: Vec<&'_ Service>| -> Option<(FragmentPolicy, usize)> {
            let index = |service: &&Service| self.services.iter().position(|other| other.id == service.id);
            services
                .iter()
                .max_by_key(|service| service.fragments.byte())
                .and_then(|service| Some((service.fragments, index(service)?)))
        };
        let here = lenient(
            self.services_of(destination).filter(|service| service.key.protocol == protocol).collect(),
        );
        let found = match here {
            Some((policy, _)) if policy != FragmentPolicy::Drop => here,
            _ => lenient(self.widest(destination, protocol)).or(here),
        };
        found.map(|(policy, index)| (policy, &self.services[index]))
    }
}
