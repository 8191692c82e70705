//! Orders that are refused: the answer names field and rule, and nothing changes.

use proptest::prelude::*;

use super::*;

/// Patches of a good service `pay` on 10.0.0.2:443, and the answer to its creation beside `shop`.
const CREATIONS: &[(&str, u16, &str)] = &[
    (r#"{"name": "shop"}"#, 409, "name: is taken: service shop exists"),
    (r#"{"name": "Shop"}"#, 422, "name: must be 1 to 63 characters of a-z, 0-9 and -"),
    (r#"{"name": null}"#, 422, "name: is required"),
    (r#"{"address": "10.0.0.1", "port": 80}"#, 409, "address: 10.0.0.1:80 tcp belongs to service shop"),
    (r#"{"address": null}"#, 422, "address: is required"),
    (r#"{"address": "10.0.0"}"#, 422, "address: must be an IP address, like 192.0.2.10, or a network"),
    (r#"{"address": "fe80::1"}"#, 422, "address: must not be link-local"),
    (r#"{"address": "2001:db8::1"}"#, 422, "backends[0].address: must be IPv6 like the service's"),
    (r#"{"port": null}"#, 422, "port: is required; or ports, for a service of several"),
    (r#"{"ports": "any"}"#, 422, "ports: must not stand beside port"),
    (
        r#"{"address": "10.0.0.1", "fragments": "pass"}"#,
        422,
        "fragments: must be drop and not pass: fragments have no ports, and service shop has 10.0.0.1 tcp too",
    ),
    (
        r#"{"mode": "full-nat"}"#,
        422,
        "mode: full-nat sends from IPv4 addresses of the balancer: set full_nat.addresses",
    ),
    (r#"{"mss": 100}"#, 422, "mss: must be 536 to 9000"),
    (r#"{"quic": {"scheme": "katran-v1"}}"#, 422, "quic: is for udp"),
    (r#"{"address": "224.0.0.1"}"#, 422, "address: must be a unicast address that other hosts can reach"),
    (
        r#"{"address": "10.1.0.2"}"#,
        422,
        "address: 10.1.0.2 is the virtual address of service pay (backend 10.1.0.2:8080 of service shop)",
    ),
    (r#"{"port": 0}"#, 422, "port: must be 1 to 65535"),
    (r#"{"port": 70000}"#, 422, "port: invalid value: integer `70000`, expected u16"),
    (r#"{"protocol": "sctp"}"#, 422, "protocol: unknown variant `sctp`, expected `tcp` or `udp`"),
    (r#"{"connectionless": true}"#, 422, "connectionless: is for udp: a tcp flow is a connection"),
    (r#"{"flow_idle_seconds": 0}"#, 422, "flow_idle_seconds: must be 1 to 86400"),
    (r#"{"colour": "red"}"#, 422, "colour: is no field; expected one of"),
    (r#"{"mode": "dsr-l2"}"#, 422, "backends[0].port: must be the service's port 443"),
    (
        r#"{"backends": [{"address": "10.1.1.1", "weight": 1001}]}"#,
        422,
        "backends[0].weight: must be 0 to 1000",
    ),
    (
        r#"{"backends": [{"address": "10.1.1.1"}, {"address": "::1"}]}"#,
        422,
        "backends[1].address: must be a unicast address that other hosts can reach",
    ),
    (
        r#"{"backends": [{"address": "10.1.1.1"}, {"address": "10.1.1.1"}]}"#,
        422,
        "backends[1]: is the same as backends[0]: 10.1.1.1:443",
    ),
    (
        r#"{"backends": [{"address": "10.1.1.1"}, {"address": "10.1.0.2", "port": 8080}]}"#,
        422,
        "backends[1].address: 10.1.0.2:8080 is a backend of service shop",
    ),
    (
        r#"{"backends": [{"address": "10.0.0.1"}]}"#,
        422,
        "backends[0].address: 10.0.0.1 is the virtual address of service shop",
    ),
    (
        r#"{"backends": [{"address": "10.1.1.1"}, {"address": "10.9.9.9"}]}"#,
        422,
        "backends[1].address: no route to 10.9.9.9",
    ),
    (r#"{"backends": [{"address": "10.1.1.1", "wieght": 1}]}"#, 422, "backends[0].wieght: is no field"),
    (r#"{"health_check": {}}"#, 422, "health_check.type: is required"),
    (
        r#"{"health_check": {"type": "tcp", "interval_ms": 99}}"#,
        422,
        "health_check.interval_ms: must be 100 to 3600000",
    ),
    (
        r#"{"health_check": {"type": "tcp", "timeout_ms": 2001}}"#,
        422,
        "health_check.timeout_ms: must be 1 to the interval, 2000",
    ),
    (r#"{"health_check": {"type": "tcp", "rise": 0}}"#, 422, "health_check.rise: must be 1 to 100"),
    (r#"{"health_check": {"type": "tcp", "path": "/"}}"#, 422, "health_check.path: is for type http"),
    (r#"{"health_check": {"type": "http", "path": "/a b"}}"#, 422, "health_check.path: must begin with /"),
    (r#"{"health_check": {"type": "http", "host": "a\r\nb"}}"#, 422, "health_check.host: must have"),
    (
        r#"{"health_check": {"type": "http", "status": [500, 200]}}"#,
        422,
        "health_check.status: must be the lowest",
    ),
];

fn pay(patch: &str) -> Value {
    let mut body = json!({
        "name": "pay",
        "address": "10.0.0.2",
        "port": 443,
        "backends": [{ "address": "10.2.0.1", "port": 8443 }],
    });
    body::merge(&mut body, serde_json::from_str(patch).unwrap());
    body
}

#[tokio::test]
async fn creations() {
    let api = Api::with_shop().await;
    let before = api.desired.current();
    for (patch, status, error) in CREATIONS {
        let answer = api.send("POST", "/v1/services", pay(patch)).await;
        assert_eq!(answer.status, *status, "{patch}: {}", answer.text);
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json");
        assert!(answer.errors().iter().any(|found| found.starts_with(error)), "{patch}: {}", answer.text);
        assert!(answer.json()["type"].as_str().unwrap().starts_with("urn:portcullis:problem:"));
        assert!(Arc::ptr_eq(&before, &api.desired.current()), "{patch} changed the state");
    }
    assert_eq!(api.send("POST", "/v1/services", pay("{}")).await.status, 201);
}

#[tokio::test]
async fn backends_without_ports_are_named_without() {
    let api = Api::new();
    let media = json!({
        "name": "media", "address": "10.0.0.1", "ports": "any", "backends": [{ "address": "10.1.0.2" }],
    });
    assert_eq!(api.send("POST", "/v1/services", media).await.status, 201);
    for (service, expected) in [
        (
            json!({ "name": "pay", "address": "10.1.0.0/24", "port": 80, "mode": "dsr-ipip" }),
            "address: 10.1.0.2 is in 10.1.0.0/24, the virtual addresses of service pay (backend 10.1.0.2 of service \
             media)",
        ),
        (
            json!({ "name": "pay", "address": "10.0.0.2", "ports": "1-9", "backends": [{ "address": "10.1.0.2" }] }),
            "backends[0].address: 10.1.0.2 is a backend of service media: the two could not tell its replies apart",
        ),
    ] {
        assert_eq!(api.send("POST", "/v1/services", service).await.errors(), [expected]);
    }
    let twice = api.send("POST", "/v1/services/media/backends", json!({"address": "10.1.0.2"})).await;
    assert!(twice.json()["detail"].as_str().unwrap().ends_with("has the backend 10.1.0.2"), "{}", twice.text);
}

#[tokio::test]
async fn changes_of_what_is_live() {
    let api = Api::with_shop().await;
    let fixed = "cannot change on a live service";
    let backend = "/v1/services/shop/backends/10.1.0.2:8080";
    for (method, path, body, status, error) in [
        ("PATCH", "/v1/services/shop", json!({"address": "10.0.0.9"}), 422, format!("address: {fixed}")),
        ("PATCH", "/v1/services/shop", json!({"port": 81}), 422, format!("port: {fixed}")),
        ("PATCH", "/v1/services/shop", json!({"protocol": "udp"}), 422, format!("protocol: {fixed}")),
        ("PATCH", "/v1/services/shop", json!({"name": "pay"}), 422, "name: cannot change".into()),
        ("PATCH", "/v1/services/shop", json!({"port": null}), 422, "port: is required".into()),
        (
            "PATCH",
            "/v1/services/shop",
            json!({"port": null, "ports": "any", "health_check": null, "backends": []}),
            422,
            format!("ports: {fixed}"),
        ),
        (
            "PATCH",
            "/v1/services/shop",
            json!({"fragments": "by-address"}),
            422,
            "fragments: cannot change to or from by-address on a live service".into(),
        ),
        ("PATCH", backend, json!({"server_id": 1}), 422, "server_id: is for a service with quic".into()),
        ("PATCH", "/v1/services/shop", json!([1]), 422, ": invalid type".into()),
        (
            "PATCH",
            "/v1/services/shop",
            json!({"backends": [{"address": "10.9.0.1"}]}),
            422,
            "backends[0].address: no route".into(),
        ),
        ("PUT", "/v1/services/shop", pay("{}"), 422, "name: cannot change".into()),
        ("PATCH", backend, json!({"weight": -1}), 422, "weight: invalid value".into()),
        ("PATCH", backend, json!({"port": 81}), 422, "port: cannot change".into()),
        ("PATCH", backend, json!({"colour": 1}), 422, "colour: is no field".into()),
        (
            "PUT",
            "/v1/services/shop/backends/10.9.1.1:80",
            json!({}),
            422,
            "address: no route to 10.9.1.1".into(),
        ),
        ("PUT", "/v1/services/shop/backends/x", json!({}), 422, ": the path must end in address:port".into()),
        (
            "POST",
            "/v1/services/shop/backends",
            json!({"address": "10.1.0.2", "port": 8080}),
            409,
            "address: is a backend".into(),
        ),
        (
            "POST",
            "/v1/services/shop/backends/10.1.0.2:8080/drain",
            json!({"deadline": 3}),
            422,
            "deadline: is no field".into(),
        ),
        (
            "POST",
            "/v1/services/shop/backends/10.1.0.2:8080/drain",
            json!({"deadline_seconds": 604_801}),
            422,
            "deadline_seconds: must be".into(),
        ),
        (
            "POST",
            "/v1/services/shop/backends/10.1.0.2:8080/drain",
            json!({"on_deadline": "reset"}),
            422,
            "on_deadline: is for a drain with deadline_seconds".into(),
        ),
        (
            "POST",
            "/v1/services/shop/backends/10.1.0.2:8080/drain",
            json!({"on_deadline": "cut", "deadline_seconds": 1}),
            422,
            "on_deadline: unknown variant `cut`".into(),
        ),
        (
            "PATCH",
            "/v1/services/shop",
            json!({"algorithm": "source-hash"}),
            422,
            "algorithm: cannot change to or from source-hash on a live service, whose clients would all go"
                .into(),
        ),
        (
            "PATCH",
            backend,
            json!({"max_connections": 5}),
            422,
            "max_connections: needs tracking every-flow".into(),
        ),
    ] {
        let before = api.desired.current();
        let answer = api.send(method, path, body.clone()).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.text);
        assert!(answer.errors().iter().any(|found| found.starts_with(&error)), "{body}: {}", answer.text);
        assert!(Arc::ptr_eq(&before, &api.desired.current()));
    }
}

#[tokio::test]
async fn what_is_not_there_and_what_is_no_order() {
    let api = Api::with_shop().await;
    let big = format!("\"{}\"", "x".repeat(BODY_BYTES_MAX));
    let json = [("content-type", "application/json")];
    let pay = r#"{"address":"10.0.0.2","port":80}"#;
    for (method, path, headers, body, status, kind) in [
        ("GET", "/v1/services/pay", &[][..], "", 404, "no-such-service"),
        ("DELETE", "/v1/services/pay", &[], "", 404, "no-such-service"),
        ("PATCH", "/v1/services/pay", &[], "{}", 404, "no-such-service"),
        ("POST", "/v1/services/pay/backends", &[], r#"{"address":"10.1.1.1"}"#, 404, "no-such-service"),
        ("GET", "/v1/services/shop/backends/10.1.0.9:80", &[], "", 404, "no-such-backend"),
        ("DELETE", "/v1/services/shop/backends/nonsense", &[], "", 404, "no-such-backend"),
        ("POST", "/v1/services/shop/backends/10.1.0.9:80/drain", &[], "", 404, "no-such-backend"),
        ("GET", "/v2", &[], "", 404, "no-such-route"),
        ("GET", "/", &[], "", 404, "no-such-route"),
        ("DELETE", "/v1/services", &[], "", 405, "method-not-allowed"),
        ("POST", "/v1/services", &json, "{\n  \"name\": shop}", 400, "malformed-json"),
        ("POST", "/v1/services", &json, "", 400, "malformed-json"),
        ("POST", "/v1/services", &json, "{} {}", 422, "invalid"),
        ("POST", "/v1/services", &[("content-type", "text/xml")], "<a/>", 415, "not-json"),
        ("POST", "/v1/services", &json, &big, 413, "body-too-large"),
        ("POST", "/v1/services?x=1", &json, "{}", 400, "bad-query"),
        ("DELETE", "/v1/services/shop", &[("if-match", "\"0\"")], "", 412, "stale"),
        ("PUT", "/v1/services/pay", &[("if-match", "*")], pay, 412, "nothing-to-match"),
        ("PUT", "/v1/services/pay", &[("if-match", "\"1\"")], pay, 412, "nothing-to-match"),
        (
            "PUT",
            "/v1/services/shop/backends/10.1.0.9:80",
            &[("if-match", "*")],
            "{}",
            412,
            "nothing-to-match",
        ),
        ("PUT", "/v1/services/pay/backends/10.1.0.9:80", &[("if-match", "*")], "{}", 404, "no-such-service"),
        ("DELETE", "/v1/services/pay", &[("if-match", "*")], "", 404, "no-such-service"),
    ] {
        let answer = api.send_with(method, path, headers, body.to_owned()).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
        assert_eq!(answer.json()["type"], format!("urn:portcullis:problem:{kind}"), "{method} {path}");
        assert_eq!(answer.json()["status"], status);
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(api.desired.current().generation, 1);
    }
    let malformed = api.send_with("POST", "/v1/services", &[], "{\n  \"name\": shop}".into()).await;
    assert!(
        malformed.json()["detail"].as_str().unwrap().starts_with("line 2, column 11"),
        "{}",
        malformed.text
    );
    let method = api.send("DELETE", "/v1/services", None).await;
    assert!(method.headers[header::ALLOW].to_str().unwrap().contains("POST"));
}

/// Orders of a small world, in which names, addresses and rules often collide.
fn order() -> impl Strategy<Value = (&'static str, String, Value)> {
    let service = (0..3u8, 0..6usize, prop::collection::vec((0..12u8, 0..4u32), 0..4), 0..8usize, 0..3usize);
    let service = service.prop_map(|(name, vip, backends, options, kind)| {
        let address =
            ["10.0.0.0", "10.0.0.1", "10.0.0.2", "2001:db8::1", "10.0.0.0/24", "2001:db8::/64"][vip];
        let mode = ["nat", "dsr-ipip", "full-nat"][kind];
        let mut service = json!({
            "name": format!("s{name}"),
            "address": address,
            "mode": mode,
            "protocol": if options & 1 == 1 { "udp" } else { "tcp" },
            "fragments": if options & 6 == 6 { "by-address" } else { "drop" },
            "backends": backends.into_iter().map(|(host, weight)| json!({
                // 10.0.0.x may be a virtual address, 10.9.0.x has no route.
                "address": format!("10.{}.0.{}", [0, 1, 9, 1][host as usize % 4], host),
                "weight": weight * 400,
            })).collect::<Vec<_>>(),
        });
        match options & 2 {
            0 => service["port"] = json!(80),
            _ => service["ports"] = ["any", "80-89"][options >> 2].into(),
        }
        service
    });
    let backend = (0..3u8, 0..12u8, 0..4u32).prop_map(|(name, host, weight)| {
        (format!("/v1/services/s{name}/backends/10.1.0.{host}:80"), json!({ "weight": weight * 400 }))
    });
    prop_oneof![
        service.clone().prop_map(|body| ("POST", "/v1/services".to_owned(), body)),
        (0..3u8, service).prop_map(|(name, body)| ("PUT", format!("/v1/services/s{name}"), body)),
        backend.clone().prop_map(|(path, body)| ("PUT", path, body)),
        backend.clone().prop_map(|(path, body)| ("PATCH", path, body)),
        backend.prop_map(|(path, _)| ("DELETE", path, Value::Null)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// A refused order changes nothing; an accepted one is published and in the store when answered.
    #[test]
    fn an_order_is_either_refused_or_stored(orders in prop::collection::vec(order(), 1..25)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut api = Api::over(DesiredState::open(&path).unwrap());
        for (method, target, body) in orders {
            let before = api.desired.current();
            let answer = runtime.block_on(api.send(method, &target, body));
            let after = api.desired.current();
            if answer.status >= 400 {
                prop_assert!(answer.status < 500, "{}", answer.text);
                prop_assert!(Arc::ptr_eq(&before, &after));
            } else if before.services == after.services {
                prop_assert_eq!(before.generation, after.generation);
            } else {
                prop_assert_eq!(before.generation + 1, after.generation);
            }
            drop(api);
            api = Api::over(DesiredState::open(&path).unwrap());
            prop_assert_eq!(&*api.desired.current(), &*after);
        }
    }
}
