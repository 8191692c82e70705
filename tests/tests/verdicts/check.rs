//! Arranges the tables for a row, runs its packet and compares everything that it says.

use std::{fmt::Write as _, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use lb_common::{
    Backend, BackendId, BackendState, Counters, Flow, FlowKey, FlowState, NextHop, Port, Reason, Service,
    Slot, SlotState,
    hash::{flow_hash, tag},
};
use lb_control::{
    datapath::{Change, Datapath as _},
    engine::monotonic_seconds,
};
pub use tests::oracle::host::is_sent;
use tests::oracle::pcap;

use crate::{
    lanes::Lane,
    loads,
    row::{Given, Row, Way},
    translations,
    world::{FLOWS, SLOTS, Svc, Who, address, next_hop, target},
};

/// What is wrong with a row.
pub struct Failure {
    /// The row's name.
    name: String,
    /// In words.
    text: String,
    /// The packet as it came, as it left, and as it should have left.
    frames: [Vec<u8>; 3],
}

impl Failure {
    /// In words, with the name of a file that holds the three packets.
    pub fn report(&self) -> String {
        let name: String =
            self.name.chars().map(|one| if one.is_ascii_alphanumeric() { one } else { '-' }).collect();
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/verdicts");
        let path = directory.join(format!("{name}.pcap"));
        let [came, left, expected] = &self.frames;
        let file = match pcap::write(&path, &[came, left, expected]) {
            Ok(()) => format!("came, left, expected: {}", path.display()),
            Err(error) => format!("no pcap: {error}"),
        };
        format!("{}\n    {file}", self.text)
    }
}

/// Runs a row; what is wrong with it.
pub fn check(lane: &mut impl Lane, row: &Row) -> Result<Option<Failure>> {
    let others = arrange(lane, row).with_context(|| format!("arranging {}", row.name))?;
    for packet in &row.before {
        lane.run(packet).with_context(|| format!("before {}", row.name))?;
    }
    let before = counted(lane)?;
    let loads = loads::of(lane, row.service)?;
    let started = monotonic_seconds();
    let (action, mut out) = lane.run(&row.packet).with_context(|| row.name.clone())?;
    for free in &row.free {
        if let (Some(out), Some(expected)) = (out.get_mut(free.clone()), row.out.get(free.clone())) {
            out.copy_from_slice(expected);
        }
    }
    let after = counted(lane)?;

    let mut wrong = String::new();
    let mut compare = |what: &str, found: String, expected: String| {
        if found != expected {
            let _ = write!(wrong, "\n    {what}: {found}\n      expected: {expected}");
        }
    };
    let reasons: Vec<&str> = Reason::ALL
        .iter()
        .zip(after.reasons.iter().zip(&before.reasons))
        .flat_map(|(reason, (after, before))| vec![reason.name(); (after - before) as usize])
        .collect();
    compare("reason", format!("{reasons:?}"), format!("{:?}", [row.reason.name()]));
    let stand_in = row.way == Way::Routes && !lane.has_routes();
    if let Some(action) = action
        && !stand_in
    {
        compare("action", format!("{action:?}"), format!("{:?}", row.action));
    }
    // The stand-in's neighbours have other addresses.
    let from = if stand_in && is_sent(row.reason) { 12 } else { 0 };
    if out.get(from..) != row.out.get(from..) {
        compare("packet out", hexdump(&out), hexdump(&row.out));
    }
    for (index, (name, found)) in after.services.iter().enumerate() {
        let expected =
            if *name == row.service { tally(row, row.counted.is_some()) } else { Counters::default() };
        compare(&format!("{name:?}"), diff(found, &before.services[index].1), format!("{expected:?}"));
    }
    for (index, (service, who, found)) in after.backends.iter().enumerate() {
        let expected = tally(row, *service == row.service && row.counted == Some(*who));
        compare(
            &format!("{service:?} {who:?}"),
            diff(found, &before.backends[index].2),
            format!("{expected:?}"),
        );
    }
    let flow = lane.engine().datapath().flows()?.into_iter().find(|(key, _)| *key == row.service.flow());
    let found = flow.map(|(_, flow)| (flow.backend(), flow.state().is_over(), flow.is_counted()));
    let counts = |closed: bool| !closed && !row.stale && loads::is_tracked(row);
    let expected = row.remembered.map(|(who, closed)| (id(lane, row.service, who), closed, counts(closed)));
    compare("remembered", format!("{found:?}"), format!("{expected:?}"));
    if let (Some((_, flow)), true) = (flow, row.reason == Reason::Forwarded && is_looked_up(row)) {
        let seen = flow.last_seen().wrapping_sub(started);
        compare("seen", format!("{}", seen <= 1), "true".to_owned());
    }
    let (found, expected) = loads::compared(lane, row, &loads, started)?;
    compare("loads", found, expected);
    let (found, expected) = translations::compared(lane, row, others, started)?;
    compare("translated", found, expected);
    if wrong.is_empty() {
        return Ok(None);
    }
    let text = format!("{}\n    packet in: {}{wrong}", row.name, hexdump(&row.packet));
    let frames = [row.packet.clone(), out, row.out.clone()];
    Ok(Some(Failure { name: row.name.clone(), text, frames }))
}

fn is_looked_up(row: &Row) -> bool {
    row.service != Svc::Connectionless
        && row
            .given
            .iter()
            .any(|given| matches!(given, Given::Slots(_, _, SlotState::Moving | SlotState::Pinned, _)))
}

struct Counted {
    reasons: Vec<u64>,
    services: Vec<(Svc, Counters)>,
    backends: Vec<(Svc, Who, Counters)>,
}

fn counted(lane: &mut impl Lane) -> Result<Counted> {
    let mut backends = Vec::new();
    let mut services = Vec::new();
    for service in Svc::ALL {
        let number = lane.engine().installed().services[&service.key()].entry.id;
        services.push((service, lane.engine().datapath().service_counters(number)?));
        for who in backends_of(service) {
            let id = id(lane, service, *who);
            backends.push((service, *who, lane.engine().datapath().backend_counters(id)?));
        }
    }
    Ok(Counted { reasons: lane.engine().reasons()?, services, backends })
}

/// What the counters of the row's service and backend should grow by.
fn tally(row: &Row, counts: bool) -> Counters {
    if !counts {
        return Counters::default();
    }
    Counters {
        packets: 1,
        bytes: ip_length(&row.packet),
        new_flows: row.opens.into(),
        refused_flows: row.refused.into(),
        overflowed: row.overflowed.into(),
    }
}

/// Bytes from the IP header on, by the IP header.
fn ip_length(packet: &[u8]) -> u64 {
    let tags =
        [12, 16].iter().take_while(|at| matches!(packet[**at..**at + 2], [0x81, 0] | [0x88, 0xa8])).count();
    let l3 = 14 + 4 * tags;
    let word = |at: usize| u64::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    if packet[l3] >> 4 == 4 { word(l3 + 2) } else { 40 + word(l3 + 4) }
}

fn diff(after: &Counters, before: &Counters) -> String {
    let growth = Counters {
        packets: after.packets - before.packets,
        bytes: after.bytes - before.bytes,
        new_flows: after.new_flows - before.new_flows,
        refused_flows: after.refused_flows - before.refused_flows,
        overflowed: after.overflowed - before.overflowed,
    };
    format!("{growth:?}")
}

fn backends_of(service: Svc) -> &'static [Who] {
    if service == Svc::Empty { &[] } else { &[Who::A, Who::B] }
}

pub fn id(lane: &mut impl Lane, service: Svc, who: Who) -> BackendId {
    match who {
        Who::Nobody => BackendId::NONE,
        Who::Beyond => BackendId(0xf_ffff),
        Who::Foreign => {
            let other = if service == Svc::DsrTcp { Svc::NatTcp } else { Svc::DsrTcp };
            id(lane, other, Who::A)
        }
        Who::A | Who::B => {
            let place = service.backend(who);
            let place = (address(place.ip()), Port::new(place.port()));
            lane.engine().installed().services[&service.key()].backends[&place]
        }
    }
}

/// The tables as the engine installed them, with what the row gives; returns how many entries of other translated flows
/// that is.
fn arrange(lane: &mut impl Lane, row: &Row) -> Result<usize> {
    let service = row.service;
    let installed = lane.engine().installed().services[&service.key()].clone();
    let flows = lane.engine().datapath().flows()?;
    let mut changes = vec![Change::DeleteFlows(flows)];
    let mut slots = installed.slots.to_vec();
    let mut entry = loads::terms(row, installed.entry);
    let mut backends: Vec<(Who, BackendId, Backend)> = Vec::new();
    for &who in backends_of(service) {
        let id = id(lane, service, who);
        backends.push((who, id, lane.engine().installed().backends[&id]));
        slots.fill(Slot::settled(backends[0].1));
    }
    let mut program = target().program;
    let now = monotonic_seconds();
    let mut cut = Vec::new();
    for given in &row.given {
        let mut of = |who: Who, change: &dyn Fn(&mut Backend)| {
            backends.iter_mut().filter(|(other, ..)| *other == who).for_each(|(_, _, entry)| change(entry));
        };
        match *given {
            Given::Slots(current, previous, state, ago) => {
                let (current, previous) = (id(lane, service, current), id(lane, service, previous));
                slots.fill(Slot::new(current, previous, state, now.wrapping_sub(ago)));
            }
            Given::Down(who) => of(who, &|entry| entry.state = BackendState::Down.word()),
            Given::Cut(who) => {
                of(who, &|entry| entry.state = BackendState::Cut.word());
                cut.push(id(lane, service, who));
            }
            Given::Draining(who) => of(who, &|entry| entry.state = BackendState::Draining.word()),
            Given::Unresolved(who) => of(who, &|entry| entry.next_hop = 0),
            Given::WayMissing(who) => {
                let hop = NextHop { interface: 9, ..next_hop(who) };
                of(who, &|entry| entry.next_hop = hop.word());
            }
            Given::TableBeyond => {
                entry = Service::new(entry.id, SLOTS, entry.slots(), entry.settings());
            }
            Given::Weight(who, weight) => of(who, &|entry| entry.weight = weight),
            Given::Capped(who, most) => of(who, &|entry| entry.max_connections = most),
            Given::Alternating => {
                let ids = [id(lane, service, Who::A), id(lane, service, Who::B)];
                (0..slots.len()).for_each(|at| slots[at] = Slot::settled(ids[at % 2]));
            }
            Given::RarelyA => {
                let ids = [id(lane, service, Who::A), id(lane, service, Who::B)];
                (0..slots.len()).for_each(|at| slots[at] = Slot::settled(ids[usize::from(at % 256 != 0)]));
            }
            Given::OwnSlot(who) => {
                let hash = flow_hash(lane.engine().datapath().hash_keys(), &entry.slot_key(&service.flow()));
                let index = entry.slot_index(hash) - entry.slots_start;
                slots[index as usize] = Slot::settled(id(lane, service, who));
            }
            Given::Muted => program.answers_per_second = 0,
            Given::Tracked(_)
            | Given::Chooses(_)
            | Given::Affinity(_)
            | Given::ClientBits(_)
            | Given::Connections(..)
            | Given::Response(..)
            | Given::Counted(..)
            | Given::KeptTo(..) => {}
            Given::Remembered(..) | Given::Closed(..) | Given::Recycled(_) | Given::Full => {}
            Given::Translated(..)
            | Given::HalfTranslated(..)
            | Given::TranslatedByAnother(_)
            | Given::OtherTranslated(_)
            | Given::ServiceGone(_)
            | Given::TranslationsLeft(_) => {}
        }
    }
    changes.extend(backends.into_iter().map(|(_, id, entry)| Change::PutBackend(id, entry)));
    changes.push(Change::WriteSlots(installed.entry.slots_start, Arc::new(slots)));
    changes.push(Change::PutService(service.key(), entry));
    changes.push(Change::PutSettings(program));
    let replies = lane.engine().installed().replies.clone();
    changes.extend(
        replies
            .into_iter()
            .filter(|(_, reply)| reply.service == entry.id)
            .map(|(key, reply)| (key, reply.measured(entry.is_measured())))
            .map(|(key, reply)| Change::PutReply(key, reply.cut(cut.contains(&BackendId(reply.backend))))),
    );
    for change in &changes {
        lane.engine().datapath_mut().apply(change)?;
    }
    loads::arrange(lane, row, &entry, now)?;
    for given in &row.given {
        arrange_flows(lane, (service, &entry), *given, now)?;
    }
    translations::arrange(lane, row, now)
}

fn arrange_flows(
    lane: &mut impl Lane,
    (service, entry): (Svc, &Service),
    given: Given,
    now: u32,
) -> Result<()> {
    let key = service.flow();
    let own_tag = tag(flow_hash(lane.engine().datapath().hash_keys(), &entry.slot_key(&key)));
    match given {
        Given::Remembered(who, ago) => {
            let id = id(lane, service, who);
            lane.remember(key, Flow::new(id, own_tag, now.wrapping_sub(ago), FlowState::Established))
        }
        Given::Closed(who, ago) => {
            let id = id(lane, service, who);
            lane.remember(key, Flow::new(id, own_tag, now.wrapping_sub(ago), FlowState::Closing))
        }
        Given::Recycled(who) => {
            let id = id(lane, service, who);
            lane.remember(key, Flow::new(id, !own_tag, now, FlowState::Established))
        }
        Given::Full => {
            let known = lane.engine().datapath().flows()?.len() as u32;
            for number in known..FLOWS {
                let other = FlowKey { client_port: Port::new(number as u16 + 1), ..key };
                let other_tag = tag(flow_hash(lane.engine().datapath().hash_keys(), &other));
                lane.remember(other, Flow::new(BackendId(1), other_tag, now, FlowState::Established))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn hexdump(bytes: &[u8]) -> String {
    let mut text = format!("{} bytes", bytes.len());
    for (index, line) in bytes.chunks(16).enumerate() {
        let words: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = write!(text, "\n        {:04x}  {}", index * 16, words.join(" "));
    }
    text
}
