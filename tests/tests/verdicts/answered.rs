//! What the balancer answers itself: echo requests, neighbour solicitations, and packets that go no further.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::Ipv4Header;
use lb_common::{FlowState::Established, Mode, Reason, SlotState::Settled};
use tests::packet::{Frame, flags};

use crate::{
    icmp::{Kind, icmp},
    row::{
        Action,
        Given::{self, Muted, Slots, Translated},
        ODD, Row, Shape, Way, ack, datagram, segment, stays, syn,
    },
    world::{
        CLIENT_MAC, INGRESS_MAC, OTHER_MAC, OTHER_MTU, POOL, POOL_V6,
        Svc::{self, *},
        Who::B,
        v4, v6,
    },
};

pub fn rows() -> Vec<Row> {
    [echoes(), solicitations(), bad_solicitations(), owed(), not_owed()].concat()
}

fn answered(row: Row, reason: Reason, out: Vec<u8>) -> Row {
    Row { reason, action: Action::Tx, out, ..row }
}

fn back(frame: &Frame) -> Frame {
    Frame {
        source_mac: frame.destination_mac,
        destination_mac: frame.source_mac,
        source: frame.destination,
        destination: frame.source,
        ttl: 64,
        ..*frame
    }
}

fn echo(frame: &Frame, answer: bool, data: &[u8]) -> Vec<u8> {
    let kind = match (frame.source.is_ipv4(), answer) {
        (true, false) => 8,
        (true, true) => 0,
        (false, false) => 128,
        (false, true) => 129,
    };
    icmp(frame, (kind, 0, [1, 2, 0, 9]), data)
}

fn echoes() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in [NatTcp, Nat6Tcp, Ipip44, Gue66, FullNatTcp, FullNat6Tcp] {
        for (name, data, tags) in [
            ("empty", &b""[..], &[][..]),
            ("odd", ODD, &[]),
            ("even", &b"evenly"[..], &[7]),
            ("two tags", &[0xff; 1_000], &[7, 9]),
        ] {
            for ttl in [1, 64, 255] {
                let came = Frame { tags, ttl, ..service.client_packet() };
                let row = stays(
                    service,
                    &format!("echo request, {name}, hops {ttl}"),
                    &[],
                    echo(&came, false, data),
                    Reason::NotOurs,
                );
                rows.push(answered(row, Reason::EchoAnswered, echo(&back(&came), true, data)));
            }
        }
        let came = service.client_packet();
        let silent = |name, packet| stays(service, name, &[], packet, Reason::NotOurs);
        let mut group = echo(&came, false, ODD);
        group[0] = 1;
        let v4_sources = [v4([0; 4], 0), v4([127, 0, 0, 1], 0), v4([224, 0, 0, 1], 0), v4([255; 4], 0)];
        let v6_sources =
            [v6([0; 8], 0), v6([0, 0, 0, 0, 0, 0, 0, 1], 0), v6([0xff02, 0, 0, 0, 0, 0, 0, 1], 0)];
        let sources = if came.source.is_ipv4() { v4_sources.to_vec() } else { v6_sources.to_vec() };
        rows.push(silent("echo request in a group's frame", group));
        rows.push(silent("echo answer", echo(&came, true, ODD)));
        rows.extend(sources.into_iter().map(|source| {
            let name = format!("echo request from {}", source.ip());
            stays(service, &name, &[], echo(&Frame { source, ..came }, false, ODD), Reason::NotOurs)
        }));
        let whole = echo(&came, false, b"");
        let l4 = came.l4();
        rows.extend((l4..l4 + 8).map(|length| {
            let mut packet = whole[..length].to_vec();
            set_length(&mut packet);
            stays(service, &format!("echo request of {} bytes", length - l4), &[], packet, Reason::NotOurs)
        }));
    }
    for service in [DsrTcp, Dsr6Tcp] {
        let packet = echo(&service.client_packet(), false, ODD);
        rows.push(stays(service, "echo request, not to be answered", &[], packet, Reason::NotOurs));
    }
    let mut options = echo(&NatTcp.client_packet(), false, ODD);
    options.splice(34..34, [1, 1, 1, 1]);
    options[14] = 0x46;
    set_length(&mut options);
    rows.push(stays(NatTcp, "echo request with options", &[], options, Reason::NotOurs));
    rows
}

/// Makes the IP header say how long the packet is.
fn set_length(packet: &mut [u8]) {
    let (at, length) = if packet[14] >> 4 == 4 { (16, packet.len() - 14) } else { (18, packet.len() - 54) };
    packet[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
}

/// The option with the sender's Ethernet address, and a nonce.
const ADDRESS: [u8; 8] =
    [1, 1, CLIENT_MAC[0], CLIENT_MAC[1], CLIENT_MAC[2], CLIENT_MAC[3], CLIENT_MAC[4], CLIENT_MAC[5]];
const NONCE: [u8; 8] = [14, 1, 9, 8, 7, 6, 5, 4];
const SOLICITATION: u8 = 135;

/// A neighbour solicitation.
#[derive(Clone)]
struct Solicitation {
    frame: Frame,
    code: u8,
    target: Ipv6Addr,
    options: Vec<u8>,
}

impl Solicitation {
    fn new(service: Svc, options: &[u8]) -> Self {
        let IpAddr::V6(target) = service.vip().ip() else { panic!("{service:?} is of IPv4") };
        let frame = Frame { ttl: 255, ..service.client_packet() };
        Self { frame, code: 0, target, options: options.to_vec() }
    }

    /// To the group of the target.
    fn grouped(mut self) -> Self {
        let [.., a, b, c] = self.target.octets();
        let group = u16::from_be_bytes([0xff, a]);
        self.frame.destination = v6([0xff02, 0, 0, 0, 0, 1, group, u16::from_be_bytes([b, c])], 0);
        self.frame.destination_mac = [0x33, 0x33, 0xff, a, b, c];
        self
    }

    /// Of one that wants to know whether an address is in use.
    fn probe(mut self) -> Self {
        self.frame.source = v6([0; 8], 0);
        self
    }

    fn packet(&self) -> Vec<u8> {
        let body = [&self.target.octets()[..], &self.options].concat();
        icmp(&self.frame, (SOLICITATION, self.code, [0; 4]), &body)
    }

    fn advertisement(&self) -> Vec<u8> {
        let probe = self.frame.source.ip().is_unspecified();
        let everybody = v6([0xff02, 0, 0, 0, 0, 0, 0, 1], 0);
        let frame = Frame {
            source_mac: INGRESS_MAC,
            destination_mac: if probe { [0x33, 0x33, 0, 0, 0, 1] } else { self.frame.source_mac },
            source: SocketAddr::new(self.target.into(), 0),
            destination: if probe { everybody } else { self.frame.source },
            ttl: 255,
            ..self.frame
        };
        let body = [&self.target.octets()[..], &[2, 1], &INGRESS_MAC].concat();
        icmp(&frame, (136, 0, [if probe { 0x20 } else { 0x60 }, 0, 0, 0]), &body)
    }
}

fn solicitations() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in [Nat6Tcp, Gue64, FullNat6Tcp] {
        let new = |options: &[u8]| Solicitation::new(service, options);
        for (name, asked) in [
            ("to the group", new(&ADDRESS).grouped()),
            ("to the address", new(&ADDRESS)),
            ("to the address, no option", new(&[])),
            ("to the group, no option", new(&[]).grouped()),
            ("to the group, two options", new(&[ADDRESS, NONCE].concat()).grouped()),
            ("to the group, eight options", new(&[NONCE; 8].concat()).grouped()),
            ("a long option", new(&[&[14, 3][..], &[5; 22]].concat()).grouped()),
            ("a probe", new(&[]).grouped().probe()),
            ("a probe with a nonce", new(&NONCE).grouped().probe()),
        ] {
            for (tagged, tags) in [("", &[][..]), (", one tag", &[7]), (", two tags", &[7, 9])] {
                let asked = Solicitation { frame: Frame { tags, ..asked.frame }, ..asked.clone() };
                let name = format!("solicitation, {name}{tagged}");
                let row = stays(service, &name, &[], asked.packet(), Reason::NotOurs);
                rows.push(answered(row, Reason::NeighbourAnswered, asked.advertisement()));
            }
        }
    }
    let mut padded = Solicitation::new(Nat6Tcp, &[]);
    let mut packet = padded.packet();
    packet.resize(100, 0xee);
    padded.frame.tags = &[];
    let row = stays(Nat6Tcp, "solicitation, padded", &[], packet, Reason::NotOurs);
    rows.push(answered(row, Reason::NeighbourAnswered, padded.advertisement()));
    rows
}

fn bad_solicitations() -> Vec<Row> {
    let good = || Solicitation::new(Nat6Tcp, &ADDRESS).grouped();
    let with = |change: fn(&mut Solicitation)| {
        let mut asked = good();
        change(&mut asked);
        asked.packet()
    };
    let options = |options: &[u8]| Solicitation { options: options.to_vec(), ..good() }.packet();
    let mut checksum = good().packet();
    checksum[56] ^= 1;
    let mut rows: Vec<_> = [
        ("from afar", with(|asked| asked.frame.ttl = 254)),
        ("of another code", with(|asked| asked.code = 1)),
        ("of a group", with(|asked| asked.target = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1))),
        ("from a group", with(|asked| asked.frame.source = v6([0xff02, 0, 0, 0, 0, 0, 0, 5], 0))),
        (
            "of another address",
            with(|asked| asked.target = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 9, 1)),
        ),
        (
            "of a mapped address",
            Solicitation { target: Ipv4Addr::new(203, 0, 113, 1).to_ipv6_mapped(), ..good() }
                .grouped()
                .packet(),
        ),
        ("to everybody", with(|asked| asked.frame.destination = v6([0xff02, 0, 0, 0, 0, 0, 0, 1], 0))),
        (
            "to another's group",
            with(|asked| asked.target = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 4)),
        ),
        ("to another's Ethernet address", with(|asked| asked.frame.destination_mac = OTHER_MAC)),
        ("a wrong checksum", checksum),
        ("an option of no length", options(&[14, 0, 0, 0, 0, 0, 0, 0])),
        ("an option beyond the end", options(&[14, 2, 0, 0, 0, 0, 0, 0])),
        ("half an option", options(&[14, 1, 0, 0])),
        ("nine options", options(&[NONCE; 9].concat())),
        ("a probe that tells its address", good().probe().packet()),
        ("a probe to the address", Solicitation::new(Nat6Tcp, &NONCE).probe().packet()),
    ]
    .into_iter()
    .map(|(name, packet)| stays(Nat6Tcp, &format!("solicitation, {name}"), &[], packet, Reason::NotOurs))
    .collect();
    let dsr = Solicitation::new(Dsr6Tcp, &ADDRESS).grouped().packet();
    rows.push(stays(Dsr6Tcp, "solicitation, not to be answered", &[], dsr, Reason::NotOurs));
    let whole = good().packet();
    rows.extend((54..whole.len()).map(|length| {
        let mut packet = whole[..length].to_vec();
        set_length(&mut packet);
        stays(Nat6Tcp, &format!("solicitation of {} bytes", length - 54), &[], packet, Reason::NotOurs)
    }));
    rows
}

/// The error that a packet of the client is answered with.
pub fn error(frame: &Frame, packet: &[u8], kind: Kind) -> Vec<u8> {
    let whole = &packet[frame.l3()..];
    let v4 = frame.source.is_ipv4();
    let quoted = &whole[..whole.len().min(if v4 { 576 - 28 } else { 1280 - 48 })];
    let mut bytes = icmp(&back(frame), kind, quoted);
    if v4 {
        let l3 = frame.l3();
        bytes[l3 + 1] = 0xc0;
        let mut header = Ipv4Header::from_slice(&bytes[l3..]).expect("a whole header").0;
        header.header_checksum = header.calc_header_checksum();
        bytes[l3..l3 + 20].copy_from_slice(&header.to_bytes());
    }
    bytes
}

pub fn too_big(service: Svc) -> Kind {
    let inner = u32::from(service.mode() == Mode::DsrGue) * 8
        + match service.mode() {
            Mode::DsrIpip | Mode::DsrGue if service.backend(B).is_ipv4() => 20,
            Mode::DsrIpip | Mode::DsrGue => 40,
            _ => 0,
        };
    let mtu = OTHER_MTU - inner;
    if service.vip().is_ipv4() { (3, 4, mtu.to_be_bytes()) } else { (2, 0, mtu.max(1280).to_be_bytes()) }
}

pub fn large<const BYTES: usize>(frame: &Frame) -> Vec<u8> {
    frame.tcp(flags::ACK, &[0xa5; BYTES])
}

pub fn large_datagram<const BYTES: usize>(frame: &Frame) -> Vec<u8> {
    frame.udp(&[0x5a; BYTES])
}

fn flow_to_b(service: Svc) -> Vec<Given> {
    match service.mode() {
        Mode::FullNat => vec![Translated(B, (Established, 0), (Established, 0))],
        _ => vec![Slots(B, B, Settled, 0)],
    }
}

pub fn owe(service: Svc, name: &str, frame: &Frame, packet: Vec<u8>, kind: Kind, reason: Reason) -> Row {
    let out = error(frame, &packet, kind);
    let row = answered(stays(service, name, &flow_to_b(service), packet, Reason::ExceedsMtu), reason, out);
    if service.mode() == Mode::FullNat { row.translates(B, Established, Established) } else { row }
}

fn owed() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in [
        NatTcp,
        NatUdp,
        Nat6Tcp,
        Nat6Udp,
        DsrTcp,
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
        Range,
        Prefix,
        Prefix6,
    ] {
        let udp = service.protocol() == lb_common::Protocol::Udp;
        let shapes: [(&str, Shape); 5] = if udp {
            [
                ("600 bytes", large_datagram::<600>),
                ("601 bytes", large_datagram::<601>),
                ("602 bytes", large_datagram::<602>),
                ("1,303 bytes", large_datagram::<1303>),
                ("several buffers", large_datagram::<9001>),
            ]
        } else {
            [
                ("600 bytes", large::<600>),
                ("601 bytes", large::<601>),
                ("602 bytes", large::<602>),
                ("1,303 bytes", large::<1303>),
                ("several buffers", large::<9001>),
            ]
        };
        for (name, shape) in shapes {
            let came = service.client_packet();
            let name = format!("too big, {name}");
            rows.push(owe(service, &name, &came, shape(&came), too_big(service), Reason::TooBigAnswered));
        }
        for (name, tags) in [("one tag", &[7][..]), ("two tags", &[7, 9])] {
            let came = Frame { tags, ..service.client_packet() };
            let packet = shapes[1].1(&came);
            let name = format!("too big, {name}");
            rows.push(owe(service, &name, &came, packet, too_big(service), Reason::TooBigAnswered));
        }
        if service.mode() == Mode::DsrL2 {
            continue;
        }
        let kind = if service.vip().is_ipv4() { (11, 0, [0; 4]) } else { (3, 0, [0; 4]) };
        for ttl in [0, 1] {
            for (name, payload) in [("no payload", &b""[..]), ("an odd payload", ODD)] {
                let came = Frame { ttl, ..service.client_packet() };
                let packet = if udp { came.udp(payload) } else { came.tcp(flags::ACK, payload) };
                let name = format!("{ttl} hops left, {name}");
                rows.push(owe(service, &name, &came, packet, kind, Reason::TimeExceededAnswered));
            }
        }
    }
    let came = Frame { ttl: 1, ..NatTcp.client_packet() };
    let mut fragment = segment(&came);
    fragment[20] = 0x20;
    let mut options = ack(&came);
    options.splice(34..34, [1, 1, 1, 0]);
    options[14] = 0x46;
    set_length(&mut options);
    for (name, packet) in [("last hop of a first fragment", fragment), ("last hop, with options", options)] {
        rows.push(owe(NatTcp, name, &came, packet, (11, 0, [0; 4]), Reason::TimeExceededAnswered));
    }
    let came = Frame { ttl: 1, ..Nat6Tcp.client_packet() };
    let mut extended = ack(&came);
    extended[20] = 60;
    extended.splice(54..54, [6, 0, 1, 4, 0, 0, 0, 0]);
    set_length(&mut extended);
    let name = "last hop, with an extension header";
    rows.push(owe(Nat6Tcp, name, &came, extended, (3, 0, [0; 4]), Reason::TimeExceededAnswered));
    // A reply of a backend to the pool.
    for (service, pool) in [(FullNatTcp, POOL), (FullNat6Tcp, POOL_V6)] {
        let came = Frame { destination: pool, ttl: 1, ..service.backend_packet(B) };
        let kind = if pool.is_ipv4() { (11, 0, [0; 4]) } else { (3, 0, [0; 4]) };
        let name = "a backend's last hop";
        rows.push(owe(service, name, &came, ack(&came), kind, Reason::TimeExceededAnswered).by(Way::Routes));
    }
    rows
}

fn not_owed() -> Vec<Row> {
    let on_b = [Slots(B, B, Settled, 0)];
    let mut rows = Vec::new();
    for source in [v4([0, 1, 2, 3], 9), v4([127, 0, 0, 1], 9), v4([224, 0, 0, 1], 9), v4([255; 4], 9)] {
        let came = Frame { source, ttl: 1, ..NatTcp.client_packet() };
        let name = format!("last hop, from {}", source.ip());
        rows.push(stays(NatTcp, &name, &[], syn(&came), Reason::TtlExpired));
        let came = Frame { source, ..DsrTcp.client_packet() };
        let name = format!("too big, from {}", source.ip());
        rows.push(stays(DsrTcp, &name, &on_b, large::<600>(&came), Reason::ExceedsMtu));
    }
    for source in [v6([0; 8], 9), v6([0, 0, 0, 0, 0, 0, 0, 1], 9), v6([0xff0e, 0, 0, 0, 0, 0, 0, 1], 9)] {
        let came = Frame { source, ttl: 1, ..Nat6Tcp.client_packet() };
        let name = format!("last hop, from {}", source.ip());
        rows.push(stays(Nat6Tcp, &name, &[], syn(&came), Reason::TtlExpired));
    }
    for service in [DsrTcp, Ipip44, Gue44] {
        let mut packet = large::<600>(&service.client_packet());
        packet[20] &= !0x40;
        rows.push(stays(service, "too big, may be fragmented", &on_b, packet, Reason::ExceedsMtu));
    }
    for service in [NatTcp, Nat6Udp] {
        let shape: Shape = if service == NatTcp { segment } else { datagram };
        let packet = shape(&Frame { ttl: 1, ..service.client_packet() });
        rows.push(stays(service, "last hop, no more answers", &[Muted], packet, Reason::AnswerLimited));
    }
    let packet = large::<600>(&DsrTcp.client_packet());
    rows.push(stays(DsrTcp, "too big, no more answers", &[on_b[0], Muted], packet, Reason::AnswerLimited));
    rows
}
