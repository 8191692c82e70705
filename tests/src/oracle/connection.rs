//! The server that a QUIC connection id names: what RFC 8999 lets a balancer see, read by the layouts of the three
//! schemes. Pure.

use lb_common::QuicScheme;

use super::read::Transport;
use super::world::{Service, World};

/// The backend, if the packet names one that serves.
pub fn named(world: &World, service: &Service, frame: &[u8], transport: &Transport) -> Option<u32> {
    let settings = &service.settings;
    if settings.quic == QuicScheme::None || transport.is_tcp() {
        return None;
    }
    let payload = &frame[transport.ip.l4 + 8..transport.ip.end];
    let server_len = usize::from(settings.quic_server_id_len);
    let least = if settings.quic == QuicScheme::QuicLb { 1 + server_len } else { 8 };
    let (&form, rest) = payload.split_first()?;
    let id = if form & 0x80 == 0 {
        rest
    } else {
        let version = u32::from_be_bytes(*rest.first_chunk()?);
        let kind = form >> 4 & 3;
        // Clients draw the ids of Initial and 0-RTT packets themselves (RFC 9000, RFC 9369).
        if matches!((version, kind), (1, 0 | 1) | (0x6b33_43cf, 1 | 2)) || usize::from(*rest.get(4)?) < least
        {
            return None;
        }
        &rest[5..]
    };
    // An id is followed by encrypted bytes: nine are always there.
    let id = id.first_chunk::<9>()?;
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
    let server = match settings.quic {
        QuicScheme::QuicLb if id[0] >> 5 == settings.quic_config && settings.quic_config != 7 => {
            number(&id[1..1 + server_len])
        }
        QuicScheme::KatranV1 if id[0] >> 6 == 1 => number(&id[..3]) >> 6 & 0xffff,
        QuicScheme::KatranV2 if id[0] >> 6 == 2 => number(&id[1..4]),
        _ => return None,
    };
    let backend = *world.quic_servers.get(&(service.id, server))?;
    world.serves(service, backend).then_some(backend)
}
