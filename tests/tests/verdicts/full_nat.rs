//! `full-nat`: what is translated, in both directions; what is known of a flow, and when it is so no more; ports that
//! run out, and a table that is full.

use std::sync::LazyLock;

use lb_common::{
    FlowState::{Closing, Established, Opening, Reset},
    Reason,
    SlotState::Settled,
};
use tests::packet::{Frame, flags};

use crate::{
    row::{
        Action,
        Given::{
            self, Down, Draining, HalfTranslated, OtherTranslated, ServiceGone, Slots, Translated,
            TranslatedByAnother, TranslationsLeft, Unresolved, WayMissing,
        },
        NOBODY, Row, Shape, Way, ack, datagram, empty_datagram, fin, odd_datagram, rst, segment, sent, stays,
        syn, syn_ack,
    },
    world::{
        IDLE_SECONDS, OTHER_MTU, POOL, POOL_V6,
        Svc::{self, FullNat6Tcp, FullNat6Udp, FullNatMss, FullNatTcp, FullNatUdp},
        Who::{A, B, Beyond},
    },
};

const ON_B: Given = Slots(B, B, Settled, 0);
const LIVE: Given = Translated(A, (Established, 5), (Established, 5));

pub fn rows() -> Vec<Row> {
    [opened(), followed(), replaced(), refused(), left(), told(), clamped(), replied(), unknown_replies()]
        .concat()
}

fn unchecked_datagram(frame: &Frame) -> Vec<u8> {
    let mut bytes = odd_datagram(frame);
    bytes[40..42].fill(0);
    bytes
}

/// A datagram whose checksum, once it leaves, adds up to zero and so is sent as all ones.
fn sums_to_zero(frame: &Frame) -> Vec<u8> {
    static WORD: LazyLock<[u8; 2]> = LazyLock::new(|| {
        let mut words = (0..=u16::MAX).map(u16::to_be_bytes);
        let sent = FullNatUdp.to_backend(A);
        words.find(|word| sent.udp(word)[40..42] == [0xff, 0xff]).expect("every sum is reached")
    });
    frame.udp(&*WORD)
}

/// Packets of which nothing is known.
fn opened() -> Vec<Row> {
    let hairpin = Frame { source: FullNatTcp.backend(A), ..FullNatTcp.client_packet() };
    let opened = |service, shape: Shape, to, state, other| {
        let name = format!("opened by {}", kind(&shape(&FullNatTcp.client_packet())));
        sent(service, &name, &[Slots(to, to, Settled, 0)], shape, to).translates(to, state, other)
    };
    let datagram_opens =
        |name, shape| sent(FullNatUdp, name, &[], shape, A).opens().translates(A, Established, Opening);
    vec![
        opened(FullNatTcp, syn, A, Opening, Opening).opens(),
        opened(FullNatTcp, segment, A, Closing, Closing),
        opened(FullNatTcp, fin, A, Closing, Closing),
        opened(FullNatTcp, rst, A, Reset, Reset),
        opened(FullNat6Tcp, syn, A, Opening, Opening).opens(),
        opened(FullNat6Tcp, segment, B, Closing, Closing),
        sent(FullNatTcp, "SYN, to another interface", &[ON_B], syn, B)
            .opens()
            .translates(B, Opening, Opening),
        datagram_opens("datagram", datagram),
        datagram_opens("odd datagram", odd_datagram),
        datagram_opens("empty datagram", empty_datagram),
        datagram_opens("no checksum stays none", unchecked_datagram),
        datagram_opens("a checksum of zero is sent as all ones", sums_to_zero),
        sent(FullNat6Udp, "odd datagram", &[ON_B], odd_datagram, B).opens().translates(
            B,
            Established,
            Opening,
        ),
        Row {
            packet: syn(&hairpin),
            ..sent(FullNatTcp, "a backend is its own client", &[], syn, A)
                .opens()
                .translates(A, Opening, Opening)
        },
        // What stands under the tuple is another flow's.
        sent(FullNatTcp, "another flow's entry", &[TranslatedByAnother(B)], syn, A)
            .opens()
            .translates(A, Opening, Opening),
    ]
}

fn kind(packet: &[u8]) -> &'static str {
    match packet[47] {
        flags::SYN => "a SYN",
        flags::RST => "a RST",
        flags if flags & flags::FIN != 0 => "a FIN",
        _ => "a segment",
    }
}

/// Packets of live flows stay where they are, whatever their slot says.
fn followed() -> Vec<Row> {
    let known = |state, other| [Translated(A, (state, 5), (other, 5)), ON_B];
    let idle = IDLE_SECONDS;
    vec![
        sent(FullNatTcp, "mid-flow", &[LIVE, ON_B], segment, A).translates(A, Established, Established),
        sent(FullNat6Tcp, "mid-flow", &[LIVE, ON_B], segment, A).translates(A, Established, Established),
        sent(FullNatUdp, "datagram of a known flow", &[LIVE, ON_B], odd_datagram, A).translates(
            A,
            Established,
            Established,
        ),
        sent(FullNatTcp, "a SYN again", &known(Opening, Established), syn, A).opens().translates(
            A,
            Opening,
            Established,
        ),
        sent(FullNatTcp, "the first ACK", &known(Opening, Established), ack, A).translates(
            A,
            Established,
            Established,
        ),
        sent(FullNatTcp, "FIN", &known(Established, Established), fin, A).translates(A, Closing, Established),
        sent(FullNatTcp, "RST", &known(Established, Established), rst, A).translates(A, Reset, Established),
        sent(FullNatTcp, "the ACK of a closed flow", &known(Closing, Closing), ack, A)
            .translates(A, Closing, Closing),
        sent(FullNatTcp, "its backend drains", &[LIVE, ON_B, Draining(A)], segment, A).translates(
            A,
            Established,
            Established,
        ),
        sent(FullNatTcp, "the table is full", &[LIVE, TranslationsLeft(0)], segment, A).translates(
            A,
            Established,
            Established,
        ),
        sent(
            FullNatTcp,
            "idle as long as it may be",
            &[Translated(A, (Established, idle - 2), (Established, idle + 2)), ON_B],
            segment,
            A,
        )
        .translates(A, Established, Established),
        sent(
            FullNatTcp,
            "only its backend sent of late",
            &[Translated(A, (Established, idle + 2), (Established, 1)), ON_B],
            segment,
            A,
        )
        .translates(A, Established, Established),
    ]
}

/// What is known of a tuple makes way for a new flow.
fn replaced() -> Vec<Row> {
    let reset = [Translated(A, (Reset, 5), (Established, 5))];
    let closed = Translated(A, (Closing, 5), (Closing, 5));
    let idle = Translated(A, (Established, IDLE_SECONDS + 2), (Established, IDLE_SECONDS + 2));
    let half = HalfTranslated(A, (Closing, 5));
    let opens = |name, given: &[Given], to| {
        sent(FullNatTcp, name, given, syn, to).opens().translates(to, Opening, Opening)
    };
    vec![
        opens("SYN after FIN, to the same backend", &[closed], A),
        opens("SYN after FIN, to another backend", &[closed, ON_B], B),
        opens("SYN after RST", &reset, A),
        opens("SYN after a RST of 11 s ago", &[Translated(A, (Reset, 11), (Reset, 11)), ON_B], B),
        opens("SYN after FIN, and half is known", &[half], A),
        opens("SYN after FIN, and half is known of another backend's", &[half, ON_B], B),
        opens("SYN of an idle flow", &[idle], A),
        opens("SYN of an idle flow, to another backend", &[idle, ON_B], B),
        opens("SYN after FIN, as the table is full", &[closed, TranslationsLeft(0)], A),
        opens("SYN of a flow of a dead backend", &[LIVE, Down(A), ON_B], B),
        sent(FullNatTcp, "mid-flow, of a dead backend", &[LIVE, Down(A), ON_B], segment, B)
            .translates(B, Closing, Closing),
        sent(FullNatUdp, "datagram of an idle flow", &[idle, ON_B], datagram, B).opens().translates(
            B,
            Established,
            Opening,
        ),
        sent(FullNatUdp, "datagram of an idle flow, to the same backend", &[idle], datagram, A)
            .opens()
            .translates(A, Established, Opening),
    ]
}

fn refused() -> Vec<Row> {
    let refused = |name, given: &[Given], reason| {
        stays(FullNatTcp, name, given, syn(&FullNatTcp.client_packet()), reason)
    };
    let v6 = syn(&FullNat6Tcp.client_packet());
    vec![
        refused("no port is free", &[OtherTranslated(A)], Reason::PortsExhausted),
        stays(FullNat6Tcp, "no port is free", &[OtherTranslated(A)], v6, Reason::PortsExhausted),
        sent(FullNatTcp, "the port is free at another backend", &[OtherTranslated(A), ON_B], syn, B)
            .opens()
            .translates(B, Opening, Opening),
        refused("no room", &[TranslationsLeft(0)], Reason::TranslationsFull),
        refused("room for one direction", &[TranslationsLeft(1)], Reason::TranslationsFull),
        sent(FullNatTcp, "room for both directions", &[TranslationsLeft(2)], syn, A)
            .opens()
            .translates(A, Opening, Opening),
        refused("no backend", &[NOBODY], Reason::NoBackend),
        refused("a backend that is down", &[Down(A)], Reason::NoBackend),
        refused(
            "a backend beyond the table",
            &[Slots(Beyond, Beyond, Settled, 0)],
            Reason::TableInconsistent,
        ),
        refused("a next hop names no interface", &[WayMissing(A)], Reason::TableInconsistent)
            .translates(A, Opening, Opening),
        stays(
            FullNatTcp,
            "a flow of a dead backend, and there is no other",
            &[LIVE, Down(A)],
            segment(&FullNatTcp.client_packet()),
            Reason::NoBackend,
        )
        .translates(A, Established, Established),
    ]
}

/// What is left to the stack.
fn left() -> Vec<Row> {
    fn large(frame: &Frame) -> Vec<u8> {
        let mut packet = frame.tcp(flags::ACK, &[0xa5; OTHER_MTU as usize]);
        // May be fragmented.
        packet[20] = 0;
        let mut header = etherparse::Ipv4Header::from_slice(&packet[14..]).expect("a whole header").0;
        header.header_checksum = header.calc_header_checksum();
        packet[14..34].copy_from_slice(&header.to_bytes());
        packet
    }
    // The stack takes the hop off and finds the neighbour.
    let left =
        |who| Frame { source: POOL, destination: FullNatTcp.backend(who), ..FullNatTcp.client_packet() };
    vec![
        Row {
            reason: Reason::LeftToFragment,
            action: Action::Pass,
            out: large(&left(B)),
            ..sent(FullNatTcp, "too large, and may be fragmented", &[ON_B], large, B)
                .translates(B, Closing, Closing)
        },
        Row {
            reason: Reason::ResolvingNextHop,
            action: Action::Pass,
            out: segment(&left(A)),
            way: Way::KernelOnly,
            ..sent(FullNatTcp, "a neighbour that is unknown", &[Unresolved(A)], segment, A)
                .translates(A, Closing, Closing)
        },
    ]
}

/// What goes no further is told to its sender, who sends again: its flow is open by then. What it is told is tabled
/// elsewhere.
fn told() -> Vec<Row> {
    let told = |name, given: &[Given], packet: Vec<u8>| Row {
        action: Action::Tx,
        out: vec![0; packet.len() + 28],
        free: std::iter::once(0..packet.len() + 28).collect(),
        ..stays(FullNatTcp, name, given, packet, Reason::TimeExceededAnswered)
    };
    let client = Frame { ttl: 1, ..FullNatTcp.client_packet() };
    let backend = Frame { ttl: 1, destination: POOL, ..FullNatTcp.backend_packet(A) };
    vec![
        told("the last hop of a SYN", &[], syn(&client)).translates(A, Opening, Opening),
        told("the last hop", &[LIVE], segment(&client)).translates(A, Established, Established),
        told("reply, the last hop", &[LIVE], segment(&backend)).translates(A, Established, Established),
    ]
}

/// The largest segment that a SYN announces, in both directions.
fn clamped() -> Vec<Row> {
    fn announcing(frame: &Frame, flags: u8, mss: u16) -> Vec<u8> {
        let [high, low] = mss.to_be_bytes();
        frame.tcp_with(flags, &[2, 4, high, low], b"")
    }
    let (accept, opening) = (flags::SYN | flags::ACK, Translated(A, (Opening, 5), (Opening, 5)));
    let to_pool = Frame { destination: POOL, ..FullNatMss.backend_packet(A) };
    let mut rows = Vec::new();
    for (announced, sent_on) in [(1_460, 1_400), (1_400, 1_400), (536, 536)] {
        let name = format!("SYN of {announced}");
        let row = sent(FullNatMss, &name, &[], syn, A).opens().translates(A, Opening, Opening);
        rows.push(Row {
            packet: announcing(&FullNatMss.client_packet(), flags::SYN, announced),
            out: announcing(&FullNatMss.to_backend(A), flags::SYN, sent_on),
            ..row
        });
        let row = reply(FullNatMss, &format!("SYN and ACK of {announced}"), opening, syn_ack);
        rows.push(Row {
            packet: announcing(&to_pool, accept, announced),
            out: announcing(&FullNatMss.to_client(), accept, sent_on),
            ..row.translates(A, Opening, Established)
        });
    }
    rows
}

/// A backend's packet to the pool.
fn reply(service: Svc, name: &str, given: Given, shape: Shape) -> Row {
    let pool = if service.vip().is_ipv4() { POOL } else { POOL_V6 };
    Row {
        reason: Reason::Replied,
        action: Action::Redirect,
        packet: shape(&Frame { destination: pool, ..service.backend_packet(A) }),
        out: shape(&service.to_client()),
        counted: None,
        way: Way::Routes,
        ..sent(service, &format!("reply, {name}"), &[given], shape, A)
    }
}

fn replied() -> Vec<Row> {
    let known = |other| Translated(A, (Established, 5), (other, 5));
    let both = |row: Row, other| row.translates(A, Established, other);
    let dead = reply(FullNatTcp, "of a dead backend", LIVE, segment);
    vec![
        reply(FullNatTcp, "SYN and ACK", Translated(A, (Opening, 5), (Opening, 5)), syn_ack).translates(
            A,
            Opening,
            Established,
        ),
        both(reply(FullNatTcp, "an odd payload", LIVE, segment), Established),
        both(reply(FullNatTcp, "FIN", LIVE, fin), Closing),
        both(reply(FullNatTcp, "RST", LIVE, rst), Reset),
        both(reply(FullNatTcp, "the ACK of a closed flow", known(Closing), ack), Closing),
        both(reply(FullNatTcp, "SYN and ACK after its RST", known(Reset), syn_ack), Established),
        both(
            reply(FullNatTcp, "idle for long", Translated(A, (Established, 5), (Established, 900)), ack),
            Established,
        ),
        both(reply(FullNat6Tcp, "an odd payload", LIVE, segment), Established),
        both(reply(FullNatUdp, "datagram", known(Opening), datagram), Established),
        both(reply(FullNatUdp, "odd datagram", LIVE, odd_datagram), Established),
        both(reply(FullNatUdp, "no checksum stays none", LIVE, unchecked_datagram), Established),
        both(reply(FullNat6Udp, "odd datagram", LIVE, odd_datagram), Established),
        both(Row { given: vec![LIVE, Down(A)], ..dead }, Established),
    ]
}

/// Packets to the pool that belong to no flow are the stack's.
fn unknown_replies() -> Vec<Row> {
    let to_gone =
        Frame { destination: (FullNatTcp.vip().ip(), POOL.port()).into(), ..FullNatTcp.client_packet() };
    let to_pool = |who| segment(&Frame { destination: POOL, ..FullNatTcp.backend_packet(who) });
    vec![
        // Its port is one of the pool's, and its destination is known as a client's flow: of a service that is gone.
        stays(FullNatTcp, "a service that is gone", &[ServiceGone(A)], segment(&to_gone), Reason::NotOurs),
        stays(FullNatTcp, "reply, of no flow", &[], to_pool(A), Reason::NotOurs),
        stays(FullNatTcp, "reply, of another backend", &[LIVE], to_pool(B), Reason::NotOurs).translates(
            A,
            Established,
            Established,
        ),
        stays(
            FullNatTcp,
            "reply, to another port",
            &[LIVE],
            segment(&Frame {
                destination: (POOL.ip(), POOL.port() + 1).into(),
                ..FullNatTcp.backend_packet(A)
            }),
            Reason::NotOurs,
        )
        .translates(A, Established, Established),
    ]
}
