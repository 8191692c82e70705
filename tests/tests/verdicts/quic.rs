//! QUIC: a server's id in the connection id decides, wherever the slot points.

use lb_common::SlotState::{Moving, Settled};

use crate::{
    row::{
        Given::{self, Down, Slots},
        Row, datagram, sent,
    },
    world::{
        Svc::{self, NatUdp, QuicKatranV1, QuicKatranV2, QuicLb},
        Who::{self, A, B},
    },
};

const VERSION_1: u32 = 1;
const VERSION_2: u32 = 0x6b33_43cf;
const UNKNOWN_VERSION: u32 = 0x5a5a_5a5a;

/// A connection id that names `server` in the service's scheme.
pub fn id(service: Svc, server: u64) -> Vec<u8> {
    let [.., a, b, c] = server.to_be_bytes();
    match service {
        // Configuration 2; the five bits after it may be anything.
        QuicLb => vec![0x40 | 0x0f, a, b, c, 0xd1, 0xd2, 0xd3, 0xd4],
        QuicKatranV1 => vec![0x40 | b >> 2, b << 6 | c >> 2, c << 6 | 0x15, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5],
        QuicKatranV2 => vec![0x80 | 0x2a, a, b, c, 0xd1, 0xd2, 0xd3, 0xd4],
        _ => panic!("{service:?} has no scheme"),
    }
}

/// What follows the ids: numbers, and what is encrypted.
const REST: [u8; 24] = [0x77; 24];

pub fn short(id: &[u8]) -> Vec<u8> {
    [&[0x43], id, &REST].concat()
}

fn long(kind: u8, version: u32, id: &[u8]) -> Vec<u8> {
    let head = [&[0xc0 | kind << 4], &version.to_be_bytes()[..], &[id.len() as u8]].concat();
    [&head, id, &[4, 1, 2, 3, 4], &REST].concat()
}

fn goes(service: Svc, name: &str, given: &[Given], payload: &[u8], to: Who) -> Row {
    Row {
        packet: service.client_packet().udp(payload),
        out: service.wrapped(to, service.to_backend(to).udp(payload)),
        ..sent(service, name, given, datagram, to)
    }
}

pub fn rows() -> Vec<Row> {
    [QuicLb, QuicKatranV1, QuicKatranV2].into_iter().flat_map(of_scheme).chain(of_quic_lb()).collect()
}

/// The slots point to A, the ids to B, unless the row says otherwise.
fn of_scheme(service: Svc) -> Vec<Row> {
    let a = id(service, service.server_id(A).expect("a QUIC service"));
    let b = id(service, service.server_id(B).expect("a QUIC service"));
    let unknown = id(service, 0x00_3344);
    let mut other_scheme = b.clone();
    other_scheme[0] ^= 0xc0;
    let on_b = [Slots(B, B, Settled, 0)];
    let moving = [Slots(A, A, Moving, 10)];
    let row = |name: &str, payload: &[u8], to| goes(service, name, &[], payload, to);
    let mut rows = vec![
        row("short header", &short(&b), B),
        goes(service, "short header, the other way round", &on_b, &short(&a), A),
        goes(service, "an id wins over a slot that moves, and nothing is remembered", &moving, &short(&b), B),
        row("short header, unknown server", &short(&unknown), A),
        row("short header, another scheme or configuration", &short(&other_scheme), A),
        goes(service, "the named server is down", &[Down(B)], &short(&b), A),
        row("short header that ends within the id", &short(&b)[..8], A),
        row("one byte", &[0x43], A),
        row("empty", &[], A),
        row("long header without an id", &long(2, VERSION_1, &[]), A),
        row("long header with an id that is too short", &long(2, VERSION_1, &b[..3]), A),
        row("long header that ends within the id", &long(2, VERSION_1, &b)[..10], A),
        row("a version that nobody knows", &long(0, UNKNOWN_VERSION, &b), B),
        row("a version that nobody knows, unknown server", &long(0, UNKNOWN_VERSION, &unknown), A),
    ];
    // Initial and 0-RTT may carry ids that the client drew; Handshake and Retry do not.
    for (version, name, chosen) in [(VERSION_1, "1", [0, 1]), (VERSION_2, "2", [1, 2])] {
        for kind in 0..4 {
            let to = if chosen.contains(&kind) { A } else { B };
            rows.push(row(&format!("version {name}, packet type {kind}"), &long(kind, version, &b), to));
        }
    }
    rows
}

fn of_quic_lb() -> Vec<Row> {
    let mut unroutable = id(QuicLb, 0x0a1b2d);
    unroutable[0] |= 0xe0;
    let padded = {
        let row = goes(QuicLb, "an id in the padding of Ethernet", &[], &[0x43], A);
        let pad = |mut bytes: Vec<u8>| {
            bytes.extend(&id(QuicLb, 0x0a1b2d));
            bytes.resize(80, 0);
            bytes
        };
        Row { packet: pad(row.packet.clone()), out: pad(row.out.clone()), ..row }
    };
    vec![
        goes(QuicLb, "unroutable by its configuration", &[], &short(&unroutable), A),
        goes(NatUdp, "a service without ids", &[], &short(&id(QuicLb, 0x0a1b2d)), A),
        padded,
    ]
}
