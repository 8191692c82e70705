//! Fragments: the first goes by its ports and is remembered, the others follow it, and what is unknown goes by policy.

use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Result;
use etherparse::Ipv4Header;
use lb_common::{
    FlowState::{Closing, Established, Opening},
    Mode, Protocol, Reason,
    SlotState::Settled,
    limits::FRAGMENT_SECONDS,
};
use tests::packet::{Frame, flags};

use crate::{
    lanes::{Host, Lane as _},
    row::{
        Action,
        Given::{self, Down, Slots},
        Row, Way, datagram, hashed, sent, stays,
    },
    world::{
        LOCAL, STRANGER,
        Svc::{
            self, ByAddress, ByAddress6, Dsr6Udp, DsrTcp, FullNat6Tcp, FullNatUdp, Gue44, Gue46, Gue64,
            Gue66, Ipip44, Ipip46, Ipip64, Ipip66, Nat6Tcp, Nat6Udp, NatTcp, NatUdp, PassFragments,
        },
        Who::{self, A, B},
    },
};

const ON_B: Given = Slots(B, B, Settled, 0);
/// Bytes above IP in the first of two fragments.
const CUT: usize = 48;
/// Begins like a header from the client's port to port 80, wherever it is cut.
const PAYLOAD: [u8; 120] = {
    let header = [0xa0, 0x01, 0x00, 0x50, 0xa0, 0x01, 0x00, 0x50];
    let mut bytes = [0; 120];
    let mut index = 0;
    while index < bytes.len() {
        bytes[index] = header[index % header.len()];
        index += 1;
    }
    bytes
};

/// An identification that no other row has: the table of fragments outlives a row.
pub fn identification() -> u16 {
    static LAST: AtomicU16 = AtomicU16::new(0x4000);
    LAST.fetch_add(1, Ordering::Relaxed)
}

fn whole(service: Svc, frame: &Frame) -> Vec<u8> {
    match service.protocol() {
        Protocol::Tcp => frame.tcp(flags::PSH | flags::ACK, &PAYLOAD),
        Protocol::Udp => frame.udp(&PAYLOAD),
    }
}

/// The bytes `from` to `to` above IP as a fragment of an untagged packet.
fn cut(packet: &[u8], id: u16, from: usize, to: usize) -> Vec<u8> {
    let (ethernet, ip) = packet.split_at(14);
    let v4 = ip[0] >> 4 == 4;
    let (header, above) = ip.split_at(if v4 { 20 } else { 40 });
    let (part, more) = (&above[from..to.min(above.len())], to < above.len());
    if v4 {
        let mut header = Ipv4Header::from_slice(header).expect("a whole header").0;
        header.identification = id;
        header.dont_fragment = false;
        header.more_fragments = more;
        header.fragment_offset = (from as u16 / 8).try_into().expect("13 bits");
        header.set_payload_len(part.len()).expect("16 bits");
        header.header_checksum = header.calc_header_checksum();
        [ethernet, &header.to_bytes(), part].concat()
    } else {
        let mut header = header.to_vec();
        let next = std::mem::replace(&mut header[6], 44);
        header[4..6].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
        let field = (from as u16 | u16::from(more)).to_be_bytes();
        let [high, low] = id.to_be_bytes();
        let fragment = [next, 0, field[0], field[1], 0x5a, 0, high, low];
        [ethernet, &header, &fragment, part].concat()
    }
}

/// Both fragments of a packet.
pub fn halves(service: Svc, frame: &Frame, id: u16) -> [Vec<u8>; 2] {
    let packet = whole(service, frame);
    [cut(&packet, id, 0, CUT), cut(&packet, id, CUT, usize::MAX)]
}

pub fn rows() -> Vec<Row> {
    [in_order(), replies(), unknown(), by_address(), refused(), broken()].concat()
}

/// What is free in the outer headers of a fragment: an IPv4 header that may be fragmented has a random identification.
fn free(service: Svc) -> Vec<std::ops::Range<usize>> {
    let outer_v4 = !matches!(service.mode(), Mode::Nat | Mode::FullNat | Mode::DsrL2)
        && service.backend(A).is_ipv4()
        && service.vip().is_ipv4();
    let identification = if outer_v4 { vec![18..20, 24..26] } else { vec![] };
    [hashed(service, &[]), identification].concat()
}

/// The first fragment of a client's packet, and the second after it.
fn in_order() -> Vec<Row> {
    let services = [
        NatTcp,
        NatUdp,
        Nat6Tcp,
        Nat6Udp,
        DsrTcp,
        Dsr6Udp,
        Ipip44,
        Ipip46,
        Ipip64,
        Ipip66,
        Gue44,
        Gue46,
        Gue64,
        Gue66,
        FullNatUdp,
        FullNat6Tcp,
    ];
    let mut rows = Vec::new();
    for service in services {
        for to in [A, B] {
            let given = if to == A { vec![] } else { vec![ON_B] };
            let name = |text: &str| format!("{text} fragment, to {to:?}");
            rows.push(first(service, &name("first"), &given, to));
            rows.push(second(service, &name("second"), &given, to));
        }
    }
    rows
}

fn first(service: Svc, name: &str, given: &[Given], to: Who) -> Row {
    let id = identification();
    let [packet, _] = halves(service, &service.client_packet(), id);
    let [out, _] = halves(service, &service.to_backend(to), id);
    let row = sent(service, name, given, datagram, to);
    let row = Row { packet, out: service.wrapped(to, out), free: free(service), ..row };
    match service {
        FullNatUdp => row.translates(to, Established, Opening).opens(),
        FullNat6Tcp => row.translates(to, Closing, Closing),
        _ => row,
    }
}

fn second(service: Svc, name: &str, given: &[Given], to: Who) -> Row {
    let id = identification();
    let [before, packet] = halves(service, &service.client_packet(), id);
    let [_, out] = halves(service, &service.to_backend(to), id);
    let row = first(service, name, given, to);
    Row { before: vec![before], packet, out: service.wrapped(to, out), opens: false, ..row }
}

fn replies() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in [NatTcp, NatUdp, Nat6Udp] {
        let id = identification();
        let [before, packet] = halves(service, &service.backend_packet(A), id);
        let [first, second] = halves(service, &service.to_client(), id);
        let row = |name: &str, before: &[Vec<u8>], packet: &Vec<u8>, out| Row {
            before: before.to_vec(),
            reason: Reason::Replied,
            action: Action::Redirect,
            packet: packet.clone(),
            out,
            counted: None,
            way: Way::Routes,
            ..sent(service, name, &[], datagram, A)
        };
        rows.push(row("first fragment of a reply", &[], &before, first));
        rows.push(row("second fragment of a reply", &[before], &packet, second));
        let [_, unknown] = halves(service, &service.backend_packet(A), identification());
        rows.push(stays(service, "second fragment of an unknown reply", &[], unknown, Reason::NotOurs));
    }
    let to_balancer = Frame { destination: (LOCAL, 40_000).into(), ..NatTcp.backend_packet(A) };
    let [first, second] = halves(NatTcp, &to_balancer, identification());
    let answer =
        stays(NatTcp, "first fragment of an answer to the balancer", &[], first.clone(), Reason::LocalReply);
    let after = stays(NatTcp, "second fragment of an answer to the balancer", &[], second, Reason::NotOurs);
    rows.extend([answer, Row { before: vec![first], ..after }]);
    rows
}

fn unknown() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in [NatTcp, NatUdp, Nat6Udp, Ipip44, FullNatUdp] {
        let [_, packet] = halves(service, &service.client_packet(), identification());
        let name = "second fragment of an unknown packet";
        rows.push(stays(service, name, &[], packet, Reason::FragmentUnknown));
    }
    let [other, _] = halves(NatUdp, &NatUdp.client_packet(), identification());
    let [_, packet] = halves(NatUdp, &NatUdp.client_packet(), identification());
    let after_another =
        stays(NatUdp, "second fragment after another's first", &[], packet, Reason::FragmentUnknown);
    rows.push(Row { before: vec![other], ..after_another });
    let [_, packet] = halves(PassFragments, &PassFragments.client_packet(), identification());
    let passed =
        stays(PassFragments, "second fragment of an unknown packet", &[], packet, Reason::FragmentPassed);
    rows.push(Row { action: Action::Pass, ..passed });
    rows.push(second(PassFragments, "second fragment after its first", &[ON_B], B));
    let elsewhere = Frame { destination: STRANGER, ..NatTcp.client_packet() };
    let [first, second] = halves(NatTcp, &elsewhere, identification());
    rows.push(stays(NatTcp, "first fragment to a stranger", &[], first, Reason::NotOurs));
    rows.push(stays(NatTcp, "second fragment to a stranger", &[], second, Reason::NotOurs));
    rows
}

/// Without ports, in any order.
fn by_address() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in [ByAddress, ByAddress6] {
        for to in [A, B] {
            let given = if to == A { vec![] } else { vec![ON_B] };
            let name = |text: &str| format!("{text}, to {to:?}");
            let alone = second(service, &name("second fragment alone"), &given, to);
            rows.extend([
                Row { before: vec![], ..alone },
                first(service, &name("first fragment"), &given, to),
                second(service, &name("second fragment after its first"), &given, to),
                sent(service, &name("whole packet"), &given, datagram, to),
            ]);
        }
        let [_, packet] = halves(service, &service.client_packet(), identification());
        rows.push(stays(
            service,
            "second fragment alone, backend down",
            &[Down(A)],
            packet,
            Reason::NoBackend,
        ));
    }
    rows
}

fn refused() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in [NatTcp, Nat6Udp, Ipip44, DsrTcp] {
        let row = second(service, "second fragment, the backend is down", &[Down(A)], A);
        rows.push(Row {
            reason: Reason::NoBackend,
            action: Action::Drop,
            out: row.packet.clone(),
            counted: None,
            ..row
        });
    }
    for service in [NatUdp, Nat6Udp, Ipip44, FullNatUdp] {
        let id = identification();
        let ending = Frame { ttl: 1, ..service.client_packet() };
        let [before, _] = halves(service, &service.client_packet(), id);
        let [_, packet] = halves(service, &ending, id);
        let row = second(service, "second fragment, last hop", &[], A);
        let out = packet.clone();
        rows.push(Row {
            before: vec![before],
            packet,
            out,
            reason: Reason::TtlExpired,
            action: Action::Drop,
            counted: None,
            ..row
        });
    }
    rows.extend([
        too_large(NatUdp, Reason::LeftToFragment),
        too_large(Nat6Udp, Reason::ExceedsMtu),
        too_large(Gue44, Reason::ExceedsMtu),
        too_large(DsrTcp, Reason::ExceedsMtu),
    ]);
    rows
}

/// The second fragment is larger than the way to B takes.
fn too_large(service: Svc, reason: Reason) -> Row {
    let id = identification();
    let large = |frame: &Frame| match service.protocol() {
        Protocol::Tcp => frame.tcp(flags::ACK, &[0x11; 1_000]),
        Protocol::Udp => frame.udp(&[0x11; 1_000]),
    };
    let came = large(&service.client_packet());
    let [before, packet] = [cut(&came, id, 0, CUT), cut(&came, id, CUT, usize::MAX)];
    let left = reason == Reason::LeftToFragment;
    // The stack takes the hop off.
    let rewritten = Frame { destination: service.backend(B), ..service.client_packet() };
    let out = if left { cut(&large(&rewritten), id, CUT, usize::MAX) } else { packet.clone() };
    Row {
        before: vec![before],
        packet,
        out,
        reason,
        action: if left { Action::Pass } else { Action::Drop },
        counted: left.then_some(B),
        ..second(service, "second fragment, too large", &[ON_B], B)
    }
}

fn broken() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in [NatTcp, Nat6Tcp, Ipip44] {
        let packet = whole(service, &service.client_packet());
        let [tiny, over] = [identification(), identification()];
        rows.push(stays(
            service,
            "first fragment that cuts the TCP header",
            &[],
            cut(&packet, tiny, 0, 16),
            Reason::Malformed,
        ));
        for from in [8, 16] {
            let name = format!("a fragment over the TCP header, at {from}");
            let row = stays(service, &name, &[], cut(&packet, over, from, usize::MAX), Reason::Malformed);
            rows.push(Row { before: vec![cut(&packet, over, 0, CUT)], ..row });
        }
    }
    rows
}

/// A first fragment is remembered for [`FRAGMENT_SECONDS`].
#[test]
fn fragments_are_forgotten() -> Result<()> {
    let mut host = Host::new()?;
    for (age, reason) in
        [(FRAGMENT_SECONDS - 1, Reason::Forwarded), (FRAGMENT_SECONDS + 1, Reason::FragmentUnknown)]
    {
        let [first, second] = halves(NatUdp, &NatUdp.client_packet(), identification());
        host.run(&first)?;
        for way in host.engine().datapath().fragments.borrow_mut().values_mut() {
            way.seen = way.seen.wrapping_sub(age);
        }
        let before = host.engine().reasons()?;
        host.run(&second)?;
        let after = host.engine().reasons()?;
        assert_eq!(after[reason as usize] - before[reason as usize], 1, "after {age} s");
    }
    Ok(())
}
