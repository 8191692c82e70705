//! The oracle: configuration, what is remembered, and a packet in; what may become of it out. Pure.

use std::net::IpAddr;

use etherparse::{ArpOperation, ArpPacketSlice, EtherType};
use lb_common::{Mode, Reason};

use super::choose::{Choice, choose, is_down};
use super::edit::{Edited, Ends};
use super::outcome::{Action, Outcome, Tally};
use super::read::{Frame, Hindrance, Ip, Transport, read, tags};
use super::tunnel;
use super::world::{Backend, Routed, Service, World, flow_key};

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
    /// No rule says.
    Open,
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
        if !self.world.services_of(asked).any(|service| service.answers_arp) {
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
            return self.client(transport, service);
        }
        match world.reply_of(ip.source, transport.source_port, ip.protocol) {
            None => Outcome::stays(Reason::NotOurs),
            Some(_) if world.locals.contains(&ip.destination) => Outcome::stays(Reason::LocalReply),
            Some((service, backend)) => self.reply(transport, service, backend),
        }
    }

    fn client(&self, transport: &Transport, service: &Service) -> Outcome {
        let ip = &transport.ip;
        let (from, to) = if service.settings.by_address {
            (0, 0)
        } else {
            (transport.source_port, transport.destination_port)
        };
        let tuple = flow_key(ip.source, from, ip.destination, to, ip.protocol);
        let choice = choose(self.world, service, &tuple, transport.event);
        let flow = choice.remembers.map(|flow| (tuple, flow));
        let outcome = if choice.backend == 0 {
            Outcome::stays(Reason::NoBackend)
        } else if choice.backend >= self.world.backend_ids {
            Outcome::stays(Reason::TableInconsistent)
        } else {
            match self.world.backends.get(&choice.backend) {
                Some(backend) if !is_down(backend.state) => {
                    let mut outcome = self.forward(transport, service, backend, choice);
                    if let Some((_, entropy)) = outcome.effects.entropy {
                        outcome.effects.entropy = Some((tuple, entropy));
                    }
                    outcome
                }
                _ => Outcome::stays(Reason::NoBackend),
            }
        };
        let mut outcome = outcome.with_flow(flow);
        if matches!(outcome.reason, Reason::Forwarded | Reason::ResolvingNextHop | Reason::LeftToFragment) {
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

    fn forward(
        &self,
        transport: &Transport,
        service: &Service,
        backend: &Backend,
        _choice: Choice,
    ) -> Outcome {
        let (ip, mode) = (&transport.ip, service.settings.mode);
        if mode == Mode::Nat && ip.source == backend.address {
            return Outcome::stays(Reason::OwnClient);
        }
        let overhead = tunnel::overhead(mode, backend.address);
        let routed = backend.next_hop.is_none();
        let way = self.way_to(ip, backend, overhead);
        let outcome = match way {
            Way::Inconsistent => Outcome::stays(Reason::TableInconsistent),
            Way::Open => Outcome { open: true, ..Outcome::stays(Reason::NoRoute) },
            _ => match mode {
                Mode::Nat => self.nat(transport, backend, way),
                Mode::DsrL2 => self.neighbour(ip, way),
                Mode::DsrIpip | Mode::DsrGue => self.tunnel(ip, mode, backend, way),
                Mode::FullNat => Outcome::stays(Reason::TableInconsistent),
            },
        };
        Outcome { routed, ..outcome }
    }

    fn nat(&self, transport: &Transport, backend: &Backend, way: Way) -> Outcome {
        let ip = &transport.ip;
        if ip.ttl <= 1 || (matches!(way, Way::TooBig(_)) && ip.dont_fragment) {
            return self.refused(ip, way);
        }
        let port = if backend.port == 0 { transport.destination_port } else { backend.port };
        let ends = Ends { destination: Some((backend.address, port)), source: None };
        self.rewritten(transport, ends, way, Reason::Forwarded)
    }

    /// A packet with new ends: sent, or left to the stack if it is too large for its way.
    fn rewritten(&self, transport: &Transport, ends: Ends, way: Way, reason: Reason) -> Outcome {
        let ip = &transport.ip;
        let mut edited = Edited::new(self.frame);
        edited.ends(transport, ends, |_| {});
        let Way::Known { .. } = way else {
            edited.ip_checksum(ip, self.frame);
            return Outcome { edited: Some(edited), ..Outcome::stays(Reason::LeftToFragment) };
        };
        edited.hop(ip);
        edited.ip_checksum(ip, self.frame);
        self.sent(edited, way, reason)
    }

    /// Gives a finished packet its link layer.
    pub fn sent(&self, mut edited: Edited, way: Way, reason: Reason) -> Outcome {
        let Way::Known { source, destination, ifindex } = way else {
            return Outcome { problem: Some("no way out".to_owned()), ..Outcome::stays(reason) };
        };
        let back = ifindex == self.world.ingress;
        edited.link(tags(self.frame), source, destination, back);
        let action = if back { Action::Back } else { Action::Out(Some(ifindex)) };
        Outcome { action, edited: Some(edited), ..Outcome::stays(reason) }
    }

    fn neighbour(&self, ip: &Ip, way: Way) -> Outcome {
        match way {
            Way::TooBig(_) => self.refused(ip, way),
            _ => self.sent(Edited::new(self.frame), way, Reason::Forwarded),
        }
    }

    fn tunnel(&self, ip: &Ip, mode: Mode, backend: &Backend, way: Way) -> Outcome {
        let Way::Known { ifindex, .. } = way else { return self.refused(ip, way) };
        if ip.ttl <= 1 {
            return self.refused(ip, way);
        }
        let mut edited = Edited::new(self.frame);
        edited.hop(ip);
        edited.ip_checksum(ip, self.frame);
        let mut outcome = self.sent(edited, way, Reason::Forwarded);
        let kept = if ifindex == self.world.ingress { tags(self.frame) } else { 0 };
        if let Some(edited) = &mut outcome.edited {
            match tunnel::wrap(self.world, edited, ip, mode, backend.address, self.out, kept) {
                Ok(entropy) => outcome.effects.entropy = Some((Default::default(), entropy)),
                Err(problem) => outcome.problem = Some(problem),
            }
        }
        outcome
    }

    fn reply(&self, transport: &Transport, service: &Service, _backend: u32) -> Outcome {
        let ip = &transport.ip;
        let vip = super::world::ip_addr(service.key.address);
        let way = self.way_by_route(vip, ip.destination, ip.length());
        let outcome = match way {
            Way::Open => Outcome { open: true, ..Outcome::stays(Reason::NoRoute) },
            _ if ip.ttl <= 1 || (matches!(way, Way::TooBig(_)) && ip.dont_fragment) => {
                Outcome::stays(Reason::ReplyLeft)
            }
            _ => {
                let port = match service.last_port {
                    0 => service.key.port.number(),
                    _ => transport.source_port,
                };
                let ends = Ends { source: Some((vip, port)), destination: None };
                self.rewritten(transport, ends, way, Reason::Replied)
            }
        };
        Outcome { routed: true, ..outcome }
    }

    /// The way to a backend, with so many bytes in front.
    pub fn way_to(&self, ip: &Ip, backend: &Backend, overhead: usize) -> Way {
        let length = ip.length() + overhead;
        let Some(hop) = backend.next_hop else {
            return self.way_by_route(ip.source, backend.address, length);
        };
        match self.world.interfaces.get(&hop.interface) {
            None => Way::Inconsistent,
            Some(interface) if length > interface.mtu as usize => {
                Way::TooBig(interface.mtu.saturating_sub(overhead as u32))
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
        match routed.mtu {
            Some(mtu) if length > mtu as usize => Way::TooBig(mtu),
            _ => {
                Way::Known { source: routed.source, destination: routed.destination, ifindex: routed.ifindex }
            }
        }
    }

    /// A packet that goes no further: its time to live ends, or it is too large for its way.
    fn refused(&self, ip: &Ip, _way: Way) -> Outcome {
        Outcome::stays(if ip.ttl <= 1 { Reason::TtlExpired } else { Reason::ExceedsMtu })
    }

    fn later(&self, ip: &Ip) -> Outcome {
        let ours = self.world.is_virtual(ip.destination);
        Outcome::stays(if ours { Reason::FragmentUnknown } else { Reason::NotOurs })
    }

    fn icmp(&self, _ip: &Ip) -> Outcome {
        Outcome::stays(Reason::NotOurs)
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
