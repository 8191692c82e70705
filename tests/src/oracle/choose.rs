//! Which backend a packet must go to, and what must be remembered of it: the flow promise in the oracle's words. Pure.

use std::net::IpAddr;

use lb_common::{
    Algorithm, BackendState, Flow, FlowKey, FlowState, Port, Slot, SlotState, Tracking,
    hash::{flow_hash, tag},
    limits::SYN_RETRANSMIT_SECONDS,
};

use super::read::Event;
use super::world::{Service, World, address, ip_addr};

/// A choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its id; 0 is nobody.
    pub backend: u32,
    /// Whether a flow is counted as new.
    pub new_flow: bool,
    /// Whether the full table refused it.
    pub refused: bool,
    /// What the flow table holds under the tuple afterwards, if that changes.
    pub remembers: Option<Flow>,
}

/// The hash of a tuple, or of the client's network alone.
pub fn hash_of(world: &World, service: &Service, tuple: &FlowKey) -> u64 {
    if service.settings.algorithm != Algorithm::SourceHash {
        return flow_hash(world.settings.hash_keys, tuple);
    }
    let bits = u32::from(service.settings.client_bits);
    let number = u128::from_be_bytes(match ip_addr(tuple.client) {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    });
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
    let network = IpAddr::V6((number & mask).into()).to_canonical();
    let tuple = FlowKey { client: address(network), client_port: Port::new(0), ..*tuple };
    flow_hash(world.settings.hash_keys, &tuple)
}

/// The slot of a tuple: the top bits of its hash.
pub fn slot(world: &World, service: &Service, tuple: &FlowKey) -> Slot {
    let hash = hash_of(world, service, tuple);
    let bits = service.slots.len().trailing_zeros();
    service.slots[(hash >> (64 - bits)) as usize]
}

/// What is known of a tuple.
enum Known {
    Nothing,
    Stale,
    Live(Flow),
}

fn known(world: &World, service: &Service, tuple: &FlowKey, event: Event) -> Known {
    let Some(&flow) = world.flows.get(tuple) else { return Known::Nothing };
    if flow.tag() != tag(hash_of(world, service, tuple)) {
        return Known::Nothing;
    }
    let over = matches!(flow.state(), FlowState::Closing | FlowState::Reset);
    let idle = world.now.saturating_sub(flow.last_seen());
    let timeout = flow.state().timeout_seconds(service.settings.flow_idle_seconds);
    if (over && event == Event::Open) || idle > timeout || !world.serves(service, flow.backend().0) {
        return Known::Stale;
    }
    Known::Live(flow)
}

/// For a packet of the flow itself.
pub fn choose(world: &World, service: &Service, tuple: &FlowKey, event: Event) -> Choice {
    let slot = slot(world, service, tuple);
    let opens = event == Event::Open;
    let by_address = service.settings.by_address;
    // One flow for many connections, of which none opens or ends it.
    let event = if by_address && event != Event::Datagram { Event::Continue } else { event };
    let current = slot.current().0;
    if service.settings.tracking == Tracking::Connectionless || slot.state() == SlotState::Settled {
        return Choice { backend: current, new_flow: opens, refused: false, remembers: None };
    }
    let stale = match known(world, service, tuple, event) {
        Known::Live(flow) => {
            let next = Flow::new(flow.backend(), flow.tag(), world.now, after(flow.state(), event));
            return Choice {
                backend: flow.backend().0,
                new_flow: opens && by_address,
                refused: false,
                remembers: (next != flow).then_some(next),
            };
        }
        Known::Stale => true,
        Known::Nothing => false,
    };
    let hash = hash_of(world, service, tuple);
    let fresh = |backend: u32| {
        let state = after(FlowState::Opening, event);
        Flow::new(lb_common::BackendId(backend), tag(hash), world.now, state)
    };
    let room = world.flows.len() < world.flows_max || world.flows.contains_key(tuple);
    if slot.state() == SlotState::Pinned {
        let remembers = stale.then(|| fresh(current));
        return Choice { backend: current, new_flow: opens, refused: false, remembers };
    }
    let previous = slot.previous().0;
    let old = if world.serves(service, previous) { previous } else { current };
    let settled_syn = event == Event::Open && since(world.now, slot) > SYN_RETRANSMIT_SECONDS;
    let backend = if settled_syn { current } else { old };
    let new_flow = opens || event == Event::Datagram;
    if backend == 0 {
        return Choice { backend, new_flow, refused: false, remembers: None };
    }
    if room {
        Choice { backend, new_flow, refused: false, remembers: Some(fresh(backend)) }
    } else {
        Choice { backend: old, new_flow, refused: true, remembers: None }
    }
}

/// For a packet about the flow, without a trace: as a mid-flow packet would go.
pub fn owner(world: &World, service: &Service, tuple: &FlowKey) -> u32 {
    let choice = choose(world, service, tuple, Event::Continue);
    let slot = slot(world, service, tuple);
    // Refusals do not matter where nothing is remembered.
    if choice.refused && !world.serves(service, slot.previous().0) {
        return slot.current().0;
    }
    choice.backend
}

/// The state of a flow after one more packet of its client.
pub fn after(state: FlowState, event: Event) -> FlowState {
    use FlowState::{Closing, Established, Opening, Reset};
    match (state, event) {
        (_, Event::Reset) => Reset,
        // Who goes on has not ended it: the RST was forged.
        (Reset, Event::Continue) => Established,
        (Reset, _) => Reset,
        (_, Event::Close) | (Closing, _) => Closing,
        (Opening, Event::Open) => Opening,
        (Opening | Established, _) => Established,
    }
}

/// Seconds since a slot moved; it holds 22 bits of them.
fn since(now: u32, slot: Slot) -> u32 {
    let since = now.wrapping_sub(slot.moved_at()) & 0x3f_ffff;
    if since > 0x1f_ffff { 0 } else { since }
}

/// Whether a backend is down.
pub fn is_down(state: BackendState) -> bool {
    state == BackendState::Down
}
