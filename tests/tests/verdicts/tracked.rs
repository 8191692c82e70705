//! Services that track every flow: whom a new one goes to, what is remembered and counted of it, caps, affinity, and
//! response times. And hashing by the client's network, tracked or not.

use std::net::SocketAddr;

use lb_common::{
    Algorithm::{
        self, LeastConnections, LeastResponseTime, Maglev, PowerOfTwo, Random, RoundRobin, SourceHash,
    },
    FlowState::{Closing, Established, Opening},
    Reason,
    SlotState::{Moving, Pinned, Settled},
};
use tests::packet::Frame;

use crate::{
    row::{
        Action,
        Given::{
            self, Affinity, Alternating, Capped, Chooses, ClientBits, Closed, Connections, Counted, Down,
            Draining, Full, KeptTo, OwnSlot, RarelyA, Recycled, Remembered, Response, Slots, Tracked,
            Translated, Weight,
        },
        Row, Shape, Way, ack, datagram, fin, rst, segment, sent, stays, syn, syn_ack,
    },
    world::{
        CLIENT_V6, IDLE_SECONDS,
        Svc::{self, ByAddressTcp, DsrTcp, FullNatTcp, FullNatUdp, Gue44, Nat6Tcp, NatTcp, NatUdp},
        Who::{self, A, B, Nobody},
    },
};

/// After so many seconds a remembered flow has idled out.
const IDLED: u32 = IDLE_SECONDS + 5;
const ON_B: Given = Slots(B, B, Settled, 0);
const EVERY: Given = Tracked(Maglev);

pub fn rows() -> Vec<Row> {
    [
        algorithms(),
        compared(),
        opened(),
        followed(),
        ended(),
        stale(),
        full(),
        capped(),
        affinity(),
        source_hash(),
        by_address(),
        timed(),
        full_nat(),
    ]
    .concat()
}

/// A packet of a service that tracks every flow.
fn tracked(service: Svc, name: &str, given: &[Given], shape: Shape, to: Who) -> Row {
    let given = if given.iter().any(|one| matches!(one, Tracked(_))) {
        given.to_vec()
    } else {
        [&[EVERY], given].concat()
    };
    sent(service, &format!("tracked, {name}"), &given, shape, to)
}

/// The same from another client.
fn from(row: Row, client: SocketAddr, shape: Shape, to: Who) -> Row {
    let came = Frame { source: client, ..row.service.client_packet() };
    let leaves = Frame { source: client, ..row.service.to_backend(to) };
    Row { packet: shape(&came), out: row.service.wrapped(to, shape(&leaves)), ..row }
}

fn algorithms() -> Vec<Row> {
    let mut rows = Vec::new();
    for algorithm in Algorithm::ALL {
        let name = |what: &str| format!("{algorithm:?}, {what}");
        let every = Tracked(algorithm);
        let opens = |service, name: &str, given: &[Given], shape, to| {
            tracked(service, name, given, shape, to).opens().remembers(to).connects(to, 1)
        };
        let packet = syn(&NatTcp.client_packet());
        rows.extend([
            opens(NatTcp, &name("SYN"), &[every], syn, A),
            opens(NatTcp, &name("SYN to another interface"), &[every, ON_B], syn, B),
            opens(NatUdp, &name("datagram"), &[every], datagram, A),
            opens(DsrTcp, &name("SYN"), &[every], syn, A),
            opens(Nat6Tcp, &name("SYN"), &[every], syn, A),
            // Whatever its slot would say in mid-flow.
            opens(NatTcp, &name("SYN, moving"), &[every, Slots(B, A, Moving, 0)], syn, B),
            opens(NatTcp, &name("SYN, below the cap"), &[every, Capped(A, 5), Connections(A, 4)], syn, A),
            opens(
                NatTcp,
                &name("SYN, a count below zero"),
                &[every, Capped(A, 5), Connections(A, u64::MAX)],
                syn,
                A,
            ),
            stays(
                NatTcp,
                &format!("tracked, {}", name("SYN, full")),
                &[every, Capped(A, 5), Connections(A, 5)],
                packet.clone(),
                Reason::BackendsFull,
            ),
            stays(
                NatTcp,
                &format!("tracked, {}", name("SYN, its backend drains")),
                &[every, Draining(A)],
                packet.clone(),
                Reason::NoBackend,
            ),
            stays(
                NatTcp,
                &format!("tracked, {}", name("SYN, nobody")),
                &[every, Slots(Nobody, Nobody, Settled, 0)],
                packet,
                Reason::NoBackend,
            ),
        ]);
    }
    rows
}

/// Where several backends could take the flow.
fn compared() -> Vec<Row> {
    let opens = |name: &str, given: &[Given], to| {
        tracked(NatTcp, name, given, syn, to).opens().remembers(to).connects(to, 1)
    };
    let other = |number: u16| {
        let client = Frame { source: (NatTcp.client().ip(), number).into(), ..NatTcp.client_packet() };
        syn(&client)
    };
    let turns = |name: &str, before: Vec<Vec<u8>>, to| Row {
        before,
        ..opens(&format!("RoundRobin, {name}"), &[Tracked(RoundRobin), Alternating], to)
    };
    let mut rows = vec![
        turns("the first", vec![], A),
        turns("the second", vec![other(1)], B),
        turns("the third", vec![other(1), other(2)], A),
        turns("what opens nothing takes no turn", vec![other(1), other(1), other(2), other(1)], A),
    ];
    for algorithm in [LeastConnections, LeastResponseTime, PowerOfTwo] {
        let every = Tracked(algorithm);
        rows.push(opens(
            &format!("{algorithm:?}, B has fewer"),
            &[every, RarelyA, Connections(A, 9), Connections(B, 3)],
            B,
        ));
    }
    let alternating = |name: &str, given: &[Given], to| {
        opens(name, &[&[Alternating], given].concat(), to).by(Way::HostOnly)
    };
    for (fewer, more) in [(A, B), (B, A)] {
        let least = Tracked(LeastConnections);
        let fastest = Tracked(LeastResponseTime);
        let name = |what: &str| format!("{what}, to {fewer:?}");
        rows.extend([
            alternating(
                &name("LeastConnections, fewer"),
                &[least, Connections(fewer, 3), Connections(more, 4)],
                fewer,
            ),
            alternating(
                &name("LeastConnections, fewer for its weight"),
                &[least, Weight(fewer, 10), Connections(fewer, 30), Weight(more, 1), Connections(more, 4)],
                fewer,
            ),
            alternating(
                &name("LeastResponseTime, faster"),
                &[fastest, Response(fewer, 1_000), Response(more, 9_000)],
                fewer,
            ),
            alternating(
                &name("LeastResponseTime, faster for its connections"),
                &[
                    fastest,
                    Response(fewer, 5_000),
                    Response(more, 1_000),
                    Connections(fewer, 0),
                    Connections(more, 99),
                ],
                fewer,
            ),
            alternating(
                &name("LeastResponseTime, the other has never answered"),
                &[fastest, Response(fewer, 50_000), Connections(fewer, 9), Connections(more, 1)],
                fewer,
            ),
            alternating(
                &name("LeastResponseTime, who was never asked is tried"),
                &[fastest, Response(more, 100)],
                fewer,
            ),
        ]);
    }
    rows
}

fn opened() -> Vec<Row> {
    let joins = |name: &str, given: &[Given], shape, to| {
        tracked(NatTcp, name, given, shape, to).remembers(to).connects(to, 1)
    };
    let every = Tracked(LeastConnections);
    vec![
        joins("mid-flow of an unknown flow", &[every], ack, A),
        joins("mid-flow with data", &[every], segment, A),
        joins("SYN and ACK is mid-flow", &[every], syn_ack, A),
        joins("mid-flow, moving", &[every, Slots(B, A, Moving, 9)], ack, A),
        joins("mid-flow, moving, previous is down", &[every, Slots(B, A, Moving, 9), Down(A)], ack, B),
        joins("mid-flow, pinned", &[every, Slots(B, A, Pinned, 90)], ack, B),
        joins("mid-flow, to a full backend", &[every, Capped(A, 5), Connections(A, 5)], ack, A),
        joins("mid-flow, to a draining backend", &[every, Draining(A)], ack, A),
        joins("a recycled element is a miss", &[every, Recycled(B)], ack, A),
        joins("SYN, a recycled element is a miss", &[every, Recycled(B)], syn, A).opens(),
        tracked(NatTcp, "FIN of an unknown flow", &[], fin, A).remembers_closed(A),
        tracked(NatTcp, "RST of an unknown flow leaves nothing", &[], rst, A),
        stays(
            NatTcp,
            "tracked, mid-flow to nobody",
            &[EVERY, Slots(Nobody, Nobody, Settled, 0)],
            ack(&NatTcp.client_packet()),
            Reason::NoBackend,
        ),
    ]
}

/// A known flow stays, whatever its slot says.
fn followed() -> Vec<Row> {
    let known = Counted(B, 5);
    let follows = |service, name: &str, given: &[Given], shape| {
        tracked(service, name, &[&[known], given].concat(), shape, B).remembers(B)
    };
    vec![
        follows(NatTcp, "known", &[], ack),
        follows(NatTcp, "known, in this second", &[Counted(B, 0)], ack),
        follows(NatTcp, "known, with data", &[], segment),
        follows(NatTcp, "known, SYN again", &[], syn),
        follows(NatTcp, "known, moving", &[Slots(A, A, Moving, 1)], ack),
        follows(NatTcp, "known, draining", &[Draining(B)], ack),
        follows(NatTcp, "known, full", &[Capped(B, 1), Connections(B, 1)], ack),
        follows(NatTcp, "known, full, SYN again", &[Capped(B, 1), Connections(B, 1)], syn),
        follows(NatUdp, "known", &[], datagram),
        follows(DsrTcp, "known", &[], ack),
        follows(Gue44, "known", &[], ack),
        follows(Nat6Tcp, "known", &[], ack),
        tracked(NatTcp, "remembered before it was tracked", &[Remembered(B, 5)], ack, B)
            .remembers(B)
            .connects(B, 1),
        tracked(NatUdp, "remembered before it was tracked", &[Remembered(B, 5)], datagram, B)
            .remembers(B)
            .connects(B, 1),
    ]
}

fn ended() -> Vec<Row> {
    let own = |shape: Shape| shape(&NatTcp.client_packet());
    let known = Counted(B, 1);
    vec![
        tracked(NatTcp, "FIN", &[known], fin, B).remembers_closed(B).connects(B, -1),
        tracked(NatTcp, "RST", &[known], rst, B).remembers_closed(B).connects(B, -1),
        tracked(NatTcp, "FIN, draining", &[known, Draining(B)], fin, B).remembers_closed(B).connects(B, -1),
        tracked(NatTcp, "FIN of what was not counted", &[Remembered(B, 1)], fin, B).remembers_closed(B),
        tracked(NatTcp, "ACK after FIN", &[Closed(B, 1)], ack, B).remembers_closed(B),
        Row {
            before: vec![own(syn)],
            ..tracked(NatTcp, "FIN after SYN", &[ON_B], fin, B).remembers_closed(B).connects(B, -1)
        },
        Row {
            before: vec![own(syn), own(fin)],
            ..tracked(NatTcp, "FIN again", &[ON_B], fin, B).remembers_closed(B)
        },
        Row {
            before: vec![own(syn), own(fin)],
            ..tracked(NatTcp, "RST after FIN", &[ON_B], rst, B).remembers_closed(B)
        },
        Row {
            before: vec![own(syn), own(fin)],
            ..tracked(NatTcp, "SYN reopens", &[ON_B], syn, B).opens().remembers(B).connects(B, 1)
        },
        tracked(NatTcp, "SYN reopens elsewhere", &[Closed(B, 1)], syn, A).opens().remembers(A).connects(A, 1),
    ]
}

/// What is remembered and does not bind counts no more, once.
fn stale() -> Vec<Row> {
    let moves = |name: &str, given: &[Given], shape: Shape| {
        tracked(NatTcp, name, given, shape, A).remembers(A).connects(A, 1).connects(B, -1)
    };
    vec![
        moves("idled out", &[Counted(B, IDLED)], ack),
        moves("idled out, SYN", &[Counted(B, IDLED)], syn).opens(),
        moves("its backend is down", &[Counted(B, 1), Down(B)], ack),
        moves("its backend is down, SYN", &[Counted(B, 1), Down(B)], syn).opens(),
        tracked(NatTcp, "its backend is down, RST", &[Counted(B, 1), Down(B)], rst, A)
            .connects(B, -1)
            .stale(B),
        tracked(NatUdp, "idled out", &[Counted(B, IDLED)], datagram, A)
            .opens()
            .remembers(A)
            .connects(A, 1)
            .connects(B, -1),
        stays(
            NatTcp,
            "tracked, its backend is down, and all are full",
            &[EVERY, Counted(B, 1), Down(B), Capped(A, 1), Connections(A, 1)],
            syn(&NatTcp.client_packet()),
            Reason::BackendsFull,
        )
        .connects(B, -1)
        .stale(B),
    ]
}

/// The flow table has no room.
fn full() -> Vec<Row> {
    let refused = |service, name: &str, given: &[Given], shape, to| {
        tracked(service, name, &[given, &[Full]].concat(), shape, to).refused()
    };
    let every = Tracked(Random);
    vec![
        refused(NatTcp, "no room, SYN goes where its later packets will", &[every], syn, A).opens(),
        refused(NatTcp, "no room, SYN, moving", &[every, Slots(B, A, Moving, 9)], syn, A).opens(),
        refused(NatTcp, "no room, mid-flow", &[every], ack, A),
        refused(NatTcp, "no room, mid-flow, moving", &[every, Slots(B, A, Moving, 9)], ack, A),
        refused(NatUdp, "no room, datagram", &[every], datagram, A).opens(),
        // Who is not counted meets no cap.
        refused(
            NatTcp,
            "no room, past a full backend and back",
            &[ON_B, OwnSlot(A), Capped(A, 1), Connections(A, 1)],
            syn,
            A,
        )
        .opens(),
        tracked(NatTcp, "no room, known", &[Counted(B, 5), Full], ack, B).remembers(B),
        tracked(NatTcp, "no room, SYN reopens in place", &[Closed(B, 1), Full], syn, A)
            .opens()
            .remembers(A)
            .connects(A, 1),
    ]
}

fn capped() -> Vec<Row> {
    let full = [Capped(A, 5), Connections(A, 5)];
    let overflows = |service: Svc, algorithm: Algorithm, shape: Shape| {
        let given = [&[Tracked(algorithm), ON_B, OwnSlot(A)][..], &full].concat();
        let row = tracked(service, &format!("{algorithm:?}, overflows"), &given, shape, B);
        Row { overflowed: true, ..row.opens().remembers(B).connects(B, 1) }
    };
    vec![
        overflows(NatTcp, Maglev, syn),
        overflows(NatTcp, SourceHash, syn),
        overflows(NatUdp, Maglev, datagram),
        overflows(DsrTcp, Maglev, syn),
        overflows(Nat6Tcp, Maglev, syn),
        Row {
            overflowed: true,
            ..tracked(
                NatTcp,
                "RoundRobin, overflows",
                &[&[Tracked(RoundRobin), Alternating][..], &full].concat(),
                syn,
                B,
            )
            .opens()
            .remembers(B)
            .connects(B, 1)
        },
        tracked(
            NatTcp,
            "one that drains is passed over, which is no overflow",
            &[ON_B, OwnSlot(A), Draining(A)],
            syn,
            B,
        )
        .opens()
        .remembers(B)
        .connects(B, 1),
    ]
}

fn affinity() -> Vec<Row> {
    let every = [Tracked(Random), Affinity(60)];
    let opens = |service: Svc, name: &str, given: &[Given], shape, to| {
        tracked(service, &format!("affinity, {name}"), &[&every, given].concat(), shape, to)
            .opens()
            .remembers(to)
            .connects(to, 1)
            .keeps(to)
    };
    let neighbour: SocketAddr = ([198, 18, 3, 99], 40_961).into();
    vec![
        opens(NatTcp, "none yet", &[], syn, A),
        opens(NatTcp, "kept", &[KeptTo(B, 5)], syn, B),
        opens(NatTcp, "kept to the last second", &[KeptTo(B, 59)], syn, B),
        opens(NatTcp, "expired", &[KeptTo(B, 62)], syn, A),
        opens(NatTcp, "its backend drains", &[KeptTo(B, 5), Draining(B)], syn, A),
        opens(NatTcp, "its backend is down", &[KeptTo(B, 5), Down(B)], syn, A),
        opens(NatUdp, "kept", &[KeptTo(B, 5)], datagram, B),
        opens(Nat6Tcp, "kept", &[ClientBits(64), KeptTo(B, 5)], syn, B),
        Row {
            overflowed: true,
            ..opens(NatTcp, "its backend is full", &[KeptTo(B, 5), Capped(B, 1), Connections(B, 1)], syn, A)
        },
        from(
            tracked(
                NatTcp,
                "affinity, kept by another client of the network",
                &[&every[..], &[ClientBits(120), KeptTo(B, 5)]].concat(),
                syn,
                B,
            )
            .opens()
            .connects(B, 1)
            .keeps(B),
            neighbour,
            syn,
            B,
        ),
        tracked(
            NatTcp,
            "affinity, a known flow",
            &[&every[..], &[Counted(B, 5), KeptTo(B, 5)]].concat(),
            ack,
            B,
        )
        .remembers(B)
        .keeps(B),
        tracked(NatTcp, "affinity, a known flow without", &[&every[..], &[Counted(B, 5)]].concat(), ack, B)
            .remembers(B),
        tracked(NatTcp, "affinity, no room", &[&every[..], &[Full]].concat(), syn, A).opens().refused(),
    ]
}

fn source_hash() -> Vec<Row> {
    let port: SocketAddr = (NatTcp.client().ip(), 50_000).into();
    let neighbour: SocketAddr = ([198, 18, 3, 99], 1_024).into();
    let neighbour_v6: SocketAddr = {
        let std::net::IpAddr::V6(ip) = CLIENT_V6.ip() else { unreachable!("it is IPv6") };
        let mut segments = ip.segments();
        segments[7] ^= 0x55;
        (std::net::Ipv6Addr::from(segments), 1_024).into()
    };
    let own = [Slots(A, A, Settled, 0), OwnSlot(B)];
    let mut rows = Vec::new();
    for (way, every) in [("tracked", Tracked(SourceHash)), ("on change", Chooses(SourceHash))] {
        let counts = |row: Row| if way == "tracked" { row.connects(B, 1) } else { row };
        let by = |service: Svc, name: &str, given: &[Given], client, shape: Shape| {
            let given = [&[every], given, &own].concat();
            let row = sent(service, &format!("source hash, {way}, {name}"), &given, shape, B);
            counts(from(row, client, shape, B))
        };
        rows.extend([
            by(NatTcp, "another port", &[], port, syn).opens(),
            by(NatTcp, "another port, mid-flow", &[], port, ack),
            by(NatTcp, "another client of the network", &[ClientBits(120)], neighbour, syn).opens(),
            by(DsrTcp, "another client of the network", &[ClientBits(120)], neighbour, syn).opens(),
            by(Nat6Tcp, "another client of the network", &[ClientBits(64)], neighbour_v6, syn).opens(),
        ]);
    }
    rows.extend([
        tracked(NatTcp, "source hash, known", &[Tracked(SourceHash), Counted(B, 5)], ack, B).remembers(B),
        tracked(NatTcp, "source hash, FIN", &[Tracked(SourceHash), Counted(B, 5)], fin, B)
            .remembers_closed(B)
            .connects(B, -1),
        sent(
            NatTcp,
            "source hash, on change, moving, remembered",
            &[Chooses(SourceHash), ClientBits(120), Slots(A, A, Moving, 9), Remembered(B, 5)],
            ack,
            B,
        )
        .remembers(B),
    ]);
    rows
}

/// One flow for all connections of two addresses.
fn by_address() -> Vec<Row> {
    let service = ByAddressTcp;
    let known = Counted(B, 1);
    vec![
        tracked(service, "SYN", &[], syn, A).opens().remembers(A).connects(A, 1),
        tracked(service, "SYN beside others", &[known], syn, B).opens().remembers(B),
        tracked(service, "ACK beside others", &[known], ack, B).remembers(B),
        tracked(service, "FIN beside others", &[known], fin, B).remembers(B),
        tracked(service, "RST beside others", &[known], rst, B).remembers(B),
        tracked(service, "FIN beside unknown connections", &[], fin, A).remembers(A).connects(A, 1),
        tracked(service, "RST beside unknown connections", &[], rst, A).remembers(A).connects(A, 1),
    ]
}

/// A backend's reply, where response times count.
fn timed() -> Vec<Row> {
    let fastest = Tracked(LeastResponseTime);
    let own = |service: Svc, shape: Shape| shape(&service.client_packet());
    let replies = |service: Svc, name: &str, given: &[Given], before: Vec<Vec<u8>>, shape: Shape| {
        let row = stays(
            service,
            &format!("timed, {name}"),
            &[&[fastest], given].concat(),
            shape(&service.backend_packet(A)),
            Reason::Replied,
        );
        let row = Row { before, out: shape(&service.to_client()), action: Action::Redirect, ..row };
        row.by(Way::Routes)
    };
    let answers = |row: Row| Row { answers: Some(A), ..row };
    let known = [Counted(A, 1)];
    let asked = || vec![own(NatTcp, segment)];
    vec![
        answers(replies(NatTcp, "SYN and ACK", &[], vec![own(NatTcp, syn)], syn_ack)).remembers(A),
        answers(replies(Nat6Tcp, "SYN and ACK", &[], vec![own(Nat6Tcp, syn)], syn_ack)).remembers(A),
        answers(replies(NatTcp, "an answer", &known, asked(), segment)).remembers(A),
        answers(replies(NatUdp, "an answer", &[], vec![own(NatUdp, datagram)], datagram)).remembers(A),
        replies(NatTcp, "an acknowledgement is no answer", &known, asked(), ack).remembers(A),
        replies(NatTcp, "nobody asked", &known, vec![own(NatTcp, ack)], segment).remembers(A),
        replies(NatTcp, "of an unknown flow", &[], vec![], segment),
        replies(
            NatTcp,
            "the rest of an answer",
            &known,
            vec![own(NatTcp, segment), segment(&NatTcp.backend_packet(A))],
            segment,
        )
        .remembers(A),
        replies(
            NatTcp,
            "a handshake that is faster than answers are",
            &[Response(A, 200_000_000)],
            vec![own(NatTcp, syn)],
            syn_ack,
        )
        .remembers(A),
    ]
}

fn full_nat() -> Vec<Row> {
    let opens = |service: Svc, name: &str, given: &[Given], shape: Shape, to, other| {
        let state = if service == FullNatUdp { Established } else { Opening };
        tracked(service, name, given, shape, to).opens().translates(to, state, other).connects(to, 1)
    };
    let own = |shape: Shape| shape(&FullNatTcp.client_packet());
    let mut rows = vec![
        opens(FullNatUdp, "datagram", &[], datagram, A, Opening),
        tracked(FullNatTcp, "FIN of an unknown flow", &[], fin, A).translates(A, Closing, Closing),
        tracked(
            FullNatTcp,
            "remembered before it was tracked",
            &[Translated(B, (Established, 5), (Established, 5))],
            ack,
            B,
        )
        .translates(B, Established, Established)
        .connects(B, 1),
        Row {
            before: vec![own(syn)],
            ..tracked(FullNatTcp, "FIN after SYN", &[ON_B], fin, B)
                .translates(B, Closing, Opening)
                .connects(B, -1)
        },
        Row {
            before: vec![own(syn), own(fin)],
            ..tracked(FullNatTcp, "FIN again", &[ON_B], fin, B).translates(B, Closing, Opening)
        },
        Row {
            before: vec![own(syn), own(fin)],
            ..opens(FullNatTcp, "SYN reopens", &[ON_B], syn, B, Opening)
        },
        Row {
            before: vec![own(syn)],
            ..tracked(FullNatTcp, "SYN again", &[ON_B], syn, B).opens().translates(B, Opening, Opening)
        },
        Row {
            overflowed: true,
            ..opens(
                FullNatTcp,
                "overflows",
                &[ON_B, OwnSlot(A), Capped(A, 5), Connections(A, 5)],
                syn,
                B,
                Opening,
            )
        },
        opens(FullNatTcp, "kept", &[Affinity(60), KeptTo(B, 5)], syn, B, Opening).keeps(B),
        opens(FullNatTcp, "keeps", &[Affinity(60)], syn, A, Opening).keeps(A),
        stays(
            FullNatTcp,
            "tracked, full",
            &[EVERY, Capped(A, 5), Connections(A, 5)],
            own(syn),
            Reason::BackendsFull,
        ),
    ];
    for algorithm in Algorithm::ALL {
        rows.push(opens(FullNatTcp, &format!("{algorithm:?}"), &[Tracked(algorithm), ON_B], syn, B, Opening));
    }
    rows
}
