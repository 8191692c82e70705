//! `lbctl` against the served API on a real Unix socket.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::CommandFactory;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    api::{
        AppState, Listeners, TcpConfig, serve,
        tests::{Eyes, Rehearsed},
    },
    desired::DesiredState,
    health::samples::Samples,
};

struct Controller {
    desired: Arc<DesiredState>,
    eyes: Arc<Eyes>,
    directory: TempDir,
    socket: PathBuf,
    url: String,
    server: JoinHandle<()>,
}

/// What a run of `lbctl` left on the terminal, and its exit code.
struct Ran {
    code: u8,
    out: String,
    progress: String,
}

impl Controller {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let token_file = directory.path().join("tokens");
        fs::write(&token_file, "correct-horse-battery\n").unwrap();
        fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600)).unwrap();
        let tcp = TcpConfig { address: "127.0.0.1:0".parse().unwrap(), token_file };
        let listeners = Listeners::bind(&socket, Some(&tcp)).await.unwrap();
        let url = format!("http://{}", listeners.tcp_address().unwrap());
        let (desired, eyes) = (Arc::new(DesiredState::in_memory()), Arc::new(Eyes::default()));
        let state = AppState {
            desired: desired.clone(),
            observer: eyes.clone(),
            engine: Arc::new(Rehearsed),
            samples: Samples::channel().0,
        };
        let server = tokio::spawn(serve(state, listeners, std::future::pending()));
        Self { desired, eyes, directory, socket, url, server }
    }

    /// Runs a command line over the Unix socket.
    async fn lbctl(&self, line: &str) -> Ran {
        lbctl(&format!("--socket {} {line}", self.socket.display())).await
    }

    async fn ok(&self, line: &str) -> String {
        let ran = self.lbctl(line).await;
        assert_eq!(ran.code, 0, "{line}: {}", ran.out);
        ran.out
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn lbctl(line: &str) -> Ran {
    let cli = match Cli::try_parse_from(std::iter::once("lbctl").chain(line.split_whitespace())) {
        Ok(cli) => cli,
        Err(error) => {
            return Ran { code: error.exit_code() as u8, out: error.to_string(), progress: String::new() };
        }
    };
    let mut screen = Screen { out: Vec::new(), progress: Vec::new(), live: false };
    let ended = run(cli, &mut screen).await;
    let (code, text) = match ended {
        Ok(()) => (0, String::from_utf8(screen.out).unwrap()),
        Err(failure) => (failure.exit_code(), failure.to_string()),
    };
    Ran { code, out: text, progress: String::from_utf8(screen.progress).unwrap() }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
    assert!(Cli::command().render_long_help().to_string().contains("lbctl backend drain shop"));
}

#[tokio::test]
async fn a_service_from_create_to_delete() {
    let controller = Controller::start().await;
    let created = controller
        .ok("service create shop --address 10.0.0.1 --port 80 --mode nat --backend 10.1.0.2:8080,weight=2 \
             --backend 10.1.0.3 --check-http /healthz --check-interval-ms 500")
        .await;
    for part in
        ["10.0.0.1:80 tcp", "http /healthz every 500 ms, timeout 500 ms", "10.1.0.2:8080", "10.1.0.3:80"]
    {
        assert!(created.contains(part), "{part}\n{created}");
    }
    assert!(
        controller.ok("service list").await.contains("shop  10.0.0.1:80  tcp       nat   maglev     2/2")
    );

    let file = controller.directory.path().join("shop.json");
    let mut read: Value = serde_json::from_str(&controller.ok("service get shop --json").await).unwrap();
    read["on_failure"] = json!("keep");
    fs::write(&file, read.to_string()).unwrap();
    controller.ok(&format!("service replace shop -f {}", file.display())).await;
    controller.ok(r#"service patch shop {"flow_idle_seconds":9}"#).await;
    let service = controller.desired.current().services["shop"].clone();
    assert_eq!((service.flow_idle_seconds, service.backends.len()), (9, 2));
    assert_eq!(service.on_failure, crate::model::OnFailure::Keep);

    fs::write(&file, json!({"address": "10.0.0.2", "port": 53, "protocol": "udp"}).to_string()).unwrap();
    controller.ok(&format!("service create dns -f {} --connectionless", file.display())).await;
    assert!(controller.desired.current().services["dns"].is_connectionless());
    assert_eq!(
        controller.ok("service delete dns").await,
        "deleted in generation 5: 0 remembered flows cut\n"
    );
}

#[tokio::test]
async fn every_option_of_a_service_arrives_and_is_shown() {
    let controller = Controller::start().await;
    controller.desired.set_full_nat(vec!["10.0.0.9".parse().unwrap()]);
    for (line, parts) in [
        (
            "service create web6 --address 2001:db8::80 --port 443 --mode dsr-gue --echo --mss 1300 \
             --backend 10.1.0.2 --backend fd00::2",
            &[
                "[2001:db8::80]:443 tcp",
                "dsr-gue",
                "answers ping  yes",
                "at most 1300 bytes",
                "[fd00::2]:443",
            ][..],
        ),
        (
            "service create media --address 203.0.113.0/24 --ports 8000-8999 --mode dsr-ipip --fragments pass \
             --backend 10.1.0.2 --check-tcp --check-port 8000",
            &["203.0.113.0/24:8000-8999 tcp", "fragments    pass", "answers ARP  no", "\n10.1.0.2  1"],
        ),
        (
            "service create h3 --address 10.0.0.1 --port 443 --protocol udp --mode dsr-ipip --quic quic-lb \
             --quic-config-id 1 --quic-server-id-length 2 --backend 10.1.0.2,server_id=0a1b,weight=3",
            &["quic-lb, config 1, server ids of 2 bytes", "SERVER ID", "10.1.0.2:443  0a1b       3"],
        ),
        (
            "service create far --address 10.0.0.2 --ports any --mode full-nat",
            &["10.0.0.2:any tcp", "full-nat"],
        ),
        ("backend add h3 10.1.0.3 --server-id 0a1c", &["server id      0a1c"]),
        ("backend set h3 10.1.0.3:443 --server-id 0a1d", &["server id      0a1d", "weight         1"]),
        ("backend replace h3 [10.1.0.4]:443", &[]),
        ("backend add media 10.1.0.3 --weight 2", &["backend        10.1.0.3\n"]),
        ("backend drain media 10.1.0.3", &["draining"]),
        ("backend delete media 10.1.0.3", &["deleted in generation"]),
        ("backend drain web6 [fd00::2]:443", &["draining"]),
        ("service list", &["[2001:db8::80]:443", "203.0.113.0/24:8000-8999", "10.0.0.2:any"]),
    ] {
        if parts.is_empty() {
            assert_eq!(controller.lbctl(line).await.code, 2, "{line}");
            continue;
        }
        let shown = controller.ok(line).await;
        for part in parts {
            assert!(shown.contains(part), "{line}: {part:?} is not in\n{shown}");
        }
    }
    let file = controller.directory.path().join("far.json");
    fs::write(&file, controller.ok("service get far --json").await).unwrap();
    controller.ok("service delete far").await;
    let narrowed = format!("service create -f {} --port 80", file.display());
    assert!(
        controller.ok(&narrowed).await.contains("10.0.0.2:80 tcp"),
        "the flag wins over the file's ports"
    );
}

#[tokio::test]
async fn backends_and_reports() {
    let controller = Controller::start().await;
    controller.ok("service create shop --address 10.0.0.1 --port 80").await;
    controller.ok("backend add shop 10.1.0.2:8080 --weight 2").await;
    controller.ok("backend set shop 10.1.0.2:8080 --weight 5 --if-match 2").await;
    controller.ok("backend replace shop 10.1.0.3:8080 --weight 7").await;
    let list = controller.ok("backend list shop").await;
    assert!(list.contains("10.1.0.2:8080  5       up"), "{list}");
    controller.eyes.show_backend("shop", "10.1.0.2:8080", 4, 4);
    assert!(controller.ok("backend get shop 10.1.0.2:8080").await.contains("tracked flows  4"));
    assert!(controller.ok("backend drain shop 10.1.0.2:8080").await.contains("4 flows seen so far"));
    assert!(controller.ok("backend undrain shop 10.1.0.2:8080").await.contains("state          up"));
    assert!(controller.ok("backend remove shop 10.1.0.2:8080").await.contains("4 remembered flows cut"));
    assert!(controller.ok("status").await.contains("eth0       2      driver  yes"));
    assert!(controller.ok("counters").await.contains("  10.1.0.2:8080  5"));
    assert!(controller.ok("reasons").await.contains("Sent towards a backend."));
    assert!(controller.ok("interfaces").await.starts_with("INTERFACE"));
    for report in ["status", "counters", "reasons", "interfaces", "service list", "backend list shop"] {
        let text = controller.ok(&format!("{report} --json")).await;
        assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{report}");
    }
}

#[tokio::test]
async fn a_dry_run_tells_and_changes_nothing() {
    let controller = Controller::start().await;
    controller
        .ok("service create shop --address 10.0.0.1 --port 80 --backend 10.1.0.2 --backend 10.1.0.3")
        .await;
    let before = controller.desired.current();
    let told = controller.ok("backend delete shop 10.1.0.2:80 --dry-run").await;
    for part in [
        "the order would move 100 slots and cut at least 2 of at least 7 live flows",
        "SERVICE  SLOTS MOVED  LIVE FLOWS",
        "shop     100 of 1024  at least 7",
    ] {
        assert!(told.contains(part), "{part}\n{told}");
    }
    let none = controller.ok("service patch shop {\"algorithm\":\"random\"} --dry-run").await;
    assert!(none.contains("would move 0 slots and cut 0 of 0 live flows"), "{none}");
    let refused = controller.lbctl("backend set shop 10.1.0.2:80 --max-connections 5 --dry-run").await;
    assert!(refused.code == 1 && refused.out.contains("needs tracking every-flow"), "{}", refused.out);
    let both = controller.lbctl("backend delete shop 10.1.0.2:80 --dry-run --wait").await;
    assert_eq!(both.code, 2);
    assert!(Arc::ptr_eq(&before, &controller.desired.current()));
}

#[tokio::test]
async fn every_choice_of_backends_arrives_and_is_shown() {
    let controller = Controller::start().await;
    for (line, parts) in [
        (
            "service create shop --address 10.0.0.1 --port 80 --algorithm source-hash --client-prefix 24 \
             --affinity 60 --slow-start 30 --panic-threshold 40 --min-active 2 --backend 10.1.0.2,max_connections=9 \
             --backend 10.1.0.3,priority=1 --backend 10.1.0.4,fallback",
            &[
                "algorithm      source-hash",
                "tracking       every-flow",
                "client prefix  24 bits",
                "affinity       60 s",
                "slow start     30 s",
                "panic below    40 % healthy",
                "least healthy  2",
                "10.1.0.4:80  1       fallback  standby",
                "0 of 9",
            ][..],
        ),
        (
            "backend set shop 10.1.0.4:80 --fallback=false --priority 3",
            &["group          3", "state          standby"],
        ),
        ("backend add shop 10.1.0.5 --fallback", &["group          fallback"]),
        ("backend set shop 10.1.0.2:80 --max-connections 0", &["backend        10.1.0.2:80"]),
        (
            "service create api --address 10.0.0.2 --port 80 --tracking every-flow",
            &["tracking     every-flow"],
        ),
        ("service list", &["shop  10.0.0.1:80  tcp       nat   source-hash  2/4"]),
        (
            "backend drain shop 10.1.0.3:80 --deadline 0 --on-deadline reset",
            &["state          cut", "done: 0 cut"],
        ),
    ] {
        let shown = controller.ok(line).await;
        for part in parts {
            assert!(shown.contains(part), "{line}: {part:?} is not in\n{shown}");
        }
    }
}

#[tokio::test]
async fn a_drain_is_followed_to_its_end() {
    let controller = Controller::start().await;
    controller.ok("service create shop --address 10.0.0.1 --port 80 --backend 10.1.0.2:80").await;
    let seen = |flows, generation| controller.eyes.show_backend("shop", "10.1.0.2:80", flows, generation);
    seen(2, 1);
    let (ran, ()) = tokio::join!(controller.lbctl("backend drain shop 10.1.0.2:80 --wait"), async {
        let deadline = Instant::now() + Duration::from_secs(10);
        while controller.desired.current().generation < 2 && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        seen(0, 2);
    });
    assert!(ran.out.contains("done: 0 left"), "{}", ran.out);
    assert!(ran.progress.is_empty() || ran.progress.starts_with("2 flows seen"), "{}", ran.progress);

    seen(3, 9);
    controller.ok("backend undrain shop 10.1.0.2:80").await;
    let ran = controller.lbctl("backend drain shop 10.1.0.2:80 --deadline 1 --wait").await;
    assert!(ran.out.contains("done: 3 cut"), "{}", ran.out);
    assert_eq!(ran.progress, "3 flows seen so far\n");
}

#[tokio::test]
async fn errors_name_fields_and_set_the_exit_code() {
    let controller = Controller::start().await;
    controller.ok("service create shop --address 10.0.0.1 --port 80").await;
    for (line, code, expected) in [
        (
            "service create pay --address 10.0.0.1 --port 80",
            1,
            "error: The virtual address is taken (409)\n  address 10.0.0.1:80 tcp belongs to service shop",
        ),
        (
            "service create pay --port 0 --address ::1",
            1,
            "error: The order breaks rules (422)\n  address must be a unicast address that other hosts can reach\n  \
             port must be 1 to 65535\n",
        ),
        ("service get pay", 1, "error: There is no such service (404)\n  no service is named pay\n"),
        ("service get ../status", 1, "no service is named ../status"),
        (
            "service delete shop --if-match 0",
            1,
            "names generation 0, but the resource was last changed in generation 1",
        ),
        ("service patch shop {", 2, "the patch is not JSON"),
        ("service create pay --backend x", 2, "x: write a backend like"),
        (
            "service create pay --backend 10.1.0.1,w=1",
            2,
            "w=1 is none of weight=N, max_connections=N, priority=N, fallback",
        ),
        ("service create pay --port 1 --ports any", 2, "cannot be used with"),
        ("service create pay --quic-config-id 1", 2, "--quic <SCHEME>"),
        ("backend set shop 10.1.0.2:80", 2, "--weight <WEIGHT>"),
        ("service create -f /nonexistent", 2, "/nonexistent: No such file"),
        ("backend get shop nonsense", 2, "invalid value 'nonsense'"),
        ("service", 2, "Usage: lbctl"),
        ("frobnicate", 2, "unrecognized subcommand"),
    ] {
        let ran = controller.lbctl(line).await;
        assert_eq!(ran.code, code, "{line}: {}", ran.out);
        assert!(ran.out.contains(expected), "{line}: {}", ran.out);
        assert_eq!(controller.desired.current().generation, 1, "{line}");
    }
    let ran = lbctl("--socket /nonexistent/sock status").await;
    assert_eq!(ran.code, 2);
    assert!(
        ran.out.contains("no controller answers on /nonexistent/sock: there is no such socket"),
        "{}",
        ran.out
    );
}

#[tokio::test]
async fn over_tcp_with_a_token() {
    let controller = Controller::start().await;
    let tokens = controller.directory.path().join("tokens");
    let line = format!("--url {} --token-file {} status", controller.url, tokens.display());
    assert_eq!(lbctl(&line).await.code, 0);
    fs::write(&tokens, "incorrect-horse-battery\n").unwrap();
    let ran = lbctl(&line).await;
    assert!(ran.code == 1 && ran.out.contains("A token is needed (401)"), "{}", ran.out);
    assert_eq!(lbctl("--url http://127.0.0.1 status").await.code, 2, "a token file is needed");
}
