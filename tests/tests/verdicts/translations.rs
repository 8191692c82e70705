//! The table of translated flows: what a row gives, and what a packet leaves in it.

use anyhow::Result;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lb_common::{
    Flow, FlowKey,
    FlowState::{self, Established},
    Port, Translation,
    hash::{flow_hash, tag},
};
use lb_control::datapath::Datapath as _;

use crate::{
    check::id,
    lanes::Lane,
    loads,
    row::{
        Given::{
            HalfTranslated, OtherTranslated, ServiceGone, Translated, TranslatedByAnother, TranslationsLeft,
        },
        Row,
    },
    world::{POOL, POOL_V6, Svc, TRANSLATIONS, Who, address},
};

/// Puts what a row gives into the table; returns how many entries of others that is.
pub fn arrange(lane: &mut impl Lane, row: &Row, now: u32) -> Result<usize> {
    lane.forget_translations()?;
    let mut others = 0;
    for given in &row.given {
        match *given {
            Translated(who, first, second) => {
                let entries = entries(lane, row.service, row.service.flow(), who, now, (first, second));
                for (key, entry) in entries {
                    lane.translate(key, entry)?;
                }
            }
            HalfTranslated(who, first) => {
                let entries = entries(lane, row.service, row.service.flow(), who, now, (first, first));
                lane.translate(entries[0].0, entries[0].1)?;
            }
            TranslatedByAnother(who) => {
                let seen = (Established, 1);
                let entries = entries(lane, row.service, row.service.flow(), who, now, (seen, seen));
                let (key, entry) = entries[0];
                let flow = Flow::new(entry.flow.backend(), !entry.flow.tag(), now, Established);
                lane.translate(key, Translation { flow, ..entry })?;
            }
            OtherTranslated(who) => {
                let key = FlowKey { client_port: Port::new(1), ..row.service.flow() };
                let seen = (Established, 1);
                for (key, entry) in entries(lane, row.service, key, who, now, (seen, seen)) {
                    lane.translate(key, entry)?;
                    others += 1;
                }
            }
            ServiceGone(who) => {
                let key = FlowKey { vip_port: Port::new(POOL.port()), ..row.service.flow() };
                let seen = (Established, 1);
                let entries = entries(lane, row.service, key, who, now, (seen, seen));
                lane.translate(entries[0].0, entries[0].1)?;
                others += 1;
            }
            TranslationsLeft(left) => {
                for number in lane.translations()?.len() as u32..TRANSLATIONS - left {
                    let key = FlowKey { client_port: Port::new(number as u16), ..FlowKey::default() };
                    lane.translate(key, Translation::default())?;
                    others += 1;
                }
            }
            _ => {}
        }
    }
    Ok(others)
}

type Seen = (FlowState, u32);

/// Both directions of a flow, the client's first.
fn entries(
    lane: &mut impl Lane,
    service: Svc,
    key: FlowKey,
    who: Who,
    now: u32,
    (first, second): (Seen, Seen),
) -> [(FlowKey, Translation); 2] {
    let keys = lane.engine().datapath().hash_keys();
    let backend = id(lane, service, who);
    let entry = lane.engine().installed().services[&service.key()].entry;
    let at = service.backend(who);
    let pool = if at.is_ipv4() { POOL } else { POOL_V6 };
    let client_tag = tag(flow_hash(keys, &key));
    let forth = Translation {
        flow: Flow::new(backend, client_tag, now.wrapping_sub(first.1), first.0),
        source: address(pool.ip()),
        destination: address(at.ip()),
        source_port: Port::new(pool.port()),
        destination_port: Port::new(at.port()),
        service: entry.id,
        mss: entry.mss,
        overflowed: 0,
        reserved: [0; 2],
    };
    let other_key = forth.opposite_key(key.protocol);
    let other_tag = !tag(flow_hash(keys, &other_key));
    let back = forth.opposite(&key, backend, other_tag, now.wrapping_sub(second.1), second.0);
    [(key, forth), (other_key, back)]
}

/// What is translated after a packet, and what should be, in words; `others` are entries that were there before.
pub fn compared(lane: &mut impl Lane, row: &Row, others: usize, now: u32) -> Result<(String, String)> {
    let standing = lane.translations()?;
    let Some((who, first, second)) = row.translated else {
        return Ok((format!("{} entries", standing.len()), format!("{others} entries")));
    };
    let key = client_key(row);
    let entries = entries(lane, row.service, key, who, now, ((first, 0), (second, 0)));
    let [(first_key, forth), back] = entries;
    // One of the two counts, while its client has not ended it.
    let counts = loads::is_tracked(row) && !first.is_over();
    let forth = Translation { flow: forth.flow.counted(counts), overflowed: row.overflowed.into(), ..forth };
    let entries = [(first_key, forth), back];
    let expected: Vec<String> = entries.iter().map(|(key, entry)| told(key, entry)).collect();
    let found: Vec<String> = entries
        .iter()
        .map(|(key, _)| standing.iter().find(|(other, _)| other == key).map(|(key, entry)| told(key, entry)))
        .map(|entry| entry.unwrap_or_else(|| "none".to_owned()))
        .collect();
    let expected = format!("{} entries, {expected:?}", others + 2);
    Ok((format!("{} entries, {found:?}", standing.len()), expected))
}

/// An entry without the second of its last packet.
fn told(key: &FlowKey, entry: &Translation) -> String {
    let flow = Flow::new(entry.flow.backend(), entry.flow.tag(), 0, entry.flow.state())
        .counted(entry.flow.is_counted());
    format!("{key:?} {:?}", Translation { flow, ..*entry })
}

/// The tuple of a client's packet; a reply is of the service's one client, and so is an error.
fn client_key(row: &Row) -> FlowKey {
    let sliced = SlicedPacket::from_ethernet(&row.packet).expect("rows that translate are whole packets");
    let (source, destination) = match sliced.net {
        Some(NetSlice::Ipv4(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        Some(NetSlice::Ipv6(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        _ => unreachable!("rows that translate are IP"),
    };
    let (source_port, destination_port) = match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        _ => return row.service.flow(),
    };
    if [POOL.ip(), POOL_V6.ip()].contains(&destination) {
        return row.service.flow();
    }
    FlowKey {
        client: address(source),
        vip: address(destination),
        client_port: Port::new(source_port),
        vip_port: Port::new(destination_port),
        protocol: row.service.protocol() as u8,
        reserved: [0; 3],
    }
}
