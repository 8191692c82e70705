//! What operators are served, by the real program and curl: the OpenAPI document, another configuration, the log's
//! level, the stop.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Output},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// Longer than anything here takes; only a defect lets it pass.
const PATIENCE: Duration = Duration::from_secs(30);

struct Stage {
    gateway: Child,
    directory: tempfile::TempDir,
}

impl Stage {
    fn set() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.yaml");
        fs::write(&file, configuration(&directory, "one")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let gateway = Command::new(env!("CARGO_BIN_EXE_gateway"))
            .args(["run", "--config", "gateway.yaml"])
            .current_dir(directory.path())
            .stderr(fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let stage = Self { gateway, directory };
        stage.eventually("it serves", |stage| stage.curl("/healthz", &[]).status.success());
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn curl(&self, path: &str, arguments: &[&str]) -> Output {
        let socket = self.path("control");
        let url = format!("http://gateway{path}");
        Command::new("curl")
            .args(["-s", "--unix-socket"])
            .arg(socket)
            .arg(url)
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Status, `ETag` and document of an answer.
    fn ask(&self, path: &str, arguments: &[&str]) -> (u16, String, Value) {
        let write = "\n%{http_code} %header{etag}";
        let output = self.curl(path, &[arguments, &["-w", write]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, end) = text.rsplit_once('\n').expect("an answer");
        let (status, etag) = end.split_once(' ').unwrap();
        (status.parse().unwrap(), etag.to_owned(), serde_json::from_str(body).unwrap_or_default())
    }

    fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            let log = fs::read_to_string(self.path("log")).unwrap();
            assert!(begun.elapsed() < PATIENCE, "{what}\n{log}");
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.gateway.kill();
        let _ = self.gateway.wait();
    }
}

fn configuration(directory: &tempfile::TempDir, route: &str) -> String {
    let path = directory.path().display();
    format!(
        "listen: ['unix:{path}/clients']\ncontrol: {path}/control\nworkers: 1\naccess_log: 'off'\n\
         drain: {{ unready: 0s, close: 10ms, end: 10ms }}\n\
         upstreams: {{ one: {{ endpoints: ['127.0.0.1:1'] }} }}\n\
         routes: [{{ name: {route}, path: /{route}, authenticate: [anonymous], upstream: one }}]\n"
    )
}

#[test]
fn a_configuration_is_taken_whole_or_not_at_all() {
    let stage = Stage::set();
    let (file, new) = (stage.path("gateway.yaml"), stage.path("new.yaml"));
    let put = |text: &str, if_match: &str| {
        fs::write(&new, text).unwrap();
        let (body, header) = (format!("@{}", new.display()), format!("if-match: {if_match}"));
        stage.ask("/v1/config", &["-X", "PUT", "--data-binary", &body, "-H", &header])
    };
    let before = fs::read_to_string(&file).unwrap();
    let two = configuration(&stage.directory, "two");
    let (status, _, problem) = put(&two.replace("upstream: one", "upstream: none"), "\"1\"");
    assert_eq!(status, 422);
    let finding = json!({
        "severity": "error", "line": 7, "column": 72, "field": "routes[0].upstream", "rule": "no upstream has the name none"
    });
    assert_eq!(problem["findings"], json!([finding]));
    assert_eq!(put(&two.replace("workers: 1", "workers: 2"), "\"1\"").0, 422, "a restart changes it");
    assert_eq!((put(&two, "\"2\"").0, put(&two, "two").0), (412, 400));
    assert_eq!(fs::read_to_string(&file).unwrap(), before);
    let (status, etag, taken) = put(&two, "\"1\"");
    assert_eq!((status, etag.as_str(), &taken["generation"]), (200, "\"2\"", &json!(2)));
    assert_eq!(fs::read_to_string(&file).unwrap(), two);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    let told = stage.ask("/v1/status", &[]).2;
    let configuration = json!({ "generation": 2, "failures": 2, "last_successful": true });
    assert_eq!(told["configuration"], configuration);
    let metrics = String::from_utf8(stage.curl("/metrics", &[]).stdout).unwrap();
    let took =
        metrics.lines().find_map(|line| line.strip_prefix("gateway_config_reload_duration_seconds{} "));
    assert!(took.unwrap().parse::<f64>().unwrap() > 0.0, "{metrics}");
}

#[test]
fn only_the_owner_opens_the_socket_and_it_goes_with_the_stop() {
    let mut stage = Stage::set();
    let mode = fs::metadata(stage.path("control")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let level = |arguments: &[&str]| stage.ask("/v1/log-level", arguments);
    assert_eq!(level(&[]).2, json!({ "level": "gateway=info,warn" }));
    assert_eq!(level(&["-X", "PUT", "-d", "gateway=debug"]).2, json!({ "level": "gateway=debug" }));
    assert_eq!(level(&["-X", "PUT", "-d", "gateway=loud"]).0, 422);
    assert_eq!(stage.ask("/v1/stop", &["-X", "POST"]).0, 202);
    assert!(stage.gateway.wait().unwrap().success());
    assert!(!stage.path("control").exists());
}

#[test]
fn the_openapi_document_describes_what_is_served() {
    let stage = Stage::set();
    let document = stage.ask("/v1/openapi.json", &[]).2;
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 8);
    for (path, operations) in paths {
        let described = operations.as_object().unwrap();
        // An answer to a method that is not served lists those that are.
        let answer = stage.curl(path, &["-X", "DELETE", "-D", "-", "-o", "/dev/null"]);
        let head = String::from_utf8(answer.stdout).unwrap().to_lowercase();
        let allow = head.lines().find_map(|line| line.strip_prefix("allow: ")).expect("Allow");
        let mut served: Vec<_> = allow.split(',').map(str::trim).filter(|method| *method != "head").collect();
        served.sort_unstable();
        assert_eq!(described.keys().collect::<Vec<_>>(), served, "{path}");
    }
    let status = stage.ask("/v1/status", &[]).2;
    let schema = &document["components"]["schemas"]["Status"];
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&status), keys(&schema["properties"]));
}
