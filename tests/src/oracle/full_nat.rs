//! `full-nat`: what is remembered of both directions, and what may be chosen freely: the pool's address and port. Pure.

use lb_common::{
    BackendId, Flow, FlowKey, FlowState, Mode, NextHop, Reason, Translation,
    hash::{flow_hash, tag},
};

use super::choose::{after, slot};
use super::connection::named;
use super::edit::Ends;
use super::judge::{Judge, Way, selection_tuple, tuple};
use super::memory::{Fate, Way as Remembered};
use super::outcome::{Effects, Outcome, Tally};
use super::read::{Event, Part, Transport};
use super::world::{Backend, Service, address, ip_addr};

type Change = (FlowKey, Option<Translation>);

impl Judge<'_> {
    /// A client's packet for a service, or a backend's for the pool.
    pub fn full_nat(&self, transport: &Transport, service: Option<&Service>) -> Outcome {
        let key = tuple(transport);
        let known = self.world.translations.get(&key).copied();
        match (service, known) {
            (Some(service), Some(known)) if self.is_live(service, &key, &known, transport.event) => {
                self.translated(transport, &key, known, Some(service), Vec::new())
            }
            (Some(service), known) => self.open(transport, &key, service, known),
            (None, Some(known)) if known.flow.tag() == !self.tag(&key) => {
                self.translated(transport, &key, known, None, Vec::new())
            }
            (None, _) => Outcome::stays(Reason::NotOurs),
        }
    }

    /// Of the client's direction; the backend's has its complement.
    pub fn tag(&self, key: &FlowKey) -> u32 {
        tag(flow_hash(self.world.settings.hash_keys, key))
    }

    fn idle(&self, flow: Flow) -> u32 {
        self.world.now.saturating_sub(flow.last_seen())
    }

    fn is_live(&self, service: &Service, key: &FlowKey, known: &Translation, event: Event) -> bool {
        let flow = known.flow;
        let over = matches!(flow.state(), FlowState::Closing | FlowState::Reset);
        !(over && event == Event::Open)
            && flow.tag() == self.tag(key)
            && self.idle(flow) <= flow.state().timeout_seconds(service.settings.flow_idle_seconds)
            && self.world.serves(service, flow.backend().0)
    }

    /// Follows an entry, noting the packet in it.
    fn translated(
        &self,
        transport: &Transport,
        key: &FlowKey,
        known: Translation,
        service: Option<&Service>,
        mut changes: Vec<Change>,
    ) -> Outcome {
        let (ip, event, flow) = (&transport.ip, transport.event, known.flow);
        let over = matches!(flow.state(), FlowState::Closing | FlowState::Reset);
        let state =
            if event == Event::Accept && over { FlowState::Established } else { after(flow.state(), event) };
        let noted = Flow::new(flow.backend(), flow.tag(), self.world.now, state);
        changes.push((*key, Some(Translation { flow: noted, ..known })));
        let (source, destination) = (ip_addr(known.source), ip_addr(known.destination));
        let next_hop = service.and_then(|_| self.world.backends.get(&flow.backend().0)?.next_hop);
        let (way, routed) = self.to_end(source, destination, next_hop, ip.length());
        let ends = Ends {
            source: Some((source, known.source_port.number())),
            destination: Some((destination, known.destination_port.number())),
        };
        let reason = if service.is_some() { Reason::Forwarded } else { Reason::Replied };
        let mut outcome = match way.end() {
            Some(end) => end,
            _ if ip.ttl <= 1 || (matches!(way, Way::TooBig(_)) && ip.dont_fragment) => {
                self.refused(ip, Mode::FullNat, way)
            }
            _ => self.rewritten(transport, ends, way, reason, known.mss),
        };
        outcome.routed = routed;
        let leaves = outcome.is_forwarded() || outcome.reason == Reason::Replied;
        if leaves && ip.part == Part::First {
            let to = service.map(|service| (flow.backend().0, service.id));
            let fate = Fate::Rewritten { source, destination, to };
            outcome.effects.fragment = Some((ip.fragment_key(), Remembered { fate, seen: self.world.now }));
        }
        if outcome.is_forwarded()
            && let Some(service) = service
        {
            let opens =
                event == Event::Open || (event == Event::Datagram && flow.state() == FlowState::Opening);
            outcome.effects.tally = Some(Tally {
                service: service.id,
                backend: flow.backend().0,
                bytes: ip.length() as u64,
                new_flow: opens,
                refused: false,
            });
        }
        outcome.effects.translations = changes;
        outcome
    }

    /// The way to an end of a flow, and whether the routes said it.
    pub fn to_end(
        &self,
        source: std::net::IpAddr,
        destination: std::net::IpAddr,
        next_hop: Option<NextHop>,
        length: usize,
    ) -> (Way, bool) {
        match next_hop {
            Some(hop) => (self.way_by_hop(hop, length, 0), false),
            None => (self.way_by_route(source, destination, length), true),
        }
    }

    fn open(
        &self,
        transport: &Transport,
        key: &FlowKey,
        service: &Service,
        known: Option<Translation>,
    ) -> Outcome {
        let chosen = named(self.world, service, self.frame, transport)
            .unwrap_or_else(|| slot(self.world, service, &selection_tuple(service, transport)).current().0);
        self.chosen(chosen, |backend| {
            if backend.service != service.id {
                return Outcome::stays(Reason::NoBackend);
            }
            let mut changes = Vec::new();
            if let Some(known) = known
                && let Some(again) = self.reused(transport, key, service, chosen, known, &mut changes)
            {
                return self.translated(transport, key, again, Some(service), changes);
            }
            self.added(transport, key, service, (chosen, backend), changes)
        })
    }

    /// What is known of a flow at first.
    fn first(&self, transport: &Transport, backend: u32, tag: u32) -> Flow {
        let state = match transport.event {
            Event::Datagram | Event::Open => FlowState::Opening,
            event => after(FlowState::Opening, event),
        };
        Flow::new(BackendId(backend), tag, self.world.now, state)
    }

    /// The same where both directions are added: what began elsewhere ends soon.
    fn begun(&self, transport: &Transport, backend: u32, tag: u32) -> Flow {
        match transport.event {
            Event::Accept | Event::Continue => {
                Flow::new(BackendId(backend), tag, self.world.now, FlowState::Closing)
            }
            _ => self.first(transport, backend, tag),
        }
    }

    /// The entry that goes on, or that a new flow to the same backend takes over; else both are removed.
    fn reused(
        &self,
        transport: &Transport,
        key: &FlowKey,
        service: &Service,
        chosen: u32,
        known: Translation,
        changes: &mut Vec<Change>,
    ) -> Option<Translation> {
        let flow = known.flow;
        let other_key = FlowKey {
            client: known.destination,
            vip: known.source,
            client_port: known.destination_port,
            vip_port: known.source_port,
            ..*key
        };
        let other = self.world.translations.get(&other_key).copied().filter(|other| {
            other.flow.tag() == !self.tag(&other_key)
                && (other.destination, other.destination_port) == (key.client, key.client_port)
                && (other.source, other.source_port) == (key.vip, key.vip_port)
        });
        if let Some(other) = other
            && flow.tag() == self.tag(key)
        {
            let over = matches!(flow.state(), FlowState::Closing | FlowState::Reset)
                && transport.event == Event::Open;
            let timeout = flow.state().timeout_seconds(service.settings.flow_idle_seconds);
            if !over && self.idle(other.flow) <= timeout && self.world.serves(service, flow.backend().0) {
                return Some(known);
            }
            if flow.backend().0 == chosen {
                let other_first = self.first(transport, chosen, other.flow.tag());
                changes.push((other_key, Some(Translation { flow: other_first, ..other })));
                let first = self.first(transport, chosen, flow.tag());
                return Some(Translation { flow: first, ..known });
            }
        }
        changes.push((*key, None));
        if other.is_some() {
            changes.push((other_key, None));
        }
        None
    }

    /// A new flow, by the port that the lane chose.
    fn added(
        &self,
        transport: &Transport,
        key: &FlowKey,
        service: &Service,
        (chosen, backend): (u32, &Backend),
        mut changes: Vec<Change>,
    ) -> Outcome {
        let v6 = transport.ip.is_v6();
        let to = address(backend.address);
        let port = if backend.port == 0 { key.vip_port } else { lb_common::Port::new(backend.port) };
        let gone = |key: &FlowKey| changes.iter().any(|(other, change)| other == key && change.is_none());
        let taken = self.world.translations.keys().filter(|other| {
            !gone(other) && (other.client, other.client_port, other.protocol) == (to, port, key.protocol)
        });
        let taken: Vec<FlowKey> = taken.copied().collect();
        let removed = changes.iter().filter(|(_, change)| change.is_none()).count();
        let room = self.world.translations_max - (self.world.translations.len() - removed);
        let all = self.world.pool.iter().filter(|address| address.is_ipv6() == v6).count()
            * usize::from(self.world.settings.pool_ports);
        let fails = |reason, changes| Outcome {
            effects: Effects { translations: changes, opened: true, ..Effects::default() },
            ..Outcome::stays(reason)
        };
        let seen = (self.translation)(key).filter(|_| room >= 2 && all > 0);
        let Some(seen) = seen else {
            // Ports are tried in steps, of which there are at least two where there are two ports.
            let exhausted = all == 0 || taken.len() >= all.min(2);
            let full = room < 2 && taken.len() < all;
            return match (exhausted, full, self.seen_reason) {
                (true, true, Some(Reason::TranslationsFull)) | (false, true, _) => {
                    fails(Reason::TranslationsFull, changes)
                }
                (true, ..) => fails(Reason::PortsExhausted, changes),
                (false, false, _) => Outcome {
                    problem: Some("no flow was opened, though there is room and a free port".to_owned()),
                    ..fails(Reason::PortsExhausted, changes)
                },
            };
        };
        let (source, number) = (ip_addr(seen.source), seen.source_port.number());
        let other_key =
            FlowKey { client: to, client_port: port, vip: seen.source, vip_port: seen.source_port, ..*key };
        let from_pool = self.world.pool.contains(&source) && source.is_ipv6() == v6;
        let problem = if !from_pool || !self.world.is_pool_port(number) {
            Some(format!("{source}:{number} is not of the pool"))
        } else if taken.contains(&other_key) {
            Some(format!("{source}:{number} is another flow's"))
        } else {
            None
        };
        let entry = Translation {
            flow: self.begun(transport, chosen, self.tag(key)),
            source: seen.source,
            source_port: seen.source_port,
            destination: to,
            destination_port: port,
            service: service.id,
            mss: service.settings.mss,
            overflowed: 0,
            reserved: [0; 2],
        };
        changes.push((
            other_key,
            Some(Translation {
                flow: self.begun(transport, chosen, !self.tag(&other_key)),
                source: key.vip,
                source_port: key.vip_port,
                destination: key.client,
                destination_port: key.client_port,
                ..entry
            }),
        ));
        let mut outcome = self.translated(transport, key, entry, Some(service), changes);
        outcome.problem = outcome.problem.or(problem);
        outcome.effects.opened = true;
        outcome
    }
}
