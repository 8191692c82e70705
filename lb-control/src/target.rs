//! What the data plane should look like: the desired state without names, policies and health checks.
//! Pure data; [`crate::plan`] turns (target, installed) into changes.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use lb_common::{
    Address, Algorithm, BackendState, Features, FragmentPolicy, Interface, Mode, NextHop, Port, QuicScheme,
    ServiceKey, ServiceSettings, Settings, Tracking,
};

/// Everything that should be installed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Target {
    /// Services, at most one for a key.
    pub services: Vec<Shared<TargetService>>,
    /// Interfaces by their index in `INTERFACES`; an index keeps its interface while a next hop names it.
    pub interfaces: Vec<(u16, Interface)>,
    /// The balancer's own addresses.
    pub locals: Vec<Address>,
    /// Tunnels, the pool of `full-nat` and limits; its hash keys are ignored, they belong to the maps.
    pub program: Settings,
    /// IPv4 addresses of the pool of `full-nat`, then IPv6 ones, as `program` counts them.
    pub pool: Vec<Address>,
}

impl Target {
    /// What the program has to do for it.
    pub fn features(&self) -> Features {
        let services = self.services.iter().map(|service| service.features());
        services.fold(self.features_of_pool(), |all, one| all | one)
    }

    /// What it has to do for the pool of `full-nat`.
    pub fn features_of_pool(&self) -> Features {
        self.pool.iter().fold(Features::NONE, |all, address| all | family(*address))
    }
}

/// Something that one target shares with the next, so that what did not change costs a comparison of pointers; who
/// changes it gets a copy.
#[derive(Debug, Default)]
pub struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    /// Whether both are one in memory.
    pub fn is_same(one: &Self, other: &Self) -> bool {
        Arc::ptr_eq(&one.0, &other.0)
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Self::is_same(self, other) || self.0 == other.0
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl TargetService {
    /// What the program has to do for it.
    pub fn features(&self) -> Features {
        let wanted = |is_wanted, feature| if is_wanted { feature } else { Features::NONE };
        let backends = self.backends.iter().map(|backend| {
            let resets = backend.resets || backend.state == BackendState::Cut;
            family(backend.address) | wanted(resets, Features::RESET)
        });
        backends.fold(family(self.key.address), |all, one| all | one)
            | match self.settings.mode {
                Mode::DsrIpip | Mode::DsrGue => Features::TUNNEL,
                Mode::FullNat => Features::FULL_NAT,
                Mode::Nat | Mode::DsrL2 => Features::NONE,
            }
            | wanted(self.key.width != 0, Features::WIDE)
            | wanted(self.settings.quic != QuicScheme::None, Features::QUIC)
            | wanted(self.settings.mss != 0, Features::MSS)
            | wanted(self.settings.tracking == Tracking::EveryFlow, Features::TRACKED)
            | wanted(self.settings.algorithm == Algorithm::SourceHash, Features::SOURCE)
    }
}

fn family(address: Address) -> Features {
    if address.is_ipv4() { Features::NONE } else { Features::IPV6 }
}

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetService {
    /// Where clients reach it.
    pub key: ServiceKey,
    /// The highest port of a service of several (host order); the lowest is the key's. Only where `key.width` is not 0.
    pub last_port: u16,
    /// How packets get to its backends, and what is remembered of them.
    pub settings: ServiceSettings,
    /// What happens to fragments of which no first one was seen.
    pub fragments: FragmentPolicy,
    /// Whether the program answers ARP and neighbour solicitations for its address.
    pub answer_arp: bool,
    /// Whether it answers echo requests.
    pub answer_echo: bool,
    /// Its backends, at most one for an (address, port).
    pub backends: Vec<TargetBackend>,
}

/// One backend of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetBackend {
    /// Where it is reached.
    pub address: Address,
    /// Its port; 0: packets keep theirs.
    pub port: Port,
    /// Its id in QUIC connection ids.
    pub server_id: Option<u64>,
    /// Its weight relative to the others', by which live connections are compared; zero takes no new flows.
    pub weight: u32,
    /// How often it stands in the table relative to the others: its weight, but while it or another starts slowly.
    pub share: u32,
    /// So many live connections it takes; 0: any number. Only where every flow is tracked.
    pub max_connections: u32,
    /// `Up`: in the table. `Draining`: old flows only. `Cut`: resets. `Down`: nothing.
    pub state: BackendState,
    /// Its drain will end, or ends, with resets.
    pub resets: bool,
    /// The way to it, once resolved.
    pub next_hop: Option<NextHop>,
}
