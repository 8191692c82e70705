//! ICMP errors about balanced flows: to whom they go, and what they say when they get there. Pure.

use std::net::IpAddr;

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
use lb_common::{FlowKey, Mode, Reason};

use super::choose::owner;
use super::edit::Edited;
use super::judge::{Judge, Way};
use super::outcome::Outcome;
use super::read::{Ip, Part, extensions, tags};
use super::sum::pseudo_header;
use super::tunnel;
use super::world::{Service, address, flow_key, ip_addr};

/// A packet that an error quotes.
struct Quote {
    /// Its header, with offsets in the frame; `end` is where it is cut.
    ip: Ip,
    /// Whether all of it is here.
    whole: bool,
    /// Bytes of its IPv4 header.
    header_len: usize,
    ports: (u16, u16),
}

/// New names in an error: addresses and ports of the quoted packet's ends.
struct Names {
    sender: (IpAddr, u16),
    receiver: (IpAddr, u16),
    /// The error's own source, if it changes.
    reporter: Option<IpAddr>,
}

/// Where an error goes.
struct Onward {
    names: Names,
    mode: Mode,
    way: (Way, bool),
    tuple: FlowKey,
    reason: Reason,
}

impl Judge<'_> {
    /// ICMP of either family.
    pub fn icmp(&self, ip: &Ip) -> Outcome {
        let message = &self.frame[ip.l4..ip.end];
        if message.len() < 8 {
            return Outcome::stays(Reason::NotOurs);
        }
        let group = self.frame[0] & 1 == 1;
        match (ip.is_v6(), message[0]) {
            (true, 135) => self.solicitation(ip),
            _ if group => Outcome::stays(Reason::NotOurs),
            (true, 128) | (false, 8) => self.echo(ip),
            (true, 1..=4) | (false, 3 | 11 | 12) => self.error_about(ip),
            _ => Outcome::stays(Reason::NotOurs),
        }
    }

    fn error_about(&self, ip: &Ip) -> Outcome {
        let ours = self.world.is_virtual(ip.destination);
        match self.quote(ip).filter(|quote| quote.ip.source == ip.destination) {
            None => Outcome::stays(if ours { Reason::IcmpUnrelated } else { Reason::NotOurs }),
            Some(quote) => {
                // A prefix's addresses are none of the virtual ones, but have services.
                let (inner, ports) = (&quote.ip, quote.ports);
                let ours = ours || self.world.service_at(inner.source, ports.0, inner.protocol).is_some();
                let found = if ours { self.to_owner(ip, &quote) } else { self.to_nat_client(ip, &quote) };
                match found {
                    Ok(onward) => self.send_error(ip, &quote, &onward),
                    Err(reason) => Outcome::stays(reason),
                }
            }
        }
    }

    /// The beginning of a TCP or UDP packet of the same family, at least its ports and four bytes more.
    fn quote(&self, ip: &Ip) -> Option<Quote> {
        let l3 = ip.l4 + 8;
        let packet = &self.frame[..ip.end];
        let mut inner = ip.clone();
        (inner.l3, inner.part, inner.identification) = (l3, Part::Whole, 0);
        let (said, header_len) = if ip.is_v6() {
            let header = Ipv6HeaderSlice::from_slice(packet.get(l3..)?).ok()?;
            (inner.source, inner.destination) =
                (header.source_addr().into(), header.destination_addr().into());
            (inner.protocol, inner.l4) = (header.next_header().0, l3 + 40);
            extensions(packet, &mut inner).ok()?;
            (l3 + 40 + usize::from(header.payload_length()), 40)
        } else {
            let header = Ipv4HeaderSlice::from_slice(packet.get(l3..)?).ok()?;
            (inner.source, inner.destination) =
                (header.source_addr().into(), header.destination_addr().into());
            (inner.protocol, inner.l4) = (header.protocol().0, l3 + header.slice().len());
            inner.part = match (header.fragments_offset().value(), header.more_fragments()) {
                (0, more) => {
                    if more {
                        Part::First
                    } else {
                        Part::Whole
                    }
                }
                _ => Part::Later,
            };
            (l3 + usize::from(header.total_len()), header.slice().len())
        };
        inner.end = ip.end.min(said);
        if inner.part == Part::Later || !matches!(inner.protocol, 6 | 17) || inner.l4 + 8 > inner.end {
            return None;
        }
        let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let ports = (port(inner.l4), port(inner.l4 + 2));
        let whole = said <= ip.end && inner.part == Part::Whole;
        Some(Quote { ip: inner, whole, header_len, ports })
    }

    /// To the backend that owns the flow, or in `full-nat` to the client whose packet did not reach its backend.
    fn to_owner(&self, ip: &Ip, quote: &Quote) -> Result<Onward, Reason> {
        let inner = &quote.ip;
        // As the client sends it.
        let tuple = flow_key(inner.destination, quote.ports.1, inner.source, quote.ports.0, inner.protocol);
        match self.world.service_at(inner.source, quote.ports.0, inner.protocol) {
            Some(service) if service.settings.mode != Mode::FullNat => {
                self.to_backend(ip, quote, service, tuple)
            }
            service => {
                let known = self.world.translations.get(&tuple).ok_or(Reason::IcmpUnrelated)?;
                let tag = self.tag(&tuple);
                let forth = service.is_some();
                if known.flow.tag() != if forth { tag } else { !tag } {
                    return Err(Reason::IcmpUnrelated);
                }
                let sender = (ip_addr(known.destination), known.destination_port.number());
                let receiver = (ip_addr(known.source), known.source_port.number());
                let reporter = (forth || ip.source == inner.destination).then_some(receiver.0);
                let (next_hop, reason) = if forth {
                    let backend = self.world.backends.get(&known.flow.backend().0);
                    let backend = backend.filter(|backend| !super::choose::is_down(backend.state));
                    (backend.ok_or(Reason::NoBackend)?.next_hop, Reason::ErrorForwarded)
                } else {
                    (None, Reason::ErrorReplied)
                };
                let from = reporter.unwrap_or(ip.source);
                let way = self.to_end(from, sender.0, next_hop, ip.length());
                let names = Names { sender, receiver, reporter };
                Ok(Onward { names, mode: Mode::FullNat, way, tuple, reason })
            }
        }
    }

    fn to_backend(
        &self,
        ip: &Ip,
        quote: &Quote,
        service: &Service,
        tuple: FlowKey,
    ) -> Result<Onward, Reason> {
        let mut tuple = tuple;
        if service.settings.by_address {
            (tuple.client_port, tuple.vip_port) = Default::default();
        }
        let id = owner(self.world, service, &tuple);
        let backend = self.world.backends.get(&id);
        let backend = backend.filter(|backend| !super::choose::is_down(backend.state));
        let backend = backend.ok_or(Reason::NoBackend)?;
        let mode = service.settings.mode;
        let overhead = tunnel::overhead(mode, backend.address);
        let way = self.way_to(ip, backend, overhead);
        let port = if backend.port == 0 { quote.ports.0 } else { backend.port };
        let names = Names {
            sender: (backend.address, port),
            receiver: (quote.ip.destination, quote.ports.1),
            reporter: None,
        };
        let way = (way, backend.next_hop.is_none());
        Ok(Onward { names, mode, way, tuple, reason: Reason::ErrorForwarded })
    }

    /// To the client whose packet did not reach its `nat` backend.
    fn to_nat_client(&self, ip: &Ip, quote: &Quote) -> Result<Onward, Reason> {
        let inner = &quote.ip;
        let (service, _) =
            self.world.reply_of(inner.destination, quote.ports.1, inner.protocol).ok_or(Reason::NotOurs)?;
        if self.world.locals.contains(&ip.destination) {
            return Err(Reason::LocalReply);
        }
        let vip = ip_addr(service.key.address);
        let port = if service.last_port == 0 { service.key.port.number() } else { quote.ports.1 };
        let reporter = (ip.source == inner.destination).then_some(vip);
        let names = Names { sender: (inner.source, quote.ports.0), receiver: (vip, port), reporter };
        let way = self.way_by_route(reporter.unwrap_or(ip.source), inner.source, ip.length());
        let tuple = FlowKey { client: address(inner.destination), ..FlowKey::default() };
        Ok(Onward { names, mode: Mode::Nat, way: (way, true), tuple, reason: Reason::ErrorReplied })
    }

    /// About an error, no error is owed.
    fn send_error(&self, ip: &Ip, quote: &Quote, onward: &Onward) -> Outcome {
        let (way, routed) = onward.way;
        let keeps = onward.mode.keeps_destination();
        if let Some(end) = way.end() {
            return Outcome { routed, ..end };
        }
        let outcome = match way {
            Way::Unresolved if keeps => Outcome::stays(Reason::NextHopUnresolved),
            Way::TooBig(_) if keeps || ip.dont_fragment => Outcome::stays(Reason::ExceedsMtu),
            _ if ip.ttl <= 1 && onward.mode != Mode::DsrL2 => Outcome::stays(Reason::TtlExpired),
            _ => match onward.mode {
                Mode::DsrL2 => self.sent(Edited::new(self.frame), way, onward.reason),
                Mode::DsrIpip | Mode::DsrGue => {
                    let backend = onward.names.sender.0;
                    let mut outcome = self.tunnel(ip, onward.mode, backend, way, onward.reason);
                    if let Some((key, _)) = &mut outcome.effects.entropy {
                        *key = onward.tuple;
                    }
                    outcome
                }
                Mode::Nat | Mode::FullNat => self.renamed(ip, quote, onward, way),
            },
        };
        Outcome { routed, ..outcome }
    }

    /// The quoted packet and the error itself under new names, every checksum with them.
    fn renamed(&self, ip: &Ip, quote: &Quote, onward: &Onward, way: Way) -> Outcome {
        let (names, inner, before) = (&onward.names, &quote.ip, self.frame);
        let same = matches!(way, Way::Known { ifindex, .. } if ifindex == self.world.ingress)
            || !matches!(way, Way::Known { .. });
        let less = if same { 0 } else { 4 * tags(before) };
        let mut edited = Edited::new(before);
        edited.addresses(inner, names.sender.0, names.receiver.0);
        edited.bytes[inner.l4..inner.l4 + 2].copy_from_slice(&names.sender.1.to_be_bytes());
        edited.bytes[inner.l4 + 2..inner.l4 + 4].copy_from_slice(&names.receiver.1.to_be_bytes());
        if !inner.is_v6() {
            let range = (inner.l3, inner.l3 + quote.header_len);
            edited.checksum(before, inner.l3 + 10, range, (0, 0), false, true);
        }
        let udp = inner.protocol == 17;
        let at = inner.l4 + if udp { 6 } else { 16 };
        if at + 2 <= inner.end {
            let length = if udp {
                usize::from(u16::from_be_bytes([before[inner.l4 + 4], before[inner.l4 + 5]]))
            } else {
                inner.end - inner.l4
            };
            let pseudo = |source, destination| pseudo_header(source, destination, inner.protocol, length);
            let sums = (pseudo(inner.source, inner.destination), pseudo(names.sender.0, names.receiver.0));
            let whole = quote.whole && (!udp || inner.l4 + length == inner.end);
            edited.checksum(before, at, (inner.l4, inner.end), sums, udp, whole);
        }
        // The error's own checksum is over what came out of these.
        edited.adopt(self.out, less);
        let source = names.reporter.unwrap_or(ip.source);
        edited.addresses(ip, source, names.sender.0);
        let pseudo = |source, destination| {
            if ip.is_v6() { pseudo_header(source, destination, 58, ip.end - ip.l4) } else { 0 }
        };
        let sums = (pseudo(ip.source, ip.destination), pseudo(source, names.sender.0));
        edited.checksum(before, ip.l4 + 2, (ip.l4, ip.end), sums, false, true);
        self.with_hop(edited, before, ip, way, onward.reason)
    }
}
