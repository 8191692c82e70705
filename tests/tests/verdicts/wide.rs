//! Services of several ports, and of a prefix of addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_common::{Features, Reason, SlotState::Settled};
use tests::packet::Frame;

use crate::{
    lanes::{Host, Lane as _},
    row::{Action, Given::Slots, Row, Shape, Way, ack, datagram, segment, sent, stays, syn},
    world::{
        Svc::{self, InRange, Longer, Prefix, Prefix6, Range},
        Who::{self, A, B},
        v4, v6,
    },
};

pub fn rows() -> Vec<Row> {
    [ports(), prefixes(), nobodys(), replies()].concat()
}

/// A client's packet to `at`; `nat` keeps the port.
fn sent_to(service: Svc, at: SocketAddr, shape: Shape, to: Who) -> Row {
    let row = sent(service, &format!("to {at}"), &[Slots(to, to, Settled, 0)], shape, to);
    let client = Frame { destination: at, ..service.client_packet() };
    let leaving = service.to_backend(to);
    let destination = match service {
        Range => SocketAddr::new(leaving.destination.ip(), at.port()),
        InRange => leaving.destination,
        _ => at,
    };
    let leaving = Frame { destination, ..leaving };
    Row { packet: shape(&client), out: service.wrapped(to, shape(&leaving)), ..row }
}

fn ports() -> Vec<Row> {
    let at = |port| SocketAddr::new(Range.vip().ip(), port);
    vec![
        sent_to(Range, at(8_000), segment, A),
        sent_to(Range, at(8_001), segment, B),
        sent_to(Range, at(8_998), segment, A),
        sent_to(Range, at(8_999), syn, B).opens(),
        // One that is named exactly comes before the range that it lies in.
        sent_to(InRange, InRange.vip(), segment, A),
        sent_to(Range, at(InRange.vip().port() - 1), segment, A),
        sent_to(Range, at(InRange.vip().port() + 1), segment, A),
    ]
}

fn prefixes() -> Vec<Row> {
    let at = |third, last, port| v4([100, 64, third, last], port);
    let at6 = |fourth, last, port| v6([0x2001, 0xdb8, 0x64, fourth, 0, 0, 0, last], port);
    vec![
        sent_to(Prefix, at(8, 0, 1), segment, A),
        sent_to(Prefix, at(8, 1, 65_535), syn, B).opens(),
        sent_to(Prefix, at(8, 127, 1_000), segment, A),
        // The longest prefix decides.
        sent_to(Longer, at(8, 128, 1_000), segment, A),
        sent_to(Longer, at(8, 255, 1_999), segment, B),
        sent_to(Prefix6, at6(0, 0, 50_000), datagram, A),
        sent_to(Prefix6, at6(0, 0xffff, 65_535), datagram, B),
    ]
}

/// Beside the edges.
fn nobodys() -> Vec<Row> {
    let not_ours = |service: Svc, at: SocketAddr, shape: Shape| {
        let packet = shape(&Frame { destination: at, ..service.client_packet() });
        stays(service, &format!("beside it, {at}"), &[], packet, Reason::NotOurs)
    };
    let range = |port| SocketAddr::new(Range.vip().ip(), port);
    vec![
        not_ours(Range, range(7_999), segment),
        not_ours(Range, range(9_000), segment),
        not_ours(Range, range(0), ack),
        not_ours(Range, range(8_500), datagram),
        not_ours(Prefix, v4([100, 64, 8, 1], 0), segment),
        not_ours(Prefix, v4([100, 64, 7, 255], 80), segment),
        not_ours(Prefix, v4([100, 64, 9, 0], 80), segment),
        not_ours(Prefix, v4([100, 64, 8, 1], 81), datagram),
        // The longest prefix has the address, though not the port.
        not_ours(Longer, v4([100, 64, 8, 200], 999), segment),
        not_ours(Longer, v4([100, 64, 8, 200], 2_000), segment),
        not_ours(Prefix6, v6([0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 1], 49_999), datagram),
        not_ours(Prefix6, v6([0x2001, 0xdb8, 0x64, 1, 0, 0, 0, 0], 50_000), datagram),
        not_ours(Prefix6, v6([0x2001, 0xdb8, 0x63, 0xffff, 0, 0, 0, 0], 50_000), datagram),
    ]
}

/// The backends of a range keep their ports, and what comes from another port is not the service's.
fn replies() -> Vec<Row> {
    let from =
        |port| Frame { source: SocketAddr::new(Range.backend(A).ip(), port), ..Range.backend_packet(A) };
    let replied = |port| Row {
        reason: Reason::Replied,
        action: Action::Redirect,
        packet: segment(&from(port)),
        out: segment(&Frame { source: SocketAddr::new(Range.vip().ip(), port), ..Range.to_client() }),
        counted: None,
        way: Way::Routes,
        ..sent(Range, &format!("reply from {port}"), &[], segment, A)
    };
    let not_ours =
        |port| stays(Range, &format!("no reply, from {port}"), &[], segment(&from(port)), Reason::NotOurs);
    vec![replied(8_000), replied(8_500), replied(8_999), not_ours(7_999), not_ours(9_000)]
}

/// What the program is not loaded for is not found.
#[test]
fn without_the_feature_there_are_no_ranges() {
    let wide = Frame {
        destination: (IpAddr::V4(Ipv4Addr::new(203, 0, 113, 12)), 8_500).into(),
        ..Range.client_packet()
    };
    for (features, expected) in [(Features::WIDE, Reason::Forwarded), (Features::NONE, Reason::NotOurs)] {
        let mut host = Host::new().expect("tables in memory");
        host.engine().datapath_mut().features = features;
        let verdict = host.engine().datapath().process(&mut segment(&wide));
        assert_eq!(verdict.reason, expected);
    }
}
