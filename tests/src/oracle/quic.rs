//! QUIC's packets as far as a balancer sees them: the flags and the destination connection id. Pure.

use lb_common::QuicScheme;

use super::random::Random;
use super::scene::Scene;

/// A payload with a long or a short header, whose connection id names a server or does not.
pub fn payload(random: &mut Random, scene: &Scene, service: usize) -> Vec<u8> {
    let service = &scene.world.services[service];
    let mut servers: Vec<u64> = scene
        .world
        .quic_servers
        .keys()
        .filter(|(number, _)| *number == service.id)
        .map(|&(_, server)| server)
        .collect();
    servers.sort_unstable();
    let server = if servers.is_empty() || random.one_in(4) { random.word() } else { *random.pick(&servers) };
    let id = connection_id(random, service.settings, server);
    let mut payload = Vec::new();
    if random.one_in(2) {
        payload.push(0xc0 | random.byte() & 0x3f);
        payload.extend(if random.one_in(6) { [0; 4] } else { [0, 0, 0, 1] });
        payload.push(if random.one_in(8) { random.byte() } else { id.len() as u8 });
    } else {
        payload.push(0x40 | random.byte() & 0x3f);
    }
    payload.extend(id);
    let rest = random.below(40);
    payload.extend(random.bytes(rest));
    if random.one_in(8) {
        payload.truncate(random.below(payload.len()));
    }
    payload
}

fn connection_id(random: &mut Random, settings: lb_common::ServiceSettings, server: u64) -> Vec<u8> {
    let len = usize::from(settings.quic_server_id_len.clamp(1, 8));
    let mut id = random.bytes(20);
    let server = server.to_be_bytes();
    match settings.quic {
        QuicScheme::None => {}
        QuicScheme::QuicLb => {
            id[0] = settings.quic_config << 5 | random.byte() & 0x1f;
            id[1..1 + len].copy_from_slice(&server[8 - len..]);
        }
        QuicScheme::KatranV1 => {
            id[0] = 0x40 | server[6] >> 2;
            id[1] = server[6] << 6 | server[7] >> 2;
            id[2] = server[7] << 6 | id[2] & 0x3f;
        }
        QuicScheme::KatranV2 => {
            id[0] = 0x80 | id[0] & 0x3f;
            id[1..4].copy_from_slice(&server[5..]);
        }
    }
    if random.one_in(6) {
        id[0] = random.byte();
    }
    let least = if random.one_in(4) { 0 } else { len + 1 };
    id.truncate(random.between(least, 20));
    id
}
