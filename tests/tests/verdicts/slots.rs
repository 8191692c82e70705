//! Settled, moving and pinned slots: who gets a packet, and what is remembered.

use lb_common::{
    Reason,
    SlotState::{Moving, Pinned, Settled},
};

use crate::{
    row::{
        Given::{Closed, Down, Draining, Full, Recycled, Remembered, Slots},
        Row, ack, datagram, fin, rst, sent, stays, syn, syn_ack,
    },
    world::{
        IDLE_SECONDS,
        Svc::{ByAddressTcp, Connectionless, DsrTcp, NatTcp, NatUdp},
        Who::{A, B, Beyond, Foreign, Nobody},
    },
};

/// After so many seconds a remembered flow has idled out.
const IDLED: u32 = IDLE_SECONDS + 5;

pub fn rows() -> Vec<Row> {
    [settled(), moving(), moving_hit(), moving_udp(), pinned(), full(), by_address()].concat()
}

fn settled() -> Vec<Row> {
    let settled = Slots(B, B, Settled, 0);
    vec![
        sent(NatTcp, "settled, SYN", &[settled], syn, B).opens(),
        sent(NatTcp, "settled, mid-flow", &[settled], ack, B),
        sent(NatTcp, "settled, FIN", &[settled], fin, B),
        sent(NatTcp, "settled, what is remembered does not count", &[settled, Remembered(A, 1)], ack, B)
            .remembers(A),
        sent(NatTcp, "settled on a draining backend", &[settled, Draining(B)], ack, B),
        sent(DsrTcp, "settled, mid-flow", &[settled], ack, B),
        sent(NatUdp, "settled", &[settled], datagram, B),
    ]
}

fn moving() -> Vec<Row> {
    let moved = |ago| Slots(B, A, Moving, ago);
    vec![
        sent(NatTcp, "moving, SYN at once may be a retransmission", &[moved(0)], syn, A).opens().remembers(A),
        sent(NatTcp, "moving, SYN within 3 s, previous drains", &[moved(0), Draining(A)], syn, A)
            .opens()
            .remembers(A),
        sent(NatTcp, "moving, SYN within 3 s, previous is down", &[moved(0), Down(A)], syn, B)
            .opens()
            .remembers(B),
        sent(NatTcp, "moving, SYN after 3 s", &[moved(4)], syn, B).opens().remembers(B),
        sent(NatTcp, "moving, mid-flow", &[moved(4)], ack, A).remembers(A),
        sent(NatTcp, "moving, mid-flow, at once", &[moved(0)], ack, A).remembers(A),
        sent(NatTcp, "moving, SYN and ACK is mid-flow", &[moved(4)], syn_ack, A).remembers(A),
        sent(NatTcp, "moving, mid-flow, previous drains", &[moved(4), Draining(A)], ack, A).remembers(A),
        sent(NatTcp, "moving, mid-flow, previous is down", &[moved(4), Down(A)], ack, B).remembers(B),
        sent(NatTcp, "moving, mid-flow, previous is nobody", &[Slots(B, Nobody, Moving, 4)], ack, B)
            .remembers(B),
        sent(
            NatTcp,
            "moving, mid-flow, previous is another service's",
            &[Slots(B, Foreign, Moving, 4)],
            ack,
            B,
        )
        .remembers(B),
        sent(
            NatTcp,
            "moving, mid-flow, previous lies beyond the table",
            &[Slots(B, Beyond, Moving, 4)],
            ack,
            B,
        )
        .remembers(B),
        sent(NatTcp, "moving, FIN of an unknown flow", &[moved(4)], fin, A).remembers_closed(A),
        sent(NatTcp, "moving, RST of an unknown flow", &[moved(4)], rst, A).remembers_closed(A),
        sent(NatTcp, "moving, mid-flow, long after the move", &[moved(IDLED)], ack, A).remembers(A),
        sent(DsrTcp, "moving, mid-flow", &[moved(4)], ack, A).remembers(A),
        sent(DsrTcp, "moving, SYN after 3 s", &[moved(4)], syn, B).opens().remembers(B),
        stays(
            NatTcp,
            "moving between nobody and nobody",
            &[Slots(Nobody, Nobody, Moving, 4)],
            ack(&NatTcp.client_packet()),
            Reason::NoBackend,
        ),
    ]
}

fn moving_hit() -> Vec<Row> {
    let moved = Slots(B, A, Moving, 10);
    vec![
        sent(NatTcp, "moving, remembered as previous's", &[moved, Remembered(A, 30)], ack, A).remembers(A),
        sent(NatTcp, "moving, remembered as current's", &[moved, Remembered(B, 30)], ack, B).remembers(B),
        sent(NatTcp, "moving, remembered, draining", &[moved, Remembered(A, 30), Draining(A)], ack, A)
            .remembers(A),
        sent(NatTcp, "moving, remembered in this second", &[moved, Remembered(B, 0)], ack, B).remembers(B),
        sent(NatTcp, "moving, remembered, FIN", &[moved, Remembered(B, 0)], fin, B).remembers_closed(B),
        sent(NatTcp, "moving, remembered, RST", &[moved, Remembered(B, 30)], rst, B).remembers_closed(B),
        sent(NatTcp, "moving, closed, mid-flow", &[moved, Closed(B, 1)], ack, B).remembers_closed(B),
        sent(NatTcp, "moving, SYN hits a live flow", &[moved, Remembered(A, 1)], syn, A).remembers(A),
        sent(NatTcp, "moving, SYN reopens a closed flow", &[moved, Closed(A, 1)], syn, B)
            .opens()
            .remembers(B),
        sent(NatTcp, "moving, SYN after the flow idled out", &[moved, Remembered(A, IDLED)], syn, B)
            .opens()
            .remembers(B),
        sent(NatTcp, "moving, mid-flow after the flow idled out", &[moved, Remembered(B, IDLED)], ack, A)
            .remembers(A),
        sent(NatTcp, "moving, remembered, but down", &[moved, Remembered(B, 1), Down(B)], ack, A)
            .remembers(A),
        sent(NatTcp, "moving, remembered as another service's", &[moved, Remembered(Foreign, 1)], ack, A)
            .remembers(A),
        sent(NatTcp, "moving, a recycled element is a miss", &[moved, Recycled(B)], ack, A).remembers(A),
        sent(DsrTcp, "moving, remembered as current's", &[moved, Remembered(B, 30)], ack, B).remembers(B),
    ]
}

fn moving_udp() -> Vec<Row> {
    let moved = |ago| Slots(B, A, Moving, ago);
    vec![
        sent(NatUdp, "moving, datagram", &[moved(4)], datagram, A).opens().remembers(A),
        sent(NatUdp, "moving, datagram after the idle timeout", &[moved(IDLED)], datagram, A)
            .opens()
            .remembers(A),
        sent(NatUdp, "moving, datagram, previous is down", &[moved(4), Down(A)], datagram, B)
            .opens()
            .remembers(B),
        sent(NatUdp, "moving, remembered datagram", &[moved(4), Remembered(B, 30)], datagram, B).remembers(B),
        sent(Connectionless, "moving, always current", &[moved(4)], datagram, B),
        sent(
            Connectionless,
            "moving, what is remembered does not count",
            &[moved(4), Remembered(A, 1)],
            datagram,
            B,
        )
        .remembers(A),
        sent(Connectionless, "pinned, always current", &[Slots(B, A, Pinned, 90)], datagram, B),
    ]
}

fn pinned() -> Vec<Row> {
    let pinned = Slots(B, A, Pinned, 90);
    vec![
        sent(NatTcp, "pinned, remembered", &[pinned, Remembered(A, 30)], ack, A).remembers(A),
        sent(NatTcp, "pinned, remembered, draining", &[pinned, Remembered(A, 30), Draining(A)], ack, A)
            .remembers(A),
        sent(NatTcp, "pinned, mid-flow, unknown", &[pinned], ack, B),
        sent(NatTcp, "pinned, SYN, unknown", &[pinned], syn, B).opens(),
        sent(NatTcp, "pinned, idled out", &[pinned, Remembered(A, IDLED)], ack, B).remembers(B),
        sent(NatTcp, "pinned, SYN reopens a closed flow", &[pinned, Closed(A, 1)], syn, B)
            .opens()
            .remembers(B),
        sent(NatTcp, "pinned, remembered, but down", &[pinned, Remembered(A, 1), Down(A)], ack, B)
            .remembers(B),
        sent(NatTcp, "pinned, a recycled element is a miss", &[pinned, Recycled(A)], rst, B).remembers(A),
        sent(NatUdp, "pinned, unknown datagram", &[pinned], datagram, B),
        sent(NatUdp, "pinned, remembered datagram", &[pinned, Remembered(A, 30)], datagram, A).remembers(A),
    ]
}

fn full() -> Vec<Row> {
    let moved = |ago| Slots(B, A, Moving, ago);
    vec![
        sent(NatTcp, "full, SYN goes where its later packets will", &[moved(4), Full], syn, A)
            .opens()
            .refused(),
        sent(NatTcp, "full, SYN, previous is down", &[moved(4), Full, Down(A)], syn, B).opens().refused(),
        sent(NatTcp, "full, mid-flow", &[moved(4), Full], ack, A).refused(),
        sent(NatTcp, "full, remembered", &[moved(4), Remembered(B, 30), Full], ack, B).remembers(B),
        sent(NatTcp, "full, SYN reopens in place", &[moved(4), Closed(A, 1), Full], syn, B)
            .opens()
            .remembers(B),
        sent(NatUdp, "full, datagram", &[moved(4), Full], datagram, A).opens().refused(),
        sent(NatUdp, "full, datagram after the idle timeout", &[moved(IDLED), Full], datagram, A)
            .opens()
            .refused(),
        sent(NatTcp, "full, pinned, unknown", &[Slots(B, A, Pinned, 90), Full], syn, B).opens(),
        sent(DsrTcp, "full, SYN", &[moved(4), Full], syn, A).opens().refused(),
    ]
}

/// One flow for all connections of two addresses: that one opens or ends says nothing of the others.
fn by_address() -> Vec<Row> {
    let service = ByAddressTcp;
    let (moved, pinned) = (Slots(B, A, Moving, 10), Slots(B, A, Pinned, 90));
    vec![
        sent(service, "settled, SYN", &[Slots(B, B, Settled, 0)], syn, B).opens(),
        sent(service, "moving, SYN beside unknown connections", &[moved], syn, A).opens().remembers(A),
        sent(service, "moving, SYN beside others", &[moved, Remembered(A, 1)], syn, A).opens().remembers(A),
        sent(service, "moving, FIN beside others", &[moved, Remembered(A, 1)], fin, A).remembers(A),
        sent(service, "moving, RST beside others", &[moved, Remembered(A, 1)], rst, A).remembers(A),
        sent(service, "moving, FIN beside unknown connections", &[moved], fin, A).remembers(A),
        sent(service, "moving, full, SYN", &[moved, Full], syn, A).opens().refused(),
        sent(service, "pinned, FIN beside others", &[pinned, Remembered(A, 1)], fin, A).remembers(A),
        sent(service, "pinned, SYN beside others", &[pinned, Remembered(A, 1)], syn, A).opens().remembers(A),
    ]
}
