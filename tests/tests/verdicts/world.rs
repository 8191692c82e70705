//! The services, backends, interfaces and routes that all rows share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use anyhow::Result;
use etherparse::IpNumber;
use lb_common::{
    Address, BackendState, FlowKey, Interface, Mac, Mode, NextHop, Port, Settings, limits::POOL_ADDRESSES,
};
use lb_control::{
    model::address::to_map,
    target::{Target, TargetBackend},
};
use tests::{
    netns::{Namespace, cable},
    packet::Frame,
};

pub use crate::services::Svc;

/// Seconds after which a remembered flow is forgotten.
pub const IDLE_SECONDS: u32 = 60;
/// Room for so many remembered flows.
pub const FLOWS: u32 = 64;
/// Room for so many directions of translated flows.
pub const TRANSLATIONS: u32 = 64;
/// Room for so many slots: a table for each service.
pub const SLOTS: u32 = 64 * 1_024;
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

pub const CLIENT: SocketAddr = v4([198, 18, 3, 7], 40_961);
/// The client of IPv6 services.
pub const CLIENT_V6: SocketAddr = v6([0x2001, 0xdb8, 0xc, 3, 0, 0, 0, 7], 40_961);
/// Its router has no known MAC.
pub const CLIENT_UNRESOLVED: SocketAddr = v4([198, 19, 1, 7], 40_961);
/// The way to it takes packets of up to 600 bytes.
pub const CLIENT_NARROW: SocketAddr = v4([198, 19, 2, 7], 40_961);
/// No way leads there.
pub const CLIENT_UNROUTED: SocketAddr = v4([192, 0, 2, 7], 40_961);
/// The balancer's own address.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// Its own IPv6 address.
pub const LOCAL_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 1);
/// Nobody's.
pub const STRANGER: SocketAddr = v4([203, 0, 113, 200], 80);
/// Of the `nat` services; ARP is answered for it.
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Of the `dsr-l2` services; ARP is not answered for it.
pub const VIP_DSR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The sources of tunnels: networks of one address, so that rows can name them.
pub const TUNNEL: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 9);
/// See [`TUNNEL`].
pub const TUNNEL_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 9);
/// The UDP port of GUE.
pub const GUE_PORT: u16 = 6_080;
/// The one address of the `full-nat` pool, and its one port: rows can name what is chosen.
pub const POOL: SocketAddr = v4([10, 9, 0, 100], 2_000);
/// See [`POOL`].
pub const POOL_V6: SocketAddr = v6([0x2001, 0xdb8, 9, 0, 0, 0, 0, 0x100], 2_000);
/// ICMP errors that may be sent in a second.
pub const ANSWERS_PER_SECOND: u32 = 1_000;

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

pub const fn v4(address: [u8; 4], port: u16) -> SocketAddr {
    let [a, b, c, d] = address;
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port))
}

pub const fn v6(address: [u16; 8], port: u16) -> SocketAddr {
    let [a, b, c, d, e, f, g, h] = address;
    SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::new(a, b, c, d, e, f, g, h), port, 0, 0))
}

pub fn address(address: IpAddr) -> Address {
    to_map(address)
}

impl Svc {
    /// The client whose flow rows are about.
    pub fn client(self) -> SocketAddr {
        if self.vip().is_ipv4() { CLIENT } else { CLIENT_V6 }
    }

    /// A client's packet as it comes in.
    pub fn client_packet(self) -> Frame {
        Frame {
            source_mac: CLIENT_MAC,
            destination_mac: INGRESS_MAC,
            tags: &[],
            source: self.client(),
            destination: self.vip(),
            ttl: 64,
        }
    }

    /// The same as it leaves towards a backend, but for a tunnel's outer headers: see [`Self::wrapped`].
    pub fn to_backend(self, who: Who) -> Frame {
        let came = self.client_packet();
        let sent = Frame {
            source_mac: if who == Who::A { INGRESS_MAC } else { OTHER_MAC },
            destination_mac: backend_mac(who),
            ..came
        };
        let ttl = came.ttl - 1;
        match self.mode() {
            Mode::Nat => Frame { destination: self.backend(who), ttl, ..sent },
            Mode::FullNat => {
                let source = if self.vip().is_ipv4() { POOL } else { POOL_V6 };
                Frame { source, destination: self.backend(who), ttl, ..sent }
            }
            Mode::DsrL2 => sent,
            Mode::DsrIpip | Mode::DsrGue => Frame { ttl, ..sent },
        }
    }

    /// What a packet that goes to a backend looks like on the wire: in a tunnel's outer headers, if the mode has any.
    /// Of GUE the source port is 0 here, of IPv6 the flow label: they follow the flow's hash.
    pub fn wrapped(self, who: Who, inner: Vec<u8>) -> Vec<u8> {
        let l3 = 14 + 4 * usize::from(inner[12] == 0x81) + 8 * usize::from(inner[12] == 0x88);
        let packet = &inner[l3..];
        let is_v4 = packet[0] >> 4 == 4;
        let class = if is_v4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 };
        let number = if is_v4 { IpNumber::IPV4 } else { IpNumber::IPV6 };
        let outer = self.outer(who);
        let mut bytes = match self.mode() {
            Mode::DsrIpip => outer.ip_with(number, packet),
            Mode::DsrGue => {
                let mut bytes = outer.udp(packet);
                let checksum = outer.l4() + 6;
                bytes[checksum..checksum + 2].fill(0);
                bytes
            }
            Mode::Nat | Mode::FullNat | Mode::DsrL2 => return inner,
        };
        if outer.source.is_ipv4() {
            bytes[15] = class;
            if is_v4 && packet[6] & 0x40 == 0 {
                bytes[20] = 0;
            }
            let mut header = etherparse::Ipv4Header::from_slice(&bytes[14..]).expect("a whole header").0;
            header.header_checksum = header.calc_header_checksum();
            bytes[14..34].copy_from_slice(&header.to_bytes());
        } else {
            bytes[14] |= class >> 4;
            bytes[15] = class << 4;
        }
        bytes.splice(12..12, inner[12..l3 - 2].iter().copied());
        bytes
    }

    fn outer(self, who: Who) -> Frame {
        let inner = self.to_backend(who);
        let at = self.backend(who);
        let source = if at.is_ipv4() { TUNNEL.into() } else { TUNNEL_V6.into() };
        Frame {
            source: SocketAddr::new(source, 0),
            destination: SocketAddr::new(at.ip(), GUE_PORT),
            tags: &[],
            ttl: 64,
            ..inner
        }
    }

    /// A backend's reply as it comes in.
    pub fn backend_packet(self, who: Who) -> Frame {
        Frame {
            source_mac: backend_mac(who),
            destination_mac: INGRESS_MAC,
            tags: &[],
            source: self.backend(who),
            destination: self.client(),
            ttl: 64,
        }
    }

    /// The same as it leaves towards the client, by the kernel's routes.
    pub fn to_client(self) -> Frame {
        Frame {
            source_mac: ROUTED_MAC,
            destination_mac: ROUTER_MAC,
            tags: &[],
            source: self.vip(),
            destination: self.client(),
            ttl: 63,
        }
    }

    /// A client's packet that the kernel's routes send to backend A.
    pub fn routed_to_a(self) -> Frame {
        Frame { source_mac: ROUTED_MAC, destination_mac: NEIGHBOUR_MAC, ..self.to_backend(Who::A) }
    }

    /// The client's flow, as it is remembered.
    pub fn flow(self) -> FlowKey {
        // By addresses alone, ports are none.
        let port = |port| Port::new(if self == Self::ByAddressTcp { 0 } else { port });
        FlowKey {
            client: address(self.client().ip()),
            vip: address(self.vip().ip()),
            client_port: port(self.client().port()),
            vip_port: port(self.vip().port()),
            protocol: self.protocol() as u8,
            reserved: [0; 3],
        }
    }
}

pub fn backend_mac(who: Who) -> [u8; 6] {
    [2, 0, 0, 0, 1, if who == Who::A { 1 } else { 2 }]
}

/// The way to a backend while its next hop is known.
pub fn next_hop(who: Who) -> NextHop {
    NextHop { mac: Mac::new(backend_mac(who)), interface: if who == Who::A { 0 } else { 1 } }
}

/// Everything, as the controller would install it.
pub fn target() -> Target {
    let backend = |service: Svc, who| TargetBackend {
        max_connections: 0,
        server_id: service.server_id(who),
        address: address(service.backend(who).ip()),
        port: Port::new(service.backend(who).port()),
        weight: 1,
        share: 1,
        resets: false,
        state: BackendState::Up,
        next_hop: Some(next_hop(who)),
    };
    let services = Svc::ALL
        .into_iter()
        .map(|service| {
            let backends = match service {
                Svc::Empty => Vec::new(),
                _ => vec![backend(service, Who::A), backend(service, Who::B)],
            };
            service.target(backends).into()
        })
        .collect();
    let interface = |mac, ifindex, mtu| Interface { mac: Mac::new(mac).word(), ifindex, mtu };
    Target {
        services,
        interfaces: vec![
            (0, interface(INGRESS_MAC, INGRESS, 1_500)),
            (1, interface(OTHER_MAC, OTHER, OTHER_MTU)),
        ],
        locals: vec![address(LOCAL.into()), address(LOCAL_V6.into())],
        program: Settings {
            tunnel_ipv4: address(TUNNEL.into()),
            tunnel_ipv6: address(TUNNEL_V6.into()),
            gue_port: Port::new(GUE_PORT),
            pool_first_port: POOL.port(),
            pool_ports: 1,
            pool_ipv4: 1,
            pool_ipv6: 1,
            answers_per_second: ANSWERS_PER_SECOND,
            ..Settings::default()
        },
        pool: vec![address(POOL.ip()), address(POOL_V6.ip())],
    }
}

const _: () = assert!(POOL_ADDRESSES >= 1);

/// A namespace with the kernel's routes for the rows that ask them.
pub struct Routes {
    balancer: Namespace,
    _far: Namespace,
}

impl Routes {
    pub fn create() -> Result<Self> {
        let (balancer, far) = (Namespace::create("verdicts")?, Namespace::create("far")?);
        balancer.sysctl("ipv6/conf/default/disable_ipv6", "0")?;
        cable((&balancer, "near0"), (&far, "far0"))?;
        let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
        let (router, neighbour) = (mac(ROUTER_MAC), mac(NEIGHBOUR_MAC));
        balancer.ip(&format!(
            "link set near0 address {}\n\
             addr add {LOCAL}/16 dev near0\n\
             addr add {LOCAL_V6}/64 dev near0 nodad\n\
             neigh add 10.9.0.2 lladdr {router} nud permanent dev near0\n\
             neigh add 10.9.1.1 lladdr {neighbour} nud permanent dev near0\n\
             neigh add 2001:db8:9::2 lladdr {router} nud permanent dev near0\n\
             neigh add 2001:db8:9::11 lladdr {neighbour} nud permanent dev near0\n\
             route add 198.18.0.0/16 via 10.9.0.2\n\
             route add 198.19.1.0/24 via 10.9.0.3\n\
             route add 198.19.2.0/24 via 10.9.0.2 mtu lock {OTHER_MTU}\n\
             route add 2001:db8:c::/48 via 2001:db8:9::2",
            mac(ROUTED_MAC),
        ))?;
        balancer.sysctl("ipv4/ip_forward", "1")?;
        balancer.sysctl("ipv6/conf/all/forwarding", "1")?;
        Ok(Self { balancer, _far: far })
    }

    /// Runs `work` in the balancer's namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.balancer.enter(work)
    }
}
