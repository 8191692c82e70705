//! The access log of the real program, asked by curl: which requests have a line, what stands in it, and a file that is
//! moved away.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread::sleep,
    time::{Duration, Instant},
};

use gateway::{
    compile::{self, Context},
    config::{self, access_log::Destination},
};
use serde_json::{Value, json};

/// Longer than anything here takes; only a defect lets it pass.
const PATIENCE: Duration = Duration::from_secs(30);

struct Stage {
    gateway: Child,
    directory: tempfile::TempDir,
}

impl Stage {
    fn set(access_log: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("gateway.yaml"), configuration(directory.path(), access_log))
            .unwrap();
        let gateway = Command::new(env!("CARGO_BIN_EXE_gateway"))
            .args(["run", "--config", "gateway.yaml"])
            .current_dir(directory.path())
            .stderr(fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let stage = Self { gateway, directory };
        stage.eventually("it serves", |stage| stage.status("/healthz") == "200");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The status of an answer.
    fn status(&self, target: &str) -> String {
        let url = format!("http://a.example{target}");
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket"]).arg(self.path("clients"));
        String::from_utf8(curl.arg(url).output().unwrap().stdout).unwrap()
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
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

fn configuration(directory: &Path, access_log: &str) -> String {
    format!(
        "listen: ['unix:{}/clients']\nworkers: 1\naccess_log: {access_log}\n\
         upstreams: {{ none: {{ endpoints: ['127.0.0.1:1'] }} }}\n\
         routes: [{{ name: all, path: /known, authenticate: [anonymous], upstream: none }}]\n",
        directory.display()
    )
}

#[test]
fn lines_are_chosen_reduced_and_follow_a_file_that_is_moved_away() {
    let stage =
        Stage::set("{ to: access.log, sample: 0, always: [errors], fields: [path, query, status, reason] }");
    // Not a line for what went well; the health path never has one.
    assert_eq!(stage.status("/known?token=secret"), "502");
    let refused = json!({ "path": "/known", "status": 502, "reason": "connect" });
    stage.eventually("it is written", |stage| stage.lines("access.log") == [refused.clone()]);
    fs::rename(stage.path("access.log"), stage.path("access.log.1")).unwrap();
    let choice = "{ to: access.log, query: [page], fields: [path, query] }";
    fs::write(stage.path("gateway.yaml"), configuration(stage.directory.path(), choice)).unwrap();
    // SAFETY: it takes numbers only; the process is the stage's.
    unsafe { libc::kill(stage.gateway.id().cast_signed(), libc::SIGHUP) };
    stage.eventually("it is opened anew", |stage| stage.path("access.log").exists());
    stage.eventually("the choice is another", |stage| {
        stage.status("/known?page=2&token=secret");
        let new = json!({ "path": "/known", "query": "page=2&token=-" });
        stage.lines("access.log").last() == Some(&new)
    });
    assert_eq!(stage.lines("access.log.1").first(), Some(&refused));
    for name in ["access.log", "access.log.1"] {
        assert!(!fs::read_to_string(stage.path(name)).unwrap().contains("secret"));
    }
}

#[test]
fn off_is_off_with_and_without_quotes() {
    for written in ["off", "'off'", "{ to: off }"] {
        let text = configuration(Path::new("/run"), written);
        let document = config::parse(&text).unwrap_or_else(|finding| panic!("{written}: {finding}"));
        assert_eq!(document.access_log.value.to, Destination::Off, "{written}");
    }
    assert!(config::parse(&configuration(Path::new("/run"), "on")).is_err());
}

#[test]
fn what_says_nothing_is_refused() {
    for (access_log, rule) in [
        ("{ sample: 1.5 }", "from 0 to 1"),
        ("{ sample: 0.1, always: [slow] }", "access_log.slow"),
        ("{ sample: 0.1, slow: 1s }", "access_log.slow"),
        ("{ always: [errors] }", "access_log.always"),
        ("{ fields: [] }", "access_log.fields"),
        ("{ fields: [cookie] }", "cookie"),
        ("{ query: page }", "sequence"),
        ("{ file: x }", "file"),
    ] {
        let text = configuration(Path::new("/run"), access_log);
        let told = match config::parse(&text) {
            Ok(document) => {
                let context = Context { directory: Path::new("."), previous: None };
                compile::compile(&document, context).err().expect(access_log).to_string()
            }
            Err(finding) => finding.to_string(),
        };
        assert!(told.starts_with("3:") && told.contains(rule), "{access_log}: {told}");
    }
}
