//! Loads the balancer onto interfaces of this host, and takes it off again.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::host;
use crate::setup::{self, Needs};
use crate::step::step;
use crate::workspace::{self, Profile};

/// The daemon's own defaults, which `unload` must agree with.
const STATE_DIR: &str = "/var/lib/portcullis";
const RUNTIME_DIR: &str = "/run/portcullis";
const PIN_DIR: &str = "/sys/fs/bpf/portcullis";

/// So long the daemon may take until it has attached: it loads tables of a million entries.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Ends the daemon, which leaves programs and maps where they are. It may take 5 s to end by itself.
const END: &str = r#"
daemon=$1 pin=$2 runtime=$3 pidfile=$3/lb-control.pid
# Gone, or a zombie that its parent has not looked at.
gone() {
    case "$(cut -d' ' -f3 "/proc/$pid/stat" 2>/dev/null)" in ''|Z) return 0 ;; esac
    return 1
}
if [ -r "$pidfile" ] && pid=$(cat "$pidfile") && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = lb-control ]; then
    kill "$pid" 2>/dev/null
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24; do
        gone && break
        sleep 0.3
    done
    gone || kill -9 "$pid" 2>/dev/null
    until gone; do sleep 0.3; done
fi
rm -f "$pidfile"
"#;

/// After `END`: takes programs and maps away, and with them any trial. It is a script because the watchdog
/// must outlive this program and the terminal.
const UNLOAD: &str = r#"
rm -f "$runtime"/try-*
tries=1
until "$daemon" unload --pin-dir "$pin"; do
    [ "$tries" -ge 5 ] && exit 1
    tries=$((tries + 1))
    sleep 1
done
rm -f "$runtime/trial-over"
"#;

/// Load the balancer onto interfaces of this host and keep it running
///
/// Builds in release mode, starts the daemon in the background and waits until it serves. Existing
/// traffic goes on: packets that belong to no service pass untouched.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask load --iface eth1 --config examples/lb-control.toml\n  \
    cargo xtask load --iface eth0 --try 60    logged in through eth0? It unloads by itself after 60 s,\n                                            \
    even if the login breaks, unless you press Enter or run\n  \
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
    end_trials()?;
    let _ = fs::remove_file(trial_over());

    let earlier = pinned();
    if earlier && args.seconds.is_some() {
        println!("an earlier load is still installed: the trial's end takes that off too");
    }
    // Before the daemon: whatever it does to this login's packets, the way back is already there.
    let trial = args.seconds.map(|seconds| Trial::start(&daemon, seconds)).transpose()?;
    let started =
        step(&format!("load onto {}", args.iface.join(", ")), || start(&daemon, args, config.as_deref()));
    if let Err(error) = started {
        take_back(&daemon, earlier, trial);
        return Err(error);
    }
    println!("its log: {}", log().display());
    match trial {
        Some(trial) => trial.wait_for_word(),
        None => {
            println!("take it off with\n  cargo xtask unload");
            Ok(())
        }
    }
}

/// After a failed start: only what it put there goes, never what an earlier load left forwarding.
fn take_back(daemon: &Path, earlier: bool, trial: Option<Trial>) {
    let script = if earlier { END.to_owned() } else { unload_script() };
    if let Err(error) = run_script(&script, daemon) {
        eprintln!("{error:#}");
    }
    if let Some(trial) = trial {
        trial.cancel();
    }
    if pinned() {
        println!(
            "what was installed before stays and keeps forwarding; take it off with\n  cargo xtask unload"
        );
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
    step("unload", || run_script(&unload_script(), &daemon))
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

/// A load that ends by itself. Whoever takes its marker away decides: `confirm` removes it, the watchdog
/// renames it to `trial-over`, and only one of them can.
struct Trial {
    seconds: u64,
    marker: PathBuf,
    watchdog: Child,
}

impl Trial {
    /// The watchdog sleeps in a session of its own, so that it survives the loss of this one.
    fn start(daemon: &Path, seconds: u64) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let marker = Path::new(RUNTIME_DIR).join(format!("try-{now}-{}", process::id()));
        fs::write(&marker, "").with_context(|| format!("cannot write {}", marker.display()))?;
        let script = format!(
            "sleep {seconds}\nmv {} {} 2>/dev/null || exit 0\n{}",
            marker.display(),
            trial_over().display(),
            unload_script()
        );
        let mut command = script_command(&script, daemon);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let watchdog =
            detached(&mut command).spawn().context("cannot start the watchdog, so nothing was loaded")?;
        Ok(Self { seconds, marker, watchdog })
    }

    /// Waits for Enter here, `--confirm` or `unload` elsewhere, or the watchdog.
    fn wait_for_word(mut self) -> Result<()> {
        let seconds = self.seconds;
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
            let over = self.watchdog.try_wait()?;
            if over.is_some_and(|status| !status.success()) {
                bail!("not confirmed within {seconds} s, but unloading failed; run\n  cargo xtask unload");
            }
            // The watchdog renames one to the other: while neither is there, it is decided.
            if over.is_some() || !self.marker.exists() && !trial_over().exists() {
                if running().is_none() {
                    bail!("not confirmed: unloaded");
                }
                println!("confirmed: it stays");
                return Ok(());
            }
            if enter.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
                thread::sleep(Duration::from_millis(200));
            }
        }
    }

    /// Stops the watchdog, unless it is unloading already: then waits until it has.
    fn cancel(mut self) {
        let _ = fs::remove_file(&self.marker);
        if !trial_over().exists() {
            let _ = self.watchdog.kill();
        }
        let _ = self.watchdog.wait();
    }
}

fn confirm() -> Result<()> {
    if end_trials()? {
        println!("confirmed: it stays. Take it off with\n  cargo xtask unload");
        return Ok(());
    }
    if trial_over().exists() {
        bail!("there is nothing to confirm: the time was up, and it is being taken off");
    }
    if pinned() {
        bail!("there is nothing to confirm: what is loaded stays until\n  cargo xtask unload");
    }
    bail!("there is nothing to confirm: nothing is loaded, or it was already taken off");
}

/// Takes away the markers of all trials, so that no watchdog acts any more, and says whether there were any.
fn end_trials() -> Result<bool> {
    let Ok(entries) = fs::read_dir(RUNTIME_DIR) else { return Ok(false) };
    let mut any = false;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with("try-") {
            match fs::remove_file(entry.path()) {
                Ok(()) => any = true,
                // Its watchdog was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot remove {}", entry.path().display()));
                }
            }
        }
    }
    Ok(any)
}

fn unload_script() -> String {
    format!("{END}{UNLOAD}")
}

fn script_command(script: &str, daemon: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "unload"]).arg(daemon).args([PIN_DIR, RUNTIME_DIR]);
    command
}

fn run_script(script: &str, daemon: &Path) -> Result<()> {
    let status = script_command(script, daemon).status().context("cannot run sh")?;
    if !status.success() {
        bail!("could not take it off ({status})");
    }
    Ok(())
}

/// Whether anything is pinned, by a daemon that runs or by one that ended.
fn pinned() -> bool {
    fs::read_dir(PIN_DIR).is_ok_and(|mut entries| entries.next().is_some())
}

/// The daemon that `load` started, if it still runs.
fn running() -> Option<u32> {
    let pid: u32 = fs::read_to_string(pid_file()).ok()?.trim().parse().ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, state) = stat.split_once(" (")?.1.split_once(") ")?;
    // A zombie has ended; only its parent has not looked at it.
    (name == "lb-control" && !state.starts_with('Z')).then_some(pid)
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

/// There while a watchdog unloads, and after it failed to.
fn trial_over() -> PathBuf {
    Path::new(RUNTIME_DIR).join("trial-over")
}

fn log() -> PathBuf {
    Path::new(RUNTIME_DIR).join("lb-control.log")
}
