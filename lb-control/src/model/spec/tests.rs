//! What one service may say: each rule by what breaks it, and that what is kept says the same.

use serde_json::{Value, json};

use super::*;
use crate::model::{Network, Ports, Quic, Service, Tracking};

/// A good service with `patch` laid over its fields.
fn patched(base: Value, patch: &str) -> Result<Service, Vec<String>> {
    let mut value = base;
    let patch: Value = serde_json::from_str(patch).expect("the patch is JSON");
    for (key, new) in patch.as_object().expect("the patch is an object") {
        match new {
            Value::Null => value.as_object_mut().expect("it is an object").remove(key),
            new => value.as_object_mut().expect("it is an object").insert(key.clone(), new.clone()),
        };
    }
    let spec: ServiceSpec = serde_json::from_value(value).map_err(|error| vec![error.to_string()])?;
    let lines =
        |errors: Vec<FieldError>| errors.into_iter().map(|one| format!("{}: {}", one.field, one.rule));
    Service::new(&spec).map_err(|errors| lines(errors).collect())
}

fn ipv4() -> Value {
    json!({ "name": "a", "address": "10.0.0.1", "port": 80, "backends": [{ "address": "10.1.0.1" }] })
}

fn ipv6() -> Value {
    json!({ "name": "a", "address": "2001:db8::1", "port": 80, "backends": [{ "address": "fd00::1" }] })
}

fn quic() -> Value {
    json!({
        "name": "a", "address": "10.0.0.1", "port": 443, "protocol": "udp",
        "quic": { "scheme": "quic-lb", "server_id_length": 2 },
        "backends": [{ "address": "10.1.0.1", "server_id": "0a1b" }],
    })
}

#[track_caller]
fn refused(base: fn() -> Value, rows: &[(&str, &str)]) {
    assert!(patched(base(), "{}").is_ok());
    for (patch, expected) in rows {
        match patched(base(), patch) {
            Ok(service) => panic!("{patch} was accepted: {service:?}"),
            Err(errors) => {
                assert!(errors.iter().any(|error| error.starts_with(expected)), "{patch}: {errors:?}");
            }
        }
    }
}

#[test]
fn addresses_that_nobody_reaches_are_refused() {
    refused(
        ipv4,
        &[
            (r#"{"address": "0.0.0.0"}"#, "address: must be a unicast address"),
            (r#"{"address": "127.0.0.1"}"#, "address: must be a unicast address"),
            (r#"{"address": "224.0.0.1"}"#, "address: must be a unicast address"),
            (r#"{"address": "255.255.255.255"}"#, "address: must be a unicast address"),
            (r#"{"address": "::ffff:10.0.0.1"}"#, "address: must be written as IPv4"),
            (r#"{"address": "10.0.0"}"#, "must be an IP address, like 192.0.2.10, or a network"),
        ],
    );
    refused(
        ipv6,
        &[
            (r#"{"address": "::"}"#, "address: must be a unicast address"),
            (r#"{"address": "::1"}"#, "address: must be a unicast address"),
            (r#"{"address": "ff02::1"}"#, "address: must be a unicast address"),
            (r#"{"address": "fe80::1"}"#, "address: must not be link-local"),
            (r#"{"backends": [{"address": "fe80::1"}]}"#, "backends[0].address: must not be link-local"),
            (r#"{"backends": [{"address": "::ffff:1.2.3.4"}]}"#, "backends[0].address: must be written as"),
        ],
    );
}

#[test]
fn only_tunnels_mix_families() {
    const MIXED: &str = r#""backends": [{"address": "10.1.0.1"}, {"address": "fd00::1"}]"#;
    for (base, wrong, family) in [(ipv4 as fn() -> Value, 1, "IPv4"), (ipv6, 0, "IPv6")] {
        for mode in ["nat", "full-nat", "dsr-l2"] {
            let patch = format!(r#"{{"mode": "{mode}", {MIXED}}}"#);
            let rule = format!(
                "backends[{wrong}].address: must be {family} like the service's: mode {mode} translates no family"
            );
            refused(base, &[(&patch, &rule)]);
        }
        for mode in ["dsr-ipip", "dsr-gue"] {
            let patch = format!(r#"{{"mode": "{mode}", {MIXED}}}"#);
            assert!(patched(base(), &patch).is_ok(), "{patch}");
        }
    }
}

#[test]
fn several_ports_and_addresses() {
    refused(
        ipv4,
        &[
            (r#"{"port": null}"#, "port: is required; or ports"),
            (r#"{"ports": "any"}"#, "ports: must not stand beside port"),
            (r#"{"port": null, "ports": "80"}"#, "must be the lowest and the highest port"),
            (r#"{"port": null, "ports": "90-80"}"#, "must be the lowest and the highest port"),
            (
                r#"{"port": null, "ports": "any", "backends": [{"address": "10.1.0.1", "port": 80}]}"#,
                "backends[0].port: must be left out",
            ),
            (
                r#"{"port": null, "ports": "any", "health_check": {"type": "tcp"}}"#,
                "health_check.port: is required",
            ),
            (
                r#"{"address": "203.0.113.9/24", "mode": "dsr-l2"}"#,
                "address: has bits beyond its prefix: write 203.0.113.0/24",
            ),
            (r#"{"address": "10.0.0.0/7", "mode": "dsr-l2"}"#, "address: must have a prefix of 8 to 32 bits"),
            (r#"{"address": "224.0.0.0/8", "mode": "dsr-l2"}"#, "address: must be a unicast"),
            (r#"{"address": "203.0.113.0/24"}"#, "address: must be one address in mode nat: replies"),
            (
                r#"{"address": "203.0.113.0/24", "mode": "full-nat"}"#,
                "address: must be one address in mode full-nat",
            ),
            (
                r#"{"address": "203.0.113.0/24", "mode": "dsr-l2", "answer_arp": true}"#,
                "answer_arp: is for one address",
            ),
            (
                r#"{"address": "203.0.113.0/24", "mode": "dsr-l2", "answer_echo": true}"#,
                "answer_echo: is for one address",
            ),
            (
                r#"{"mode": "dsr-gue", "backends": [{"address": "10.1.0.1", "port": 81}]}"#,
                "backends[0].port: must be the service's port 80: mode dsr-gue does not rewrite ports",
            ),
        ],
    );
    refused(
        ipv6,
        &[
            (r#"{"address": "2000::/8", "mode": "dsr-l2"}"#, "address: must have a prefix of 16 to 128 bits"),
            (r#"{"address": "2001:db8::1/64", "mode": "dsr-l2"}"#, "address: has bits beyond its prefix"),
            (r#"{"address": "fe80::/64", "mode": "dsr-l2"}"#, "address: must not be link-local"),
        ],
    );
    let wide =
        patched(ipv4(), r#"{"address": "203.0.113.0/24", "mode": "dsr-l2", "port": null, "ports": "any"}"#)
            .unwrap();
    assert_eq!((wide.address.bits, wide.ports, wide.answer_arp), (24, Ports::ANY, false));
    assert_eq!(wide.backends.keys().next().unwrap().port(), 0);
    assert!(wide.is_wide() && wide.entrance() == "203.0.113.0/24:any");
    let narrow = patched(ipv4(), r#"{"address": "10.0.0.1/32"}"#).unwrap();
    assert_eq!((narrow.address, narrow.answer_arp), (Network::host([10, 0, 0, 1].into()), true));
    assert!(!narrow.is_wide());
    let named = patched(ipv6(), r#"{"port": null, "ports": "8000-8999"}"#).unwrap();
    assert!(named.is_wide() && named.entrance() == "[2001:db8::1]:8000-8999");
}

#[test]
fn segments_and_fragments() {
    refused(
        ipv4,
        &[
            (r#"{"mss": 535}"#, "mss: must be 536 to 9000"),
            (r#"{"mss": 9001}"#, "mss: must be 536 to 9000"),
            (r#"{"mss": 1400, "protocol": "udp"}"#, "mss: is for tcp"),
            (
                r#"{"fragments": "by-address", "mode": "full-nat"}"#,
                "fragments: must not be by-address in mode full-nat",
            ),
            (r#"{"fragments": "forward"}"#, "unknown variant `forward`"),
        ],
    );
    refused(ipv6, &[(r#"{"mss": 1219}"#, "mss: must be 1220 to 9000")]);
    refused(quic, &[(r#"{"fragments": "by-address"}"#, "fragments: must not be by-address beside quic")]);
    assert_eq!(patched(ipv6(), r#"{"mss": 1220}"#).unwrap().mss, Some(1_220));
}

#[test]
fn quic_schemes() {
    refused(
        quic,
        &[
            (r#"{"protocol": "tcp"}"#, "quic: is for udp"),
            (r#"{"quic": {"scheme": "quic-lb"}}"#, "quic.server_id_length: is required"),
            (
                r#"{"quic": {"scheme": "quic-lb", "server_id_length": 0}}"#,
                "quic.server_id_length: must be 1 to 8",
            ),
            (
                r#"{"quic": {"scheme": "quic-lb", "server_id_length": 9}}"#,
                "quic.server_id_length: must be 1 to 8",
            ),
            (
                r#"{"quic": {"scheme": "quic-lb", "server_id_length": 2, "config_id": 7}}"#,
                "quic.config_id: must be 0 to 6",
            ),
            (r#"{"quic": {"scheme": "katran-v1", "config_id": 0}}"#, "quic.config_id: is for scheme quic-lb"),
            (
                r#"{"quic": {"scheme": "katran-v2", "server_id_length": 3}}"#,
                "quic.server_id_length: is for scheme quic-lb",
            ),
            (r#"{"quic": null}"#, "backends[0].server_id: is for a service with quic"),
            (r#"{"quic": ["quic-lb", 0, 2]}"#, "invalid type: sequence, expected an object"),
        ],
    );
}

#[test]
fn server_ids() {
    const QUIC_LB: &str = r#"{"scheme": "quic-lb", "server_id_length": 2}"#;
    const KATRAN_1: &str = r#"{"scheme": "katran-v1"}"#;
    const KATRAN_2: &str = r#"{"scheme": "katran-v2"}"#;
    let with = |scheme: &str, id: &str| {
        patched(
            quic(),
            &format!(r#"{{"quic": {scheme}, "backends": [{{"address": "10.1.0.1", "server_id": {id}}}]}}"#),
        )
    };
    for (scheme, id, expected) in [
        (QUIC_LB, r#""0a1b""#, Ok(0x0a1b)),
        (QUIC_LB, r#""0A1B""#, Ok(0x0a1b)),
        (QUIC_LB, r#""a1b""#, Err("backends[0].server_id: must be 4 hexadecimal digits in quotes: 2 bytes")),
        (QUIC_LB, r#""+a1b""#, Err("backends[0].server_id: must be 4 hex")),
        (QUIC_LB, "17", Err("backends[0].server_id: must be 4 hex")),
        (KATRAN_1, "65535", Ok(65_535)),
        (KATRAN_1, "65536", Err("backends[0].server_id: must be 0 to 65535, or 4 hexadecimal digits")),
        (KATRAN_1, r#""00ff""#, Ok(255)),
        (KATRAN_1, r#""0000ff""#, Err("backends[0].server_id: must be 0 to 65535")),
        (KATRAN_2, "16777215", Ok(16_777_215)),
        (KATRAN_2, "16777216", Err("backends[0].server_id: must be 0 to 16777215, or 6 hex")),
        (KATRAN_2, r#""0000ff""#, Ok(255)),
        (KATRAN_2, "-1", Err("invalid value: integer `-1`, expected hexadecimal digits")),
        (KATRAN_2, "true", Err("invalid type: boolean `true`, expected hexadecimal digits")),
    ] {
        match (with(scheme, id), expected) {
            (Ok(service), Ok(expected)) => {
                let found: Vec<_> = service.backends.values().map(|backend| backend.server_id).collect();
                assert_eq!(found, [Some(expected)], "{scheme} {id}");
            }
            (Err(errors), Err(expected)) => assert!(errors[0].starts_with(expected), "{id}: {errors:?}"),
            (found, expected) => panic!("{scheme} {id}: {found:?}, expected {expected:?}"),
        }
    }
    let eight = r#"{"scheme": "quic-lb", "config_id": 6, "server_id_length": 8}"#;
    let service = with(eight, r#""ffffffffffffffff""#).unwrap();
    assert_eq!(service.quic, Some(Quic::QuicLb { config_id: 6, server_id_length: 8 }));
    assert_eq!(service.backends.values().next().unwrap().server_id, Some(u64::MAX));
    refused(
        quic,
        &[(
            r#"{"backends": [{"address": "10.1.0.1", "server_id": "0001"}, {"address": "10.1.0.2", "server_id": "0001"}]}"#,
            "backends[1].server_id: is the server id of backends[0] too",
        )],
    );
    let spec: BackendSpec =
        serde_json::from_value(json!({ "address": "10.1.0.2", "server_id": "0a1b" })).unwrap();
    let errors = crate::model::Backend::new(&spec, &patched(quic(), "{}").unwrap()).unwrap_err();
    assert_eq!(errors, [FieldError::new("server_id", "is the server id of 10.1.0.1:443 too")]);
}

fn udp() -> Value {
    json!({ "name": "a", "address": "10.0.0.1", "port": 53, "protocol": "udp", "backends": [{ "address": "10.1.0.1" }] })
}

#[test]
fn choices_that_make_no_sense() {
    const WHOSE: &str = "whose choice no packet shows";
    for algorithm in ["round-robin", "random", "least-connections", "least-response-time", "power-of-two"] {
        refused(
            ipv4,
            &[
                (
                    &format!(r#"{{"algorithm": "{algorithm}", "tracking": "on-change"}}"#),
                    &format!("tracking: must be every-flow for algorithm {algorithm}, {WHOSE}"),
                ),
                (
                    &format!(r#"{{"algorithm": "{algorithm}", "fragments": "by-address"}}"#),
                    "algorithm: must be left out beside fragments by-address, where the addresses alone decide",
                ),
            ],
        );
        let patch = format!(r#"{{"algorithm": "{algorithm}", "connectionless": true}}"#);
        refused(
            udp,
            &[(&patch, &format!("connectionless: must not stand beside algorithm {algorithm}, {WHOSE}"))],
        );
    }
    refused(
        ipv4,
        &[
            (r#"{"algorithm": "least"}"#, "unknown variant `least`"),
            (r#"{"tracking": "none"}"#, "unknown variant `none`"),
            (r#"{"algorithm": "source-hash", "fragments": "by-address"}"#, "algorithm: must be left out"),
            (r#"{"tracking": "every-flow", "fragments": "by-address"}"#, "tracking: must be left out"),
            (r#"{"affinity_seconds": 9, "fragments": "by-address"}"#, "affinity_seconds: must be left out"),
            (
                r#"{"algorithm": "source-hash", "mode": "full-nat", "tracking": "on-change"}"#,
                "tracking: must be every-flow for algorithm source-hash in mode full-nat",
            ),
            (
                r#"{"affinity_seconds": 9, "tracking": "on-change"}"#,
                "tracking: must be every-flow for affinity_seconds, which remembers clients",
            ),
            (r#"{"affinity_seconds": 86401}"#, "affinity_seconds: must be 0 to 86400"),
            (r#"{"client_prefix": 24}"#, "client_prefix: is for algorithm source-hash, or beside"),
            (r#"{"client_prefix": 33, "algorithm": "source-hash"}"#, "client_prefix: must be 1 to 32"),
            (r#"{"client_prefix": 0, "affinity_seconds": 9}"#, "client_prefix: must be 1 to 32"),
            (r#"{"slow_start_seconds": 3601}"#, "slow_start_seconds: must be 0 to 3600"),
            (r#"{"panic_threshold_percent": 101}"#, "panic_threshold_percent: must be 0 to 100"),
            (r#"{"min_active_backends": 0}"#, "min_active_backends: must be 1 to"),
        ],
    );
    refused(
        ipv6,
        &[(r#"{"client_prefix": 129, "algorithm": "source-hash"}"#, "client_prefix: must be 1 to 128")],
    );
    refused(
        udp,
        &[
            (
                r#"{"connectionless": true, "tracking": "on-change"}"#,
                "tracking: must be left out beside connectionless, which remembers nothing",
            ),
            (
                r#"{"connectionless": true, "affinity_seconds": 9}"#,
                "connectionless: must not stand beside affinity_seconds, which remembers clients",
            ),
        ],
    );
    refused(
        quic,
        &[
            (r#"{"algorithm": "source-hash"}"#, "algorithm: must be left out beside quic"),
            (r#"{"affinity_seconds": 9}"#, "affinity_seconds: must be left out beside quic"),
        ],
    );
    let every = patched(
        udp(),
        r#"{"connectionless": true, "tracking": "every-flow", "algorithm": "random", "slow_start_seconds": 9999}"#,
    );
    assert_eq!(every.unwrap_err().len(), 3, "all broken rules are told at once");
}

#[test]
fn groups_and_caps_of_backends() {
    let backends =
        |fields: &str, more: &str| format!(r#"{{"backends": [{{"address": "10.1.0.1", {fields}}}]{more}}}"#);
    let rows = [
        (backends(r#""priority": 16"#, ""), "backends[0].priority: must be 0 to 15"),
        (
            backends(r#""priority": 1, "fallback": true"#, ""),
            "backends[0].priority: must be left out beside fallback: fallbacks are the last group",
        ),
        (
            backends(r#""max_connections": 67108865"#, ""),
            "backends[0].max_connections: must be 0 to 67108864",
        ),
        (
            backends(r#""max_connections": 9"#, r#", "tracking": "on-change""#),
            "backends[0].max_connections: needs tracking every-flow: what is not remembered is not counted",
        ),
        (
            backends(r#""max_connections": 9"#, r#", "fragments": "by-address""#),
            "backends[0].max_connections: must be left out beside fragments by-address",
        ),
        (
            backends(r#""max_connections": 9"#, r#", "connectionless": true, "protocol": "udp""#),
            "backends[0].max_connections: must be left out of a connectionless service, which counts nothing",
        ),
    ];
    for (patch, expected) in &rows {
        refused(ipv4, &[(patch, expected)]);
    }
    let capped = patched(ipv4(), &backends(r#""max_connections": 9, "priority": 15"#, "")).unwrap();
    assert_eq!(capped.tracking, Tracking::EveryFlow, "a cap asks for it");
    let spec: BackendSpec =
        serde_json::from_value(json!({ "address": "10.1.0.2", "max_connections": 1 })).unwrap();
    let errors = crate::model::Backend::new(&spec, &patched(ipv4(), "{}").unwrap()).unwrap_err();
    assert_eq!(errors[0].field, "max_connections");
}

/// A patch of one field changes what follows from it.
#[test]
fn tracking_follows_unless_it_was_chosen() {
    let base = |patch: &str| patched(ipv4(), patch).unwrap().spec().without_consequences().tracking;
    assert_eq!(base("{}"), None);
    assert_eq!(base(r#"{"algorithm": "random"}"#), None);
    assert_eq!(base(r#"{"tracking": "every-flow"}"#), Some(TrackingName::EveryFlow));
}

/// What is shown and stored makes the same service again.
#[test]
fn a_service_is_what_its_spec_says() {
    for (base, patch) in [
        (ipv4 as fn() -> Value, "{}"),
        (ipv4, r#"{"mode": "full-nat", "mss": 1400, "answer_echo": true, "fragments": "pass"}"#),
        (ipv4, r#"{"port": null, "ports": "8000-8999", "health_check": {"type": "tcp", "port": 8000}}"#),
        (ipv4, r#"{"address": "203.0.113.0/24", "mode": "dsr-ipip", "backends": [{"address": "fd00::1"}]}"#),
        (ipv6, r#"{"address": "2001:db8:1::/64", "mode": "dsr-gue", "port": null, "ports": "any"}"#),
        (ipv6, r#"{"mode": "dsr-l2", "fragments": "by-address", "answer_arp": false}"#),
        (ipv4, r#"{"algorithm": "source-hash", "client_prefix": 24, "tracking": "every-flow"}"#),
        (ipv6, r#"{"algorithm": "least-connections", "affinity_seconds": 60, "client_prefix": 64}"#),
        (
            ipv4,
            r#"{"slow_start_seconds": 30, "panic_threshold_percent": 50, "min_active_backends": 2, "backends": [
                {"address": "10.1.0.1", "max_connections": 9, "priority": 3}, {"address": "10.1.0.2", "fallback": true}
            ]}"#,
        ),
        (udp, r#"{"connectionless": true, "algorithm": "source-hash"}"#),
        (quic, "{}"),
        (quic, r#"{"quic": {"scheme": "katran-v1"}, "backends": [{"address": "10.1.0.1", "server_id": 7}]}"#),
        (
            quic,
            r#"{"quic": {"scheme": "katran-v2"}, "backends": [{"address": "10.1.0.1", "server_id": "0000ff"}]}"#,
        ),
        (quic, r#"{"quic": {"scheme": "quic-lb", "server_id_length": 8, "config_id": 3}, "backends": []}"#),
    ] {
        let service = patched(base(), patch).unwrap();
        let text = serde_json::to_string(&service.spec()).unwrap();
        let again: ServiceSpec = serde_json::from_str(&text).unwrap();
        assert_eq!(Service::new(&again).as_ref(), Ok(&service), "{text}");
        assert_eq!(again, service.spec());
    }
}
