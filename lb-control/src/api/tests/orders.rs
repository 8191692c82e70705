//! Orders that are accepted.

use super::*;
use crate::model::Health;

#[tokio::test]
async fn a_service_lives_from_post_to_delete() {
    let api = Api::new();
    let created = api.send("POST", "/v1/services", shop()).await;
    assert_eq!(created.status, 201, "{}", created.text);
    assert_eq!(created.headers[header::LOCATION], "/v1/services/shop");
    assert_eq!(created.headers[header::ETAG], "\"1\"");
    let shown = created.json();
    assert_eq!(shown["generation"], 1);
    assert_eq!(shown["flow_idle_seconds"], 300);
    assert_eq!(shown["health_check"]["timeout_ms"], 1000);
    assert_eq!(shown["backends"][0]["address"], "10.1.0.1", "in the order of their addresses");
    assert_eq!(shown["backends"][1]["weight"], 2);
    assert_eq!(shown["status"]["installed"], false);

    let read = api.send("GET", "/v1/services/shop", None).await;
    assert_eq!(read.json(), shown);
    let list = api.send("GET", "/v1/services", None).await.json();
    assert_eq!(list["services"][0]["name"], "shop");

    let again = api.send("PUT", "/v1/services/shop", read.json()).await;
    assert_eq!(
        (again.status, again.json()["generation"].as_u64()),
        (200, Some(1)),
        "what is read can be sent"
    );

    let patched = api.send("PATCH", "/v1/services/shop", json!({"on_failure": "keep"})).await;
    assert_eq!((patched.status, patched.json()["on_failure"].as_str()), (200, Some("keep")));
    let reset =
        api.send("PATCH", "/v1/services/shop", json!({"on_failure": null, "health_check": null})).await;
    assert_eq!(reset.json()["on_failure"], "resteer");
    assert_eq!(reset.json()["health_check"], Value::Null);

    api.eyes.show_backend("shop", "10.1.0.1:8080", 3, 3);
    let deleted = api.send("DELETE", "/v1/services/shop", None).await;
    assert_eq!((deleted.status, deleted.json()), (200, json!({"generation": 4, "tracked_flows_cut": 3})));
    assert_eq!(api.send("GET", "/v1/services/shop", None).await.status, 404);
}

#[tokio::test]
async fn put_creates_replaces_and_counts_what_it_cuts() {
    let api = Api::new();
    let mut body = shop();
    body.as_object_mut().unwrap().remove("name");
    assert_eq!(api.send("PUT", "/v1/services/shop", body.clone()).await.status, 201);
    api.eyes.show_backend("shop", "10.1.0.2:8080", 4, 1);
    body["backends"] = json!([{ "address": "10.1.0.1", "port": 8080 }]);
    let replaced = api.send("PUT", "/v1/services/shop", body).await;
    assert_eq!(replaced.status, 200);
    assert_eq!(replaced.json()["status"]["tracked_flows_cut"], 4);
    assert_eq!(api.desired.current().services["shop"].backends.len(), 1);
}

#[tokio::test]
async fn a_backend_lives_from_post_to_delete() {
    let api = Api::with_shop().await;
    let backends = "/v1/services/shop/backends";
    let one = "/v1/services/shop/backends/10.1.0.3:80";
    let added = api.send("POST", backends, json!({"address": "10.1.0.3"})).await;
    assert_eq!(added.status, 201, "{}", added.text);
    assert_eq!(added.headers[header::LOCATION], one);
    assert_eq!((added.json()["port"].as_u64(), added.json()["weight"].as_u64()), (Some(80), Some(1)));
    assert_eq!(added.json()["status"]["state"], "up");
    assert_eq!(api.send("GET", backends, None).await.json()["backends"].as_array().unwrap().len(), 3);

    assert_eq!(api.send("PATCH", one, json!({"weight": 0})).await.json()["weight"], 0);
    assert_eq!(api.send("PUT", one, json!({"weight": 9})).await.json()["weight"], 9);
    assert_eq!(api.send("PUT", "/v1/services/shop/backends/10.1.0.4:80", json!({})).await.status, 201);

    api.eyes.show_backend("shop", "10.1.0.3:80", 12, 5);
    let deleted = api.send("DELETE", one, None).await;
    assert_eq!(deleted.json(), json!({"generation": 6, "tracked_flows_cut": 12}));
    assert_eq!(api.send("GET", one, None).await.status, 404);
}

#[tokio::test]
async fn backends_without_ports_are_named_by_their_address() {
    let api = Api::new();
    let media = json!({
        "name": "media", "address": "2001:db8:1::/64", "ports": "8000-8999", "mode": "dsr-gue", "protocol": "udp",
        "quic": {"scheme": "katran-v1"}, "backends": [{"address": "10.1.0.1", "server_id": 7}],
    });
    let created = api.send("POST", "/v1/services", media).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let shown = created.json();
    assert_eq!((&shown["ports"], &shown["port"]), (&json!("8000-8999"), &Value::Null));
    assert_eq!((&shown["answer_arp"], &shown["quic"]), (&json!(false), &json!({"scheme": "katran-v1"})));
    let again = api.send("PUT", "/v1/services/media", shown).await;
    assert_eq!((again.status, again.json()["generation"].as_u64()), (200, Some(1)), "{}", again.text);

    let backends = "/v1/services/media/backends";
    let added = api.send("POST", backends, json!({"address": "fd00::1", "server_id": "00ff"})).await;
    assert_eq!(added.headers[header::LOCATION], format!("{backends}/fd00::1"), "{}", added.text);
    assert_eq!((&added.json()["port"], &added.json()["server_id"]), (&Value::Null, &json!(255)));
    let one = format!("{backends}/10.1.0.1");
    assert_eq!(api.send("PUT", &one, json!({"weight": 4, "server_id": 7})).await.json()["weight"], 4);
    let same = api.send("PATCH", &one, json!({"server_id": 255})).await;
    assert_eq!(same.errors(), ["server_id: is the server id of fd00::1 too"]);
    assert_eq!(api.send("PATCH", &one, json!({"server_id": null})).await.json()["server_id"], Value::Null);
    assert_eq!(api.send("POST", &format!("{one}/drain"), None).await.json()["status"]["state"], "draining");
    let v6 = format!("{backends}/%5Bfd00::1%5D:0");
    assert_eq!(api.send("DELETE", &v6, None).await.status, 200, "port 0 says the same");
}

#[tokio::test]
async fn fragments_go_from_drop_to_pass_on_a_live_service() {
    let api = Api::with_shop().await;
    let patched = api.send("PATCH", "/v1/services/shop", json!({"fragments": "pass"})).await;
    assert_eq!((patched.status, &patched.json()["fragments"]), (200, &json!("pass")));
}

#[tokio::test]
async fn the_choice_of_backends_changes_on_a_live_service() {
    let api = Api::with_shop().await;
    let shop = "/v1/services/shop";
    let patch = async |fields: Value| api.send("PATCH", shop, fields).await.json();
    assert_eq!(api.send("GET", shop, None).await.json()["tracking"], "on-change");
    let least = patch(json!({"algorithm": "least-connections"})).await;
    assert_eq!(
        (&least["algorithm"], &least["tracking"]),
        (&json!("least-connections"), &json!("every-flow"))
    );
    let backend = "/v1/services/shop/backends/10.1.0.2:8080";
    let capped = api.send("PATCH", backend, json!({"max_connections": 5, "priority": 2})).await.json();
    assert_eq!((&capped["max_connections"], &capped["priority"]), (&json!(5), &json!(2)));
    assert_eq!(capped["status"]["state"], "standby", "the first group is enough");
    assert_eq!(patch(json!({"min_active_backends": 2})).await["backends"][1]["status"]["state"], "up");
    let sent_back = api.send("PUT", shop, api.send("GET", shop, None).await.json()).await;
    assert_eq!(sent_back.status, 200, "{}", sent_back.text);
    // The cap still asks for it.
    assert_eq!(patch(json!({"algorithm": null})).await["tracking"], "every-flow");
    api.send("PATCH", backend, json!({"max_connections": null})).await;
    let all = json!({"affinity_seconds": 30, "client_prefix": 24, "slow_start_seconds": 9, "panic_threshold_percent": 40});
    let shown = patch(all.clone()).await;
    for (key, value) in all.as_object().unwrap() {
        assert_eq!(&shown[key], value, "{key}");
    }
    assert_eq!(patch(json!({"affinity_seconds": 0, "client_prefix": null})).await["tracking"], "on-change");
}

#[tokio::test]
async fn clients_of_a_source_hash_stay() {
    let api = Api::new();
    let mut service = shop();
    (service["algorithm"], service["client_prefix"]) = ("source-hash".into(), 24.into());
    assert_eq!(api.send("POST", "/v1/services", service).await.json()["tracking"], "on-change");
    for (patch, expected) in [
        (
            json!({"algorithm": "maglev", "client_prefix": null}),
            "algorithm: cannot change to or from source-hash",
        ),
        (json!({"client_prefix": 16}), "client_prefix: cannot change with algorithm source-hash"),
        (json!({"client_prefix": null}), "client_prefix: cannot change with algorithm source-hash"),
    ] {
        let refused = api.send("PATCH", "/v1/services/shop", patch.clone()).await;
        assert_eq!(refused.status, 422, "{patch}");
        assert!(refused.errors()[0].starts_with(expected), "{patch}: {}", refused.text);
    }
    let patch = json!({"tracking": "every-flow", "affinity_seconds": 60});
    assert_eq!(api.send("PATCH", "/v1/services/shop", patch).await.status, 200);
}

#[tokio::test]
async fn a_dry_run_is_refused_like_the_order_or_tells_what_it_would_do() {
    let api = Api::with_shop().await;
    let before = api.desired.current();
    let backend = "/v1/services/shop/backends/10.1.0.2:8080";
    let more = json!({"address": "10.1.0.9"});
    for (method, path, body, status, moved) in [
        ("DELETE", backend, Value::Null, 200, 100),
        ("DELETE", "/v1/services/shop", Value::Null, 200, 200),
        ("POST", "/v1/services/shop/backends", more.clone(), 200, 100),
        ("PUT", "/v1/services/shop/backends/10.1.0.9:80", more, 200, 100),
        ("PATCH", backend, json!({"weight": 9}), 200, 0),
        ("PATCH", "/v1/services/shop", json!({"backends": []}), 200, 200),
        ("PUT", "/v1/services/shop", shop(), 200, 0),
        ("POST", &format!("{backend}/drain"), Value::Null, 200, 0),
        ("DELETE", &format!("{backend}/drain"), Value::Null, 200, 0),
        ("POST", "/v1/services", shop(), 409, 0),
        ("PATCH", backend, json!({"weight": 1_001}), 422, 0),
        ("POST", "/v1/services/shop/backends", json!({"address": "10.9.1.1"}), 422, 0),
        ("DELETE", "/v1/services/pay", Value::Null, 404, 0),
    ] {
        let body = (!body.is_null()).then_some(body);
        let told = api.send(method, &format!("{path}?dry_run=true"), body).await;
        assert_eq!(told.status, status, "{method} {path}: {}", told.text);
        if status == 200 {
            let told = told.json();
            assert_eq!(
                (&told["slots_moved"], &told["generation"]),
                (&json!(moved), &json!(1)),
                "{method} {path}"
            );
        }
        assert!(Arc::ptr_eq(&before, &api.desired.current()), "{method} {path}");
    }
    for (query, expected) in [
        ("dry_run=yes", "dry_run: must be true or false"),
        ("dry_run=true&wait=installed", "wait: must be left out beside dry_run"),
        ("dryrun=true", ": parameters are wait and dry_run"),
    ] {
        let answer = api.send("DELETE", &format!("{backend}?{query}"), None).await;
        assert!(answer.status == 400 && answer.errors()[0].starts_with(expected), "{query}: {}", answer.text);
    }
    assert_eq!(
        api.send("PATCH", &format!("{backend}?dry_run=false"), json!({"weight": 9})).await.json()["weight"],
        9
    );
}

#[tokio::test]
async fn a_drain_with_resets_is_for_tcp_and_is_shown() {
    let api = Api::with_shop().await;
    let mut dns = shop();
    (dns["name"], dns["port"], dns["protocol"]) = ("dns".into(), 53.into(), "udp".into());
    dns["backends"] = json!([{"address": "10.1.0.7"}]);
    assert_eq!(api.send("POST", "/v1/services", dns).await.status, 201);
    let order = |deadline: u64| json!({"on_deadline": "reset", "deadline_seconds": deadline});
    let udp = api.send("POST", "/v1/services/dns/backends/10.1.0.7:53/drain", order(9)).await;
    assert_eq!(udp.errors(), ["on_deadline: must be resteer: udp has no resets"]);
    let drain = "/v1/services/shop/backends/10.1.0.2:8080/drain";
    let begun = api.send("POST", drain, order(9)).await.json();
    assert_eq!(
        (&begun["status"]["drain"]["on_deadline"], &begun["status"]["state"]),
        (&json!("reset"), &json!("draining"))
    );
    assert_eq!(api.send("POST", drain, order(0)).await.json()["status"]["state"], "cut");
}

#[tokio::test]
async fn a_drain_ends_in_a_proof() {
    let api = Api::with_shop().await;
    let backend = "/v1/services/shop/backends/10.1.0.2:8080";
    let drain = format!("{backend}/drain");
    let begun = api.send("POST", &drain, None).await;
    assert_eq!(begun.status, 200, "{}", begun.text);
    assert_eq!(begun.json()["status"]["state"], "draining");
    assert_eq!(begun.json()["status"]["drain"]["deadline_unix_seconds"], Value::Null);
    let done = async || api.send("GET", backend, None).await.json()["status"]["drain"]["done"].clone();
    assert_eq!(done().await, false, "not installed yet");
    api.eyes.show_backend("shop", "10.1.0.2:8080", 3, 2);
    assert_eq!(done().await, false, "3 flows left");
    api.eyes.show_backend("shop", "10.1.0.2:8080", 0, 2);
    assert_eq!(done().await, true);

    assert_eq!(api.send("PATCH", backend, json!({"weight": 5})).await.json()["status"]["state"], "draining");
    assert_eq!(api.send("PUT", "/v1/services/shop", shop()).await.status, 200);
    assert_eq!(api.send("GET", backend, None).await.json()["status"]["state"], "draining", "a drain goes on");
    assert_eq!(api.send("DELETE", &drain, None).await.json()["status"]["state"], "up");
    let cut = api.send("POST", &drain, json!({"deadline_seconds": 0})).await.json();
    assert_eq!((&cut["status"]["state"], &cut["status"]["drain"]["done"]), (&json!("down"), &json!(true)));
}

#[tokio::test]
async fn conditions_hold_against_orders_and_not_against_health() {
    let api = Api::with_shop().await;
    let patch = async |if_match: &str, weight: u32| {
        let body = json!({ "weight": weight }).to_string();
        let path = "/v1/services/shop/backends/10.1.0.2:8080";
        api.send_with("PATCH", path, &[("if-match", if_match)], body).await.status
    };
    assert_eq!(patch("\"1\"", 3).await, 200);
    assert_eq!(patch("\"1\"", 4).await, 412, "generation 2 changed it");
    assert_eq!(patch("\"9\"", 4).await, 412, "there is no generation 9 yet");
    assert_eq!(api.desired.set_health("shop", "10.1.0.2:8080".parse().unwrap(), Health::Down), Some(3));
    assert_eq!(patch("\"2\"", 5).await, 200, "a verdict is no order");
    assert_eq!(patch("*", 6).await, 200);
    assert_eq!(patch("\"x\"", 7).await, 400);
}

#[tokio::test]
async fn waits_until_installed() {
    let api = Api::with_shop().await;
    let path = "/v1/services/shop/backends/10.1.0.2:8080?wait=installed";
    let eyes = api.eyes.clone();
    let order = api.send("PATCH", path, json!({"weight": 3}));
    let (answer, ()) = tokio::join!(order, async {
        while api.desired.current().generation < 2 {
            tokio::task::yield_now().await;
        }
        eyes.show_backend("shop", "10.1.0.2:8080", 0, 2);
    });
    assert_eq!((answer.status, answer.json()["status"]["installed"]["id"].as_u64()), (200, Some(7)));
    assert_eq!(api.send("PATCH", &path.replace("installed", "x"), json!({})).await.status, 400);
}
