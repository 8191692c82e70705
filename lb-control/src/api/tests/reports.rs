//! What is read only, and the OpenAPI document against the routes and the fields.

use std::collections::BTreeSet;

use super::*;

#[tokio::test]
async fn reports() {
    let api = Api::with_shop().await;
    api.eyes.show_backend("shop", "10.1.0.2:8080", 3, 1);
    let get = async |path: &str| api.send("GET", path, None).await;
    let status = get("/v1/status").await.json();
    assert_eq!((&status["generation"], &status["installed"]), (&json!(1), &json!(true)));
    assert_eq!(status["backends"], json!({"up": 2, "standby": 0, "draining": 0, "down": 0}));
    assert_eq!(status["interfaces"][0]["mode"], "driver");
    assert_eq!(status["flow_table"], json!({"capacity": 1024, "entries": 3, "affinities": 2, "refused": 1}));
    let counters = get("/v1/counters").await.json();
    assert_eq!(counters["services"][0]["backends"][0]["counters"]["packets"], 5);
    assert_eq!(get("/v1/reasons").await.json()["reasons"][0]["count"], 9);
    assert_eq!(get("/v1/interfaces").await.json()["interfaces"][0]["name"], "eth0");
    assert_eq!(get("/healthz").await.json(), json!({"status": "ok"}));
}

#[tokio::test]
async fn metrics_have_help_type_and_bounded_labels() {
    let api = Api::with_shop().await;
    api.eyes.show_backend("shop", "10.1.0.2:8080", 3, 1);
    api.send("GET", "/v1/services/pay", None).await;
    let metrics = api.send("GET", "/metrics", None).await;
    assert_eq!(metrics.headers[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "portcullis_generation 1",
        "portcullis_api_answers_total{outcome=\"ok\"} 1",
        "portcullis_api_answers_total{outcome=\"no-such-service\"} 1",
        "portcullis_packets_total{reason=\"forwarded\"} 9",
        "portcullis_service_slots{service=\"shop\",state=\"moving\"} 20",
        "portcullis_backend_packets_total{service=\"shop\",backend=\"10.1.0.2:8080\"} 5",
        "portcullis_backend_state{service=\"shop\",backend=\"10.1.0.1:8080\"} 1",
        "portcullis_backend_connections{service=\"shop\",backend=\"10.1.0.2:8080\"} 3",
        "portcullis_backend_response_seconds{service=\"shop\",backend=\"10.1.0.2:8080\"} 0.0015",
        "portcullis_backend_overflowed_total{service=\"shop\",backend=\"10.1.0.2:8080\"} 0",
        "portcullis_service_flows_pinned{service=\"shop\"} 11",
        "portcullis_slots_moved_total 20",
        "portcullis_flows_cut_total 6",
        "portcullis_response_samples_dropped_total 0",
        "portcullis_interface_attached{interface=\"eth0\",mode=\"driver\"} 1",
    ] {
        assert!(metrics.text.lines().any(|found| found == line), "{line}\n{}", metrics.text);
    }
    let mut typed = BTreeSet::new();
    for line in metrics.text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            assert!(typed.insert(family.split(' ').next().unwrap()), "{family} twice");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let of_histogram = ["_bucket", "_sum", "_count"].map(|part| name.strip_suffix(part));
            let mut known = [Some(name)].into_iter().chain(of_histogram).flatten();
            assert!(known.any(|family| typed.contains(family)), "{line} has no type");
        }
    }
}

#[tokio::test]
async fn the_openapi_document_describes_the_routes_and_fields() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let methods = ["get", "post", "put", "patch", "delete"];
    let mut described = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let found = operations.as_object().unwrap().keys().filter(|key| methods.contains(&key.as_str()));
        described.extend(found.map(|method| (method.clone(), path.clone())));
    }
    let served = routes().into_iter().map(|(method, path, _)| (method.to_owned(), path.to_owned())).collect();
    assert_eq!(described, served);

    let api = Api::with_shop().await;
    api.eyes.show_backend("shop", "10.1.0.2:8080", 3, 1);
    api.send("POST", "/v1/services/shop/backends/10.1.0.2:8080/drain", None).await;
    let service = api.send("GET", "/v1/services/shop", None).await.json();
    let backend = api.send("GET", "/v1/services/shop/backends/10.1.0.2:8080", None).await.json();
    let status = api.send("GET", "/v1/status", None).await.json();
    let told = api.send("DELETE", "/v1/services/shop?dry_run=true", None).await.json();
    let check = json!({"host": "", "port": 1});
    for (schema, shown, hidden) in [
        ("Service", &service, json!({"ports": "", "mss": 0, "quic": {}, "client_prefix": 0})),
        ("Quic", &json!({"scheme": "quic-lb"}), json!({"config_id": 0, "server_id_length": 0})),
        ("ServiceStatus", &service["status"], json!({"tracked_flows_cut": 0})),
        ("HealthCheck", &service["health_check"], check),
        ("Backend", &backend, json!({"server_id": 0})),
        ("BackendStatus", &backend["status"], json!({})),
        ("Drain", &backend["status"]["drain"], json!({})),
        ("InstalledBackend", &backend["status"]["installed"], json!({})),
        ("Counters", &service["status"]["counters"], json!({})),
        ("Status", &status, json!({})),
        ("Interface", &status["interfaces"][0], json!({})),
        ("FlowTable", &status["flow_table"], json!({})),
        ("TranslationTable", &status["translation_table"], json!({})),
        ("Totals", &status["totals"], json!({})),
        ("DryRun", &told, json!({})),
        ("ServiceDryRun", &told["services"][0], json!({})),
    ] {
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        let described = keys(&document["components"]["schemas"][schema]["properties"]);
        let shown: BTreeSet<_> = keys(shown).union(&keys(&hidden)).cloned().collect();
        assert_eq!(described, shown, "{schema}");
    }
    assert_eq!(api.send("GET", "/v1/openapi.json", None).await.text, OPENAPI);
}

/// The page for people names every kind of problem.
#[test]
fn the_manual_knows_every_problem() {
    let manual = include_str!("../../../../docs/control-api.md");
    let source = include_str!("../error.rs");
    let is_kind =
        |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let kinds: BTreeSet<_> = source
        .lines()
        .filter(|line| line.contains("StatusCode::") || line.trim_start().starts_with('"'))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .filter(is_kind)
        .collect();
    assert!(kinds.len() >= 19, "{kinds:?}");
    for kind in kinds {
        assert!(manual.contains(&format!("`{kind}`")), "{kind}");
    }
}
