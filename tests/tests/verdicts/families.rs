//! IPv6 with its extension headers, VLAN tags, IPv4 options, and packets larger than the way takes.

use lb_common::{Reason, SlotState::Settled};
use tests::packet::{Frame, flags};

use crate::{
    row::{
        Action, Given::Slots, Row, Shape, ack, datagram, empty_datagram, fin, hashed, odd_datagram, segment,
        sent, stays, syn,
    },
    world::{
        OTHER_MTU,
        Svc::{
            self, Dsr6Tcp, Dsr6Udp, DsrTcp, Gue44, Gue66, Ipip44, Ipip46, Nat6Tcp, Nat6Udp, NatTcp, NatUdp,
        },
        Who::{self, A, B},
    },
};

const TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
pub const DESTINATION: u8 = 60;
const ESP: u8 = 50;

pub fn rows() -> Vec<Row> {
    [ipv6(), extensions(), bad_extensions(), tags(), options(), too_big()].concat()
}

fn ipv6() -> Vec<Row> {
    let on_b = [Slots(B, B, Settled, 0)];
    let mut rows = vec![
        sent(Nat6Tcp, "SYN", &[], syn, A).opens(),
        sent(Nat6Tcp, "mid-flow", &[], ack, A),
        sent(Nat6Tcp, "FIN", &[], fin, A),
        sent(Nat6Tcp, "an odd payload, to another interface", &on_b, segment, B),
        sent(Nat6Udp, "datagram", &[], datagram, A),
        sent(Nat6Udp, "odd datagram", &on_b, odd_datagram, B),
        sent(Nat6Udp, "empty datagram", &[], empty_datagram, A),
        sent(Dsr6Tcp, "only the Ethernet header changes", &[], segment, A),
        sent(Dsr6Udp, "datagram, to another interface", &on_b, datagram, B),
        stays(Nat6Tcp, "IPv4 in an IPv6 frame", &[], with(&Nat6Tcp, segment, 14, 0x45), Reason::Malformed),
        stays(Nat6Tcp, "a longer packet is claimed", &[], with(&Nat6Tcp, segment, 18, 1), Reason::Malformed),
        stays(Nat6Tcp, "no payload is claimed", &[], with(&Nat6Tcp, ack, 19, 0), Reason::Malformed),
        stays(
            Nat6Tcp,
            "a short header is claimed",
            &[],
            with(&Nat6Tcp, ack, 14 + 40 + 12, 0x40),
            Reason::Malformed,
        ),
        stays(Nat6Tcp, "ESP", &[], with(&Nat6Tcp, ack, 20, ESP), Reason::NotOurs),
        stays(Nat6Tcp, "no next header", &[], with(&Nat6Tcp, ack, 20, 59), Reason::NotOurs),
        stays(Nat6Tcp, "to a group's Ethernet address", &[], with(&Nat6Tcp, ack, 0, 0x33), Reason::NotOurs),
    ];
    let whole = segment(&Nat6Tcp.client_packet());
    rows.extend((14..whole.len()).map(|length| {
        let reason = if length < 14 + 40 { Reason::NotIp } else { Reason::Malformed };
        stays(Nat6Tcp, &format!("cut to {length} bytes"), &[], whole[..length].to_vec(), reason)
    }));
    rows
}

fn with(service: &Svc, shape: Shape, at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = shape(&service.client_packet());
    bytes[at] = byte;
    bytes
}

/// Puts extension headers, given as (kind, bytes after the first), into an IPv6 packet of TCP.
pub fn extended(mut packet: Vec<u8>, chain: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut headers = Vec::new();
    for (index, (_, rest)) in chain.iter().enumerate() {
        headers.push(chain.get(index + 1).map_or(packet[20], |(kind, _)| *kind));
        headers.extend(rest);
    }
    let length = u16::from_be_bytes([packet[18], packet[19]]) + headers.len() as u16;
    packet[18..20].copy_from_slice(&length.to_be_bytes());
    packet[20] = chain[0].0;
    packet.splice(54..54, headers);
    packet
}

/// Options of so many units of eight bytes.
pub fn padding(kind: u8, units: u8) -> (u8, Vec<u8>) {
    let mut rest = vec![units - 1, 1, 4, 0, 0, 0, 0];
    rest.resize(8 * usize::from(units) - 1, 0);
    (kind, rest)
}

/// A routing header of which all segments were visited.
fn routed(segments_left: u8) -> (u8, Vec<u8>) {
    let mut rest = vec![2, 4, segments_left, 0, 0, 0, 0];
    rest.resize(23, 0);
    (ROUTING, rest)
}

fn atomic() -> (u8, Vec<u8>) {
    (FRAGMENT, vec![0, 0, 0, 0, 0, 0, 9])
}

fn with_extensions(service: Svc, name: &str, chain: &[(u8, Vec<u8>)], to: Who) -> Row {
    let row = sent(service, name, &[Slots(to, to, Settled, 0)], ack, to);
    Row { packet: extended(row.packet, chain), out: extended(row.out, chain), ..row }
}

fn extensions() -> Vec<Row> {
    let chains = [
        ("hop-by-hop options", vec![padding(HOP_BY_HOP, 1)]),
        ("destination options", vec![padding(DESTINATION, 3)]),
        ("a routing header at its end", vec![routed(0)]),
        ("a packet in one fragment", vec![atomic()]),
        (
            "four extension headers",
            vec![padding(HOP_BY_HOP, 2), routed(0), atomic(), padding(DESTINATION, 1)],
        ),
        ("six extension headers", vec![padding(DESTINATION, 1); 6]),
        ("options of 800 bytes", vec![padding(DESTINATION, 100)]),
    ];
    chains
        .iter()
        .flat_map(|(name, chain)| {
            let to = if name.contains("800") { A } else { B };
            [with_extensions(Nat6Tcp, name, chain, to), with_extensions(Dsr6Tcp, name, chain, A)]
        })
        .collect()
}

fn bad_extensions() -> Vec<Row> {
    let packet = |chain: &[(u8, Vec<u8>)]| extended(ack(&Nat6Tcp.client_packet()), chain);
    let stays = |name: &str, packet, reason| stays(Nat6Tcp, name, &[], packet, reason);
    let mut beyond = packet(&[padding(DESTINATION, 1)]);
    beyond[55] = 4;
    let mut cut = packet(&[padding(DESTINATION, 1)]);
    cut.truncate(58);
    cut[18..20].copy_from_slice(&4u16.to_be_bytes());
    vec![
        stays("segments are left", packet(&[routed(1)]), Reason::ExtensionUnsupported),
        stays(
            "seven extension headers",
            packet(&vec![padding(DESTINATION, 1); 7]),
            Reason::ExtensionUnsupported,
        ),
        stays("an extension header beyond the packet", beyond, Reason::Malformed),
        stays("half an extension header", cut, Reason::Malformed),
        stays("options before ESP", packet_of(ESP), Reason::NotOurs),
    ]
}

fn packet_of(protocol: u8) -> Vec<u8> {
    let mut packet = extended(ack(&Nat6Tcp.client_packet()), &[padding(DESTINATION, 1)]);
    assert_eq!(packet[54], TCP);
    packet[54] = protocol;
    packet
}

/// The same packet with tags: kept by the way back, taken off by another.
fn tagged(service: Svc, name: &str, tags: &'static [u16], shape: Shape, to: Who) -> Row {
    let name = format!("{name}, {} tags", tags.len());
    let row = sent(service, &name, &[Slots(to, to, Settled, 0)], shape, to);
    let kept: &[u16] = if to == A { tags } else { &[] };
    let out = service.wrapped(to, shape(&Frame { tags: kept, ..service.to_backend(to) }));
    Row { packet: shape(&Frame { tags, ..service.client_packet() }), out, free: hashed(service, kept), ..row }
}

fn tags() -> Vec<Row> {
    let one: &[u16] = &[7];
    let two: &[u16] = &[100, 4_094];
    let mut rows = Vec::new();
    for tags in [one, two] {
        for (service, shape) in [
            (NatTcp, segment as Shape),
            (NatUdp, odd_datagram),
            (Nat6Tcp, segment),
            (DsrTcp, segment),
            (Ipip44, segment),
            (Ipip46, segment),
            (Gue44, segment),
            (Gue66, odd_datagram),
        ] {
            rows.push(tagged(service, "by the way it came", tags, shape, A));
            rows.push(tagged(service, "by another interface", tags, shape, B));
        }
    }
    let three = Frame { tags: &[1, 2, 3], ..NatTcp.client_packet() };
    rows.push(stays(NatTcp, "three tags", &[], ack(&three), Reason::NotIp));
    rows
}

/// IPv4 options: so many bytes of no-operation.
fn optional(packet: Vec<u8>, bytes: u8) -> Vec<u8> {
    with_options(packet, &vec![1; bytes.into()])
}

/// IPv4 options, of a multiple of four bytes.
pub fn with_options(mut packet: Vec<u8>, options: &[u8]) -> Vec<u8> {
    packet.splice(34..34, options.iter().copied());
    packet[14] += options.len() as u8 / 4;
    let length = u16::from_be_bytes([packet[16], packet[17]]) + options.len() as u16;
    packet[16..18].copy_from_slice(&length.to_be_bytes());
    let mut header = etherparse::Ipv4Header::from_slice(&packet[14..]).expect("a whole header").0;
    header.header_checksum = header.calc_header_checksum();
    let header = header.to_bytes();
    packet[14..14 + header.len()].copy_from_slice(&header);
    packet
}

fn options() -> Vec<Row> {
    let mut rows = Vec::new();
    for (service, shape) in [(NatTcp, segment as Shape), (NatUdp, datagram), (DsrTcp, ack)] {
        for bytes in [4, 20, 40] {
            let row = sent(service, &format!("{bytes} bytes of options"), &[], shape, A);
            rows.push(Row { packet: optional(row.packet, bytes), out: optional(row.out, bytes), ..row });
        }
    }
    let row = sent(Ipip44, "options stay inside", &[], segment, A);
    let inner = optional(segment(&Ipip44.to_backend(A)), 12);
    rows.push(Row { packet: optional(row.packet, 12), out: Ipip44.wrapped(A, inner), ..row });
    rows
}

fn too_big() -> Vec<Row> {
    fn large(frame: &Frame) -> Vec<u8> {
        let mut packet = frame.tcp(flags::ACK, &[0xa5; OTHER_MTU as usize]);
        // May be fragmented.
        packet[20] = 0;
        let mut header = etherparse::Ipv4Header::from_slice(&packet[14..]).expect("a whole header").0;
        header.header_checksum = header.calc_header_checksum();
        packet[14..34].copy_from_slice(&header.to_bytes());
        packet
    }
    let row = sent(NatTcp, "too large, and may be fragmented", &[Slots(B, B, Settled, 0)], large, B);
    // The stack takes the hop off and finds the neighbour.
    let left = Frame { destination: NatTcp.backend(B), ..NatTcp.client_packet() };
    vec![Row { reason: Reason::LeftToFragment, action: Action::Pass, out: large(&left), ..row }]
}
