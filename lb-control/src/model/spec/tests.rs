//! What one service may say: each rule by what breaks it, and that what is kept says the same.

use serde_json::{Value, json};

use super::*;
use crate::model::{Network, Ports, Quic, Service};

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
