//! How busy backends are: what a row gives, and what a packet leaves.

use anyhow::Result;
use lb_common::{
    Flow, FlowState, Load, Service, Tracking,
    hash::{flow_hash, tag},
};
use lb_control::datapath::Datapath as _;

use crate::{
    check::id,
    lanes::Lane,
    row::{
        Given::{Affinity, Chooses, ClientBits, Connections, Counted, KeptTo, Response, Tracked},
        Row,
    },
    world::{Svc, Who},
};

const BOTH: [Who; 2] = [Who::A, Who::B];
const MICROS_PER_SECOND: u64 = 1_000_000;

/// Whether every flow of the row's service is tracked.
pub fn is_tracked(row: &Row) -> bool {
    row.given.iter().any(|given| matches!(given, Tracked(_)))
}

/// The service's entry as the row wants it.
pub fn terms(row: &Row, entry: Service) -> Service {
    let mut settings = entry.settings();
    for given in &row.given {
        match *given {
            Tracked(algorithm) => {
                (settings.tracking, settings.algorithm) = (Tracking::EveryFlow, algorithm);
            }
            Chooses(algorithm) => settings.algorithm = algorithm,
            Affinity(seconds) => settings.affinity_seconds = seconds,
            ClientBits(bits) => settings.client_bits = bits,
            _ => {}
        }
    }
    Service::new(entry.id, entry.slots_start, entry.slots(), settings)
}

/// Loads of the backends, and what is remembered and counts.
pub fn arrange(lane: &mut impl Lane, row: &Row, entry: &Service, now: u32) -> Result<()> {
    let service = row.service;
    if service == Svc::Empty {
        return Ok(());
    }
    let keys = lane.engine().datapath().hash_keys();
    lane.reset_turn(entry.id)?;
    for who in BOTH {
        let mut load = Load::default();
        for given in &row.given {
            match *given {
                Connections(whose, connections) if whose == who => load.connections = connections,
                Response(whose, micros) if whose == who => {
                    load.response = load.after_sample(micros, u64::from(now) * MICROS_PER_SECOND);
                }
                _ => {}
            }
        }
        let id = id(lane, service, who);
        lane.put_load(id, load)?;
    }
    for given in &row.given {
        match *given {
            Counted(who, ago) => {
                let key = service.flow();
                let tag = tag(flow_hash(keys, &entry.slot_key(&key)));
                let id = id(lane, service, who);
                let flow = Flow::new(id, tag, now.wrapping_sub(ago), FlowState::Established);
                lane.remember(key, flow.counted(true))?;
            }
            KeptTo(who, ago) => {
                let key = entry.affinity_key(&service.flow());
                let id = id(lane, service, who);
                let seen = now.wrapping_sub(ago);
                lane.remember(key, Flow::new(id, tag(flow_hash(keys, &key)), seen, FlowState::Established))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Loads of A and B.
pub fn of(lane: &mut impl Lane, service: Svc) -> Result<[Load; 2]> {
    if service == Svc::Empty {
        return Ok(<[Load; 2]>::default());
    }
    let ids = BOTH.map(|who| id(lane, service, who));
    Ok(ids.map(|id| lane.engine().datapath().backend_load(id)))
}

/// What a packet changed, and what it should have: live connections, whose response time, and whom the network keeps to.
pub fn compared(
    lane: &mut impl Lane,
    row: &Row,
    before: &[Load; 2],
    started: u32,
) -> Result<(String, String)> {
    let after = of(lane, row.service)?;
    let grown = |at: usize| after[at].connections.wrapping_sub(before[at].connections) as i64;
    let answered = |at: usize| after[at].response != before[at].response;
    let installed = lane.engine().installed().services[&row.service.key()].entry;
    let key = terms(row, installed).affinity_key(&row.service.flow());
    let kept = lane.engine().datapath().flows()?.into_iter().find(|(other, _)| *other == key);
    // Of the client's flow that is not its network's, nothing is noted.
    let kept = kept.map(|(_, entry)| (entry.backend(), entry.last_seen().wrapping_sub(started) <= 1));
    let expected_growth = |who: Who| {
        row.connects.iter().filter(|(whose, _)| *whose == who).map(|(_, change)| change).sum::<i64>()
    };
    let expected_kept = row.keeps.map(|who| (id(lane, row.service, who), true));
    Ok((
        format!("{:?} {:?} {kept:?}", [grown(0), grown(1)], [answered(0), answered(1)]),
        format!(
            "{:?} {:?} {expected_kept:?}",
            BOTH.map(expected_growth),
            BOTH.map(|who| row.answers == Some(who)),
        ),
    ))
}
