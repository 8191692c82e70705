//! The services, backends, interfaces and routes that all rows share.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use lb_common::{
    Address, BackendState, FlowKey, FragmentPolicy, Interface, Mac, Mode, NextHop, Port, Protocol,
    ServiceKey, ServiceSettings, Tracking,
};
use lb_control::target::{Target, TargetBackend, TargetService};
use tests::{
    netns::{Namespace, cable},
    packet::Frame,
};

/// Seconds after which a remembered flow is forgotten.
pub const IDLE_SECONDS: u32 = 60;
/// Room for so many remembered flows.
pub const FLOWS: u32 = 64;
/// Room for so many slots: a table for each service.
pub const SLOTS: u32 = 16 * 1_024;
/// Room for so many backends.
pub const BACKENDS: u32 = 256;

/// Packets come in by the first interface: the kernel's test runs come from `lo`.
pub const INGRESS: u32 = 1;
/// Another, with a smaller MTU.
pub const OTHER: u32 = 77;
/// Largest IP packet of the other interface.
pub const OTHER_MTU: u32 = 600;
pub const INGRESS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The interface that the kernel's routes lead out of.
const ROUTED_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// Neighbours that the kernel knows: the clients' router, and backend A.
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 4];
const NEIGHBOUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 5];
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 6];

pub const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 3, 7), 40_961);
/// Its router has no known MAC.
pub const CLIENT_UNRESOLVED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 1, 7), 40_961);
/// The way to it takes packets of up to 600 bytes.
pub const CLIENT_NARROW: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 19, 2, 7), 40_961);
/// No way leads there.
pub const CLIENT_UNROUTED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 7), 40_961);
/// The balancer's own address.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// Nobody's.
pub const STRANGER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 200), 80);
/// Of the `nat` services; ARP is answered for it.
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Of the `dsr-l2` services; ARP is not answered for it.
pub const VIP_DSR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// Of the service without backends.
pub const VIP_EMPTY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 3);

/// The services.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Svc {
    NatTcp,
    NatUdp,
    /// UDP, `nat`, remembers nothing.
    Connectionless,
    DsrTcp,
    DsrUdp,
    /// TCP, `nat`, without backends.
    Empty,
}

/// The two backends of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// By the interface that packets come in by.
    A,
    /// By the other.
    B,
    /// Of another service.
    Foreign,
    /// Nobody.
    Nobody,
    /// An id beyond the table.
    Beyond,
}

impl Svc {
    pub const ALL: [Self; 6] =
        [Self::NatTcp, Self::NatUdp, Self::Connectionless, Self::DsrTcp, Self::DsrUdp, Self::Empty];

    pub fn mode(self) -> Mode {
        match self {
            Self::DsrTcp | Self::DsrUdp => Mode::DsrL2,
            Self::NatTcp | Self::NatUdp | Self::Connectionless | Self::Empty => Mode::Nat,
        }
    }

    pub fn protocol(self) -> Protocol {
        match self {
            Self::NatTcp | Self::DsrTcp | Self::Empty => Protocol::Tcp,
            Self::NatUdp | Self::Connectionless | Self::DsrUdp => Protocol::Udp,
        }
    }

    pub fn vip(self) -> SocketAddrV4 {
        match self {
            Self::NatTcp => SocketAddrV4::new(VIP, 80),
            Self::NatUdp => SocketAddrV4::new(VIP, 4_433),
            Self::Connectionless => SocketAddrV4::new(VIP, 53),
            Self::DsrTcp | Self::DsrUdp => SocketAddrV4::new(VIP_DSR, 80),
            Self::Empty => SocketAddrV4::new(VIP_EMPTY, 80),
        }
    }

    pub fn key(self) -> ServiceKey {
        ServiceKey {
            address: address(*self.vip().ip()),
            port: Port::new(self.vip().port()),
            protocol: self.protocol() as u8,
            width: 0,
        }
    }

    /// Where a backend is reached.
    pub fn backend(self, who: Who) -> SocketAddrV4 {
        let last = if who == Who::A { 1 } else { 2 };
        match self {
            Self::NatTcp | Self::Empty => SocketAddrV4::new(Ipv4Addr::new(10, 9, 1, last), 8_080),
            Self::NatUdp => SocketAddrV4::new(Ipv4Addr::new(10, 9, 1, last), 8_443),
            Self::Connectionless => SocketAddrV4::new(Ipv4Addr::new(10, 9, 1, last), 5_353),
            Self::DsrTcp | Self::DsrUdp => SocketAddrV4::new(Ipv4Addr::new(10, 9, 2, last), 80),
        }
    }

    /// A client's packet as it comes in.
    pub fn client_packet(self) -> Frame {
        Frame {
            source_mac: CLIENT_MAC,
            destination_mac: INGRESS_MAC,
            source: CLIENT,
            destination: self.vip(),
            ttl: 64,
        }
    }

    /// The same as it leaves towards a backend.
    pub fn to_backend(self, who: Who) -> Frame {
        let came = self.client_packet();
        let sent = Frame {
            source_mac: if who == Who::A { INGRESS_MAC } else { OTHER_MAC },
            destination_mac: backend_mac(who),
            ..came
        };
        match self.mode() {
            Mode::Nat => Frame { destination: self.backend(who), ttl: came.ttl - 1, ..sent },
            Mode::DsrL2 => sent,
            mode => unreachable!("no service of mode {mode:?}"),
        }
    }

    /// A backend's reply as it comes in.
    pub fn backend_packet(self, who: Who) -> Frame {
        Frame {
            source_mac: backend_mac(who),
            destination_mac: INGRESS_MAC,
            source: self.backend(who),
            destination: CLIENT,
            ttl: 64,
        }
    }

    /// The same as it leaves towards the client, by the kernel's routes.
    pub fn to_client(self) -> Frame {
        Frame {
            source_mac: ROUTED_MAC,
            destination_mac: ROUTER_MAC,
            source: self.vip(),
            destination: CLIENT,
            ttl: 63,
        }
    }

    /// A client's packet that the kernel's routes send to backend A.
    pub fn routed_to_a(self) -> Frame {
        Frame { source_mac: ROUTED_MAC, destination_mac: NEIGHBOUR_MAC, ..self.to_backend(Who::A) }
    }

    /// The client's flow.
    pub fn flow(self) -> FlowKey {
        FlowKey {
            client: address(*CLIENT.ip()),
            vip: self.key().address,
            client_port: Port::new(CLIENT.port()),
            vip_port: self.key().port,
            protocol: self.protocol() as u8,
            reserved: [0; 3],
        }
    }
}

pub fn address(address: Ipv4Addr) -> Address {
    Address::from_ipv4(address.octets())
}

fn backend_mac(who: Who) -> [u8; 6] {
    [2, 0, 0, 0, 1, if who == Who::A { 1 } else { 2 }]
}

/// The way to a backend while its next hop is known.
pub fn next_hop(who: Who) -> NextHop {
    NextHop { mac: Mac::new(backend_mac(who)), interface: if who == Who::A { 0 } else { 1 } }
}

/// Everything, as the controller would install it.
pub fn target() -> Target {
    let backend = |service: Svc, who| TargetBackend {
        server_id: None,
        address: address(*service.backend(who).ip()),
        port: Port::new(service.backend(who).port()),
        weight: 1,
        state: BackendState::Up,
        next_hop: Some(next_hop(who)),
    };
    let services = Svc::ALL
        .into_iter()
        .map(|service| TargetService {
            key: service.key(),
            last_port: 0,
            settings: ServiceSettings::new(
                service.mode(),
                match service {
                    Svc::Connectionless => Tracking::Connectionless,
                    _ => Tracking::OnChange,
                },
                IDLE_SECONDS,
            ),
            fragments: FragmentPolicy::Drop,
            answer_echo: false,
            answer_arp: service.mode() == Mode::Nat,
            backends: match service {
                Svc::Empty => Vec::new(),
                _ => vec![backend(service, Who::A), backend(service, Who::B)],
            },
        })
        .collect();
    let interface = |mac, ifindex, mtu| Interface { mac: Mac::new(mac).word(), ifindex, mtu };
    Target {
        services,
        interfaces: vec![
            (0, interface(INGRESS_MAC, INGRESS, 1_500)),
            (1, interface(OTHER_MAC, OTHER, OTHER_MTU)),
        ],
        locals: vec![address(LOCAL)],
        ..Target::default()
    }
}

/// A namespace with the kernel's routes for the rows that ask them.
pub struct Routes {
    balancer: Namespace,
    _far: Namespace,
}

impl Routes {
    pub fn create() -> Result<Self> {
        let (balancer, far) = (Namespace::create("verdicts")?, Namespace::create("far")?);
        cable((&balancer, "near0"), (&far, "far0"))?;
        let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
        balancer.ip(&format!(
            "link set near0 address {}\n\
             addr add {LOCAL}/16 dev near0\n\
             neigh add 10.9.0.2 lladdr {} nud permanent dev near0\n\
             neigh add 10.9.1.1 lladdr {} nud permanent dev near0\n\
             route add 198.18.0.0/16 via 10.9.0.2\n\
             route add 198.19.1.0/24 via 10.9.0.3\n\
             route add 198.19.2.0/24 via 10.9.0.2 mtu lock {OTHER_MTU}",
            mac(ROUTED_MAC),
            mac(ROUTER_MAC),
            mac(NEIGHBOUR_MAC)
        ))?;
        balancer.sysctl("ipv4/ip_forward", "1")?;
        Ok(Self { balancer, _far: far })
    }

    /// Runs `work` in the balancer's namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.balancer.enter(work)
    }
}
