//! Random packets of every class, to virtual addresses, backends, the balancer itself and nobody. Pure.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::draft::{Cut, icmp, tcp, udp};
use super::drafts::{FLAGS, client_draft, plain_draft, ports_of, reply_draft, translated_draft, turned};
use super::quic;
use super::random::Random;
use super::scene::{INGRESS_MAC, LOCALS, Scene, client};
use super::spoil::spoil;
use super::world::ip_addr;

macro_rules! classes {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// What a packet was made as.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)]
        pub enum Class { $($variant),* }

        impl Class {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

classes! {
    ClientTcp = "client, TCP",
    ClientUdp = "client, UDP",
    Quic = "client, QUIC",
    Reply = "backend's reply",
    Local = "to the balancer itself",
    Stranger = "nobody's",
    FragmentFirst = "first fragment",
    FragmentLater = "later fragment",
    ErrorToVip = "ICMP error to a virtual address",
    ErrorToClient = "ICMP error to a client",
    Echo = "echo request",
    IcmpOther = "other ICMP",
    Solicitation = "neighbour solicitation",
    Arp = "ARP",
    Protocol = "other protocol",
    Foreign = "not IP",
    Flipped = "mutated: bits flipped",
    Cut = "mutated: cut short",
    Lied = "mutated: a field that lies",
    Noise = "random bytes",
}

/// Makes packets for a scene.
#[derive(Default)]
pub struct Craft {
    queue: VecDeque<(Class, Vec<u8>)>,
}

impl Craft {
    /// The next packet.
    pub fn next(&mut self, random: &mut Random, scene: &Scene) -> (Class, Vec<u8>) {
        let (class, frame) = match self.queue.pop_front() {
            Some(packet) => packet,
            None => {
                self.make(random, scene);
                self.queue.pop_front().unwrap_or((Class::Noise, Vec::new()))
            }
        };
        if random.one_in(5) {
            return spoil(random, class, frame);
        }
        (class, frame)
    }

    fn make(&mut self, random: &mut Random, scene: &Scene) {
        match random.below(40) {
            0..13 => self.client(random, scene),
            13..18 => self.reply(random, scene),
            18..22 => self.fragments(random, scene),
            22..26 => self.error(random, scene),
            26..28 => self.echo(random, scene),
            28 | 29 => self.solicitation(random, scene),
            30 | 31 => self.arp(random, scene),
            32 | 33 => self.stranger(random, scene),
            34 => self.protocol(random, scene),
            35 => self.foreign(random),
            36 => self.local(random, scene),
            37 => {
                let len = random.below(120);
                self.queue.push_back((Class::Noise, random.bytes(len)));
            }
            _ => self.connection(random, scene),
        }
    }

    /// The packets of one short TCP connection, in order.
    fn connection(&mut self, random: &mut Random, scene: &Scene) {
        let tuple = *random.pick(&scene.tuples);
        for flags in [0x02, 0x10, 0x18, 0x11, if random.one_in(3) { 0x04 } else { 0x10 }] {
            let draft = client_draft(random, scene, tuple, Some(flags));
            let class = if draft.protocol == 6 { Class::ClientTcp } else { Class::ClientUdp };
            self.queue.push_back((class, draft.whole()));
        }
    }

    fn client(&mut self, random: &mut Random, scene: &Scene) {
        let tuple = *random.pick(&scene.tuples);
        let mut draft = client_draft(random, scene, tuple, None);
        if random.one_in(60)
            && let IpAddr::V4(address) = draft.destination
        {
            // What no host sends: an IPv4 address in its mapped form, in an IPv6 header.
            draft.source = client(true, 7);
            draft.destination = IpAddr::V6(address.to_ipv6_mapped());
        }
        let mut class = if draft.protocol == 6 { Class::ClientTcp } else { Class::ClientUdp };
        if draft.protocol == 17 && random.one_in(2) {
            class = Class::Quic;
            let ports = ports_of(&draft.upper);
            let payload = quic::payload(random, scene, tuple.2);
            draft.upper = udp((draft.source, draft.destination), ports, true, &payload);
        }
        self.queue.push_back((class, draft.whole()));
    }

    fn reply(&mut self, random: &mut Random, scene: &Scene) {
        let draft = reply_draft(random, scene);
        self.queue.push_back((Class::Reply, draft.whole()));
    }

    fn fragments(&mut self, random: &mut Random, scene: &Scene) {
        let mut draft = if random.one_in(4) {
            reply_draft(random, scene)
        } else {
            let tuple = *random.pick(&scene.tuples);
            client_draft(random, scene, tuple, None)
        };
        draft.dont_fragment = random.one_in(8);
        draft.identification = if random.one_in(3) { random.below(4) as u32 } else { random.word() as u32 };
        let ports = ports_of(&draft.upper);
        let ends = (draft.source, draft.destination);
        let len = random.between(40, 200);
        let payload = random.bytes(len);
        draft.upper = match draft.protocol {
            6 => tcp(ends, ports, *random.pick(&FLAGS), random.word(), &[], &payload),
            _ => udp(ends, ports, !random.one_in(3), &payload),
        };
        let first = random.between(1, 4) * 8;
        let second = random.between(1, 3) * 8;
        let total = draft.upper.len();
        let mut parts: Vec<(Class, Vec<u8>)> = [
            Cut { at: 0, len: first, more: true },
            Cut { at: first, len: second, more: true },
            Cut { at: first + second, len: total.saturating_sub(first + second), more: false },
        ]
        .into_iter()
        .filter(|cut| cut.at + cut.len <= total)
        .map(|cut| {
            let class = if cut.at == 0 { Class::FragmentFirst } else { Class::FragmentLater };
            (class, draft.fragment(cut))
        })
        .collect();
        if random.one_in(3) {
            parts.reverse();
        }
        if random.one_in(4) {
            parts.remove(random.below(parts.len()));
        }
        self.queue.extend(parts);
    }

    /// An error about a packet that went to a backend, or about one that went to a client.
    fn error(&mut self, random: &mut Random, scene: &Scene) {
        let tuple = *random.pick(&scene.tuples);
        let service = &scene.world.services[tuple.2];
        let to_vip = random.one_in(2);
        let mut quoted = if to_vip {
            match translated_draft(random, scene, true) {
                Some(draft) if random.one_in(2) => draft,
                _ => {
                    let came = client_draft(random, scene, tuple, None);
                    turned(random, &came)
                }
            }
        } else {
            let mut sent = client_draft(random, scene, tuple, None);
            let backends: Vec<_> = scene.world.backends.iter().collect();
            let near = backends.iter().filter(|(_, entry)| entry.service == service.id);
            let mut near: Vec<_> =
                near.filter(|(_, entry)| entry.address.is_ipv6() == tuple.0.is_ipv6()).collect();
            near.sort_by_key(|(id, _)| **id);
            if !near.is_empty() {
                let (_, entry) = random.pick(&near);
                let port = if entry.port == 0 { service.key.port.number() } else { entry.port };
                sent.destination = entry.address;
                let ports = (tuple.1, port);
                let ends = (sent.source, sent.destination);
                sent.upper = match sent.protocol {
                    6 => tcp(ends, ports, 0x10, random.word(), &[], b"quoted"),
                    _ => udp(ends, ports, !random.one_in(3), b"quoted"),
                };
            }
            sent
        };
        quoted.ttl = random.between(0, 64) as u8;
        if random.one_in(4) {
            quoted.options.clear();
            quoted.extensions.clear();
        }
        let v6 = quoted.source.is_ipv6();
        // As the packet's receiver says it, the tags of whose network nobody knows.
        quoted.tags.clear();
        let mut quote = if random.one_in(12) {
            quoted.identification = 7;
            let at = if quoted.upper.len() < 16 || random.one_in(2) { 0 } else { 8 };
            let cut = Cut { at, len: 8, more: true };
            quoted.trailer = 0;
            quoted.fragment(cut)[14..].to_vec()
        } else {
            quoted.packet()
        };
        let least = if v6 { 48 } else { 28 };
        let most = quote.len();
        quote.truncate(match random.below(4) {
            0 => least.min(most),
            1 => random.between(0, most),
            _ => most,
        });
        let from = if random.one_in(3) { quoted.destination } else { client(v6, 999) };
        let ends = (from, quoted.source);
        let (kind, word) = error_kind(random, v6);
        let class = if to_vip { Class::ErrorToVip } else { Class::ErrorToClient };
        let mut draft = plain_draft(random, ends);
        draft.protocol = if v6 { 58 } else { 1 };
        draft.upper = icmp(ends, kind, word, &quote);
        if random.one_in(16) {
            draft.upper[2] ^= 0x55;
        }
        self.queue.push_back((class, draft.whole()));
    }

    fn echo(&mut self, random: &mut Random, scene: &Scene) {
        let (source, _, service) = *random.pick(&scene.tuples);
        let ends = (source, ip_addr(scene.world.services[service].key.address));
        let v6 = source.is_ipv6();
        let mut draft = plain_draft(random, ends);
        draft.protocol = if v6 { 58 } else { 1 };
        let len = random.below(100);
        let rest = random.bytes(len);
        let kind = match random.below(8) {
            0 => (random.byte(), random.byte()),
            _ => (if v6 { 128 } else { 8 }, 0),
        };
        let class = if kind.0 == 128 || kind.0 == 8 { Class::Echo } else { Class::IcmpOther };
        draft.upper = icmp(ends, kind, [1, 2, 3, 4], &rest);
        if random.one_in(16) {
            draft.upper[3] ^= 0x10;
        }
        self.queue.push_back((class, draft.whole()));
    }

    fn solicitation(&mut self, random: &mut Random, scene: &Scene) {
        let mut target = address_of(random, scene);
        while target.is_ipv4() {
            target = if random.one_in(4) { LOCALS[1] } else { address_of(random, scene) };
        }
        let IpAddr::V6(wanted) = target else { return };
        let octets = wanted.octets();
        let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
        group[13..].copy_from_slice(&octets[13..]);
        let multicast = !random.one_in(3);
        let source = if random.one_in(6) { IpAddr::from([0u8; 16]) } else { client(true, 5) };
        let ends = (source, if multicast { IpAddr::from(group) } else { target });
        let mut rest = octets.to_vec();
        if !random.one_in(4) {
            rest.extend([1, 1, 2, 0, 0, 0, 9, random.byte()]);
        }
        if random.one_in(6) {
            rest.extend([14, 1, 1, 2, 3, 4, 5, 6]);
        }
        let kind = if random.one_in(10) { (136, 0) } else { (135, u8::from(random.one_in(12))) };
        let mut draft = plain_draft(random, ends);
        draft.extensions.clear();
        draft.protocol = 58;
        draft.ttl = if random.one_in(8) { 64 } else { 255 };
        draft.upper = icmp(ends, kind, [0; 4], &rest);
        if random.one_in(16) {
            draft.upper[2] ^= 1;
        }
        if multicast {
            draft.to = [0x33, 0x33, 0xff, octets[13], octets[14], octets[15]];
        }
        self.queue.push_back((Class::Solicitation, draft.whole()));
    }

    fn arp(&mut self, random: &mut Random, scene: &Scene) {
        let mut target = address_of(random, scene);
        while target.is_ipv6() {
            target = if random.one_in(4) { client(false, 3) } else { address_of(random, scene) };
            if scene.world.services.iter().all(|service| !service.key.address.is_ipv4()) {
                target = client(false, 3);
            }
        }
        let (IpAddr::V4(target), IpAddr::V4(sender)) = (target, client(false, 5)) else { return };
        let sender = if random.one_in(10) { target } else { sender };
        let mut draft = plain_draft(random, (LOCALS[0], LOCALS[0]));
        draft.to = if random.one_in(2) { [0xff; 6] } else { INGRESS_MAC };
        let mut frame = draft.whole();
        frame.truncate(12 + 4 * draft.tags.len());
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, if random.one_in(6) { 2 } else { 1 }]);
        frame.extend(draft.from);
        frame.extend(sender.octets());
        frame.extend([0; 6]);
        frame.extend(target.octets());
        frame.resize(frame.len() + random.below(20), 0);
        self.queue.push_back((Class::Arp, frame));
    }

    fn stranger(&mut self, random: &mut Random, scene: &Scene) {
        let tuple = *random.pick(&scene.tuples);
        let mut draft = client_draft(random, scene, tuple, None);
        if random.one_in(2) {
            // The right address, another port.
            let at = 2 + random.below(2);
            draft.upper[at] = random.byte();
        } else {
            draft.destination = client(draft.source.is_ipv6(), 500);
        }
        self.queue.push_back((Class::Stranger, draft.whole()));
    }

    fn local(&mut self, random: &mut Random, scene: &Scene) {
        let mut draft = reply_draft(random, scene);
        draft.destination = LOCALS[usize::from(draft.source.is_ipv6())];
        self.queue.push_back((Class::Local, draft.whole()));
    }

    fn protocol(&mut self, random: &mut Random, scene: &Scene) {
        let tuple = *random.pick(&scene.tuples);
        let mut draft = client_draft(random, scene, tuple, None);
        draft.protocol = *random.pick(&[2, 47, 50, 51, 59, 132, 4, 41, 1, 58, 0, 43]);
        self.queue.push_back((Class::Protocol, draft.whole()));
    }

    fn foreign(&mut self, random: &mut Random) {
        let len = random.between(14, 90);
        let mut frame = random.bytes(len);
        let kind: u16 = *random.pick(&[0x88cc, 0x0026, 0x8847, 0x8100, 0x9100, 0x0800, 0x86dd]);
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        self.queue.push_back((Class::Foreign, frame));
    }
}

fn address_of(random: &mut Random, scene: &Scene) -> IpAddr {
    ip_addr(random.pick(&scene.world.services).key.address)
}

fn error_kind(random: &mut Random, v6: bool) -> ((u8, u8), [u8; 4]) {
    let mtu = (random.between(500, 1_500) as u16).to_be_bytes();
    let kinds: &[(u8, u8)] = if v6 {
        &[(2, 0), (1, 0), (1, 3), (1, 4), (3, 0), (3, 1), (4, 1)]
    } else {
        &[(3, 4), (3, 0), (3, 1), (3, 3), (11, 0), (11, 1), (12, 0), (4, 0), (5, 1)]
    };
    (*random.pick(kinds), [0, 0, mtu[0], mtu[1]])
}
