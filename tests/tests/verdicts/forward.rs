//! Packets that leave: to a backend by each mode, to a client as a reply, and by the kernel's routes.

use std::sync::LazyLock;

use lb_common::{Reason, SlotState::Settled};
use tests::packet::{Frame, flags};

use crate::{
    row::{
        Action,
        Given::{Slots, Unresolved},
        Row, Shape, Way, ack, datagram, empty_datagram, fin, odd_datagram, segment, sent, stays, syn,
        syn_ack,
    },
    world::{
        CLIENT_NARROW, CLIENT_UNRESOLVED, CLIENT_UNROUTED, OTHER_MTU,
        Svc::{self, Connectionless, DsrTcp, DsrUdp, NatTcp, NatUdp},
        Who::{A, B},
    },
};

/// Ethernet pads what is shorter; the padding is no part of the IP packet.
fn padded(frame: &Frame) -> Vec<u8> {
    let mut bytes = ack(frame);
    bytes.resize(60, 0xee);
    bytes
}

/// A datagram whose sender computed no checksum.
fn unchecked_datagram(frame: &Frame) -> Vec<u8> {
    let mut bytes = odd_datagram(frame);
    bytes[40..42].fill(0);
    bytes
}

/// As large as the smaller interface takes.
fn fills_mtu(frame: &Frame) -> Vec<u8> {
    frame.tcp(flags::ACK, &[0xa5; OTHER_MTU as usize - 40])
}

/// A datagram whose checksum, once it leaves, adds up to zero and so is sent as all ones.
fn sums_to_zero(frame: &Frame) -> Vec<u8> {
    static WORD: LazyLock<[u8; 2]> =
        LazyLock::new(|| word_that(|word| NatUdp.to_backend(A).udp(word)[40..42] == [0xff, 0xff]));
    frame.udp(&*WORD)
}

/// A segment whose checksum, once it leaves, is zero.
fn tcp_sums_to_zero(frame: &Frame) -> Vec<u8> {
    static WORD: LazyLock<[u8; 2]> =
        LazyLock::new(|| word_that(|word| NatTcp.to_backend(A).tcp(flags::ACK, word)[50..52] == [0, 0]));
    frame.tcp(flags::ACK, &*WORD)
}

/// The payload that fits: one word in 65,536 makes a sum zero.
fn word_that(fits: impl Fn(&[u8]) -> bool) -> [u8; 2] {
    let mut words = (0..=u16::MAX).map(u16::to_be_bytes);
    words.find(|word| fits(word)).expect("every sum is reached")
}

pub fn rows() -> Vec<Row> {
    [to_backends(), replies(), by_routes()].concat()
}

fn to_backends() -> Vec<Row> {
    let on_b = [Slots(B, B, Settled, 0)];
    vec![
        sent(NatTcp, "to the interface that it came by", &[], ack, A),
        sent(NatTcp, "to another interface", &on_b, ack, B),
        sent(NatTcp, "SYN", &[], syn, A).opens(),
        sent(NatTcp, "FIN", &[], fin, A),
        sent(NatTcp, "an odd payload", &[], segment, A),
        sent(NatTcp, "padded by Ethernet", &[], padded, A),
        sent(NatTcp, "as large as the MTU", &on_b, fills_mtu, B),
        sent(NatTcp, "a checksum of zero", &[], tcp_sums_to_zero, A),
        sent(NatUdp, "datagram", &[], datagram, A),
        sent(NatUdp, "odd datagram", &on_b, odd_datagram, B),
        sent(NatUdp, "empty datagram", &[], empty_datagram, A),
        sent(NatUdp, "no checksum stays none", &[], unchecked_datagram, A),
        sent(NatUdp, "a checksum of zero is sent as all ones", &[], sums_to_zero, A),
        sent(Connectionless, "datagram", &[], datagram, A),
        sent(DsrTcp, "only the Ethernet header changes", &[], segment, A),
        sent(DsrTcp, "to another interface", &on_b, ack, B),
        sent(DsrTcp, "SYN", &[], syn, A).opens(),
        sent(DsrUdp, "datagram", &[], datagram, A),
        sent(DsrUdp, "no checksum stays none", &on_b, unchecked_datagram, B),
    ]
}

fn replied(service: Svc, name: &str, shape: Shape, from: crate::world::Who) -> Row {
    Row {
        reason: Reason::Replied,
        action: Action::Redirect,
        packet: shape(&service.backend_packet(from)),
        out: shape(&service.to_client()),
        counted: None,
        way: Way::Routes,
        ..sent(service, name, &[], shape, from)
    }
}

fn replies() -> Vec<Row> {
    let to_unresolved = Frame { destination: CLIENT_UNRESOLVED, ..NatTcp.backend_packet(A) };
    let to_narrow = Frame { destination: CLIENT_NARROW, ..NatTcp.backend_packet(A) };
    let to_unrouted = Frame { destination: CLIENT_UNROUTED, ..NatTcp.backend_packet(A) };
    let last_hop = Frame { ttl: 1, ..NatTcp.backend_packet(A) };
    let too_big = |frame: &Frame| frame.tcp(flags::ACK, &[0; OTHER_MTU as usize]);
    vec![
        replied(NatTcp, "reply, SYN and ACK", syn_ack, A),
        replied(NatTcp, "reply with an odd payload", segment, B),
        replied(NatTcp, "reply, padded by Ethernet", padded, A),
        replied(NatUdp, "reply, datagram", datagram, A),
        replied(NatUdp, "reply, odd datagram", odd_datagram, B),
        replied(NatUdp, "reply without a checksum", unchecked_datagram, A),
        replied(Connectionless, "reply, datagram", odd_datagram, A),
        Row {
            reason: Reason::ResolvingNextHop,
            action: Action::Pass,
            packet: segment(&to_unresolved),
            // The stack takes the hop off and finds the neighbour.
            out: segment(&Frame { source: NatTcp.vip(), ..to_unresolved }),
            way: Way::KernelOnly,
            ..replied(NatTcp, "reply to a client whose neighbour is unknown", segment, A)
        },
        stays(NatTcp, "reply, no route", &[], segment(&to_unrouted), Reason::NoRoute).by(Way::KernelOnly),
        stays(NatTcp, "reply, larger than the route takes", &[], too_big(&to_narrow), Reason::ReplyLeft)
            .by(Way::KernelOnly),
        stays(NatTcp, "reply, last hop", &[], segment(&last_hop), Reason::ReplyLeft),
    ]
}

fn by_routes() -> Vec<Row> {
    let on_b = [Slots(B, B, Settled, 0), Unresolved(B)];
    let unresolved = Frame { destination: NatTcp.backend(B), ..NatTcp.client_packet() };
    vec![
        Row {
            action: Action::Redirect,
            out: segment(&NatTcp.routed_to_a()),
            way: Way::Routes,
            ..sent(NatTcp, "a next hop by the kernel's routes", &[Unresolved(A)], segment, A)
        },
        Row {
            reason: Reason::ResolvingNextHop,
            action: Action::Pass,
            out: segment(&unresolved),
            way: Way::KernelOnly,
            ..sent(NatTcp, "an unknown neighbour is left to the stack", &on_b, segment, B)
        },
        stays(
            DsrTcp,
            "an unknown neighbour of a backend that owns the address",
            &on_b,
            segment(&DsrTcp.client_packet()),
            Reason::NextHopUnresolved,
        )
        .by(Way::KernelOnly),
    ]
}
