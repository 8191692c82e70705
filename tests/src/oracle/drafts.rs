//! Drafts of what clients and backends of a scene send. Pure.

use std::net::IpAddr;

use super::draft::{Draft, tcp, udp};
use super::random::Random;
use super::scene::{INGRESS_MAC, Scene, client};
use super::world::ip_addr;

/// Of TCP, as they come in practice, and all at once.
pub const FLAGS: [u8; 12] = [0x02, 0x02, 0x10, 0x10, 0x18, 0x12, 0x11, 0x01, 0x04, 0x14, 0x00, 0x3f];

/// Both ports of TCP or UDP.
pub fn ports_of(upper: &[u8]) -> (u16, u16) {
    (u16::from_be_bytes([upper[0], upper[1]]), u16::from_be_bytes([upper[2], upper[3]]))
}

/// An IP packet without content.
pub fn plain_draft(random: &mut Random, (source, destination): (IpAddr, IpAddr)) -> Draft {
    let tags = match random.below(6) {
        0 => vec![(0x8100, random.word() as u16)],
        1 => vec![(*random.pick(&[0x88a8, 0x9100, 0x8100]), 7), (0x8100, random.word() as u16)],
        _ => Vec::new(),
    };
    let mut options = Vec::new();
    let mut extensions = Vec::new();
    if random.one_in(5) {
        options = vec![1; 4 * random.between(1, 10)];
        for _ in 0..random.between(1, 3) {
            let number = *random.pick(&[0, 60, 60, 43]);
            let mut body = vec![0; 6 + 8 * random.below(3)];
            if number == 43 && random.one_in(3) {
                body[1] = 1;
            }
            extensions.push((number, body));
        }
        if random.one_in(12) {
            extensions.extend(vec![(60, vec![0; 6]); 5]);
        }
        if random.one_in(4) {
            // A fragment header that fragments nothing.
            extensions.push((44, vec![0, random.byte() & 6, 0, 0, 0, 9]));
        }
    }
    Draft {
        to: if random.one_in(40) { [0xff; 6] } else { INGRESS_MAC },
        from: [2, 0, 0, 0, 0, 9],
        tags,
        source,
        destination,
        class: random.byte(),
        ttl: *random.pick(&[0, 1, 2, 3, 64, 64, 64, 64, 128, 255]),
        identification: random.word() as u32,
        dont_fragment: random.one_in(2),
        options,
        extensions,
        protocol: 0,
        upper: Vec::new(),
        trailer: if random.one_in(4) { random.below(12) } else { 0 },
    }
}

fn payload_len(random: &mut Random) -> usize {
    if random.one_in(50) {
        // More than one buffer of the kernel's.
        return random.between(3_000, 8_900);
    }
    match random.below(10) {
        0 => 0,
        1..7 => random.between(1, 40),
        7 => random.between(480, 620),
        8 => random.between(1_180, 1_260),
        _ => random.between(1_400, 1_520),
    }
}

/// An address of a service's network.
fn within(random: &mut Random, address: IpAddr, width: u8) -> IpAddr {
    let host = if width == 127 { random.below(4) as u8 } else { 0 };
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            IpAddr::from([a, b, c, d | host])
        }
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[15] |= host;
            IpAddr::from(octets)
        }
    }
}

/// A client's packet of a tuple, with these TCP flags or any.
pub fn client_draft(
    random: &mut Random,
    scene: &Scene,
    tuple: (IpAddr, u16, usize),
    flags: Option<u8>,
) -> Draft {
    let key = scene.world.services[tuple.2].key;
    let mut port = key.port.number();
    let last = scene.world.services[tuple.2].last_port;
    if last > port {
        port = random.between(port.into(), last.into()) as u16;
    }
    let ends = (tuple.0, within(random, ip_addr(key.address), key.width));
    let mut draft = plain_draft(random, ends);
    draft.protocol = key.protocol;
    draft.upper = transport(random, ends, (tuple.1, port), key.protocol, flags);
    draft
}

fn transport(
    random: &mut Random,
    ends: (IpAddr, IpAddr),
    ports: (u16, u16),
    protocol: u8,
    flags: Option<u8>,
) -> Vec<u8> {
    let len = payload_len(random);
    let payload = random.bytes(len);
    if protocol == 17 {
        return udp(ends, ports, !random.one_in(4), &payload);
    }
    let flags = flags.unwrap_or(*random.pick(&FLAGS));
    let mss = (random.between(400, 9_000) as u16).to_be_bytes();
    let options: &[u8] = match random.below(5) {
        0 => &[2, 4, mss[0], mss[1]],
        1 => &[1, 1, 1, 2, 4, mss[0], mss[1], 0],
        2 => &[2, 4, mss[0], mss[1], 4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 3, 7],
        3 => &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, mss[0], mss[1], 1, 0],
        _ => &[],
    };
    tcp(ends, ports, flags, random.word(), options, &payload)
}

/// A packet of a translated flow as it arrives, or as it left: `None` where no flow is translated.
pub fn translated_draft(random: &mut Random, scene: &Scene, left: bool) -> Option<Draft> {
    let mut known: Vec<_> = scene.world.translations.iter().collect();
    known.sort_by_key(|(key, _)| **key);
    let (key, entry) = if known.is_empty() { return None } else { *random.pick(&known) };
    let (ends, ports) = if left {
        ((entry.source, entry.destination), (entry.source_port, entry.destination_port))
    } else {
        ((key.client, key.vip), (key.client_port, key.vip_port))
    };
    let ends = (ip_addr(ends.0), ip_addr(ends.1));
    let mut draft = plain_draft(random, ends);
    draft.protocol = key.protocol;
    draft.upper = transport(random, ends, (ports.0.number(), ports.1.number()), key.protocol, None);
    Some(draft)
}

/// A backend's reply to some client, or to the pool.
pub fn reply_draft(random: &mut Random, scene: &Scene) -> Draft {
    if random.one_in(3)
        && let Some(draft) = translated_draft(random, scene, false)
    {
        return draft;
    }
    let mut known: Vec<_> = scene.world.backends.iter().map(|(&id, &entry)| (id, entry)).collect();
    known.sort_by_key(|&(id, _)| id);
    if known.is_empty() {
        let tuple = *random.pick(&scene.tuples);
        return client_draft(random, scene, tuple, None);
    }
    let (_, entry) = *random.pick(&known);
    let service = scene.world.services.iter().find(|service| service.id == entry.service);
    let protocol = service.map_or(6, |service| service.key.protocol);
    let port =
        if entry.port == 0 { service.map_or(1, |service| service.key.port.number()) } else { entry.port };
    let ends = (entry.address, client(entry.address.is_ipv6(), some_client(random)));
    let mut draft = plain_draft(random, ends);
    draft.protocol = protocol;
    let to = random.between(1_024, 65_535) as u16;
    draft.upper = transport(random, ends, (port, to), protocol, None);
    draft
}

/// The number of a client, a few of them beyond a router that nobody knows, or without a route.
fn some_client(random: &mut Random) -> u16 {
    let number = random.between(1, 200) as u16;
    number + *random.pick(&[0, 0, 0, 0, 0, 0, 0x100, 0x300, 0x400])
}

/// The answer to a packet: as its receiver sends it.
pub fn turned(random: &mut Random, came: &Draft) -> Draft {
    let ends = (came.destination, came.source);
    let (from, to) = ports_of(&came.upper);
    let mut answer = plain_draft(random, ends);
    answer.protocol = came.protocol;
    answer.upper = transport(random, ends, (to, from), came.protocol, Some(0x10));
    answer
}
