//! What forged and contradictory packets must not do.

use std::net::SocketAddr;

use anyhow::Result;
use lb_common::{
    FlowState::{Closing, Established, Opening, Reset},
    Reason,
    SlotState::{Moving, Settled},
};
use tests::packet::Frame;

use crate::{
    answered::{large, large_datagram, owe, too_big},
    families::with_options,
    fragments::{halves, identification},
    icmp::icmp,
    lanes::{Host, Lane as _},
    quic,
    row::{
        Action,
        Given::{Remembered, Slots, Translated, Unresolved},
        ODD, Row, Shape, Way, ack, datagram, fin, odd_datagram, rst, segment, sent, stays, syn,
    },
    world::{
        ANSWERS_PER_SECOND, OTHER_MTU, POOL,
        Svc::{
            Dsr6Udp, DsrTcp, FullNat6Tcp, FullNatTcp, Gue46, Ipip44, Ipip46, Nat6Tcp, Nat6Udp, NatTcp,
            NatUdp, QuicKatranV1, QuicKatranV2, QuicLb,
        },
        Who::{A, B},
    },
};

pub fn rows() -> Vec<Row> {
    [resets(), begun_elsewhere(), to_itself(), source_routes(), too_long(), told_by_id()].concat()
}

/// A reset that nobody meant: the connection goes on, and so must what is known of it.
fn resets() -> Vec<Row> {
    let on_b = Slots(B, B, Settled, 0);
    let after = |first, second| [Translated(A, (first, 5), (second, 5)), on_b];
    let reply = |shape: Shape| Row {
        reason: Reason::Replied,
        action: Action::Redirect,
        packet: shape(&Frame { destination: POOL, ..FullNatTcp.backend_packet(A) }),
        out: shape(&FullNatTcp.to_client()),
        counted: None,
        way: Way::Routes,
        ..sent(FullNatTcp, "reply, a segment after a RST", &after(Established, Reset), shape, A)
    };
    let moving = [Slots(B, A, Moving, 9), Remembered(A, 5)];
    let came = NatTcp.client_packet();
    let again = |name, before: &[Shape], shape| Row {
        before: before.iter().map(|shape| shape(&came)).collect(),
        ..sent(NatTcp, name, &moving, shape, A)
    };
    vec![
        sent(FullNatTcp, "a segment after a RST", &after(Reset, Established), segment, A).translates(
            A,
            Established,
            Established,
        ),
        sent(FullNat6Tcp, "a segment after a RST", &after(Reset, Established), segment, A).translates(
            A,
            Established,
            Established,
        ),
        reply(segment).translates(A, Established, Established),
        sent(FullNatTcp, "another RST", &after(Reset, Established), rst, A).translates(A, Reset, Established),
        again("a segment after a RST", &[rst], segment).remembers(A),
        again("a FIN after a RST and a segment", &[rst, ack], fin).remembers_closed(A),
        again("a segment after a FIN", &[fin], segment).remembers_closed(A),
        Row {
            before: vec![rst(&came)],
            ..sent(NatTcp, "SYN after a RST", &moving, syn, B).opens().remembers(B)
        },
    ]
}

/// Segments of `full-nat` of which nothing is known: their flow is not kept as if it lived.
fn begun_elsewhere() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in [FullNatTcp, FullNat6Tcp] {
        let came = service.client_packet();
        let after = |before: Vec<Vec<u8>>, row: Row| Row { before, ..row };
        rows.extend([
            after(
                vec![segment(&came)],
                sent(service, "another segment of what began elsewhere", &[], segment, A),
            )
            .translates(A, Closing, Closing),
            after(
                vec![segment(&came)],
                sent(service, "SYN in place of what began elsewhere", &[], syn, A).opens(),
            )
            .translates(A, Opening, Opening),
            after(
                vec![segment(&came), syn(&came)],
                sent(service, "the ACK of a SYN in place of what began elsewhere", &[], ack, A),
            )
            .translates(A, Established, Opening),
        ]);
    }
    rows
}

/// Packets from where they go to.
fn to_itself() -> Vec<Row> {
    let mut rows = Vec::new();
    for (service, shape) in [
        (NatTcp, syn as Shape),
        (NatTcp, segment),
        (NatUdp, datagram),
        (Nat6Tcp, syn),
        (Nat6Udp, odd_datagram),
        (DsrTcp, syn),
        (Dsr6Udp, datagram),
        (Ipip44, syn),
        (FullNatTcp, syn),
        (FullNat6Tcp, segment),
    ] {
        for port in [service.vip().port(), 40_961] {
            let came = Frame { source: SocketAddr::new(service.vip().ip(), port), ..service.client_packet() };
            let packet = shape(&came);
            let name = format!("{} bytes from its own destination, port {port}", packet.len());
            rows.push(stays(service, &name, &[], packet, Reason::Malformed));
        }
    }
    for (service, kind) in [(NatTcp, 8), (Nat6Tcp, 128)] {
        let came = Frame { source: service.vip(), ..service.client_packet() };
        let packet = icmp(&came, (kind, 0, [1, 2, 0, 9]), ODD);
        rows.push(stays(service, "echo request from its own destination", &[], packet, Reason::Malformed));
    }
    let came = Frame { source: NatTcp.vip(), ..NatTcp.client_packet() };
    let packet = with_options(segment(&came), &[1; 4]);
    rows.push(stays(NatTcp, "from its own destination, with options", &[], packet, Reason::Malformed));
    rows
}

/// IPv4 options that name routers to go by.
fn source_routes() -> Vec<Row> {
    let loose = [131, 7, 4, 10, 9, 0, 1];
    let strict = [137, 7, 4, 10, 9, 0, 1];
    let cases: [(&str, Vec<u8>, bool); 10] = [
        ("loose source route", [&loose[..], &[0]].concat(), true),
        ("strict source route", [&strict[..], &[0]].concat(), true),
        ("source route after others", [&[1, 1, 7, 7, 8, 1, 2, 3, 4][..], &loose].concat(), true),
        ("source route at the end of the header", [&[1; 33][..], &loose].concat(), true),
        ("source route as short as it may be", vec![1, 131, 3, 4], true),
        ("source route in the last byte", vec![1, 1, 1, 131], true),
        ("record route", vec![7, 7, 4, 0, 0, 0, 0, 0], false),
        ("source route after the end", [&[0][..], &loose].concat(), false),
        ("an option without length before a source route", vec![7, 0, 1, 1, 131, 3, 4, 0], false),
        ("a source route within another option", vec![148, 8, 131, 3, 4, 131, 3, 4], false),
    ];
    let mut rows = Vec::new();
    for (service, shape) in [(NatTcp, segment as Shape), (NatUdp, datagram), (DsrTcp, ack), (Ipip44, segment)]
    {
        for (name, options, routed) in &cases {
            let packet = with_options(shape(&service.client_packet()), options);
            if *routed {
                rows.push(stays(service, name, &[], packet, Reason::Malformed));
            } else {
                let inner = with_options(shape(&service.to_backend(A)), options);
                let row = sent(service, name, &[], shape, A);
                rows.push(Row { packet, out: service.wrapped(A, inner), ..row });
            }
        }
    }
    let options = &cases[0].1;
    let echo = icmp(&NatTcp.client_packet(), (8, 0, [1, 2, 0, 9]), ODD);
    let mut group = with_options(segment(&NatTcp.client_packet()), options);
    group[0] = 1;
    let [first, later] = halves(NatUdp, &NatUdp.client_packet(), identification());
    let malformed = |service, name, packet| stays(service, name, &[], packet, Reason::Malformed);
    rows.extend([
        malformed(NatTcp, "echo request by a source route", with_options(echo, options)),
        malformed(NatUdp, "first fragment by a source route", with_options(first, options)),
        malformed(NatUdp, "later fragment by a source route", with_options(later, options)),
        malformed(FullNatTcp, "source route", with_options(segment(&FullNatTcp.client_packet()), options)),
        stays(NatTcp, "source route in a group's frame", &[], group, Reason::NotOurs),
        stays(
            NatTcp,
            "a reply by a source route",
            &[],
            with_options(segment(&NatTcp.backend_packet(A)), options),
            Reason::NotOurs,
        ),
    ]);
    rows
}

/// With a tunnel's headers a packet would be longer than any may be.
fn too_long() -> Vec<Row> {
    let mut rows = Vec::new();
    for (service, most, shape) in [
        (Ipip44, 65_515u32, large::<65_490> as Shape),
        (Ipip46, 65_495, large::<65_490>),
        (Gue46, 65_487, large_datagram::<65_500>),
    ] {
        let packet = shape(&service.client_packet());
        let kind = (3, 4, most.to_be_bytes());
        let row = owe(
            service,
            "a tunnel's length overflows",
            &service.client_packet(),
            packet,
            kind,
            Reason::TooBigAnswered,
        );
        // The way is the routes', which take anything.
        rows.push(Row { given: vec![Unresolved(A)], ..row }.by(Way::HostOnly));
    }
    rows
}

/// What a sender of QUIC is told is of the way to the server that its connection id names.
fn told_by_id() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in [QuicLb, QuicKatranV1, QuicKatranV2] {
        let [a, b] = [A, B].map(|who| quic::id(service, service.server_id(who).expect("a QUIC service")));
        let came = service.client_packet();
        let packet = |id: &[u8]| came.udp(&[quic::short(id), vec![0x77; OTHER_MTU as usize]].concat());
        let name = "too big for the server that its id names";
        let row = owe(service, name, &came, packet(&b), too_big(service), Reason::TooBigAnswered);
        rows.push(Row { given: vec![Slots(A, A, Settled, 0)], ..row });
        let row = sent(
            service,
            "not too big for the server that its id names",
            &[Slots(B, B, Settled, 0)],
            datagram,
            A,
        );
        let inner = Frame { ..service.to_backend(A) }
            .udp(&[quic::short(&a), vec![0x77; OTHER_MTU as usize]].concat());
        rows.push(Row { packet: packet(&a), out: service.wrapped(A, inner), ..row });
    }
    rows
}

/// Who has used up the errors of one kind has not used up the other's.
#[test]
fn a_flood_of_one_error_does_not_silence_the_other() -> Result<()> {
    let expired = (ack(&Frame { ttl: 1, ..NatTcp.client_packet() }), Reason::TimeExceededAnswered);
    let big = (large::<1_500>(&NatTcp.client_packet()), Reason::TooBigAnswered);
    for (flood, (packet, reason)) in [(expired.clone(), big.clone()), (big, expired)] {
        let mut host = Host::new()?;
        for _ in 0..=ANSWERS_PER_SECOND {
            host.run(&flood.0)?;
        }
        host.run(&packet)?;
        let reasons = host.engine().reasons()?;
        assert_eq!(reasons[reason as usize], 1, "{reason:?} after {:?}", flood.1);
    }
    Ok(())
}

/// An entry that another packet's fragment has taken over meanwhile names another way.
#[test]
fn a_recycled_entry_misdirects_no_fragment() -> Result<()> {
    let mut host = Host::new()?;
    for (recycled, reason) in [(false, Reason::Forwarded), (true, Reason::FragmentUnknown)] {
        let [first, later] = halves(NatUdp, &NatUdp.client_packet(), identification());
        host.run(&first)?;
        if recycled {
            for way in host.engine().datapath().fragments.borrow_mut().values_mut() {
                *way = way.tagged(!way.tag());
            }
        }
        let before = host.engine().reasons()?;
        host.run(&later)?;
        let after = host.engine().reasons()?;
        assert_eq!(after[reason as usize] - before[reason as usize], 1, "recycled: {recycled}");
    }
    Ok(())
}
