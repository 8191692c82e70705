//! The two entries of a translated flow, and how no port is given twice.
//!
//! What two flows must not share is (backend, pool address, port): the key of the backend's direction. Adding that
//! entry where its key is free is the claim, and of CPUs that try one key at once the kernel lets one succeed. Then
//! the client's direction is added, likewise: the loser of CPUs that open one flow at once takes its claim back. What
//! is removed goes in the other order. So a packet that finds the client's direction may be sent: its replies will be
//! known.
//!
//! Maps cannot remove an entry only while it still is what was seen. A CPU that replaces what is known of a tuple may
//! therefore remove what another has just added to replace the same. Then the flow's next packet opens it anew from
//! another port: at worst that one handshake fails, and what was left behind is swept once it is idle. It takes two
//! packets of one tuple on two CPUs within less than a microsecond.
//!
//! A tag says for which tuple an entry was filled, and in which direction: elements are recycled without a grace
//! period, and who finds another tag has missed.

use lb_common::{
    Address, BackendId, Flow, FlowKey, FlowState, HashKeys, Port, Service, Settings, Translation, hash,
    hash::flow_hash, limits,
};

use crate::{
    flow::{first_state, meaning_at, release},
    parse::{Event, Family},
    steps::steps,
    tables::{NotAdded, Tables},
};

/// So many ports are tried for a flow: where nine of ten are taken, four of five flows find one.
const CANDIDATES: u8 = 16;

/// What the client's direction under `key` is tagged with.
#[inline(always)]
pub const fn tag_of_client(keys: HashKeys, key: &FlowKey) -> u32 {
    hash::tag(flow_hash(keys, key))
}

/// What the backend's direction under `key` is tagged with: never the same, or a client's packet for a service that was
/// deleted meanwhile would be taken for a reply.
#[inline(always)]
pub const fn tag_of_backend(keys: HashKeys, key: &FlowKey) -> u32 {
    !hash::tag(flow_hash(keys, key))
}

/// The backend's direction under `key`.
#[inline(always)]
pub fn of_backend<T: Tables>(tables: &T, keys: HashKeys, key: &FlowKey) -> Option<(Translation, T::Place)> {
    tables.translation(key).filter(|(known, _)| known.flow.tag() == tag_of_backend(keys, key))
}

/// Whether what is known in the client's direction binds a packet. A SYN after FIN or RST opens another flow.
#[inline(always)]
pub fn is_live<T: Tables>(
    tables: &T,
    service: &Service,
    flow: Flow,
    tag: u32,
    event: Event,
    now: u32,
) -> bool {
    let reopened = matches!(event, Event::Open) && flow.state().is_over();
    !reopened
        && flow.tag() == tag
        && flow.idle_seconds(now) <= flow.state().timeout_seconds(service.flow_idle_seconds)
        && meaning_at(tables, service, flow.backend(), event).is_some()
}

/// What a client's packet opens.
pub struct Opening<'k> {
    /// Of the flow hash.
    pub keys: HashKeys,
    /// The packet's tuple.
    pub key: &'k FlowKey,
    /// The service.
    pub service: &'k Service,
    /// Whom a new flow would go to.
    pub chosen: BackendId,
    /// Whether it went past a backend that takes no more connections.
    pub overflowed: bool,
    /// Whether flows are counted as live connections: the client's direction is.
    pub tracked: bool,
    /// [`tag_of_client`] of the tuple.
    pub tag: u32,
    /// What the packet means.
    pub event: Event,
    /// Seconds of the monotonic clock.
    pub now: u32,
}

/// What came of adding a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// It is there, by this CPU or another.
    Added,
    /// No port is free.
    Exhausted,
    /// The table has no room.
    Full,
}

impl Opening<'_> {
    /// Takes what is known of the tuple, which does not bind this packet. It goes on where its backend's packets are
    /// more recent than its client's. It is used again by a new flow to the same backend, which sees the same tuple as
    /// it would without a balancer. Else it is removed, and the answer is `false`.
    #[inline(always)]
    pub fn reuse<T: Tables>(&self, tables: &T, known: &Translation, place: T::Place) -> bool {
        let flow = known.flow;
        let other_key = known.opposite_key(self.key.protocol);
        let other = self.other(tables, &other_key);
        if flow.tag() == self.tag
            && let Some((other, other_place)) = other
        {
            let over = matches!(self.event, Event::Open) && flow.state().is_over();
            let timeout = flow.state().timeout_seconds(self.service.flow_idle_seconds);
            if !over
                && other.idle_seconds(self.now) <= timeout
                && meaning_at(tables, self.service, flow.backend(), self.event).is_some()
            {
                tables.refresh(place, flow, flow.seen_at(self.now, flow.state()));
                return true;
            }
            if flow.backend() == self.chosen {
                tables.refresh(other_place, other, self.asked(tables, self.first(other.tag())));
                let next = self.counted(self.first(self.tag));
                if tables.refresh(place, flow, next) && next.is_counted() != flow.is_counted() {
                    tables.count_connection(self.chosen, next.is_counted());
                }
                return true;
            }
        }
        if flow.tag() == self.tag {
            release(tables, place, flow);
        }
        tables.remove_translation(self.key);
        if other.is_some() {
            tables.remove_translation(&other_key);
        }
        false
    }

    /// The backend's direction under `key`, if it is this flow's.
    #[inline(always)]
    fn other<T: Tables>(&self, tables: &T, key: &FlowKey) -> Option<(Flow, T::Place)> {
        let (other, place) = of_backend(tables, self.keys, key)?;
        let own = other.destination_port == self.key.client_port
            && other.source_port == self.key.vip_port
            && other.destination == self.key.client
            && other.source == self.key.vip;
        own.then_some((other.flow, place))
    }

    /// What is known of it at first. A flow of datagrams is opening too, until its first one is sent.
    #[inline(always)]
    const fn first(&self, tag: u32) -> Flow {
        let state = match self.event {
            Event::Datagram => FlowState::Opening,
            event => first_state(event),
        };
        Flow::new(self.chosen, tag, self.now, state)
    }

    /// The same of a flow that is added. TCP without a SYN has begun elsewhere, and a backend that does not know its new
    /// tuple resets it: it is ending from the first, so that a flood of such segments is not remembered for long, and a
    /// SYN opens another.
    #[inline(always)]
    const fn begun(&self, tag: u32) -> Flow {
        match self.event {
            Event::Accept | Event::Continue => Flow::new(self.chosen, tag, self.now, FlowState::Closing),
            _ => self.first(tag),
        }
    }

    /// The client's direction, one of its backend's live connections until it ends.
    #[inline(always)]
    const fn counted(&self, flow: Flow) -> Flow {
        flow.counted(self.tracked && !flow.state().is_over())
    }

    /// The backend's direction, whose answer is timed where that counts.
    #[inline(always)]
    fn asked<T: Tables>(&self, tables: &T, flow: Flow) -> Flow {
        if self.service.is_measured() { flow.asked(tables.now_micros()) } else { flow }
    }

    /// Adds both directions, from the first candidate that is free to `destination`.
    #[inline(always)]
    pub fn add<T: Tables>(
        &self,
        tables: &T,
        destination: (Address, Port),
        mut candidates: Candidates,
    ) -> Opened {
        let mut other_key = FlowKey {
            client: destination.0,
            vip: destination.0,
            client_port: destination.1,
            vip_port: destination.1,
            protocol: self.key.protocol,
            reserved: [0, 0, 0],
        };
        let mut entry = Translation {
            flow: self.begun(self.tag),
            source: self.key.vip,
            destination: self.key.client,
            source_port: self.key.vip_port,
            destination_port: self.key.client_port,
            service: self.service.id,
            mss: self.service.mss,
            overflowed: 0,
            reserved: [0, 0],
        };
        // The loop's ways should not be each walked for every way to this.
        let [_, seen] = self.asked(tables, self.begun(0)).words();
        let seen = tables.launder(seen);
        let mut claimed = false;
        for _ in steps(CANDIDATES) {
            let Some(address) = candidates.address(tables) else { break };
            (other_key.vip, other_key.vip_port) = (address, candidates.port());
            let [owner, _] = self.begun(tag_of_backend(self.keys, &other_key)).words();
            entry.flow = Flow::from_words([owner, seen]);
            match tables.add_translation(&other_key, &entry) {
                Ok(()) => {
                    claimed = true;
                    break;
                }
                Err(NotAdded::Full) => return Opened::Full,
                Err(NotAdded::Taken) => candidates.step(),
            }
        }
        if !claimed {
            return Opened::Exhausted;
        }
        entry.flow = self.counted(self.begun(self.tag));
        entry.overflowed = self.overflowed as u16;
        (entry.source, entry.source_port) = (other_key.vip, other_key.vip_port);
        (entry.destination, entry.destination_port) = destination;
        let opened = match tables.add_translation(self.key, &entry) {
            Ok(()) => {
                if entry.flow.is_counted() {
                    tables.count_connection(self.chosen, true);
                }
                return Opened::Added;
            }
            Err(NotAdded::Taken) => Opened::Added,
            Err(NotAdded::Full) => Opened::Full,
        };
        tables.remove_translation(&other_key);
        opened
    }
}

/// Pairs of an address of the pool and a port, numbered through; one after the other in steps that are the flow's own,
/// so that flows which begin side by side do not go on side by side.
#[derive(Clone, Copy)]
pub struct Candidates {
    at: u32,
    step: u32,
    all: u32,
    ports: u32,
    first_port: u16,
    /// Index in the pool of the family's first address.
    first_address: u32,
}

impl Candidates {
    /// Those of a family, from a random one on.
    #[inline(always)]
    pub fn new(settings: &Settings, family: Family, random: u32, tag: u32) -> Self {
        let (first_address, addresses) = match family {
            Family::V4 => (0, settings.pool_ipv4),
            Family::V6 => (limits::POOL_ADDRESSES, settings.pool_ipv6),
        };
        let ports = settings.pool_ports as u32;
        let all = addresses as u32 * ports;
        Self {
            at: portion(random, all),
            step: 1 + portion(tag, all.saturating_sub(1)),
            all,
            ports,
            first_port: settings.pool_first_port,
            first_address,
        }
    }

    /// The address of the one that it is at; `None` if the pool has none of the family.
    #[inline(always)]
    fn address<T: Tables>(&self, tables: &T) -> Option<Address> {
        if self.all == 0 {
            return None;
        }
        tables.pool_address(self.first_address + self.at.checked_div(self.ports)?)
    }

    #[inline(always)]
    fn port(&self) -> Port {
        let number = self.first_port.wrapping_add(self.at.checked_rem(self.ports).unwrap_or(0) as u16);
        Port::new(number)
    }

    #[inline(always)]
    fn step(&mut self) {
        self.at += self.step;
        if self.at >= self.all {
            self.at -= self.all;
        }
    }
}

/// A number below `all`, as `random` is below 2^32.
#[inline(always)]
const fn portion(random: u32, all: u32) -> u32 {
    ((random as u64 * all as u64) >> 32) as u32
}
