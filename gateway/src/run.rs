//! The process: reads the configuration, listens, starts the workers, and does what signals ask until it stops.
//!
//! Clients are served by the workers alone; everything else (health checks, keys, operators, reloads, the stop) runs
//! on the background runtime of this thread.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context as _;
use axum::Router;
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::{Builder, Handle},
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use crate::{
    accept::{self, Listeners, SocketFiles, Work},
    access_log::AccessLog,
    admin::{self, Ask},
    drain,
    handover::{self, HandoverError, Inherited},
    reload::{self, watch::FileWatch},
    service_manager,
    shared::Shared,
    snapshot::Snapshot,
};

/// Until the keys of all issuers are there, where another process serves meanwhile.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// Operators' wishes that wait.
const ASKS_MAX: usize = 16;
/// Permissions of the socket where operators change something.
const CONTROL_MODE: u32 = 0o600;
/// Between two looks at that.
const READY_LOOK: Duration = Duration::from_millis(10);
/// The last lines of the access log may take so long.
const LAST_LINES: Duration = Duration::from_secs(2);

/// A gateway that serves.
pub struct Running {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Where clients are served over TCP.
    pub addresses: Vec<SocketAddr>,
    /// Where operators are served.
    pub admin: Option<SocketAddr>,
    workers: Vec<JoinHandle<io::Result<()>>>,
    orders: watch::Sender<Work>,
    /// All sockets that listen, once more: for a process that takes over.
    sockets: Vec<OwnedFd>,
    files: SocketFiles,
    /// What operators ask of this process.
    asked: mpsc::Receiver<Ask>,
}

impl Running {
    /// Starts to serve `snapshot`. Called within the background runtime.
    ///
    /// # Errors
    /// An address cannot be listened at, the access log cannot be opened, no thread can be started.
    pub async fn start(snapshot: Snapshot) -> anyhow::Result<Self> {
        Self::take_over(snapshot, &mut Inherited::default()).await
    }

    /// The same with inherited sockets. Where another process waits, serving begins when nothing is missing any more.
    ///
    /// # Errors
    /// As [`Self::start`]; keys of issuers that do not come.
    pub async fn take_over(snapshot: Snapshot, inherited: &mut Inherited) -> anyhow::Result<Self> {
        let fixed = snapshot.settings.fixed.clone();
        let (listeners, mut files) = Listeners::bind(&fixed.listen, fixed.workers, inherited)
            .map_err(|(address, error)| anyhow::anyhow!("cannot listen at {address}: {error}"))?;
        let addresses = listeners.first().map(Listeners::addresses).unwrap_or_default();
        let access_log = AccessLog::start(&fixed.access_log).context("cannot open the access log")?;
        let shared = Shared::with_log(snapshot, access_log);
        reload::accompany(&shared.snapshot(), &Handle::current());
        if inherited.is_handover() {
            timeout(READY_PATIENCE, until_ready(&shared))
                .await
                .context("the keys of an issuer are missing")?;
        }
        let mut sockets = Vec::new();
        for listeners in &listeners {
            sockets.extend(listeners.duplicates().context("cannot keep the listeners")?);
        }
        let (orders, taken) = watch::channel(Work::Serve);
        let admin = match fixed.admin {
            Some(address) => {
                let listener = operators_listener(address, inherited)
                    .with_context(|| format!("cannot listen at {address} (admin)"))?;
                let actual = listener.local_addr()?;
                sockets.push(listener.try_clone()?.into());
                serve(TcpListener::from_std(listener)?, admin::router(shared.clone()), taken.clone());
                Some(actual)
            }
            None => None,
        };
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        if let Some(path) = &fixed.control {
            let listener = files
                .listen(path, CONTROL_MODE, inherited.unix(path))
                .with_context(|| format!("cannot listen at {} (control)", path.display()))?;
            sockets.push(listener.try_clone()?.into());
            let listener = UnixListener::from_std(listener)?;
            serve(listener, admin::control_router(shared.clone(), asks), taken.clone());
        }
        let workers = listeners
            .into_iter()
            .enumerate()
            .map(|(number, listeners)| accept::start(number, listeners, shared.clone(), taken.clone()))
            .collect::<io::Result<_>>()
            .context("cannot start a worker")?;
        files.adopt();
        Ok(Self { shared, addresses, admin, workers, orders, sockets, files, asked })
    }

    /// Lets another process take over. Then this one takes no connection any more.
    ///
    /// # Errors
    /// [`HandoverError`]; this process goes on as if nothing had been.
    async fn hand_over(&mut self) -> Result<u32, HandoverError> {
        let process = handover::hand_over(&self.sockets).await?;
        let _ = self.orders.send(Work::TakeNoMore);
        self.sockets.clear();
        self.files.leave();
        Ok(process)
    }

    /// Ends the workers, cutting what is left, and writes the last lines.
    ///
    /// # Errors
    /// A worker could not do its work.
    pub fn end(self) -> anyhow::Result<()> {
        let _ = self.orders.send(Work::End);
        let mut ended = Ok(());
        for worker in self.workers {
            match worker.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => ended = Err(error).context("a worker failed"),
                Err(_) => ended = Err(anyhow::anyhow!("a worker panicked")),
            }
        }
        self.shared.access_log.finish(LAST_LINES);
        ended
    }
}

async fn until_ready(shared: &Shared) {
    while !shared.is_ready() {
        sleep(READY_LOOK).await;
    }
}

fn operators_listener(address: SocketAddr, inherited: &mut Inherited) -> io::Result<StdListener> {
    match inherited.tcp(address).into_iter().next() {
        Some(listener) => Ok(listener),
        None => {
            let listener = StdListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        }
    }
}

/// Serves operators until another process does.
fn serve<L>(listener: L, router: Router, mut orders: watch::Receiver<Work>)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let over = async move {
        let _ = orders.wait_for(|work| *work >= Work::TakeNoMore).await;
    };
    tokio::spawn(async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(over);
        if let Err(error) = serving.await {
            tracing::error!(%error, "the operators' listener ended");
        }
    });
}

/// Runs the gateway with the configuration `file` until a signal stops it.
///
/// # Errors
/// It cannot start, or a worker failed.
pub fn run(file: &Path) -> anyhow::Result<()> {
    let mut inherited = Inherited::take().context("cannot take over sockets")?;
    let loaded =
        reload::load(file, None).map_err(|error| anyhow::anyhow!("{} is refused:\n{error}", file.display()));
    raise_descriptor_limit();
    let background = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    background.block_on(async {
        let mut signals = Signals::new().context("cannot take signals")?;
        let started = match loaded {
            Ok((snapshot, warnings)) => {
                Running::take_over(snapshot, &mut inherited).await.map(|running| (running, warnings))
            }
            Err(error) => Err(error),
        };
        inherited.tell(started.as_ref().map(|_| ()).map_err(|error| format!("{error:#}")));
        let (mut running, warnings) = started?;
        service_manager::ready();
        reload::note_warnings(file, &running.shared, &warnings);
        for address in &running.addresses {
            tracing::info!("serving at {address}");
        }
        for file in running.files.paths() {
            tracing::info!("serving at unix:{}", file.display());
        }
        if let Some(address) = running.admin {
            tracing::info!("operators are served at {address}");
        }
        match signals.obey(file, &mut running).await {
            Ended::Stop => {
                service_manager::stopping();
                drain::drain(&running.shared, signals.stop()).await
            }
            Ended::HandedOver => drain::leave(&running.shared, signals.stop()).await,
        };
        tokio::task::spawn_blocking(|| running.end()).await?
    })
}

/// Signals that mean something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    hand_over: Signal,
}

/// Why this process goes.
enum Ended {
    /// It was told to.
    Stop,
    /// Another one serves.
    HandedOver,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            hand_over: signal(SignalKind::user_defined2())?,
        })
    }

    /// Takes new configurations until a signal says to stop, or another process has taken over.
    async fn obey(&mut self, file: &Path, running: &mut Running) -> Ended {
        let shared = running.shared.clone();
        let mut file_watch = FileWatch::new(file);
        let background = Handle::current();
        loop {
            file_watch.also(shared.snapshot().certificate_files());
            tokio::select! {
                _ = self.terminate.recv() => return Ended::Stop,
                _ = self.interrupt.recv() => return Ended::Stop,
                _ = self.hand_over.recv() => {
                    if let Some(ended) = self.try_hand_over(running).await {
                        return ended;
                    }
                    continue;
                }
                Some(ask) = running.asked.recv() => {
                    match ask {
                        Ask::Configure { text, expected, reply } => {
                            let taken = reload::configure(&text, expected, file, &shared, &background);
                            file_watch.seen_now();
                            // Who asked may be gone by now.
                            let _ = reply.send(taken);
                        }
                        Ask::Stop => return Ended::Stop,
                    }
                    continue;
                }
                _ = self.hang_up.recv() => {
                    file_watch.seen_now();
                    shared.access_log.reopen();
                }
                () = file_watch.changed() => {}
            }
            // Refused configurations are logged and counted there.
            service_manager::reloading();
            let _ = reload::reload(file, &shared, &background);
            service_manager::ready();
        }
    }

    /// Nothing, if this process goes on.
    async fn try_hand_over(&mut self, running: &mut Running) -> Option<Ended> {
        tracing::info!("starting the process that takes over");
        let handed_over = tokio::select! {
            handed_over = running.hand_over() => handed_over,
            () = self.stop() => return Some(Ended::Stop),
        };
        match handed_over {
            Ok(process) => {
                tracing::info!(process, "another process serves");
                service_manager::handed_over(process);
                Some(Ended::HandedOver)
            }
            Err(error) => {
                tracing::error!("this process goes on: {error}");
                None
            }
        }
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Each connection needs a file descriptor, and most systems give a process 1,024 unless it asks for more.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a valid `rlimit` that outlives them.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !raised {
        tracing::warn!("cannot raise the limit of open files; it may bound connections");
    }
}
