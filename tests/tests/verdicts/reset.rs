//! Connections of a cut backend: who still sends is answered with a reset, made of its own packet.

use std::net::{IpAddr, SocketAddr};

use etherparse::TcpHeader;
use lb_common::{
    FlowState::{Closing, Established, Opening, Reset},
    Reason,
    SlotState::{Moving, Pinned, Settled},
};
use tests::packet::{Frame, flags};

use crate::{
    families::{DESTINATION, extended, padding, with_options},
    row::{
        Action,
        Given::{Closed, Cut, Full, Remembered, Slots, Translated},
        ODD, Row, Shape, Way, ack, datagram, fin, rst, segment, sent, stays, syn, syn_ack,
    },
    world::{
        LOCAL, POOL, POOL_V6,
        Svc::{
            self, ByAddressTcp, Dsr6Tcp, DsrTcp, DsrUdp, FullNat6Tcp, FullNatTcp, FullNatUdp, Gue64, Ipip44,
            Ipip66, Mss, Nat6Tcp, NatTcp, NatUdp, Range,
        },
        Who::{A, B},
    },
};

/// What [`Frame::tcp`] says: the sequence number, and what it acknowledges.
const SEQUENCE: u32 = 0x0102_0304;
const ACKNOWLEDGED: u32 = 0x0506_0708;

pub fn rows() -> Vec<Row> {
    [answered(), forms(), unanswered(), remembered(), unknown(), replied(), translated(), opened_anew()]
        .concat()
}

/// The reset that answers a packet as `came`: with this sequence number, and acknowledging a number or none.
fn reset(came: &Frame, sequence: u32, acknowledged: Option<u32>) -> Vec<u8> {
    let back = Frame {
        source_mac: came.destination_mac,
        destination_mac: came.source_mac,
        source: came.destination,
        destination: came.source,
        ttl: 64,
        tags: came.tags,
    };
    let mut bytes = back.tcp(flags::RST, b"");
    let l4 = back.l4();
    let mut header = TcpHeader::from_slice(&bytes[l4..]).expect("a whole header").0;
    header.sequence_number = sequence;
    header.acknowledgment_number = acknowledged.unwrap_or(0);
    header.ack = acknowledged.is_some();
    header.window_size = 0;
    header.checksum = match (back.source.ip(), back.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), b"")
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), b"")
        }
        _ => panic!("{} and {} are of two families", back.source, back.destination),
    }
    .expect("short enough");
    bytes[l4..].copy_from_slice(&header.to_bytes());
    bytes
}

/// A packet that is answered; `came` is what it stands in.
fn answers(service: Svc, name: &str, given: &[crate::row::Given], came: &Frame, shape: Shape) -> Row {
    let packet = shape(came);
    Row {
        action: Action::Tx,
        out: reset(came, ACKNOWLEDGED, None),
        ..stays(service, &format!("cut, {name}"), given, packet, Reason::ConnectionReset)
    }
}

/// Likewise, of a client, to the owner of its slot.
fn client(service: Svc, name: &str, shape: Shape) -> Row {
    answers(service, name, &[Cut(A)], &service.client_packet(), shape)
}

/// A packet without an acknowledgement is told what it would have been told: so many bytes further.
fn unacknowledged(row: Row, came: &Frame, length: u32) -> Row {
    Row { out: reset(came, 0, Some(SEQUENCE + length)), ..row }
}

fn answered() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in
        [NatTcp, Nat6Tcp, DsrTcp, Dsr6Tcp, Ipip44, Ipip66, Gue64, Range, Mss, FullNatTcp, FullNat6Tcp]
    {
        let came = service.client_packet();
        rows.extend([
            client(service, "a segment with data", segment),
            client(service, "an empty segment", ack),
            client(service, "FIN", fin),
            unacknowledged(client(service, "SYN", syn), &came, 1),
        ]);
    }
    rows
}

/// What a segment may look like.
fn forms() -> Vec<Row> {
    fn wrapping(frame: &Frame) -> Vec<u8> {
        let mut bytes = frame.tcp(flags::FIN, ODD);
        bytes[frame.l4() + 4..frame.l4() + 8].fill(0xff);
        bytes
    }
    let (v4, v6) = (NatTcp.client_packet(), Nat6Tcp.client_packet());
    let bare: Shape = |frame| frame.tcp(0, ODD);
    let bare_fin: Shape = |frame| frame.tcp(flags::FIN, ODD);
    let with_data: Shape = |frame| frame.tcp(flags::SYN, ODD);
    let timestamps: Shape = |frame| frame.tcp_with(flags::ACK, &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8], ODD);
    let announcing: Shape = |frame| frame.tcp_with(flags::SYN, &[2, 4, 5, 0xb4], b"");
    let large: Shape = |frame| frame.tcp(flags::ACK, &[0xa5; 1_400]);
    let padded: Shape = |frame| {
        let mut bytes = frame.tcp(flags::FIN, b"a");
        bytes.extend([0xee; 7]);
        bytes
    };
    let mut rows = vec![
        unacknowledged(client(NatTcp, "neither ACK nor SYN", bare), &v4, 23),
        unacknowledged(client(NatTcp, "FIN without ACK", bare_fin), &v4, 24),
        unacknowledged(client(Nat6Tcp, "FIN without ACK", bare_fin), &v6, 24),
        unacknowledged(client(NatTcp, "SYN with data", with_data), &v4, 24),
        unacknowledged(client(NatTcp, "padding of Ethernet", padded), &v4, 2),
        unacknowledged(client(Mss, "SYN that is clamped", announcing), &Mss.client_packet(), 1),
        Row { out: reset(&v4, 0, Some(23)), ..client(NatTcp, "a number that wraps", wrapping) },
        client(NatTcp, "SYN and ACK", syn_ack),
        client(NatTcp, "TCP options", timestamps),
        client(Nat6Tcp, "TCP options", timestamps),
        client(NatTcp, "a large segment", large),
        Row { packet: with_options(segment(&v4), &[1; 40]), ..client(NatTcp, "IPv4 options", segment) },
        Row {
            packet: extended(segment(&v6), &[padding(DESTINATION, 2)]),
            ..client(Nat6Tcp, "extension headers", segment)
        },
    ];
    for service in [NatTcp, Nat6Tcp] {
        for (name, tags) in [("one tag", &[7u16] as &'static [u16]), ("two tags", &[100, 4_094])] {
            let came = Frame { tags, ..service.client_packet() };
            rows.push(answers(service, name, &[Cut(A)], &came, segment));
        }
        let last = Frame { ttl: 1, ..service.client_packet() };
        rows.push(answers(service, "the last hop", &[Cut(A)], &last, segment));
    }
    rows
}

fn unanswered() -> Vec<Row> {
    let silent = |service: Svc, name, packet| {
        stays(service, &format!("cut, {name}"), &[Cut(A)], packet, Reason::NoBackend)
    };
    let from = |address: [u8; 4]| Frame {
        source: SocketAddr::new(address.into(), 40_961),
        ..NatTcp.client_packet()
    };
    let first = |mut packet: Vec<u8>| {
        packet[20] = 0x20;
        packet
    };
    vec![
        silent(NatTcp, "RST", rst(&NatTcp.client_packet())),
        silent(NatTcp, "RST and ACK", NatTcp.client_packet().tcp(flags::RST | flags::ACK, b"")),
        silent(Nat6Tcp, "RST", rst(&Nat6Tcp.client_packet())),
        silent(FullNatTcp, "RST", rst(&FullNatTcp.client_packet())),
        silent(NatTcp, "from everybody", segment(&from([255; 4]))),
        silent(NatTcp, "from a group", segment(&from([224, 0, 0, 1]))),
        silent(NatTcp, "from loopback", segment(&from([127, 0, 0, 1]))),
        silent(NatTcp, "the first fragment", first(segment(&NatTcp.client_packet()))),
        silent(NatUdp, "datagram", datagram(&NatUdp.client_packet())),
        silent(DsrUdp, "datagram", datagram(&DsrUdp.client_packet())),
        silent(FullNatUdp, "datagram", datagram(&FullNatUdp.client_packet())),
    ]
}

/// Flows that are remembered as the cut backend's.
fn remembered() -> Vec<Row> {
    let mut rows = Vec::new();
    for slots in [Slots(B, B, Pinned, 0), Slots(B, A, Moving, 0)] {
        let state = format!("{:?}", if slots == Slots(B, B, Pinned, 0) { Pinned } else { Moving });
        let given = [slots, Remembered(A, 5), Cut(A)];
        for service in [NatTcp, Nat6Tcp, DsrTcp] {
            let came = service.client_packet();
            let name = |what: &str| format!("{state}, {what} of a flow that is remembered");
            rows.extend([
                answers(service, &name("a segment"), &given, &came, segment).remembers_closed(A),
                Row {
                    name: format!("{service:?}: cut, {}", name("RST")),
                    ..stays(service, "", &given, rst(&came), Reason::NoBackend).remembers_closed(A)
                },
                sent(service, &format!("cut, {}", name("SYN")), &given, syn, B).opens().remembers(B),
            ]);
        }
        let name = format!("cut, {state}, a datagram of a flow that is remembered");
        let row = sent(NatUdp, &name, &given, datagram, B).remembers(B);
        rows.push(if state == "Moving" { row.opens() } else { row });
        // One flow for many connections: those that are there end, and those that begin go elsewhere.
        let came = ByAddressTcp.client_packet();
        rows.push(
            answers(ByAddressTcp, &format!("{state}, a segment"), &given, &came, segment).remembers_closed(A),
        );
        let name = format!("cut, {state}, SYN");
        rows.push(sent(ByAddressTcp, &name, &given, syn, B).opens().remembers(B));
    }
    let given = [Slots(B, B, Pinned, 0), Closed(A, 5), Cut(A)];
    let came = NatTcp.client_packet();
    rows.push(answers(NatTcp, "a segment after FIN", &given, &came, segment).remembers_closed(A));
    let given = [Slots(B, B, Pinned, 0), Remembered(A, 900), Cut(A)];
    rows.push(sent(NatTcp, "cut, a segment of a flow that idled out", &given, segment, B).remembers(B));
    rows
}

/// Flows of which nothing is known, in a slot that was the cut backend's.
fn unknown() -> Vec<Row> {
    let given = |ago| [Slots(B, A, Moving, ago), Cut(A)];
    let full = [Slots(B, A, Moving, 9), Full, Cut(A)];
    let came = NatTcp.client_packet();
    vec![
        answers(NatTcp, "moving, a segment", &given(9), &came, segment).remembers_closed(A),
        answers(NatTcp, "moving, a segment that is not remembered", &full, &came, segment),
        answers(Nat6Tcp, "moving, a segment", &given(9), &Nat6Tcp.client_packet(), segment)
            .remembers_closed(A),
        sent(NatTcp, "cut, moving, SYN", &given(9), syn, B).opens().remembers(B),
        sent(NatTcp, "cut, moving, SYN at once", &given(0), syn, B).opens().remembers(B),
        sent(NatTcp, "cut, moving, SYN that is not remembered", &full, syn, B).opens().refused(),
        sent(NatUdp, "cut, moving, datagram", &given(9), datagram, B).opens().remembers(B),
        sent(ByAddressTcp, "cut, moving, SYN of an unknown flow", &given(9), syn, B).opens().remembers(B),
        sent(NatTcp, "cut, pinned, a segment", &[Slots(B, B, Pinned, 9), Cut(A)], segment, B),
        sent(NatTcp, "another is cut", &[Slots(B, B, Settled, 0), Cut(A)], segment, B),
    ]
}

/// What a cut backend still sends.
fn replied() -> Vec<Row> {
    let reply = |service: Svc, name: &str, shape| {
        answers(service, &format!("reply, {name}"), &[Cut(A)], &service.backend_packet(A), shape)
    };
    let mut rows = Vec::new();
    for service in [NatTcp, Nat6Tcp, Range, Mss] {
        let range = service == Range;
        let came = service.backend_packet(A);
        let source = SocketAddr::new(came.source.ip(), if range { 8_500 } else { came.source.port() });
        let came = Frame { source, ..came };
        for (name, shape) in [("a segment", segment as Shape), ("SYN and ACK", syn_ack), ("FIN", fin)] {
            rows.push(answers(service, &format!("reply, {name}"), &[Cut(A)], &came, shape));
        }
    }
    let tagged = Frame { tags: &[7], ..NatTcp.backend_packet(A) };
    let other = Frame { source: NatTcp.backend(B), ..NatTcp.backend_packet(B) };
    let local = Frame { destination: SocketAddr::new(LOCAL.into(), 40_961), ..NatTcp.backend_packet(A) };
    let replied = |service: Svc, name: &str, came: &Frame, shape: Shape| Row {
        reason: Reason::Replied,
        action: Action::Redirect,
        packet: shape(came),
        out: shape(&service.to_client()),
        counted: None,
        way: Way::Routes,
        ..sent(service, &format!("cut, reply, {name}"), &[Cut(A)], shape, A)
    };
    rows.extend([
        answers(NatTcp, "reply, one tag", &[Cut(A)], &tagged, segment),
        reply(NatTcp, "a large segment", |frame| frame.tcp(flags::ACK, &[0xa5; 1_400])),
        unacknowledged(
            reply(Nat6Tcp, "FIN without ACK", |frame| frame.tcp(flags::FIN, ODD)),
            &Nat6Tcp.backend_packet(A),
            24,
        ),
        stays(NatTcp, "cut, reply, RST", &[Cut(A)], rst(&NatTcp.backend_packet(A)), Reason::NoBackend),
        stays(NatTcp, "cut, answers a check", &[Cut(A)], segment(&local), Reason::LocalReply),
        replied(NatUdp, "a datagram", &NatUdp.backend_packet(A), datagram),
        replied(NatTcp, "of another backend", &other, segment),
    ]);
    rows
}

/// Both directions of `full-nat`.
fn translated() -> Vec<Row> {
    let given = [Slots(B, B, Settled, 0), Translated(A, (Established, 5), (Established, 5)), Cut(A)];
    let mut rows = Vec::new();
    for (service, pool) in [(FullNatTcp, POOL), (FullNat6Tcp, POOL_V6)] {
        let (forth, back) =
            (service.client_packet(), Frame { destination: pool, ..service.backend_packet(A) });
        rows.extend([
            answers(service, "a segment of a flow that is translated", &given, &forth, segment).translates(
                A,
                Reset,
                Established,
            ),
            answers(service, "reply, a segment", &given, &back, segment).translates(A, Established, Reset),
            answers(service, "reply, SYN and ACK", &given, &back, syn_ack).translates(A, Established, Reset),
            stays(service, "cut, reply, RST", &given, rst(&back), Reason::NoBackend).translates(
                A,
                Established,
                Reset,
            ),
        ]);
    }
    let idle = [Slots(B, B, Settled, 0), Translated(A, (Established, 900), (Established, 5)), Cut(A)];
    rows.push(
        answers(FullNatTcp, "a segment of a client that idled", &idle, &FullNatTcp.client_packet(), segment)
            .translates(A, Reset, Established),
    );
    let datagrams = Row {
        reason: Reason::Replied,
        action: Action::Redirect,
        packet: datagram(&Frame { destination: POOL, ..FullNatUdp.backend_packet(A) }),
        out: datagram(&FullNatUdp.to_client()),
        counted: None,
        way: Way::Routes,
        ..sent(FullNatUdp, "cut, reply, a datagram", &given, datagram, A)
    };
    rows.push(datagrams.translates(A, Established, Established));
    rows
}

/// What opens a flow goes to another backend.
fn opened_anew() -> Vec<Row> {
    let given = |state| [Slots(B, B, Settled, 0), Translated(A, (state, 5), (Established, 5)), Cut(A)];
    vec![
        sent(FullNatTcp, "cut, SYN in place of a flow", &given(Established), syn, B)
            .opens()
            .translates(B, Opening, Opening),
        sent(FullNatTcp, "cut, SYN in place of a flow that ended", &given(Closing), syn, B)
            .opens()
            .translates(B, Opening, Opening),
        sent(FullNatUdp, "cut, a datagram in place of a flow", &given(Established), datagram, B)
            .opens()
            .translates(B, Established, Opening),
    ]
}
