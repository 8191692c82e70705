//! The oracle: configuration, what is remembered, and a packet in; what may become of it out. Pure.

use std::net::IpAddr;

use etherparse::{ArpOperation, ArpPacketSlice, EtherType};
use lb_common::{FlowKey, Mode, NextHop, Reason, Translation};

use super::choose::{Choice, choose, is_down};
use super::connection::named;
use super::edit::{Edited, Ends};
use super::memory::{Fate, Way as Remembered};
use super::outcome::{Action, Outcome, Tally};
use super::read::{Frame, Hindrance, Ip, Part, Transport, read};
use super::segment::clamped;
use super::world::{Backend, Routed, Service, World, flow_key, ip_addr};

/// One packet's trial.
pub struct Judge<'w> {
    /// What is known.
    pub world: &'w World,
    /// The lane's routes.
    pub routed: &'w Routed,
    /// The packet as it came.
    pub frame: &'w [u8],
    /// The packet as it went: where a field is free, its value is taken from here.
    pub out: &'w [u8],
    /// What the lane holds of a translated flow after the packet: its port is free.
    pub translation: &'w dyn Fn(&FlowKey) -> Option<Translation>,
    /// The reason, where the lane tells it.
    pub seen_reason: Option<Reason>,
}

/// A way out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// To a neighbour.
    Known {
        /// Own address.
        source: [u8; 6],
        /// The neighbour's.
        destination: [u8; 6],
        /// The interface.
        ifindex: u32,
    },
    /// Larger than this way takes.
    TooBig(u32),
    /// The entry names an interface that does not exist.
    Inconsistent,
    /// The route is known, its neighbour is not.
    Unresolved,
    /// There is no route.
    Nowhere,
    /// No rule says.
    Open,
}

impl Way {
    /// What becomes of every packet on this way, if that is all that matters.
    pub fn end(self) -> Option<Outcome> {
        match self {
            Self::Inconsistent => Some(Outcome::stays(Reason::TableInconsistent)),
            Self::Nowhere => Some(Outcome::stays(Reason::NoRoute)),
            Self::Open => Some(Outcome { open: true, ..Outcome::stays(Reason::NoRoute) }),
            Self::Known { .. } | Self::TooBig(_) | Self::Unresolved => None,
        }
    }
}

impl Judge<'_> {
    /// What is allowed.
    pub fn judge(&self) -> Outcome {
        match read(self.frame) {
            Frame::Foreign => Outcome::stays(Reason::NotIp),
            Frame::Arp(at) => self.arp(at),
            Frame::Hindered(destination, hindrance) => self.hindered(destination, hindrance),
            Frame::Later(ip) => self.later(&ip),
            Frame::Icmp(ip) => self.icmp(&ip),
            Frame::Transport(transport) => self.transport(&transport),
        }
    }

    fn hindered(&self, destination: IpAddr, hindrance: Hindrance) -> Outcome {
        let reason = match hindrance {
            Hindrance::Malformed if self.world.is_virtual(destination) => Reason::Malformed,
            Hindrance::Extension if self.world.is_virtual(destination) => Reason::ExtensionUnsupported,
            _ => Reason::NotOurs,
        };
        Outcome::stays(reason)
    }

    fn arp(&self, at: usize) -> Outcome {
        self.arp_answer(at).unwrap_or_else(|| Outcome::stays(Reason::NotIp))
    }

    fn arp_answer(&self, at: usize) -> Option<Outcome> {
        let arp = ArpPacketSlice::from_slice(&self.frame[at..]).ok()?;
        let ethernet = arp.hw_addr_type().0 == 1 && arp.hw_addr_size() == 6;
        if !ethernet || arp.proto_addr_type() != EtherType::IPV4 || arp.proto_addr_size() != 4 {
            return None;
        }
        let target: [u8; 4] = arp.target_protocol_addr().try_into().ok()?;
        let asked = IpAddr::from(target);
        if arp.operation() != ArpOperation::REQUEST
            || arp.sender_protocol_addr() == arp.target_protocol_addr()
        {
            return None;
        }
        if !self.world.answers_neighbours(asked) {
            return None;
        }
        let own = self.own_mac()?;
        let mut edited = Edited::new(self.frame);
        let sender = self.frame[at + 8..at + 18].to_vec();
        let bytes = &mut edited.bytes;
        bytes[..6].copy_from_slice(&sender[..6]);
        bytes[6..12].copy_from_slice(&own);
        bytes[at + 7] = 2;
        bytes[at + 8..at + 14].copy_from_slice(&own);
        bytes[at + 14..at + 18].copy_from_slice(&target);
        bytes[at + 18..at + 28].copy_from_slice(&sender);
        Some(self.back(Reason::ArpAnswered, edited))
    }

    /// A packet that leaves by the interface that it came in by.
    pub fn back(&self, reason: Reason, edited: Edited) -> Outcome {
        Outcome { action: Action::Back, edited: Some(edited), ..Outcome::stays(reason) }
    }

    /// The address of the interface that packets come in by.
    pub fn own_mac(&self) -> Option<[u8; 6]> {
        let of = |(_, interface): &(&u16, &lb_common::Interface)| interface.ifindex == self.world.ingress;
        let (_, interface) = self.world.interfaces.iter().filter(of).min_by_key(|(index, _)| **index)?;
        Some(lb_common::Mac::from_word(interface.mac).bytes())
    }

    fn transport(&self, transport: &Transport) -> Outcome {
        let (world, ip) = (self.world, &transport.ip);
        if let Some(service) = world.service_at(ip.destination, transport.destination_port, ip.protocol) {
            if service.settings.mode == Mode::FullNat {
                return self.full_nat(transport, Some(service));
            }
            return self
                .with_segment(transport, service.settings.mss, |judge| judge.client(transport, service));
        }
        if world.is_pool_port(transport.destination_port)
            && world.translations.contains_key(&tuple(transport))
        {
            return self.full_nat(transport, None);
        }
        match world.reply_of(ip.source, transport.source_port, ip.protocol) {
            None => Outcome::stays(Reason::NotOurs),
            Some(_) if world.locals.contains(&ip.destination) => Outcome::stays(Reason::LocalReply),
            Some((service, _)) => {
                self.with_segment(transport, service.settings.mss, |judge| judge.reply(transport, service))
            }
        }
    }

    /// Judges on with the announced segment size lowered, whatever then becomes of the packet.
    fn with_segment(&self, transport: &Transport, mss: u16, on: impl Fn(&Judge<'_>) -> Outcome) -> Outcome {
        // Of a fragmented SYN nothing is clamped: no stack sends one.
        let whole = transport.ip.part == Part::Whole;
        let Some(frame) = clamped(self.frame, transport, mss).filter(|_| whole) else { return on(self) };
        let mut outcome = on(&Judge { frame: &frame, ..*self });
        outcome.edited.get_or_insert_with(|| Edited::new(&frame));
        outcome
    }

    fn client(&self, transport: &Transport, service: &Service) -> Outcome {
        let ip = &transport.ip;
        let tuple = selection_tuple(service, transport);
        // QUIC is never fragmented (RFC 9000, 14).
        let connection = match ip.part {
            Part::Whole => named(self.world, service, self.frame, transport),
            _ => None,
        };
        let choice = match connection {
            Some(backend) => Choice { backend, new_flow: false, refused: false, remembers: None },
            None => choose(self.world, service, &tuple, transport.event),
        };
        let flow = choice.remembers.map(|flow| (tuple, flow));
        let mut outcome = self.chosen(choice.backend, |backend| self.forward(transport, service, backend));
        if let Some((key, _)) = &mut outcome.effects.entropy {
            *key = tuple;
        }
        if ip.part == Part::First && choice.backend != 0 {
            let fate = Fate::Backend { backend: choice.backend, service: service.id, tuple };
            outcome.effects.fragment = Some((ip.fragment_key(), Remembered { fate, seen: self.world.now }));
        }
        let mut outcome = outcome.with_flow(flow);
        if outcome.is_forwarded() {
            outcome.effects.tally = Some(Tally {
                service: service.id,
                backend: choice.backend,
                bytes: ip.length() as u64,
                new_flow: choice.new_flow,
                refused: choice.refused,
            });
        }
        outcome
    }

    /// Goes on with a chosen backend, if it exists and serves.
    pub fn chosen(&self, id: u32, on: impl FnOnce(&Backend) -> Outcome) -> Outcome {
        if id == 0 {
            return Outcome::stays(Reason::NoBackend);
        }
        if id >= self.world.backend_ids {
            return Outcome::stays(Reason::TableInconsistent);
        }
        match self.world.backends.get(&id) {
            Some(backend) if !is_down(backend.state) => on(backend),
            _ => Outcome::stays(Reason::NoBackend),
        }
    }

    fn reply(&self, transport: &Transport, service: &Service) -> Outcome {
        let ip = &transport.ip;
        let vip = ip_addr(service.key.address);
        let way = self.way_by_route(vip, ip.destination, ip.length());
        let mut outcome = match way.end() {
            Some(end) => end,
            _ if ip.ttl <= 1 || (matches!(way, Way::TooBig(_)) && ip.dont_fragment) => {
                Outcome::stays(Reason::ReplyLeft)
            }
            _ => {
                let port = match service.last_port {
                    0 => service.key.port.number(),
                    _ => transport.source_port,
                };
                let ends = Ends { source: Some((vip, port)), destination: None };
                self.rewritten(transport, ends, way, Reason::Replied, 0)
            }
        };
        if ip.part == Part::First {
            let fate = Fate::Rewritten { source: vip, destination: ip.destination, to: None };
            outcome.effects.fragment = Some((ip.fragment_key(), Remembered { fate, seen: self.world.now }));
        }
        outcome.routed = true;
        outcome
    }

    /// The way to a backend, with so many bytes in front.
    pub fn way_to(&self, ip: &Ip, backend: &Backend, overhead: usize) -> Way {
        let Some(hop) = backend.next_hop else {
            if overhead != 0 && ip.length() + overhead > 0xffff {
                return Way::TooBig(0xffff - overhead as u32);
            }
            return match self.way_by_route(ip.source, backend.address, ip.length() + overhead) {
                Way::TooBig(mtu) => Way::TooBig(mtu.saturating_sub(overhead as u32)),
                way => way,
            };
        };
        self.way_by_hop(hop, ip.length(), overhead)
    }

    /// The way that a next hop names.
    pub fn way_by_hop(&self, hop: NextHop, length: usize, overhead: usize) -> Way {
        // No packet is longer, with what a tunnel puts in front.
        let most = if overhead == 0 { u32::MAX } else { 0xffff };
        let length = length + overhead;
        match self.world.interfaces.get(&hop.interface) {
            None => Way::Inconsistent,
            Some(interface) if length > interface.mtu.min(most) as usize => {
                Way::TooBig(interface.mtu.min(most).saturating_sub(overhead as u32))
            }
            Some(interface) => Way::Known {
                source: lb_common::Mac::from_word(interface.mac).bytes(),
                destination: hop.mac.bytes(),
                ifindex: interface.ifindex,
            },
        }
    }

    /// The way that the lane's routes say.
    pub fn way_by_route(&self, source: IpAddr, destination: IpAddr, length: usize) -> Way {
        let routed = self.routed;
        if routed.real && (!is_ordinary(destination) || is_special(source)) {
            return Way::Open;
        }
        match (routed.mtu, quarter(destination)) {
            (_, NOWHERE) if routed.real => Way::Nowhere,
            (Some(mtu), _) if length > mtu as usize => Way::TooBig(mtu),
            (_, UNRESOLVED) if routed.real => Way::Unresolved,
            _ => {
                Way::Known { source: routed.source, destination: routed.destination, ifindex: routed.ifindex }
            }
        }
    }
}

/// Clients and backends of these quarters have a router without a known address, and no route.
const UNRESOLVED: u8 = 3;
const NOWHERE: u8 = 4;

/// The part of a host's number by which routes go.
fn quarter(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[2],
        IpAddr::V6(address) => match address.segments()[3] {
            0xb | 0xc => (address.segments()[4] >> 8) as u8,
            _ => 0,
        },
    }
}

/// Whether the kernel may refuse to look a way up from there.
fn is_special(address: IpAddr) -> bool {
    address.is_multicast() || address.is_unspecified() || address.is_loopback()
}

/// Whether a lane's routes lead there.
fn is_ordinary(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            first == 198 && (second & 0xfe) == 18
        }
        IpAddr::V6(address) => address.segments()[..2] == [0x2001, 0xdb8] && address.segments()[2] == 0x18,
    }
}

/// The tuple of a packet.
pub fn tuple(transport: &Transport) -> FlowKey {
    let ip = &transport.ip;
    flow_key(ip.source, transport.source_port, ip.destination, transport.destination_port, ip.protocol)
}

/// What a service chooses by.
pub fn selection_tuple(service: &Service, transport: &Transport) -> FlowKey {
    let ip = &transport.ip;
    if service.settings.by_address {
        return flow_key(ip.source, 0, ip.destination, 0, ip.protocol);
    }
    tuple(transport)
}
