//! ICMP errors about balanced flows: to the backend that owns the flow, by each mode, and to a client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header};
use lb_common::{FlowState::Established, Mode, Reason, SlotState};
use tests::packet::Frame;

use crate::{
    row::{
        Action,
        Given::{self, Down, Remembered, Slots, Translated, Unresolved},
        Row, Shape, Way, datagram, empty_datagram, hashed, odd_datagram, segment, stays,
    },
    world::{
        LOCAL, LOCAL_V6, POOL, POOL_V6, STRANGER,
        Svc::{self, *},
        Who::{self, A, B},
    },
};

/// A router on a client's way, and one behind the balancer.
const FAR_ROUTER: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 18, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 0xc, 3, 0, 0, 0, 1));
const NEAR_ROUTER: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 9, 0, 9), Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9));
/// Type, code and the four bytes after the checksum: the MTU, where there is one.
pub type Kind = (u8, u8, [u8; 4]);
const TOO_BIG_V4: Kind = (3, 4, [0, 0, 5, 0]);
const TOO_BIG_V6: Kind = (2, 0, [0, 0, 5, 0]);
const KINDS_V4: [(&str, Kind); 4] = [
    ("too big", TOO_BIG_V4),
    ("port unreachable", (3, 3, [0; 4])),
    ("time exceeded", (11, 0, [0; 4])),
    ("parameter problem", (12, 0, [9, 0, 0, 0])),
];
const KINDS_V6: [(&str, Kind); 4] = [
    ("too big", TOO_BIG_V6),
    ("port unreachable", (1, 4, [0; 4])),
    ("time exceeded", (3, 0, [0; 4])),
    ("parameter problem", (4, 1, [0, 0, 0, 40])),
];

/// An ICMP message of the frame's family.
pub fn icmp(frame: &Frame, (type_u8, code_u8, bytes5to8): Kind, payload: &[u8]) -> Vec<u8> {
    let (number, mut message) = match (frame.source.ip(), frame.destination.ip()) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let kind = Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8 };
            let header = Icmpv6Header::with_checksum(kind, source.octets(), destination.octets(), payload);
            (IpNumber::IPV6_ICMP, header.expect("a short payload").to_bytes().to_vec())
        }
        _ => {
            let kind = Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 };
            (IpNumber::ICMP, Icmpv4Header::with_checksum(kind, payload).to_bytes().to_vec())
        }
    };
    message.extend(payload);
    frame.ip_with(number, &message)
}

fn is_v4(service: Svc) -> bool {
    service.vip().is_ipv4()
}

fn of_family<T: Into<IpAddr>, U: Into<IpAddr>>(service: Svc, (v4, v6): (T, U)) -> SocketAddr {
    SocketAddr::new(if is_v4(service) { v4.into() } else { v6.into() }, 0)
}

fn too_big(service: Svc) -> Kind {
    if is_v4(service) { TOO_BIG_V4 } else { TOO_BIG_V6 }
}

fn shape_of(service: Svc) -> Shape {
    if service.protocol() == lb_common::Protocol::Tcp { segment } else { odd_datagram }
}

fn pool(service: Svc) -> SocketAddr {
    if is_v4(service) { POOL } else { POOL_V6 }
}

/// The IP packet from one end to another as it is quoted: it has come some hops.
fn quote(source: SocketAddr, destination: SocketAddr, shape: Shape) -> Vec<u8> {
    let frame =
        Frame { source_mac: [0; 6], destination_mac: [0; 6], tags: &[], source, destination, ttl: 61 };
    shape(&frame)[14..].to_vec()
}

/// An error of a router on the client's way about a packet of the virtual address, and what a backend is told.
struct Told {
    service: Svc,
    who: Who,
    kind: Kind,
    shape: Shape,
    tags: &'static [u16],
    /// Bytes of the quoted packet.
    length: usize,
}

impl Told {
    fn new(service: Svc, who: Who) -> Self {
        let (kind, shape) = (too_big(service), shape_of(service));
        Self { service, who, kind, shape, tags: &[], length: usize::MAX }
    }

    fn came(&self) -> Frame {
        Frame {
            source: of_family(self.service, FAR_ROUTER),
            tags: self.tags,
            ttl: 64,
            ..self.service.client_packet()
        }
    }

    fn packet(&self) -> Vec<u8> {
        let quoted = quote(self.service.vip(), self.service.client(), self.shape);
        icmp(&self.came(), self.kind, &quoted[..quoted.len().min(self.length)])
    }

    fn out(&self) -> Vec<u8> {
        let (service, came) = (self.service, self.came());
        let mut at_backend = service.backend(self.who);
        if at_backend.port() == 0 {
            at_backend.set_port(service.vip().port());
        }
        let to = service.to_backend(self.who);
        let tags = if self.who == A { self.tags } else { &[] };
        let sent = Frame { source_mac: to.source_mac, destination_mac: to.destination_mac, tags, ..came };
        let (source, backend, client) = match service.mode() {
            Mode::Nat => (came.source, at_backend, service.client()),
            Mode::FullNat => (pool(service), at_backend, pool(service)),
            Mode::DsrL2 => return self.out_as(&sent, service.vip(), service.client()),
            Mode::DsrIpip | Mode::DsrGue => {
                let inner = self.out_as(&Frame { ttl: 63, ..sent }, service.vip(), service.client());
                return service.wrapped(self.who, inner);
            }
        };
        self.out_as(&Frame { source, destination: backend, ttl: 63, ..sent }, backend, client)
    }

    fn out_as(&self, frame: &Frame, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let before = quote(self.service.vip(), self.service.client(), self.shape);
        let mut quoted = quote(source, destination, self.shape);
        let length = quoted.len().min(self.length);
        // A checksum that is not quoted whole stays as it is.
        let udp = self.service.protocol() == lb_common::Protocol::Udp;
        let check = if is_v4(self.service) { 20 } else { 40 } + if udp { 6 } else { 16 };
        if length < check + 2 {
            quoted[check..].copy_from_slice(&before[check..]);
        }
        icmp(frame, self.kind, &quoted[..length])
    }

    fn row(&self, name: &str, given: &[Given]) -> Row {
        let row = Row {
            reason: Reason::ErrorForwarded,
            action: if self.who == A { Action::Tx } else { Action::Redirect },
            out: self.out(),
            free: hashed(self.service, if self.who == A { self.tags } else { &[] }),
            ..stays(self.service, name, given, self.packet(), Reason::IcmpUnrelated)
        };
        match row.given.iter().find(|given| matches!(given, Translated(..))) {
            Some(_) => row.translates(self.who, Established, Established),
            None => row,
        }
    }
}

/// What the tables hold of a service's flow to a backend.
fn flow_to(service: Svc, who: Who) -> Vec<Given> {
    match service.mode() {
        Mode::FullNat => vec![Translated(who, (Established, 5), (Established, 5))],
        _ => vec![Slots(who, who, SlotState::Settled, 0)],
    }
}

pub fn rows() -> Vec<Row> {
    [to_backends(), owners(), cut(), unrelated(), limits(), to_clients()].concat()
}

fn to_backends() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in [
        NatTcp,
        NatUdp,
        Nat6Tcp,
        Nat6Udp,
        DsrTcp,
        DsrUdp,
        Dsr6Tcp,
        Ipip44,
        Ipip46,
        Ipip64,
        Ipip66,
        Gue44,
        Gue46,
        Gue64,
        Gue66,
        FullNatTcp,
        FullNatUdp,
        FullNat6Tcp,
        FullNat6Udp,
        ByAddress,
        ByAddress6,
        Range,
        InRange,
        Prefix,
        Prefix6,
    ] {
        for who in [A, B] {
            for (name, kind) in if is_v4(service) { KINDS_V4 } else { KINDS_V6 } {
                let told = Told { kind, ..Told::new(service, who) };
                rows.push(told.row(&format!("{name}, to {who:?}"), &flow_to(service, who)));
            }
            for (name, tags) in [("one tag", &[7][..]), ("two tags", &[7, 9])] {
                let told = Told { tags, ..Told::new(service, who) };
                rows.push(told.row(&format!("too big, {name}, to {who:?}"), &flow_to(service, who)));
            }
        }
    }
    for (name, shape) in [("datagram", datagram as Shape), ("empty datagram", empty_datagram)] {
        for service in [NatUdp, Nat6Udp] {
            let told = Told { shape, ..Told::new(service, A) };
            rows.push(told.row(&format!("too big, {name}"), &[]));
        }
    }
    let unchecked: Shape = |frame| {
        let mut bytes = odd_datagram(frame);
        bytes[40..42].fill(0);
        bytes
    };
    rows.push(Told { shape: unchecked, ..Told::new(NatUdp, A) }.row("too big, no checksum stays none", &[]));
    for service in [NatTcp, DsrTcp, Ipip44, FullNatTcp] {
        let told = Told { shape: with_options, ..Told::new(service, A) };
        rows.push(told.row("too big, options are quoted", &flow_to(service, A)));
    }
    for service in [Nat6Tcp, Dsr6Tcp, Ipip66, FullNat6Tcp] {
        let told = Told { shape: first_fragment, ..Told::new(service, A) };
        rows.push(told.row("too big, a first fragment is quoted", &flow_to(service, A)));
        let told = Told { shape: extended, ..Told::new(service, A) };
        rows.push(told.row("too big, extension headers are quoted", &flow_to(service, A)));
    }
    rows
}

/// IPv4 with options.
fn with_options(frame: &Frame) -> Vec<u8> {
    let bytes = segment(frame);
    let mut header = Ipv4Header::from_slice(&bytes[14..]).expect("a whole header").0;
    header.options = [1, 1, 1, 0].into();
    header.total_len += 4;
    header.header_checksum = header.calc_header_checksum();
    [&bytes[..14], &header.to_bytes(), &bytes[34..]].concat()
}

/// Puts IPv6 extension headers before the segment.
fn behind(frame: &Frame, kind: u8, headers: &[u8]) -> Vec<u8> {
    let mut bytes = segment(frame);
    bytes[20] = kind;
    let length = (bytes.len() - 54 + headers.len()) as u16;
    bytes[18..20].copy_from_slice(&length.to_be_bytes());
    bytes.splice(54..54, headers.iter().copied());
    bytes
}

fn first_fragment(frame: &Frame) -> Vec<u8> {
    behind(frame, 44, &[6, 0, 0, 1, 0, 0, 0, 9])
}

/// Hop-by-hop options, then longer ones for the destination.
fn extended(frame: &Frame) -> Vec<u8> {
    behind(frame, 0, &[60, 0, 1, 4, 0, 0, 0, 0, 6, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

fn later_fragment(frame: &Frame) -> Vec<u8> {
    behind(frame, 44, &[6, 0, 1, 0, 0, 0, 0, 9])
}

/// The backend that owns the flow, though its slot has moved.
fn owners() -> Vec<Row> {
    let told = |service, who, name, given: &[Given]| Told::new(service, who).row(name, given);
    let moving = Slots(A, B, SlotState::Moving, 10);
    let mut remembered =
        told(NatTcp, A, "an error, flow remembered", &[Slots(B, B, SlotState::Pinned, 10), Remembered(A, 5)]);
    remembered.remembered = Some((A, false));
    vec![
        remembered,
        told(NatTcp, B, "an error, slot moving", &[moving]),
        told(NatTcp, A, "an error, slot moving from one that is down", &[moving, Down(B)]),
        told(Dsr6Tcp, B, "an error, slot moving", &[moving]),
        told(Ipip44, A, "an error, slot pinned", &[Slots(A, B, SlotState::Pinned, 10)]),
        told(
            FullNatTcp,
            B,
            "an error, slot elsewhere",
            &[Slots(A, A, SlotState::Settled, 0), Translated(B, (Established, 5), (Established, 5))],
        ),
    ]
}

/// Quotes of every length.
fn cut() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in [NatTcp, NatUdp, Nat6Tcp, Nat6Udp, DsrTcp, Ipip44, Gue66] {
        let least = if is_v4(service) { 28 } else { 48 };
        let whole = quote(service.vip(), service.client(), shape_of(service)).len();
        for length in 0..=whole {
            let told = Told { length, ..Told::new(service, A) };
            let name = format!("an error that quotes {length} bytes");
            rows.push(if length < least {
                stays(service, &name, &[], told.packet(), Reason::IcmpUnrelated)
            } else {
                told.row(&name, &[])
            });
        }
    }
    rows
}

fn unrelated() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in [NatTcp, Nat6Tcp] {
        let (vip, client, kind) = (service.vip(), service.client(), too_big(service));
        let came = Told::new(service, A).came();
        let good = quote(vip, client, segment);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let port = |mut socket: SocketAddr, port| {
            socket.set_port(port);
            socket
        };
        let protocol = if is_v4(service) { 9 } else { 6 };
        let mut dropped = vec![
            ("another port", quote(port(vip, 81), client, segment)),
            ("another source", quote(of_family(service, NEAR_ROUTER), client, segment)),
            ("another protocol", with(protocol, 17)),
            ("an ICMP message", with(protocol, if is_v4(service) { 1 } else { 58 })),
            ("GRE", with(protocol, 47)),
            ("another version", with(0, 0x25)),
            ("nothing", vec![]),
        ];
        if !is_v4(service) {
            let mut mapped = good.clone();
            mapped[24..36].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
            dropped.push(("a mapped address", mapped));
            dropped.push(("a later fragment", quote(vip, client, later_fragment)));
            let way_point: Shape = |frame| behind(frame, 43, &[6, 0, 4, 1, 0, 0, 0, 0]);
            dropped.push(("a packet to a way-point", quote(vip, client, way_point)));
        }
        if is_v4(service) {
            dropped.extend([
                ("a later fragment", with(7, 1)),
                ("a header that is too short", with(0, 0x44)),
                ("options beyond the quote", with(0, 0x4f)),
                ("a packet of no length", with(3, 0)),
            ]);
        }
        rows.extend(dropped.into_iter().map(|(name, quoted)| {
            let packet = icmp(&came, kind, &quoted);
            stays(service, &format!("an error about {name}"), &[], packet, Reason::IcmpUnrelated)
        }));
        let elsewhere = Frame { destination: if is_v4(service) { STRANGER } else { client }, ..came };
        let packet = icmp(&elsewhere, kind, &good);
        rows.push(stays(service, "an error to another address", &[], packet, Reason::NotOurs));
        let mut group = icmp(&came, kind, &good);
        group[0] = 0x33;
        rows.push(stays(service, "an error in a group's frame", &[], group, Reason::NotOurs));
    }
    for service in [FullNatTcp, FullNat6Udp] {
        let told = Told::new(service, A);
        rows.push(stays(service, "an error, no translation", &[], told.packet(), Reason::IcmpUnrelated));
    }
    rows
}

fn limits() -> Vec<Row> {
    let mut rows = Vec::new();
    for (service, reason) in [
        (NatTcp, Reason::TtlExpired),
        (Nat6Tcp, Reason::TtlExpired),
        (Ipip44, Reason::TtlExpired),
        (Gue66, Reason::TtlExpired),
    ] {
        let told = Told::new(service, A);
        let quoted = quote(service.vip(), service.client(), shape_of(service));
        let packet = icmp(&Frame { ttl: 1, ..told.came() }, told.kind, &quoted);
        rows.push(stays(service, "an error on its last hop", &[], packet, reason));
    }
    for service in [NatTcp, DsrTcp, Ipip44, Nat6Tcp, Gue64] {
        let shape: Shape = |frame| frame.tcp(0, &[0; 580]);
        let told = Told { shape, ..Told::new(service, B) };
        let given = flow_to(service, B);
        rows.push(stays(service, "an error beyond the MTU", &given, told.packet(), Reason::ExceedsMtu));
    }
    rows.push(stays(
        NatTcp,
        "an error, nobody serves",
        &[Down(A)],
        Told::new(NatTcp, A).packet(),
        Reason::NoBackend,
    ));
    let routed = NatTcp.routed_to_a();
    let told = Told::new(NatTcp, A);
    let mut out = told.out();
    out[..6].copy_from_slice(&routed.destination_mac);
    out[6..12].copy_from_slice(&routed.source_mac);
    let row = Told::new(NatTcp, A).row("an error by the kernel's routes", &[Unresolved(A)]);
    rows.push(Row { out, action: Action::Redirect, ..row }.by(Way::Routes));
    rows
}

/// Errors about packets to a backend that translation sent there.
fn to_clients() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in [NatTcp, NatUdp, Nat6Tcp, Nat6Udp, FullNatTcp, FullNatUdp, FullNat6Tcp, FullNat6Udp, Range]
    {
        let (backend, vip, client) = (service.backend(A), service.vip(), service.client());
        let mut at_backend = backend;
        if service == Range {
            at_backend.set_port(vip.port());
        }
        let full = service.mode() == Mode::FullNat;
        let known_client = if full { pool(service) } else { client };
        let given = if full { flow_to(service, A) } else { vec![] };
        let shape = shape_of(service);
        for (by, reporter, told_by) in [
            ("the backend", backend, vip),
            ("a router", of_family(service, NEAR_ROUTER), of_family(service, NEAR_ROUTER)),
        ] {
            for (name, kind) in if is_v4(service) { KINDS_V4 } else { KINDS_V6 } {
                let came = Frame { source: reporter, destination: known_client, ..service.backend_packet(A) };
                let sent = Frame { source: told_by, ..service.to_client() };
                let packet = icmp(&came, kind, &quote(known_client, at_backend, shape));
                let row = Row {
                    reason: Reason::ErrorReplied,
                    action: Action::Redirect,
                    out: icmp(&sent, kind, &quote(client, vip, shape)),
                    ..stays(service, &format!("{name}, by {by}"), &given, packet, Reason::NotOurs)
                };
                let row = if full { row.translates(A, Established, Established) } else { row };
                rows.push(row.by(Way::Routes));
            }
        }
        if !full {
            let local = SocketAddr::new(of_family(service, (LOCAL, LOCAL_V6)).ip(), 50_000);
            let came = Frame { destination: local, ..service.backend_packet(A) };
            let packet = icmp(&came, too_big(service), &quote(local, at_backend, shape));
            rows.push(stays(service, "an error to the balancer", &[], packet, Reason::LocalReply));
            let mut other = backend;
            other.set_port(22);
            let came = service.backend_packet(A);
            let packet = icmp(&came, too_big(service), &quote(client, other, shape));
            rows.push(stays(service, "an error about a backend's other port", &[], packet, Reason::NotOurs));
        }
    }
    rows
}
