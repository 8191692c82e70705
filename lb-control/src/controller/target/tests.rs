//! What is installed as orders, ways and time go on.

use lb_common::{Mac, NextHop};
use serde_json::{Value, json};

use super::*;
use crate::model::{Drain, OnDeadline};

const HELD: Duration = WAY_WITHIN;

fn service(name: &str, fields: Value, hosts: &[&str]) -> Service {
    let mut spec = json!({ "name": name, "address": "192.0.2.1", "port": 80, "mode": "dsr-ipip" });
    for (field, value) in fields.as_object().expect("fields are an object") {
        spec[field] = value.clone();
    }
    spec["backends"] = hosts.iter().map(|host| json!({ "address": host })).collect();
    Service::new(&serde_json::from_value(spec).expect("it is a service")).expect("it keeps the rules")
}

fn desired(services: &[Service]) -> Desired {
    let named = services.iter().map(|service| (service.name.clone(), service.clone()));
    Desired { generation: 1, services: named.collect() }
}

fn hosts(hosts: &[&str]) -> Vec<IpAddr> {
    hosts.iter().map(|host| host.parse().expect("an address")).collect()
}

/// Ways to these hosts.
fn ways(to: &[&str]) -> Arc<Resolved> {
    let way = NextHop { mac: Mac::new([2, 0, 0, 0, 0, 1]), interface: 0 };
    let ways = hosts(to).into_iter().map(|host| (host, Ok(way)));
    Arc::new(Resolved { ways: ways.collect(), ..Resolved::default() })
}

/// Services by the ports that clients use: how many backends they have, and how many of these with a way.
fn seen(wanted: &Wanted) -> Vec<(u16, usize, usize)> {
    let services = wanted.target.services.iter().map(|service| {
        let with_way = service.backends.iter().filter(|backend| backend.next_hop.is_some()).count();
        (service.key.port.number(), service.backends.len(), with_way)
    });
    services.collect()
}

#[test]
fn services_wait_for_the_ways_of_new_backends_and_others_do_not() {
    let mut targets = Targets::new(Packets::default());
    let (snapshot, now) = (Snapshot::default(), Instant::now());
    let b = |port: u16| service("b", json!({ "port": port }), &["10.0.0.2"]);
    let came = targets.follow(&desired(&[service("a", json!({}), &["10.0.0.1"]), b(81)]), now);
    assert_eq!(came, Hosts { came: hosts(&["10.0.0.1", "10.0.0.2"]), went: vec![] });
    let two = ways(&["10.0.0.1", "10.0.0.2"]);
    assert_eq!(seen(&targets.target(&two, &snapshot, now, 0)), [(80, 1, 1), (81, 1, 1)]);

    let grown = service("a", json!({}), &["10.0.0.1", "10.0.0.3"]);
    let new = service("c", json!({ "port": 83 }), &["10.0.0.3"]);
    let until = now + HELD;
    let came = targets.follow(&desired(&[grown, b(82), new]), until);
    assert_eq!(came, Hosts { came: hosts(&["10.0.0.3"]), went: vec![] });
    assert!(!targets.is_answered(&two));
    let held = targets.target(&two, &snapshot, now, 0);
    assert_eq!((seen(&held), held.held_until), (vec![(80, 1, 1), (82, 1, 1)], Some(until)));

    let late = targets.target(&two, &snapshot, until, 0);
    assert_eq!((seen(&late), late.held_until), (vec![(80, 2, 1), (82, 1, 1), (83, 1, 0)], None));
    let three = ways(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    let found = targets.target(&three, &snapshot, until, 0);
    assert_eq!(seen(&found), [(80, 2, 2), (82, 1, 1), (83, 1, 1)]);
    assert!(Shared::is_same(&found.target.services[1], &late.target.services[1]), "nothing of it changed");

    let went = targets.follow(&desired(&[b(82)]), until);
    assert_eq!(went, Hosts { came: vec![], went: hosts(&["10.0.0.1", "10.0.0.3"]) });
    assert_eq!(seen(&targets.target(&three, &snapshot, until, 0)), [(82, 1, 1)]);
}

#[test]
fn a_way_that_is_known_not_to_be_is_not_waited_for() {
    let mut targets = Targets::new(Packets::default());
    let (snapshot, now) = (Snapshot::default(), Instant::now());
    targets.follow(&desired(&[service("a", json!({}), &["10.0.0.1"])]), now + HELD);
    let answered = |way| {
        let ways = hosts(&["10.0.0.1"]).into_iter().map(|host| (host, Err(way)));
        Arc::new(Resolved { ways: ways.collect(), ..Resolved::default() })
    };
    let asking = targets.target(&answered(Unresolved::Asking), &snapshot, now, 0);
    assert_eq!((seen(&asking), asking.held_until), (vec![], Some(now + HELD)));
    let none = targets.target(&answered(Unresolved::NoRoute), &snapshot, now, 0);
    assert_eq!((seen(&none), none.held_until), (vec![(80, 1, 0)], None));
}

#[test]
fn time_alone_goes_on_with_slow_starts_and_ends_drains() {
    let mut slow = service("slow", json!({ "slow_start_seconds": 15 }), &["10.0.0.1", "10.0.0.2"]);
    slow.backends.values_mut().next().expect("it has two").up_since_unix = Some(100);
    let mut drained = service("drained", json!({ "port": 81 }), &["10.0.0.1", "10.0.0.2"]);
    drained.backends.values_mut().next().expect("it has two").draining = Some(Drain {
        since_unix_seconds: 90,
        deadline_unix_seconds: Some(105),
        on_deadline: OnDeadline::Resteer,
    });
    let mut targets = Targets::new(Packets::default());
    let (ways, snapshot, now) = (ways(&["10.0.0.1", "10.0.0.2"]), Snapshot::default(), Instant::now());
    targets.follow(&desired(&[slow, drained]), now);
    let mut at = |seconds| targets.target(&ways, &snapshot, now, seconds).target.services;
    let first = |service: &TargetService| (service.backends[0].share, service.backends[0].state);
    use lb_common::BackendState::{Down, Draining, Up};
    for (seconds, share, state) in [
        (100, 1, Draining),
        (101, 2, Draining),
        (104, 5, Draining),
        (105, 6, Down),
        (114, 15, Down),
        (115, 1, Down),
    ] {
        let services = at(seconds);
        assert_eq!([first(&services[0]), first(&services[1])], [(1, state), (share, Up)], "{seconds}");
    }
    let (over, later) = (at(200), at(300));
    assert!(over.iter().zip(&later).all(|(one, other)| Shared::is_same(one, other)));
}

#[test]
fn own_addresses_are_told_once_and_without_those_of_one_link() {
    let mut snapshot = Snapshot::default();
    let addresses =
        [(1, "127.0.0.1"), (1, "::1"), (3, "10.0.0.1"), (3, "fe80::1"), (3, "2001:db8::1"), (4, "10.0.0.1")];
    for (interface, address) in addresses {
        snapshot.addresses.insert((interface, address.parse().expect("an address")));
    }
    let packets = Packets::default();
    let target = target(&Desired::default(), &packets, &Resolved::default(), &snapshot, 0);
    let locals: Vec<String> =
        target.locals.iter().map(|local| address::from_map(*local).to_string()).collect();
    assert_eq!(locals, ["10.0.0.1", "2001:db8::1"]);
    assert!(target.pool.is_empty());
}

#[test]
fn settings_have_the_forms_of_the_maps() {
    let mut packets = Packets::default();
    let found = program(&packets);
    assert_eq!(found.tunnel_ipv4, Address::from_ipv4([172, 16, 0, 0]));
    assert_eq!(found.tunnel_ipv4_hosts.to_ne_bytes(), [0, 0, 255, 255]);
    assert_eq!(address::from_map(found.tunnel_ipv6).to_string(), "100::");
    assert_eq!(found.tunnel_ipv6_hosts, u32::MAX);
    assert_eq!((found.gue_port.number(), found.answers_per_second), (6_080, 1_000));
    assert_eq!((found.pool_first_port, found.pool_ports), (1_024, 64_512));
    assert_eq!((found.pool_ipv4, found.pool_ipv6), (0, 0));

    let network = |text: &str| text.parse().expect("a network");
    packets.tunnel.source_ipv4 = network("10.9.8.7");
    packets.tunnel.source_ipv6 = network("2001:db8::a00/120");
    packets.full_nat.addresses =
        ["10.0.0.8", "10.0.0.9", "2001:db8::9"].map(|text| text.parse().expect("an address")).to_vec();
    packets.full_nat.ports = crate::model::Ports::ANY;
    let found = program(&packets);
    assert_eq!(found.tunnel_ipv4_hosts, 0);
    assert_eq!(found.tunnel_ipv6_hosts.to_ne_bytes(), [0, 0, 0, 255]);
    assert_eq!((found.pool_first_port, found.pool_ports), (1, 65_535));
    assert_eq!((found.pool_ipv4, found.pool_ipv6), (2, 1));
}
