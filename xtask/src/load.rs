//! Loads the balancer onto interfaces of this host, and takes it off again.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::host;
use crate::setup::{self, Needs};
use crate::step::{shown, step};
use crate::workspace::{self, Profile};

/// The daemon's own defaults, which `unload` must agree with.
const STATE_DIR: &str = "/var/lib/portcullis";
const RUNTIME_DIR: &str = "/run/portcullis";
const PIN_DIR: &str = "/sys/fs/bpf/portcullis";

/// So long the daemon may take until it has attached: it loads tables of a million entries.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Ends the daemon, then takes programs and maps away. It is a script because the watchdog must outlive
/// this program and the terminal.
const UNLOAD: &str = r#"
daemon=$1 pin=$2 pidfile=$3
if [ -r "$pidfile" ] && pid=$(cat "$pidfile") && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = lb-control ]; then
    kill "$pid" 2>/dev/null
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        # Gone, or a zombie that its parent has not looked at.
        case "$(cut -d' ' -f3 "/proc/$pid/stat" 2>/dev/null)" in ''|Z) break ;; esac
        sleep 0.3
    done
    kill -9 "$pid" 2>/dev/null
fi
rm -f "$pidfile"
"$daemon" unload --pin-dir "$pin"
"#;

/// Load the balancer onto interfaces of this host and keep it running
///
/// Builds in release mode, starts the daemon in the background and waits until it serves. Existing
/// traffic goes on: packets that belong to no service pass untouched.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask load --iface eth1 --config examples/lb-control.toml\n  \
    cargo xtask load --iface eth0 --try 60    logged in through eth0? It unloads by itself after 60 s,\n                                            \
    even if this session breaks, unless you press Enter or run\n  \
    cargo xtask load --confirm\n  \
    cargo xtask unload")]
pub struct LoadArgs {
    /// The interfaces, separated by commas
    #[arg(long, value_name = "IFACE[,IFACE]", value_delimiter = ',', required_unless_present = "confirm")]
    iface: Vec<String>,
    /// The daemon's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Unload after this long unless confirmed
    #[arg(long = "try", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Keep what an earlier `--try` loaded
    #[arg(long, conflicts_with_all = ["iface", "config", "seconds"])]
    confirm: bool,
}

/// Stop the daemon and take its programs and maps off this host
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask unload")]
pub struct UnloadArgs {}

pub fn load(args: &LoadArgs) -> Result<()> {
    root()?;
    if args.confirm {
        return confirm();
    }
    for iface in &args.iface {
        if !host::has_interface(iface) {
            bail!("there is no interface {iface}; `ip -brief link` lists them");
        }
    }
    let config = args.config.as_deref().map(absolute).transpose()?;
    host::runs_bpf().map_err(|why| anyhow!("{why}"))?;
    setup::ensure(Needs::default())?;
    let daemon = build()?;
    fs::create_dir_all(RUNTIME_DIR).with_context(|| format!("cannot create {RUNTIME_DIR}"))?;
    if let Some(pid) = running() {
        bail!("a daemon is running already (process {pid}); first run\n  cargo xtask unload");
    }
    let _ = fs::remove_file(confirmed());

    // Before the daemon: whatever it does to this session's packets, the way back is already there.
    let watchdog = args.seconds.map(|seconds| start_watchdog(&daemon, seconds)).transpose()?;
    let started =
        step(&format!("load onto {}", args.iface.join(", ")), || start(&daemon, args, config.as_deref()));
    if let Err(error) = started {
        let _ = shown(&mut unload_command(&daemon));
        if let Some(mut watchdog) = watchdog {
            let _ = watchdog.kill();
        }
        return Err(error);
    }
    println!("its log: {}", log().display());
    match (args.seconds, watchdog) {
        (Some(seconds), Some(watchdog)) => wait_for_word(seconds, watchdog),
        _ => {
            println!("take it off with\n  cargo xtask unload");
            Ok(())
        }
    }
}

pub fn unload(_args: &UnloadArgs) -> Result<()> {
    root()?;
    // Whoever unloads may be in a hurry: any daemon that was built will do.
    let built = workspace::root().join("target/release/lb-control");
    let daemon = if built.is_file() {
        built
    } else {
        setup::ensure(Needs::default())?;
        build()?
    };
    step("unload", || shown(&mut unload_command(&daemon)))
}

fn root() -> Result<()> {
    if host::is_root() {
        return Ok(());
    }
    bail!("loading programs needs root; run\n  {}", host::as_root())
}

fn build() -> Result<PathBuf> {
    let built = step("build", || workspace::build(Profile::Release, &["-p", "lb-control", "--bins"]))?;
    Ok(built.executable("lb-control")?.to_owned())
}

/// Starts the daemon in a session of its own and waits until it answers.
fn start(daemon: &Path, args: &LoadArgs, config: Option<&Path>) -> Result<()> {
    let log_file = File::create(log()).with_context(|| format!("cannot write {}", log().display()))?;
    let mut command = Command::new(daemon);
    command.args(["run", "--iface", &args.iface.join(",")]);
    command.args(["--state-dir", STATE_DIR, "--runtime-dir", RUNTIME_DIR, "--pin-dir", PIN_DIR]);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
    let mut child =
        detached(&mut command).spawn().with_context(|| format!("cannot run {}", daemon.display()))?;
    fs::write(pid_file(), child.id().to_string())?;
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if let Some(status) = child.try_wait()? {
            let said = fs::read_to_string(log()).unwrap_or_default();
            bail!("the daemon ended ({status}):\n{}", said.trim_end());
        }
        if let Some(attached) = attached() {
            println!("  {attached}");
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the daemon did not attach within {} s; see {}", READY_WITHIN.as_secs(), log().display());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Where the program runs, once it runs on every interface; nothing before.
fn attached() -> Option<String> {
    let mut stream = UnixStream::connect(Path::new(RUNTIME_DIR).join("control.sock")).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /v1/status HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    let interfaces = status["interfaces"].as_array()?;
    if interfaces.is_empty() || interfaces.iter().any(|interface| interface["attached"] != true) {
        return None;
    }
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let lines: Vec<_> = interfaces
        .iter()
        .map(|interface| format!("{}: {} mode", word(&interface["name"]), word(&interface["mode"])))
        .collect();
    Some(lines.join(", "))
}

/// Sleeps in a session of its own, so that it survives the loss of this one, then unloads unless confirmed.
fn start_watchdog(daemon: &Path, seconds: u64) -> Result<Child> {
    let script = format!("sleep {seconds}\n[ -e {} ] && exit 0\n{UNLOAD}", confirmed().display());
    let mut command = Command::new("sh");
    command.args(["-c", &script, "watchdog"]).arg(daemon).arg(PIN_DIR).arg(pid_file());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    detached(&mut command).spawn().context("cannot start the watchdog, so nothing was loaded")
}

/// Waits for Enter here, `--confirm` elsewhere, or the watchdog.
fn wait_for_word(seconds: u64, mut watchdog: Child) -> Result<()> {
    println!(
        "unloads by itself in {seconds} s. To keep it, press Enter here or run\n  cargo xtask load --confirm"
    );
    let (sender, enter) = mpsc::channel();
    if io::stdin().is_terminal() {
        thread::spawn(move || {
            let mut line = String::new();
            if io::stdin().lock().read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                let _ = sender.send(());
            }
        });
    }
    loop {
        if enter.recv_timeout(Duration::from_millis(200)).is_ok() {
            return confirm();
        }
        if confirmed().exists() {
            println!("confirmed: it stays");
            return Ok(());
        }
        if watchdog.try_wait()?.is_some() {
            bail!("not confirmed within {seconds} s: unloaded");
        }
        if enter.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
            thread::sleep(Duration::from_millis(200));
        }
    }
}

fn confirm() -> Result<()> {
    if running().is_none() {
        bail!("nothing is loaded; run\n  cargo xtask load --iface IFACE");
    }
    fs::write(confirmed(), "").with_context(|| format!("cannot write {}", confirmed().display()))?;
    println!("confirmed: it stays. Take it off with\n  cargo xtask unload");
    Ok(())
}

fn unload_command(daemon: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", UNLOAD, "unload"]).arg(daemon).arg(PIN_DIR).arg(pid_file());
    command
}

/// The daemon that `load` started, if it still runs.
fn running() -> Option<u32> {
    let pid: u32 = fs::read_to_string(pid_file()).ok()?.trim().parse().ok()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "lb-control").then_some(pid)
}

/// In a session of its own: neither Ctrl-C nor a lost terminal reaches it.
fn detached(command: &mut Command) -> &mut Command {
    // SAFETY: setsid touches only the new process and may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        })
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    env::current_dir()?.join(path).canonicalize().with_context(|| format!("cannot read {}", path.display()))
}

fn pid_file() -> PathBuf {
    Path::new(RUNTIME_DIR).join("lb-control.pid")
}

fn confirmed() -> PathBuf {
    Path::new(RUNTIME_DIR).join("confirmed")
}

fn log() -> PathBuf {
    Path::new(RUNTIME_DIR).join("lb-control.log")
}
