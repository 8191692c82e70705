//! The host's lane: the packet code over plain memory; and how it keeps up with the kernel's where each may choose.

use std::net::IpAddr;

use lb_common::{BackendId, FlowKey, FragmentKey, FragmentWay, Reason};
use lb_control::datapath::memory::MemoryDatapath;

use super::choose::hash_of;
use super::memory::{Fate, Way};
use super::outcome::{Action, Outcome, Seen, action_of};
use super::read::{Frame, Part, Transport, read};
use super::scene::Scene;
use super::world::{World, address};

/// Has the host's later fragments go where the kernel's do.
pub fn follow(host: &MemoryDatapath, frame: &[u8], world: &World) {
    let Frame::Transport(Transport { ip, .. }) = read(frame) else { return };
    if ip.part != Part::First {
        return;
    }
    let key = FragmentKey {
        source: address(ip.source),
        destination: address(ip.destination),
        // As it stands in the packet, 16 bits of IPv4 or 32 of IPv6.
        identification: match ip.source {
            IpAddr::V4(_) => u32::from((ip.identification as u16).to_be()),
            IpAddr::V6(_) => ip.identification.to_be(),
        },
        protocol: if ip.is_v6() { 0 } else { ip.protocol },
        reserved: [0; 3],
    };
    let mut known = host.fragments.borrow_mut();
    let Some(Way { fate, seen }) = world.fragments.get(&ip.fragment_key()) else {
        known.remove(&key);
        return;
    };
    let way = match *fate {
        Fate::Rewritten { source, destination, to } => {
            let (backend, service) = to.unwrap_or((0, 0));
            let ends = (address(source), address(destination));
            FragmentWay::rewritten(ends, BackendId(backend), service, *seen)
        }
        Fate::Backend { backend, service, tuple } => {
            let Some(entry) = world.by_id(service) else { return };
            let hash = hash_of(world, entry, &tuple);
            FragmentWay::to_backend(
                (key.source, key.destination),
                BackendId(backend),
                entry.settings.mode,
                service,
                hash,
                *seen,
            )
        }
    };
    known.insert(key, way.tagged(key.tag()));
}

/// What the tables hold under the packet's tuple, and how many entries there are.
pub fn touched(scene: &Scene, outcome: &Outcome) -> Result<(), String> {
    let flows = scene.host.datapath().flows.borrow();
    if flows.len() != scene.world.flows.len() {
        return Err(format!("{} flows are remembered, expected {}", flows.len(), scene.world.flows.len()));
    }
    let check = |key: &FlowKey| {
        if flows.get(key) == scene.world.flows.get(key) {
            Ok(())
        } else {
            Err(format!("remembered {:?}, expected {:?}", flows.get(key), scene.world.flows.get(key)))
        }
    };
    let translations = scene.host.datapath().translations.borrow();
    if translations.len() != scene.world.translations.len() {
        let (found, wanted) = (translations.len(), scene.world.translations.len());
        return Err(format!("{found} directions are translated, expected {wanted}"));
    }
    for (key, _) in &outcome.effects.translations {
        let (found, wanted) = (translations.get(key), scene.world.translations.get(key));
        if found != wanted {
            return Err(format!("translated {found:?}, expected {wanted:?}"));
        }
    }
    outcome.effects.flow.map_or(Ok(()), |(key, _)| check(&key))
}

/// One packet.
pub fn on_host(host: &MemoryDatapath, now: u32, frame: &[u8]) -> Seen {
    host.now_seconds.set(now);
    let mut bytes = frame.to_vec();
    let verdict = host.process(&mut bytes);
    let sent = !matches!(action_of(verdict.reason), Action::Pass) && is_sent(verdict.reason);
    let action = match (sent, verdict.egress.other_ifindex()) {
        (false, _) => action_of(verdict.reason),
        (true, None) => Action::Back,
        (true, other) => Action::Out(other),
    };
    Seen { reason: Some(verdict.reason), action, bytes }
}

/// Whether the program sends a packet that ends so.
pub fn is_sent(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Forwarded
            | Reason::Replied
            | Reason::ErrorForwarded
            | Reason::ErrorReplied
            | Reason::ArpAnswered
            | Reason::NeighbourAnswered
            | Reason::EchoAnswered
            | Reason::TooBigAnswered
            | Reason::TimeExceededAnswered
    )
}

/// Both builds do the same, but for identifications, which are random.
pub fn agree(host: &Seen, kernel: &Seen, outcome: &Outcome) -> Result<(), String> {
    let (mut one, mut other) = (host.bytes.clone(), kernel.bytes.clone());
    if outcome.effects.entropy.is_some() {
        for bytes in [&mut one, &mut other] {
            let l3 = 14 + 4 * super::read::tags(bytes);
            if bytes.get(l3).is_some_and(|first| first >> 4 == 4) {
                bytes[l3 + 4..l3 + 6].fill(0);
                bytes[l3 + 10..l3 + 12].fill(0);
            }
        }
    }
    match one.iter().zip(&other).position(|(one, other)| one != other) {
        None if one.len() == other.len() => Ok(()),
        at => {
            Err(format!("host and kernel differ: {} and {} bytes, first at {at:?}", one.len(), other.len()))
        }
    }
}
