//! Packets on their way to a backend, by mode; later fragments after their first. Pure.

use std::net::IpAddr;

use lb_common::{FlowKey, FragmentPolicy, Mode, Reason};

use super::choose::choose;
use super::edit::{Edited, Ends};
use super::judge::{Judge, Way};
use super::memory::Fate;
use super::outcome::{Action, Outcome, Tally};
use super::read::{Event, Ip, Transport, tags};
use super::segment::clamped;
use super::tunnel;
use super::world::{Backend, Service, flow_key};

/// Seconds for which the first fragment of a packet is remembered.
const FRAGMENT_SECONDS: u32 = 30;

impl Judge<'_> {
    /// A whole packet or a first fragment.
    pub fn forward(&self, transport: &Transport, service: &Service, backend: &Backend) -> Outcome {
        let (ip, mode) = (&transport.ip, service.settings.mode);
        if mode == Mode::Nat && ip.source == backend.address {
            return Outcome::stays(Reason::OwnClient);
        }
        self.by_way(ip, mode, backend, |way| self.nat(transport, backend, way))
    }

    /// By every mode but `nat`, which `nat` says.
    fn by_way(&self, ip: &Ip, mode: Mode, backend: &Backend, nat: impl FnOnce(Way) -> Outcome) -> Outcome {
        let way = self.way_to(ip, backend, tunnel::overhead(mode, backend.address));
        let outcome = match (way.end(), mode) {
            (Some(end), _) => end,
            (_, Mode::Nat) => nat(way),
            (_, Mode::DsrL2) => self.neighbour(ip, way),
            (_, Mode::DsrIpip | Mode::DsrGue) => {
                self.tunnel(ip, mode, backend.address, way, Reason::Forwarded)
            }
            (_, Mode::FullNat) => Outcome::stays(Reason::TableInconsistent),
        };
        Outcome { routed: backend.next_hop.is_none(), ..outcome }
    }

    fn nat(&self, transport: &Transport, backend: &Backend, way: Way) -> Outcome {
        let ip = &transport.ip;
        if ip.ttl <= 1 || (matches!(way, Way::TooBig(_)) && ip.dont_fragment) {
            return self.refused(ip, Mode::Nat, way);
        }
        let port = if backend.port == 0 { transport.destination_port } else { backend.port };
        let ends = Ends { destination: Some((backend.address, port)), source: None };
        self.rewritten(transport, ends, way, Reason::Forwarded, 0)
    }

    /// A packet with new ends: sent, or left to the stack if it is too large for its way. SYNs announce at most `mss`.
    pub fn rewritten(
        &self,
        transport: &Transport,
        ends: Ends,
        way: Way,
        reason: Reason,
        mss: u16,
    ) -> Outcome {
        let ip = &transport.ip;
        let lowered = clamped(self.frame, transport, mss);
        let frame = lowered.as_deref().unwrap_or(self.frame);
        let mut edited = Edited::new(frame);
        edited.ends(transport, ends, |_| {});
        self.with_hop(edited, frame, ip, way, reason)
    }

    /// Takes the hop off and sends, or leaves to the stack, which takes it off.
    pub fn with_hop(&self, mut edited: Edited, frame: &[u8], ip: &Ip, way: Way, reason: Reason) -> Outcome {
        let Way::Known { .. } = way else {
            edited.ip_checksum(ip, frame);
            let unresolved = way == Way::Unresolved;
            let reason = if unresolved { Reason::ResolvingNextHop } else { Reason::LeftToFragment };
            return Outcome { edited: Some(edited), ..Outcome::stays(reason) };
        };
        edited.hop(ip);
        edited.ip_checksum(ip, frame);
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
            Way::TooBig(_) => self.refused(ip, Mode::DsrL2, way),
            Way::Unresolved => Outcome::stays(Reason::NextHopUnresolved),
            _ => self.sent(Edited::new(self.frame), way, Reason::Forwarded),
        }
    }

    /// Within another packet to `backend`.
    pub fn tunnel(&self, ip: &Ip, mode: Mode, backend: IpAddr, way: Way, reason: Reason) -> Outcome {
        if way == Way::Unresolved {
            return Outcome::stays(Reason::NextHopUnresolved);
        }
        let Way::Known { ifindex, .. } = way else { return self.refused(ip, mode, way) };
        if ip.ttl <= 1 {
            return self.refused(ip, mode, way);
        }
        let mut edited = Edited::new(self.frame);
        edited.hop(ip);
        edited.ip_checksum(ip, self.frame);
        let mut outcome = self.sent(edited, way, reason);
        let kept = if ifindex == self.world.ingress { tags(self.frame) } else { 0 };
        if let Some(edited) = &mut outcome.edited {
            match tunnel::wrap(self.world, edited, ip, mode, backend, self.out, kept) {
                Ok(entropy) => outcome.effects.entropy = Some((FlowKey::default(), entropy)),
                Err(problem) => outcome.problem = Some(problem),
            }
        }
        outcome
    }

    /// A later fragment: after its first, or as the service says.
    pub fn later(&self, ip: &Ip) -> Outcome {
        let known = self.world.fragments.get(&ip.fragment_key());
        let known = known.filter(|way| self.world.now.saturating_sub(way.seen) <= FRAGMENT_SECONDS);
        match known {
            Some(way) => self.follow(ip, &way.fate),
            None => self.unknown(ip),
        }
    }

    /// Whether it would write over the ports of its first (RFC 1858, RFC 5722).
    fn overlaps(&self, ip: &Ip) -> bool {
        ip.protocol == 6 && ip.offset < 24
    }

    fn follow(&self, ip: &Ip, fate: &Fate) -> Outcome {
        if self.overlaps(ip) {
            return Outcome::stays(Reason::Malformed);
        }
        match *fate {
            Fate::Backend { backend, service, tuple } => self.fragment_to(ip, backend, service, tuple),
            Fate::Rewritten { source, destination, to: Some((backend, service)) } => {
                self.serving(backend, service, |entry| {
                    let mut outcome = self.by_way(ip, Mode::Nat, entry, |way| {
                        self.readdressed(ip, (source, destination), way, Reason::Forwarded)
                    });
                    self.tally(&mut outcome, ip, service, backend, (false, false));
                    outcome
                })
            }
            Fate::Rewritten { source, destination, to: None } => {
                let way = self.way_by_route(source, destination, ip.length());
                let outcome = match way.end() {
                    Some(end) => end,
                    _ if ip.ttl <= 1 || (matches!(way, Way::TooBig(_)) && ip.dont_fragment) => {
                        Outcome::stays(Reason::ReplyLeft)
                    }
                    _ => self.readdressed(ip, (source, destination), way, Reason::Replied),
                };
                Outcome { routed: true, ..outcome }
            }
        }
    }

    fn serving(&self, id: u32, service: u32, on: impl FnOnce(&Backend) -> Outcome) -> Outcome {
        self.chosen(id, |backend| {
            if backend.service == service { on(backend) } else { Outcome::stays(Reason::NoBackend) }
        })
    }

    fn fragment_to(&self, ip: &Ip, id: u32, service: u32, tuple: FlowKey) -> Outcome {
        let mode = self.world.by_id(service).map_or(Mode::FullNat, |service| service.settings.mode);
        self.serving(id, service, |backend| {
            if mode == Mode::Nat && ip.source == backend.address {
                return Outcome::stays(Reason::OwnClient);
            }
            let mut outcome = self.by_way(ip, mode, backend, |way| {
                self.readdressed(ip, (ip.source, backend.address), way, Reason::Forwarded)
            });
            if let Some((key, _)) = &mut outcome.effects.entropy {
                *key = tuple;
            }
            self.tally(&mut outcome, ip, service, id, (false, false));
            outcome
        })
    }

    fn tally(
        &self,
        outcome: &mut Outcome,
        ip: &Ip,
        service: u32,
        backend: u32,
        (new_flow, refused): (bool, bool),
    ) {
        if outcome.is_forwarded() {
            outcome.effects.tally =
                Some(Tally { service, backend, bytes: ip.length() as u64, new_flow, refused });
        }
    }

    /// New addresses, and nothing above IP.
    fn readdressed(&self, ip: &Ip, ends: (IpAddr, IpAddr), way: Way, reason: Reason) -> Outcome {
        if reason == Reason::Forwarded && (ip.ttl <= 1 || (matches!(way, Way::TooBig(_)) && ip.dont_fragment))
        {
            return Outcome::stays(if ip.ttl <= 1 { Reason::TtlExpired } else { Reason::ExceedsMtu });
        }
        let mut edited = Edited::new(self.frame);
        edited.addresses(ip, ends.0, ends.1);
        self.with_hop(edited, self.frame, ip, way, reason)
    }

    /// A fragment of which no first one was seen.
    fn unknown(&self, ip: &Ip) -> Outcome {
        let ours = self.world.is_virtual(ip.destination);
        if !matches!(ip.protocol, 6 | 17) {
            let hidden = ip.is_v6() && matches!(ip.protocol, 0 | 43 | 44 | 60);
            return Outcome::stays(if hidden && ours { Reason::FragmentUnknown } else { Reason::NotOurs });
        }
        let Some((policy, service)) = self.world.fragment_policy(ip.destination, ip.protocol) else {
            return Outcome::stays(if ours { Reason::FragmentUnknown } else { Reason::NotOurs });
        };
        match policy {
            FragmentPolicy::Drop => Outcome::stays(Reason::FragmentUnknown),
            FragmentPolicy::Pass => Outcome::stays(Reason::FragmentPassed),
            FragmentPolicy::ByAddress => {
                let tuple = flow_key(ip.source, 0, ip.destination, 0, ip.protocol);
                let event = if ip.protocol == 6 { Event::Continue } else { Event::Datagram };
                let choice = choose(self.world, service, &tuple, event);
                let mut outcome = if choice.backend == 0 {
                    Outcome::stays(Reason::NoBackend)
                } else {
                    self.follow(ip, &Fate::Backend { backend: choice.backend, service: service.id, tuple })
                };
                if let Some(tally) = &mut outcome.effects.tally {
                    (tally.new_flow, tally.refused) = (choice.new_flow, choice.refused);
                }
                outcome.with_flow(choice.remembers.map(|flow| (tuple, flow)))
            }
        }
    }
}
