//! Routing by QUIC connection id, so that a client that changes its address stays with its server.
//!
//! Only what every version of QUIC shares is read (RFC 8999), but for one thing: a client's first packets carry an id
//! that it drew itself. Where the version tells them (1 and 2), they go by the hash. They could name a server by chance,
//! and bring new flows to one that drains. In other versions every id is tried.

use lb_common::{BackendId, IdStart, QuicKey, Service};
use network_types::udp::UdpHdr;

use crate::{
    flow,
    packet::Packet,
    parse::{Ip, transport::UDP},
    tables::Tables,
};

const LONG_HEADER: u8 = 0x80;
/// The first byte, the version and the id's length stand before the id.
const LONG_ID_OFFSET: usize = 6;
const SHORT_ID_OFFSET: usize = 1;
/// No id that names a server needs more, and no packet has less after it: an id of so many bytes at most is followed by
/// at least 20 that are encrypted (RFC 9001, 5.4.2).
const READ_LEN: usize = 9;
/// RFC 9000.
const VERSION_1: u32 = 1;
/// RFC 9369.
const VERSION_2: u32 = 0x6b33_43cf;
const TYPE_BITS: u8 = 0x30;

/// The server that a packet's connection id names, if it names one of this service that serves; else
/// [`BackendId::NONE`], a plain word: an option's would cross many branches unwritten.
#[inline(always)]
pub fn server<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    tables: &T,
    service: &Service,
    ip: &Ip,
) -> BackendId {
    let named = if ip.protocol() == UDP { named(packet, tables, service, ip) } else { BackendId::NONE };
    // Or the verifier would walk on by every way to no answer.
    BackendId(tables.launder(named.0 as u64) as u32)
}

#[inline(always)]
fn named<P: Packet + ?Sized, T: Tables>(packet: &P, tables: &T, service: &Service, ip: &Ip) -> BackendId {
    let Some(at) = id_offset(packet, service, ip.l4() + UdpHdr::LEN) else {
        return BackendId::NONE;
    };
    // Padding of Ethernet is no part of the packet.
    if at + READ_LEN > ip.l3() + ip.length as usize {
        return BackendId::NONE;
    }
    // Two bytes: after a comparison for one at a variable offset, the verifier grants none.
    let (Some(start), Some([high, low])) = (packet.load::<u16>(at), packet.load::<[u32; 2]>(at + 1)) else {
        return BackendId::NONE;
    };
    let rest = (u32::from_be(high) as u64) << 32 | u32::from_be(low) as u64;
    let id = IdStart { first: start.to_ne_bytes()[0], rest };
    let Some(server) = service.quic().server_id(id, service.quic_server_id_len, service.quic_config) else {
        return BackendId::NONE;
    };
    let key = QuicKey { service: service.id, reserved: 0, server };
    match tables.quic_server(&key) {
        Some(backend) if flow::serves(tables, service, backend) => backend,
        _ => BackendId::NONE,
    }
}

/// Where the destination's connection id begins, if it may name a server; the QUIC packet begins at `at`.
#[inline(always)]
fn id_offset<P: Packet + ?Sized>(packet: &P, service: &Service, at: usize) -> Option<usize> {
    let form = packet.load::<u8>(at)?;
    if form & LONG_HEADER == 0 {
        return Some(at + SHORT_ID_OFFSET);
    }
    let version = u32::from_be(packet.load::<u32>(at + 1)?);
    let len = packet.load::<u8>(at + LONG_ID_OFFSET - 1)?;
    if is_client_chosen(form, version) || len < service.quic().id_len_min(service.quic_server_id_len) {
        return None;
    }
    Some(at + LONG_ID_OFFSET)
}

/// Whether the client may have drawn the id of a packet with a long header itself: Initial and 0-RTT.
#[inline(always)]
const fn is_client_chosen(form: u8, version: u32) -> bool {
    match version {
        VERSION_1 => matches!(form & TYPE_BITS, 0x00 | 0x10),
        VERSION_2 => matches!(form & TYPE_BITS, 0x10 | 0x20),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_choose_the_ids_of_initial_and_0_rtt_packets() {
        for (version, types) in [
            (VERSION_1, [true, true, false, false]),
            (VERSION_2, [false, true, true, false]),
            (0xff00_001d, [false; 4]),
        ] {
            for (bits, chosen) in types.into_iter().enumerate() {
                let form = 0xc0 | (bits as u8) << 4 | 3;
                assert_eq!(is_client_chosen(form, version), chosen, "{version:#x} type {bits}");
            }
        }
    }
}
