//! Clamped segment sizes: what a SYN announces, on its way to a backend and in a backend's answer.

use lb_common::Reason;
use tests::packet::{Frame, flags};

use crate::{
    row::{Action, Row, Way, sent},
    world::{
        Svc::{self, Mss, Mss6, NatTcp},
        Who::A,
    },
};

/// MSS, with what else Linux says.
const fn options(mss: u16) -> [u8; 20] {
    let [high, low] = mss.to_be_bytes();
    [2, 4, high, low, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7]
}

/// The same where it stands at an odd offset, after a word that is none.
const fn odd_options(mss: u16) -> [u8; 8] {
    let [high, low] = mss.to_be_bytes();
    [1, 2, 4, high, low, 1, 1, 0]
}

pub fn rows() -> Vec<Row> {
    let (syn, ack) = (flags::SYN, flags::ACK);
    let mut rows = Vec::new();
    for (service, limit) in [(Mss, 1_400), (Mss6, 1_220)] {
        rows.extend([
            to_backend(service, "larger", syn, &options(1_460), &options(limit)).opens(),
            to_backend(service, "larger, at an odd offset", syn, &odd_options(9_000), &odd_options(limit))
                .opens(),
            to_backend(service, "equal", syn, &options(limit), &options(limit)).opens(),
            to_backend(service, "smaller", syn, &options(536), &options(536)).opens(),
            to_backend(service, "none", syn, &[], &[]).opens(),
            to_backend(service, "no SYN", ack, &options(9_000), &options(9_000)),
            to_client(service, "a backend's, larger", syn | ack, &options(9_000), &options(limit)),
            to_client(
                service,
                "a backend's, at an odd offset",
                syn | ack,
                &odd_options(1_460),
                &odd_options(limit),
            ),
            to_client(service, "a backend's, smaller", syn | ack, &options(536), &options(536)),
            to_client(service, "a backend's, no SYN", ack, &options(9_000), &options(9_000)),
        ]);
    }
    rows.push(to_backend(NatTcp, "a service without a limit", syn, &options(9_000), &options(9_000)).opens());
    rows
}

fn to_backend(service: Svc, name: &str, flags: u8, announced: &[u8], becomes: &[u8]) -> Row {
    let name = format!("announces a segment size: {name}");
    let segment = |frame: &Frame, options| frame.tcp_with(flags, options, b"odd");
    Row {
        packet: segment(&service.client_packet(), announced),
        out: segment(&service.to_backend(A), becomes),
        ..sent(service, &name, &[], crate::row::ack, A)
    }
}

fn to_client(service: Svc, name: &str, flags: u8, announced: &[u8], becomes: &[u8]) -> Row {
    let segment = |frame: &Frame, options| frame.tcp_with(flags, options, b"");
    Row {
        reason: Reason::Replied,
        action: Action::Redirect,
        packet: segment(&service.backend_packet(A), announced),
        out: segment(&service.to_client(), becomes),
        counted: None,
        way: Way::Routes,
        ..to_backend(service, name, flags, announced, becomes)
    }
}
