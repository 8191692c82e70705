//! Packets for a virtual address that are dropped, each for its reason.

use std::net::SocketAddr;

use lb_common::{Reason, SlotState::Settled};
use tests::packet::Frame;

use crate::{
    row::{
        Given::{Down, Slots, TableBeyond, WayMissing},
        Row, Way, ack, datagram, segment, sent, stays, syn,
    },
    world::{
        Svc::{self, DsrTcp, DsrUdp, Empty, NatTcp, NatUdp},
        Who::{A, Beyond, Nobody},
    },
};

const IP: usize = 14;
const TOTAL_LENGTH: usize = IP + 2;
const FRAGMENT: usize = IP + 6;
const L4: usize = IP + 20;
const TCP_DATA_OFFSET: usize = L4 + 12;
const UDP_LENGTH: usize = L4 + 4;

pub fn rows() -> Vec<Row> {
    [cut(), lying(), fragments(), limits(), nobody(), inconsistent()].concat()
}

fn with(mut packet: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    packet[offset..offset + bytes.len()].copy_from_slice(bytes);
    packet
}

/// Every length of a packet that ends too early.
fn cut() -> Vec<Row> {
    let mut rows = Vec::new();
    for (service, whole) in [
        (NatTcp, segment(&NatTcp.client_packet())),
        (NatUdp, datagram(&NatUdp.client_packet())),
        (DsrTcp, syn(&DsrTcp.client_packet())),
    ] {
        for length in 0..whole.len() {
            let reason = if length < L4 { Reason::NotIp } else { Reason::Malformed };
            let row =
                stays(service, &format!("cut to {length} bytes"), &[], whole[..length].to_vec(), reason);
            rows.push(if length < IP { row.by(Way::HostOnly) } else { row });
        }
    }
    rows
}

/// Lengths and versions that contradict each other.
fn lying() -> Vec<Row> {
    let tcp = || segment(&NatTcp.client_packet());
    let udp = || datagram(&NatUdp.client_packet());
    let malformed = |service: Svc, name: &str, packet| stays(service, name, &[], packet, Reason::Malformed);
    let mut rows: Vec<Row> = (0..5)
        .map(|words| {
            malformed(NatTcp, &format!("IP header of {words} words"), with(tcp(), IP, &[0x40 | words]))
        })
        .collect();
    let length = tcp().len() as u16 - IP as u16;
    rows.extend((0..40).map(|length: u16| {
        malformed(
            NatTcp,
            &format!("IP length of {length} bytes"),
            with(tcp(), TOTAL_LENGTH, &length.to_be_bytes()),
        )
    }));
    rows.extend((0..5).map(|words: u8| {
        malformed(
            NatTcp,
            &format!("TCP header of {words} words"),
            with(tcp(), TCP_DATA_OFFSET, &[words << 4]),
        )
    }));
    rows.extend((0..8).map(|length: u16| {
        malformed(
            NatUdp,
            &format!("UDP length of {length} bytes"),
            with(udp(), UDP_LENGTH, &length.to_be_bytes()),
        )
    }));
    rows.extend([
        malformed(NatTcp, "IP version 6 in an IPv4 frame", with(tcp(), IP, &[0x65])),
        malformed(
            NatTcp,
            "IP length beyond the frame",
            with(tcp(), TOTAL_LENGTH, &(length + 1).to_be_bytes()),
        ),
        malformed(NatTcp, "IP length of 65,535", with(tcp(), TOTAL_LENGTH, &[0xff, 0xff])),
        malformed(
            NatTcp,
            "TCP header beyond the packet",
            with(ack(&NatTcp.client_packet()), TCP_DATA_OFFSET, &[0x60]),
        ),
        malformed(NatUdp, "UDP length beyond the packet", with(udp(), UDP_LENGTH, &13u16.to_be_bytes())),
        malformed(NatUdp, "UDP length of 65,535", with(udp(), UDP_LENGTH, &[0xff, 0xff])),
        malformed(
            DsrUdp,
            "UDP length beyond the packet",
            with(datagram(&DsrUdp.client_packet()), UDP_LENGTH, &[1, 0]),
        ),
    ]);
    rows
}

fn fragments() -> Vec<Row> {
    let tcp = || segment(&NatTcp.client_packet());
    let fragment = |service, name, packet| stays(service, name, &[], packet, Reason::FragmentUnknown);
    vec![
        fragment(NatTcp, "fragment in the middle", with(tcp(), FRAGMENT, &[0x20, 185])),
        fragment(NatTcp, "last fragment", with(tcp(), FRAGMENT, &[0, 185])),
        fragment(NatTcp, "last fragment, highest offset", with(tcp(), FRAGMENT, &[0x1f, 0xff])),
        stays(
            DsrTcp,
            "IPv4 options, 60 bytes claimed",
            &[],
            with(ack(&DsrTcp.client_packet()), IP, &[0x4f]),
            Reason::Malformed,
        ),
    ]
}

fn limits() -> Vec<Row> {
    let unhurried = |frame: &Frame| Frame { ttl: frame.ttl - 62, ..*frame };
    let last = |frame: &Frame| Frame { ttl: 1, ..*frame };
    vec![
        Row {
            packet: ack(&unhurried(&NatTcp.client_packet())),
            out: ack(&unhurried(&NatTcp.to_backend(A))),
            ..sent(NatTcp, "last hop but one", &[], ack, A)
        },
        Row {
            packet: ack(&last(&DsrTcp.client_packet())),
            out: ack(&last(&DsrTcp.to_backend(A))),
            ..sent(DsrTcp, "no hop is taken", &[], ack, A)
        },
    ]
}

fn nobody() -> Vec<Row> {
    let none =
        |service: Svc, name, given: &[_], packet| stays(service, name, given, packet, Reason::NoBackend);
    let tcp = || syn(&NatTcp.client_packet());
    vec![
        own_client(),
        none(Empty, "SYN", &[], syn(&Empty.client_packet())),
        none(Empty, "mid-flow", &[], ack(&Empty.client_packet())),
        none(NatTcp, "settled on nobody", &[Slots(Nobody, Nobody, Settled, 0)], tcp()),
        none(NatTcp, "settled on one that is down", &[Down(A)], tcp()),
        none(DsrTcp, "settled on one that is down", &[Down(A)], ack(&DsrTcp.client_packet())),
        none(
            NatUdp,
            "settled on nobody",
            &[Slots(Nobody, Nobody, Settled, 0)],
            datagram(&NatUdp.client_packet()),
        ),
    ]
}

/// Its own packet would come back to it from its own address.
fn own_client() -> Row {
    let source = SocketAddr::new(NatTcp.backend(A).ip(), 40_961);
    let packet = segment(&Frame { source, ..NatTcp.client_packet() });
    stays(NatTcp, "a backend as its own client", &[], packet, Reason::OwnClient)
}

fn inconsistent() -> Vec<Row> {
    let broken = |service: Svc, name, given: &[_]| {
        stays(service, name, given, ack(&service.client_packet()), Reason::TableInconsistent)
    };
    vec![
        broken(NatTcp, "a slot names a backend beyond the table", &[Slots(Beyond, Beyond, Settled, 0)]),
        broken(NatTcp, "a next hop names no interface", &[WayMissing(A)]),
        broken(DsrTcp, "a next hop names no interface", &[WayMissing(A)]),
        broken(NatTcp, "the table lies beyond the slots", &[TableBeyond]),
    ]
}
