//! The stage of a measurement: a namespace with nothing but loopback, a folder with the configurations, the
//! origin, and a proxy started afresh for each row.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    clients,
    cpu::{self, Cores},
    load::{self, CONNECTIONS, ask},
    row::{Proxy, Row, Work},
};
use crate::{
    netns::Namespace,
    process::Process,
    requires::{DIRECTORY_PREFIX, is_installed, sweep},
};

/// As `examples/bench/origin.conf` has them.
const ORIGIN: &str = "http://127.0.0.1:9000/";
const ORIGIN_LARGE: &str = "http://127.0.0.1:9000/large";
const ORIGIN_STATUS: &str = "http://127.0.0.1:9001/";
/// What each proxy hands on.
const PLAIN: &str = "http://127.0.0.1:8080/plain";
/// Enough for pools, caches and branch predictors.
const WARM_UP_SECONDS: u32 = 1;
const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What was measured of one row in one round.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// User and system time of the proxy's processes for one answer, microseconds.
    pub cpu_us_per_request: f64,
    /// What wrk saw.
    pub seen: load::Seen,
    /// Resident memory of the proxy's processes after the load.
    pub rss_kib: f64,
    /// The part of the time in which the proxy's core was not idle, 0 to 1.
    pub core_busy: f64,
}

/// Namespace, folder and origin.
pub struct Stage {
    origin: Process,
    folder: TempDir,
    namespace: Namespace,
    cores: Cores,
    gateway: Option<PathBuf>,
    venv: Option<PathBuf>,
}

impl Stage {
    /// Makes everything but the proxies; `gateway` is our program, `venv` has those that Debian has not.
    pub fn build(gateway: Option<PathBuf>, venv: Option<PathBuf>) -> Result<Self> {
        // SAFETY: takes nothing and cannot fail.
        ensure!(unsafe { libc::geteuid() } == 0, "it makes a network namespace: run it as root");
        for (tool, package) in [
            ("nginx", "nginx-light"),
            ("haproxy", "haproxy"),
            ("wrk", "wrk"),
            ("curl", "curl"),
            ("openssl", "openssl"),
        ] {
            ensure!(is_installed(tool), "`{tool}` is not installed: apt-get install {package}");
        }
        sweep();
        let cores = Cores::choose()?;
        let namespace = Namespace::create("bench")?;
        // The kernel's own default, whatever the host prefers: others pace, which costs timers.
        let _ = namespace.sysctl("ipv4/tcp_congestion_control", "cubic");
        let folder = tempfile::Builder::new()
            .prefix(&format!("{DIRECTORY_PREFIX}{}-", std::process::id()))
            .tempdir()?;
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/bench");
        for entry in fs::read_dir(&examples).with_context(|| examples.display().to_string())? {
            let entry = entry?;
            fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
        }
        clients::write(folder.path())?;

        let mut command = namespace.command("nginx");
        nginx(&mut command, folder.path(), "origin.conf");
        cpu::pin(&mut command, cores.others);
        let mut origin = Process::start(command, "the origin", &folder.path().join("origin.log"))?;
        origin.ready(START_LIMIT, || ask::<&str>(&namespace, ORIGIN, &[]))?;
        Ok(Self { origin, folder, namespace, cores, gateway, venv })
    }

    /// Which cores are used.
    pub fn cores(&self) -> Cores {
        self.cores
    }

    /// Starts the row's proxy, proves that it does what the row says, and loads it for some seconds.
    pub fn measure(&self, row: Row, seconds: u32) -> Result<Measured> {
        let mut proxy = self.start(row.proxy)?;
        let outcome = self.prove(row).and_then(|()| self.load(row, &proxy, seconds));
        let outcome = outcome.with_context(|| format!("{}; its log: {}", row.name(), proxy.log_tail()));
        stop(&mut proxy)?;
        outcome
    }

    /// Starts a proxy; done when it hands a request on.
    fn start(&self, proxy: Proxy) -> Result<Process> {
        let folder = self.folder.path();
        let mut command = match proxy {
            Proxy::Portcullis => {
                let gateway = self.gateway.as_ref().context("ours was not built: give --gateway FILE")?;
                let mut command = self.namespace.command(gateway);
                command.args(["run", "--config"]).arg(folder.join("gateway.yaml"));
                command
            }
            Proxy::Nginx => {
                let mut command = self.namespace.command("nginx");
                nginx(&mut command, folder, "nginx.conf");
                command
            }
            Proxy::Haproxy => {
                let mut command = self.namespace.command("haproxy");
                command.arg("-db").arg("-C").arg(folder).args(["-f", "haproxy.cfg"]);
                command
            }
            Proxy::Envoy => {
                let mut command = self.python_program("envoy")?;
                command.args(["-c", "envoy.yaml", "--concurrency", "1", "--log-level", "error"]);
                command.arg("--disable-hot-restart");
                command
            }
            Proxy::Traefik => {
                let mut command = self.python_program("traefik")?;
                command.arg("--configfile=traefik.yaml");
                command
            }
            Proxy::Caddy => {
                let mut command = self.python_program("caddy")?;
                command.args(["run", "--config", "Caddyfile", "--adapter", "caddyfile"]);
                command
            }
        };
        cpu::pin(&mut command, self.cores.proxy);
        let log = folder.join(format!("{}.log", proxy.name()));
        let mut process = Process::start(command, proxy.name(), &log)?;
        // Traefik listens before it knows its routes.
        process.ready(START_LIMIT, || {
            let answer = ask::<&str>(&self.namespace, PLAIN, &[])?;
            ensure!(answer.status == 200, "it answers {}", answer.status);
            Ok(())
        })?;
        Ok(process)
    }

    /// A program from Python's environment, with one thread for the one core where it is Go's.
    fn python_program(&self, program: &str) -> Result<Command> {
        let venv =
            self.venv.as_ref().with_context(|| format!("{program} was not installed: give --venv FOLDER"))?;
        let mut command = self.namespace.command(venv.join("bin").join(program));
        command.current_dir(self.folder.path()).env("GOMAXPROCS", "1").env("HOME", self.folder.path());
        Ok(command)
    }

    /// One request of each kind, refused ones included.
    fn prove(&self, row: Row) -> Result<()> {
        let ask = |headers: &[&str]| ask(&self.namespace, row.url(), headers);
        let refused = |headers: &[&str]| -> Result<()> {
            let answer = ask(headers)?;
            ensure!(answer.status == 401, "with {headers:?} it answers {}, not 401", answer.status);
            Ok(())
        };
        let line = clients::header_lines(row.work)
            .map(|file| clients::first_line(self.folder.path(), file))
            .transpose()?;
        let headers: Vec<&str> = line.iter().map(String::as_str).collect();
        match row.work {
            Work::Plain | Work::Large | Work::Tls | Work::Composition => {}
            Work::KeyLimit => {
                refused(&[])?;
                refused(&["X-Api-Key: unknown"])?;
            }
            Work::KeyLimitJwt => {
                refused(&[])?;
                refused(&[&forged(headers[0])?])?;
            }
        }
        let answer = ask(&headers)?;
        ensure!(answer.status == 200, "it answers {}: {}", answer.status, answer.body);
        if row.work == Work::Composition {
            return composed(&answer.body);
        }
        let counts = matches!(row.work, Work::KeyLimit | Work::KeyLimitJwt);
        if row.proxy == Proxy::Portcullis && counts {
            ensure!(answer.head.contains("\nratelimit"), "no limit was asked: {}", answer.head);
        }
        let asked = if row.work == Work::Large { ORIGIN_LARGE } else { ORIGIN };
        let origin = load::ask::<&str>(&self.namespace, asked, &[])?;
        ensure!(answer.body == origin.body, "it answers {:?}, its origin {:?}", answer.body, origin.body);
        Ok(())
    }

    fn load(&self, row: Row, proxy: &Process, seconds: u32) -> Result<Measured> {
        let wrk = |seconds| {
            let headers = clients::header_lines(row.work);
            load::wrk(&self.namespace, self.cores.others, self.folder.path(), row, headers, seconds)
        };
        wrk(WARM_UP_SECONDS)?;
        let family = cpu::family(proxy.id())?;
        let requests_before = self.origin_requests()?;
        let (core_before, time_before) = (cpu::core_ticks(self.cores.proxy)?, cpu::time_used(&family)?);
        let seen = wrk(seconds)?;
        let (core, time) = (cpu::core_ticks(self.cores.proxy)?, cpu::time_used(&family)?);
        let requests = self.origin_requests()? - requests_before;

        // Those in flight at the end are not answered but may have come, those in flight at the end of the warm-up may
        // come late, and our own question counts.
        let (least, slack) =
            (seen.answers * row.work.origin_requests(), 2 * CONNECTIONS * row.work.origin_requests());
        ensure!(
            (least..=least + slack + 1).contains(&requests),
            "{} answers for {requests} requests at the origin, not {least}",
            seen.answers
        );
        Ok(Measured {
            cpu_us_per_request: (time - time_before).as_secs_f64() * 1e6 / seen.answers as f64,
            seen,
            rss_kib: cpu::resident_kib(&family)? as f64,
            core_busy: core.busy_since(core_before),
        })
    }

    /// How many requests the origin has had, this one included.
    fn origin_requests(&self) -> Result<u64> {
        let status = ask::<&str>(&self.namespace, ORIGIN_STATUS, &[])?.body;
        let line = status.lines().nth(2).with_context(|| format!("the origin's status is {status:?}"))?;
        Ok(line.split_whitespace().nth(2).context("requests")?.parse()?)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = stop(&mut self.origin);
    }
}

/// A killed nginx would leave its worker behind: it is asked to stop.
fn stop(process: &mut Process) -> Result<()> {
    process.signal(libc::SIGTERM)?;
    process.wait(STOP_LIMIT)?;
    Ok(())
}

fn nginx(command: &mut Command, folder: &Path, file: impl AsRef<OsStr>) {
    command.arg("-p").arg(folder).args(["-e", "stderr", "-c"]).arg(file.as_ref());
}

/// The header line with another signature.
fn forged(line: &str) -> Result<String> {
    let (claims, signature) = line.rsplit_once('.').context("a token has three parts")?;
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    Ok(format!("{claims}.{first}{}", &signature[1..]))
}

/// Whether a composed answer has all its parts, to the digit.
fn composed(body: &str) -> Result<()> {
    let whole: Value = serde_json::from_str(body).with_context(|| format!("it answers {body:?}"))?;
    for (part, member) in [("account", "iban"), ("transactions", "items"), ("rates", "base")] {
        if whole[part][member].is_null() {
            bail!("{part}.{member} is missing: {body}");
        }
    }
    ensure!(body.contains(r#""1234567890123456.78""#) && body.contains("-12.50"), "other digits: {body}");
    Ok(())
}
