//! The process: reads the configuration, listens, starts the workers, and does what signals ask until it stops.
//!
//! Clients are served by the workers alone; everything else (health checks, keys, operators, reloads, the stop) runs
//! on the background runtime of this thread.

use std::{io, net::SocketAddr, path::Path, sync::Arc, thread::JoinHandle, time::Duration};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use crate::{
    accept::{self, Listeners, SocketFiles},
    access_log::AccessLog,
    admin, drain,
    reload::{self, watch::FileWatch},
    shared::Shared,
    snapshot::Snapshot,
};

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
    stop: watch::Sender<bool>,
    files: SocketFiles,
}

impl Running {
    /// Starts to serve `snapshot`. Called within the background runtime.
    ///
    /// # Errors
    /// An address cannot be listened at, the access log cannot be opened, no thread can be started.
    pub async fn start(snapshot: Snapshot) -> anyhow::Result<Self> {
        let fixed = snapshot.settings.fixed.clone();
        let (listeners, files) = Listeners::bind(&fixed.listen, fixed.workers)
            .map_err(|(address, error)| anyhow::anyhow!("cannot listen at {address}: {error}"))?;
        let addresses = listeners.first().map(Listeners::addresses).unwrap_or_default();
        let access_log = AccessLog::start(&fixed.access_log).context("cannot open the access log")?;
        let shared = Shared::with_log(snapshot, access_log);
        reload::accompany(&shared.snapshot(), &Handle::current());
        let admin = match fixed.admin {
            Some(address) => Some(serve_operators(address, shared.clone()).await?),
            None => None,
        };
        let (stop, stopped) = watch::channel(false);
        let workers = listeners
            .into_iter()
            .enumerate()
            .map(|(number, listeners)| accept::start(number, listeners, shared.clone(), stopped.clone()))
            .collect::<io::Result<_>>()
            .context("cannot start a worker")?;
        Ok(Self { shared, addresses, admin, workers, stop, files })
    }

    /// Ends the workers, cutting what is left, and writes the last lines.
    ///
    /// # Errors
    /// A worker could not do its work.
    pub fn end(self) -> anyhow::Result<()> {
        let _ = self.stop.send(true);
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

async fn serve_operators(address: SocketAddr, shared: Arc<Shared>) -> anyhow::Result<SocketAddr> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen at {address} (admin)"))?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, admin::router(shared)).await {
            tracing::error!(%error, "the operators' listener ended");
        }
    });
    Ok(address)
}

/// Runs the gateway with the configuration `file` until a signal stops it.
///
/// # Errors
/// It cannot start, or a worker failed.
pub fn run(file: &Path) -> anyhow::Result<()> {
    let (snapshot, warnings) = reload::load(file, None)
        .map_err(|error| anyhow::anyhow!("{} is refused:\n{error}", file.display()))?;
    raise_descriptor_limit();
    let background = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    background.block_on(async {
        let mut signals = Signals::new().context("cannot take signals")?;
        let running = Running::start(snapshot).await?;
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
        signals.obey(file, &running.shared).await;
        drain::drain(&running.shared, signals.stop()).await;
        tokio::task::spawn_blocking(|| running.end()).await?
    })
}

/// Signals that mean something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Takes new configurations until a signal says to stop.
    async fn obey(&mut self, file: &Path, shared: &Arc<Shared>) {
        let mut file_watch = FileWatch::new(file);
        let background = Handle::current();
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => {
                    file_watch.seen_now();
                    shared.access_log.reopen();
                }
                () = file_watch.changed() => {}
            }
            // Refused configurations are logged and counted there.
            let _ = reload::reload(file, shared, &background);
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
