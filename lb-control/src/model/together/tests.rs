//! Services that are in each other's way, and those that are not.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::*;
use crate::model::{Service, ServiceSpec};

/// All services but the last are there; what is said of the last.
fn said(services: &[Value]) -> String {
    let mut desired = Desired::default();
    let mut outcome = Ok(());
    for (index, value) in services.iter().enumerate() {
        let mut value = value.clone();
        value["name"] = json!(format!("s{index}"));
        let spec: ServiceSpec = serde_json::from_value(value).expect("it is a service");
        let service = Service::new(&spec).unwrap_or_else(|errors| panic!("{errors:?}"));
        let name = service.name.clone();
        desired.services.insert(name.clone(), service);
        assert!(outcome.is_ok(), "{outcome:?}");
        outcome = check_together(&Census::of(&desired), &Desired::default(), &desired, &[name]);
    }
    outcome.err().map_or_else(String::new, |refusal| refusal.in_words())
}

fn exact(address: &str, port: u16) -> Value {
    json!({ "address": address, "port": port, "mode": "dsr-ipip" })
}

fn wide(address: &str, ports: &str) -> Value {
    json!({ "address": address, "ports": ports, "mode": "dsr-ipip" })
}

fn with(mut service: Value, fields: Value) -> Value {
    for (key, value) in fields.as_object().expect("fields are an object") {
        service[key] = value.clone();
    }
    service
}

#[test]
fn addresses_and_ports() {
    let udp = json!({ "protocol": "udp" });
    for (first, second, expected) in [
        (exact("10.0.0.1", 80), exact("10.0.0.1", 80), "service s0 already has 10.0.0.1:80 tcp"),
        (exact("10.0.0.1", 80), with(exact("10.0.0.1", 80), udp.clone()), ""),
        (exact("10.0.0.1", 80), exact("10.0.0.1", 81), ""),
        (exact("10.0.0.1", 80), wide("10.0.0.1", "any"), ""),
        (wide("10.0.0.1", "80-89"), exact("10.0.0.1", 80), ""),
        (wide("10.0.0.1", "80-89"), wide("10.0.0.1", "89-99"), "service s0 already has 10.0.0.1:80-89 tcp"),
        (wide("10.0.0.1", "80-89"), wide("10.0.0.1", "90-99"), ""),
        (wide("10.0.0.1", "80-89"), with(wide("10.0.0.1", "any"), udp), ""),
        (
            wide("10.0.0.0/24", "any"),
            wide("10.0.0.0/24", "1-2"),
            "service s0 already has 10.0.0.0/24:any tcp",
        ),
        (wide("10.0.0.0/24", "any"), exact("10.0.0.0/24", 80), "service s0 already has 10.0.0.0/24:any tcp"),
        (wide("10.0.0.0/24", "any"), wide("10.0.0.0/25", "any"), ""),
        (wide("10.0.0.0/24", "any"), exact("10.0.0.1", 80), ""),
        (
            exact("2001:db8::/64", 80),
            exact("2001:db8::/64", 80),
            "service s0 already has [2001:db8::/64]:80 tcp",
        ),
    ] {
        assert_eq!(said(&[first.clone(), second.clone()]), expected, "{first} {second}");
    }
}

#[test]
fn at_most_eight_ranges_share_a_network() {
    let mut services: Vec<_> = (1..=8)
        .map(|n| wide("10.0.0.0/24", &format!("{n}000-{n}999")))
        .chain([exact("10.0.0.1", 1)])
        .collect();
    assert_eq!(said(&services), "");
    services.push(exact("10.0.0.0/24", 1));
    assert_eq!(said(&services), "ports: at most 8 ranges of ports of 10.0.0.0/24 tcp");
}

#[test]
fn services_of_an_address_agree_on_fragments() {
    let fragments = |service, policy: &str| with(service, json!({ "fragments": policy }));
    let (one, other) = (exact("10.0.0.1", 80), exact("10.0.0.1", 81));
    for (first, second, expected) in [
        (
            one.clone(),
            fragments(other.clone(), "pass"),
            "fragments must be drop and not pass: fragments have no ports, and service s0 has 10.0.0.1 tcp too",
        ),
        (fragments(one.clone(), "pass"), fragments(other.clone(), "pass"), ""),
        (one.clone(), fragments(wide("10.0.0.1", "90-99"), "pass"), "fragments must be drop and not pass"),
        (
            one.clone(),
            fragments(other.clone(), "by-address"),
            "fragments by-address is for the only service of an address and protocol: service s0 has 10.0.0.1 tcp too",
        ),
        (fragments(one.clone(), "by-address"), other.clone(), "fragments by-address is for the only service"),
        (
            fragments(one.clone(), "by-address"),
            fragments(other, "by-address"),
            "fragments by-address is for the only",
        ),
        (fragments(one.clone(), "by-address"), with(one.clone(), json!({ "protocol": "udp" })), ""),
        (one, fragments(wide("10.0.0.0/24", "any"), "by-address"), ""),
    ] {
        let found = said(&[first.clone(), second.clone()]);
        assert!(found.starts_with(expected) && found.is_empty() == expected.is_empty(), "{second}: {found}");
    }
}

#[test]
fn backends_of_two_services() {
    let nat = |address: &str, ports: Value, backend: Value| {
        with(json!({ "address": address, "mode": "nat", "backends": [backend] }), ports)
    };
    let (one, range) = (json!({ "port": 80 }), json!({ "ports": "8000-8999" }));
    let at = |port: u16| json!({ "address": "10.1.0.1", "port": port });
    let bare = || json!({ "address": "10.1.0.1" });
    const REPLIES: &str = "is a backend of service s0: the two could not tell its replies apart";
    for (first, second, expected) in [
        (
            nat("10.0.0.1", one.clone(), at(80)),
            nat("10.0.0.2", one.clone(), at(80)),
            format!("10.1.0.1:80 {REPLIES}"),
        ),
        (nat("10.0.0.1", one.clone(), at(80)), nat("10.0.0.2", one.clone(), at(81)), String::new()),
        (
            nat("10.0.0.1", range.clone(), bare()),
            nat("10.0.0.2", one.clone(), at(8080)),
            format!("10.1.0.1:8080 {REPLIES}"),
        ),
        (nat("10.0.0.1", range.clone(), bare()), nat("10.0.0.2", one.clone(), at(80)), String::new()),
        (
            nat("10.0.0.1", one.clone(), at(8999)),
            nat("10.0.0.2", range.clone(), bare()),
            format!("10.1.0.1 {REPLIES}"),
        ),
        (nat("10.0.0.1", one.clone(), at(80)), nat("10.0.0.2", range.clone(), bare()), String::new()),
        // The program knows one range for an address and protocol.
        (
            nat("10.0.0.1", range.clone(), bare()),
            nat("10.0.0.2", json!({ "ports": "1-99" }), bare()),
            format!("10.1.0.1 {REPLIES}"),
        ),
        (
            nat("10.0.0.1", range, bare()),
            nat("10.0.0.2", json!({ "ports": "any", "protocol": "udp" }), bare()),
            String::new(),
        ),
        (
            wide("10.1.0.0/16", "any"),
            nat("10.0.0.1", one.clone(), at(80)),
            "10.1.0.1 is in 10.1.0.0/16, the virtual addresses of service s0".into(),
        ),
        (
            nat("10.0.0.1", one.clone(), at(80)),
            wide("10.1.0.0/16", "any"),
            "10.1.0.1 is in 10.1.0.0/16, the virtual addresses of service s1".into(),
        ),
        (
            exact("10.1.0.1", 81),
            nat("10.0.0.1", one, at(80)),
            "10.1.0.1 is the virtual address of service s0".into(),
        ),
    ] {
        assert_eq!(said(&[first.clone(), second.clone()]), expected, "{first} {second}");
    }
}

#[test]
fn full_nat_needs_addresses_of_its_own() {
    let pool: Vec<IpAddr> = vec![[10, 0, 0, 9].into()];
    for (service, pool, expected) in [
        (exact("10.0.0.1", 80), &[][..], ""),
        (
            json!({ "address": "10.0.0.1", "port": 80, "mode": "full-nat" }),
            &[],
            "mode full-nat sends from IPv4 addresses of the balancer: set full_nat.addresses",
        ),
        (json!({ "address": "10.0.0.1", "port": 80, "mode": "full-nat" }), &pool, ""),
        (
            json!({ "address": "2001:db8::1", "port": 80, "mode": "full-nat" }),
            &pool,
            "mode full-nat sends from IPv6 addresses of the balancer: set full_nat.addresses",
        ),
        (exact("10.0.0.9", 80), &pool, "address 10.0.0.9 is one of full_nat.addresses"),
        (wide("10.0.0.0/24", "any"), &pool, "address 10.0.0.9 is one of full_nat.addresses"),
        (
            with(exact("10.0.0.1", 80), json!({ "backends": [{ "address": "10.0.0.9" }] })),
            &pool,
            "10.0.0.9 is one of full_nat.addresses",
        ),
    ] {
        let spec: ServiceSpec =
            serde_json::from_value(with(service.clone(), json!({ "name": "a" }))).unwrap();
        let desired =
            Desired { generation: 1, services: [("a".into(), Service::new(&spec).unwrap())].into() };
        let outcome = check_full_nat(&desired, &["a".into()], pool);
        let found = outcome.err().map_or_else(String::new, |refusal| refusal.in_words());
        assert!(found.starts_with(expected) && found.is_empty() == expected.is_empty(), "{service}: {found}");
    }
}
