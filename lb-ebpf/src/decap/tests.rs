//! Packets in tunnels, made and checked by etherparse.

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, LaxPacketHeaders, NetHeaders, PacketBuilder};

use super::*;
use crate::packet::Buffer;

const GUE_PORT: u16 = 6080;
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
const BALANCER_4: [u8; 4] = [10, 0, 0, 7];
const BALANCER_6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
/// DSCP of every inner packet: it is kept, whatever the outer one is.
const DSCP: u8 = 46;

struct World {
    sources: Option<Vec<(Address, u32)>>,
}

impl Tables for World {
    fn launder(&self, word: u64) -> u64 {
        word
    }
    fn settings(&self) -> DecapSettings {
        DecapSettings { gue_port: GUE_PORT, only_listed_sources: self.sources.is_some() }
    }
    fn listed(&self, source: &Address) -> Option<u32> {
        let mut sources = self.sources.iter().flatten();
        sources.find(|(listed, _)| listed == source).map(|(_, family)| *family)
    }
}

const ANYBODY: World = World { sources: None };
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A datagram from a client to a virtual address.
fn inner(family: Family, ecn: u8) -> Vec<u8> {
    let payload = b"what the client said";
    let mut bytes = Vec::new();
    match family {
        Family::V4 => PacketBuilder::ipv4([192, 0, 2, 1], [10, 0, 0, 100], 64),
        Family::V6 => PacketBuilder::ipv6([1; 16], [2; 16], 64),
    }
    .udp(4_000, 53)
    .write(&mut bytes, payload)
    .unwrap();
    with_class(bytes, family, DSCP << 2 | ecn)
}

/// The packet with another traffic class and its checksum in full.
fn with_class(mut bytes: Vec<u8>, family: Family, class: u8) -> Vec<u8> {
    match family {
        Family::V4 => {
            let (mut header, rest) = Ipv4Header::from_slice(&bytes).unwrap();
            (header.dscp, header.ecn) = ((class >> 2).try_into().unwrap(), (class & 3).try_into().unwrap());
            header.header_checksum = header.calc_header_checksum();
            [&header.to_bytes(), rest].concat()
        }
        Family::V6 => {
            bytes[0] = 0x60 | class >> 4;
            bytes[1] = class << 4 | bytes[1] & 15;
            bytes
        }
    }
}

fn protocol_of(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 41,
    }
}

/// `payload` in an IP packet from a balancer.
fn outer(family: Family, class: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = match family {
        Family::V4 => {
            Ipv4Header::new(payload.len() as u16, 64, IpNumber(protocol), BALANCER_4, [10, 0, 0, 11])
                .map(|header| header.to_bytes().to_vec())
                .unwrap()
        }
        Family::V6 => Ipv6Header {
            payload_length: payload.len() as u16,
            next_header: IpNumber(protocol),
            hop_limit: 64,
            source: BALANCER_6,
            destination: [3; 16],
            ..Ipv6Header::default()
        }
        .to_bytes()
        .to_vec(),
    };
    with_class([&header, payload].concat(), family, class)
}

/// `payload` in a datagram to `port`, without a checksum.
fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len() as u16).to_be_bytes();
    [&50_000_u16.to_be_bytes(), &port.to_be_bytes(), &length, &[0, 0], payload].concat()
}

/// A frame with so many tags.
fn frame(tags: usize, family: Family, packet: &[u8]) -> Vec<u8> {
    const TAGS: [[u8; 4]; 2] = [[0x88, 0xa8, 0, 3], [0x81, 0, 0x20, 5]];
    let ether_type = match family {
        Family::V4 => [8, 0],
        Family::V6 => [0x86, 0xdd],
    };
    [&MACS, TAGS[2 - tags..].concat().as_slice(), &ether_type, packet].concat()
}

/// The ways into a tunnel, from an inner packet to what the outer header has behind it.
type Wrap = fn(Family, &[u8]) -> (u8, Vec<u8>);
const TUNNELS: [(&str, DecapReason, Wrap); 3] = [
    ("ipip", DecapReason::Ipip, |family, inner| (protocol_of(family), inner.to_vec())),
    ("gue 1", DecapReason::Gue, |_, inner| (UDP, datagram(GUE_PORT, inner))),
    ("gue 0", DecapReason::Gue, |family, inner| {
        (UDP, datagram(GUE_PORT, &[&[0, protocol_of(family), 0, 0], inner].concat()))
    }),
];

fn every_tunnel(mut look: impl FnMut(&str, DecapReason, Wrap, Family, Family)) {
    for (name, reason, wrap) in TUNNELS {
        for around in FAMILIES {
            for within in FAMILIES {
                look(&format!("{name}, {within:?} in {around:?}"), reason, wrap, around, within);
            }
        }
    }
}

/// What is neither taken out nor changed.
fn refused(name: &str, world: &World, frame: &[u8], expected: DecapReason) {
    let mut packet = Buffer::new(frame);
    assert_eq!(decapsulate(&mut packet, world), expected, "{name}");
    assert_eq!(packet.frame(), frame, "{name}: it was changed");
}

#[test]
fn the_inner_packet_comes_out_behind_the_same_link_layer() {
    every_tunnel(|name, reason, wrap, around, within| {
        let inner = inner(within, ecn::CAPABLE_0);
        let (protocol, payload) = wrap(within, &inner);
        let outer = outer(around, 0, protocol, &payload);
        for tags in 0..3 {
            let padding: &[u8] = &[0; 6];
            for end in [&[], padding] {
                let mut packet = Buffer::new(&[&frame(tags, around, &outer), end].concat());
                assert_eq!(decapsulate(&mut packet, &ANYBODY), reason, "{name}, {tags} tags");
                assert_eq!(
                    packet.frame(),
                    [&frame(tags, within, &inner), end].concat(),
                    "{name}, {tags} tags"
                );
            }
        }
    });
}

/// RFC 6040, figure 4: rows are the inner field, columns the outer one; 9 is "drop".
#[test]
fn congestion_is_carried_over_and_the_class_is_not() {
    const NOT: u8 = ecn::NOT_CAPABLE;
    const FIELDS: [u8; 4] = [NOT, ecn::CAPABLE_0, ecn::CAPABLE_1, ecn::CONGESTION];
    const TABLE: [[u8; 4]; 4] = [
        [NOT, NOT, NOT, 9],
        [ecn::CAPABLE_0, ecn::CAPABLE_0, ecn::CAPABLE_1, ecn::CONGESTION],
        [ecn::CAPABLE_1, ecn::CAPABLE_1, ecn::CAPABLE_1, ecn::CONGESTION],
        [ecn::CONGESTION, ecn::CONGESTION, ecn::CONGESTION, ecn::CONGESTION],
    ];
    every_tunnel(|name, reason, wrap, around, within| {
        for (row, inner_ecn) in TABLE.iter().zip(FIELDS) {
            for (&expected, outer_ecn) in row.iter().zip(FIELDS) {
                let name = format!("{name}, {inner_ecn} in {outer_ecn}");
                let (protocol, payload) = wrap(within, &inner(within, inner_ecn));
                let frame = frame(0, around, &outer(around, 10 << 2 | outer_ecn, protocol, &payload));
                if expected == 9 {
                    refused(&name, &ANYBODY, &frame, DecapReason::CongestionUnmarkable);
                    continue;
                }
                let mut packet = Buffer::new(&frame);
                assert_eq!(decapsulate(&mut packet, &ANYBODY), reason, "{name}");
                assert_eq!(packet.frame()[14..], inner(within, expected), "{name}");
                let parsed = LaxPacketHeaders::from_ethernet(packet.frame()).unwrap();
                if let Some(NetHeaders::Ipv4(header, _)) = parsed.net {
                    assert_eq!(header.header_checksum, header.calc_header_checksum(), "{name}");
                }
            }
        }
    });
}

#[test]
fn headers_may_be_longer() {
    let inner = inner(Family::V4, 0);
    let mut with_options = outer(Family::V4, 0, 4, &[&[1; 40], inner.as_slice()].concat());
    with_options[0] = 0x4f;
    let extended = [&[41, 1], [0; 14].as_slice(), inner_of_ipv6().as_slice()].concat();
    for (name, around, within, packet, inner) in [
        ("options", Family::V4, Family::V4, with_options, inner),
        ("destination options", Family::V6, Family::V6, outer(Family::V6, 0, 60, &extended), inner_of_ipv6()),
    ] {
        let mut packet = Buffer::new(&frame(1, around, &packet));
        assert_eq!(decapsulate(&mut packet, &ANYBODY), DecapReason::Ipip, "{name}");
        assert_eq!(packet.frame(), frame(1, within, &inner), "{name}");
    }
}

fn inner_of_ipv6() -> Vec<u8> {
    inner(Family::V6, 0)
}

/// Changes one byte of a frame of `14 + 20 + …` or `14 + 40 + …` bytes.
fn with(mut frame: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    frame[at] = byte;
    frame
}

#[test]
fn what_is_no_whole_tunnel_packet_stays_as_it_is() {
    use DecapReason::{Fragment, GueUnsupported, Malformed, NotTunnel};
    let (four, six) = (inner(Family::V4, 0), inner(Family::V6, 0));
    let ipip = || frame(0, Family::V4, &outer(Family::V4, 0, 4, &four));
    let in_six = || frame(0, Family::V6, &outer(Family::V6, 0, 41, &six));
    let udp = |payload: &[u8]| frame(0, Family::V4, &outer(Family::V4, 0, UDP, payload));
    let gue = |first: [u8; 4]| udp(&datagram(GUE_PORT, &[&first, four.as_slice()].concat()));
    let fragment = |protocol: u8, field: u16, payload: &[u8]| {
        let head = [&[protocol, 0], field.to_be_bytes().as_slice(), &[0, 0, 0, 9]].concat();
        frame(0, Family::V6, &outer(Family::V6, 0, 44, &[&head, payload].concat()))
    };
    let to_gue = datagram(GUE_PORT, &four);
    for (name, frame, expected) in [
        ("arp", [&MACS, [8, 6].as_slice(), &[0; 28]].concat(), NotTunnel),
        ("tcp", frame(0, Family::V4, &outer(Family::V4, 0, 6, &[0; 20])), NotTunnel),
        ("udp to another port", udp(&datagram(GUE_PORT + 1, &four)), NotTunnel),
        ("a frame for a group", with(ipip(), 0, 3), NotTunnel),
        ("an outer header of another version", with(ipip(), 14, 0x55), NotTunnel),
        ("an outer header that is too short", with(ipip(), 14, 0x44), NotTunnel),
        ("an outer length beyond the frame", with(ipip(), 16, 1), NotTunnel),
        ("a first fragment", with(ipip(), 20, 0x20), Fragment),
        ("a later fragment", with(ipip(), 21, 7), Fragment),
        ("a first fragment of GUE", with(udp(&to_gue), 20, 0x20), Fragment),
        ("a later fragment of UDP", with(udp(&to_gue), 21, 7), NotTunnel),
        ("a first fragment over IPv6", fragment(41, 1, &six), Fragment),
        ("a later fragment over IPv6", fragment(41, 8, &six), Fragment),
        ("a first fragment of GUE over IPv6", fragment(UDP, 1, &to_gue), Fragment),
        ("GUE of variant 2", gue([0x80, 4, 0, 0]), GueUnsupported),
        ("GUE with a control message", gue([0x20, 4, 0, 0]), GueUnsupported),
        ("GUE with options", gue([0x01, 4, 0, 0]), GueUnsupported),
        ("GUE with flags", gue([0, 4, 0, 1]), GueUnsupported),
        ("GUE with Ethernet", gue([0, 97, 0, 0]), GueUnsupported),
        ("GUE with IP of version 5", gue([0x55, 0, 0, 0]), GueUnsupported),
        ("GUE without a payload", udp(&datagram(GUE_PORT, &[])), Malformed),
        ("a UDP length beyond the packet", with(udp(&to_gue), 38, 1), Malformed),
        ("a UDP length of nothing", with(with(udp(&to_gue), 38, 0), 39, 0), Malformed),
        ("IPv6 where IPv4 is said to be", frame(0, Family::V4, &outer(Family::V4, 0, 4, &six)), Malformed),
        ("IPv4 where IPv6 is said to be", frame(0, Family::V6, &outer(Family::V6, 0, 41, &four)), Malformed),
        ("an inner header that is too short", with(ipip(), 34, 0x44), Malformed),
        ("an inner length below its header", with(ipip(), 37, 19), Malformed),
        ("an inner length beyond the outer one", with(ipip(), 36, 1), Malformed),
        ("an inner IPv6 length beyond the outer one", with(in_six(), 14 + 40 + 4, 1), Malformed),
        ("nothing within", frame(0, Family::V4, &outer(Family::V4, 0, 4, &[])), Malformed),
    ] {
        refused(name, &ANYBODY, &frame, expected);
    }
}

#[test]
fn only_listed_sources_may_send() {
    let (four, six) = (Address::from_ipv4(BALANCER_4), Address::from_words([0xfd, 0, 0, 7 << 24]));
    for (name, sources, expected) in [
        ("anybody", None, [true, true]),
        ("nobody", Some(vec![]), [false, false]),
        ("the one", Some(vec![(four, DecapSettings::IPV4_SOURCE)]), [true, false]),
        ("the other", Some(vec![(six, DecapSettings::IPV6_SOURCE)]), [false, true]),
        (
            "IPv6 that contains what IPv4 is mapped to",
            Some(vec![(four, DecapSettings::IPV6_SOURCE)]),
            [false, false],
        ),
    ] {
        let world = World { sources };
        every_tunnel(|tunnel, reason, wrap, around, within| {
            let (protocol, payload) = wrap(within, &inner(within, 0));
            let frame = frame(0, around, &outer(around, 0, protocol, &payload));
            if expected[around as usize] {
                assert_eq!(decapsulate(&mut Buffer::new(&frame), &world), reason, "{name}: {tunnel}");
            } else {
                refused(&format!("{name}: {tunnel}"), &world, &frame, DecapReason::SourceRefused);
            }
        });
    }
    let plain = frame(0, Family::V4, &inner(Family::V4, 0));
    refused("a packet without a tunnel", &World { sources: Some(vec![]) }, &plain, DecapReason::NotTunnel);
}

/// A packet that ends early, wherever that is, is refused with a reason.
#[test]
fn no_cut_packet_comes_out() {
    every_tunnel(|name, _, wrap, around, within| {
        let (protocol, payload) = wrap(within, &inner(within, 0));
        let whole = frame(2, around, &outer(around, 0, protocol, &payload));
        for length in 0..whole.len() {
            refused(&format!("{name}, {length} bytes"), &ANYBODY, &whole[..length], DecapReason::NotTunnel);
        }
        for length in 0..payload.len() {
            let cut = frame(0, around, &outer(around, 0, protocol, &payload[..length]));
            let expected = match length {
                0..4 if protocol == UDP => DecapReason::NotTunnel,
                _ => DecapReason::Malformed,
            };
            refused(&format!("{name}, {length} bytes of payload"), &ANYBODY, &cut, expected);
        }
    });
}
