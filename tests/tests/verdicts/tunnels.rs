//! `dsr-ipip` and `dsr-gue`: every family within every family, and what the outer header takes from the inner.

use lb_common::{Reason, SlotState::Settled};

use crate::{
    row::{
        Given::{Down, Slots, Unresolved},
        NOBODY, Row, Shape, Way, ack, datagram, hashed, odd_datagram, segment, sent, stays, syn,
    },
    world::{
        Svc::{self, Gue44, Gue46, Gue64, Gue66, Ipip44, Ipip46, Ipip64, Ipip66},
        Who::{A, B},
    },
};

const TCP: [Svc; 5] = [Ipip44, Ipip46, Ipip66, Gue44, Gue64];
const UDP: [Svc; 3] = [Ipip64, Gue46, Gue66];

pub fn rows() -> Vec<Row> {
    [every_family(), traffic_class(), fragmentable(), refused()].concat()
}

fn every_family() -> Vec<Row> {
    let on_b = [Slots(B, B, Settled, 0)];
    let mut rows = Vec::new();
    for service in TCP {
        rows.extend([
            sent(service, "SYN", &[], syn, A).opens(),
            sent(service, "an odd payload", &[], segment, A),
            sent(service, "to another interface", &on_b, ack, B),
        ]);
    }
    for service in UDP {
        rows.extend([
            sent(service, "datagram", &[], datagram, A),
            sent(service, "odd datagram, to another interface", &on_b, odd_datagram, B),
        ]);
    }
    rows
}

/// Changes the inner header of a packet as it came and as it leaves.
fn changed(service: Svc, name: &str, shape: Shape, change: impl Fn(&mut Vec<u8>)) -> Row {
    let (mut packet, mut inner) = (shape(&service.client_packet()), shape(&service.to_backend(A)));
    change(&mut packet);
    change(&mut inner);
    let out = service.wrapped(A, inner);
    Row { packet, out, free: hashed(service, &[]), ..sent(service, name, &[], shape, A) }
}

fn mend(packet: &mut [u8]) {
    let mut header = etherparse::Ipv4Header::from_slice(&packet[14..]).expect("a whole header").0;
    header.header_checksum = header.calc_header_checksum();
    packet[14..34].copy_from_slice(&header.to_bytes());
}

/// RFC 6040, 4.1: ECN is copied, and the DSCP with it.
fn traffic_class() -> Vec<Row> {
    let mut rows = Vec::new();
    for class in [0x01u8, 0x02, 0x03, 0xb8, 0xff] {
        for service in [Ipip44, Ipip46, Gue44] {
            rows.push(changed(service, &format!("traffic class {class:#04x}"), segment, |packet| {
                packet[15] = class;
                mend(packet);
            }));
        }
        for service in [Ipip64, Gue66] {
            rows.push(changed(service, &format!("traffic class {class:#04x}"), datagram, |packet| {
                packet[14] = 0x60 | class >> 4;
                packet[15] = class << 4;
            }));
        }
    }
    rows
}

/// An inner packet that may be fragmented leaves so, with an identification of its own.
fn fragmentable() -> Vec<Row> {
    let may = |service| {
        let row = changed(service, "may be fragmented", segment, |packet| {
            packet[20] = 0;
            mend(packet);
        });
        let identification_and_checksum = [18..20, 24..26];
        Row { free: [row.free.clone(), identification_and_checksum.to_vec()].concat(), ..row }
    };
    vec![
        may(Ipip44),
        may(Gue44),
        changed(Ipip46, "may be fragmented", segment, |packet| {
            packet[20] = 0;
            mend(packet);
        }),
    ]
}

fn refused() -> Vec<Row> {
    let mut rows = Vec::new();
    for service in TCP {
        let packet = || ack(&service.client_packet());
        rows.extend([
            stays(service, "the backend is down", &[Down(A)], packet(), Reason::NoBackend),
            stays(service, "settled on nobody", &[NOBODY], packet(), Reason::NoBackend),
        ]);
    }
    let unresolved = [Unresolved(B), Slots(B, B, Settled, 0)];
    rows.push(
        stays(
            Ipip44,
            "no way is known",
            &unresolved,
            ack(&Ipip44.client_packet()),
            Reason::NextHopUnresolved,
        )
        .by(Way::KernelOnly),
    );
    rows
}
