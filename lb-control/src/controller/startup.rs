//! Brings the controller up, each thing after those that it needs, and takes what is installed off again.
//!
//! The socket appears last: who finds it finds a balancer that serves. A start that fails takes back what it
//! attached and pinned; directories, the store, a bpffs that it mounted and what it set for forwarding stay, and so
//! does what an earlier controller installed or attached.

use std::{collections::BTreeSet, net::IpAddr, path::Path, sync::Arc};

use anyhow::{Context as _, bail};
use lb_common::limits;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{
    Bpf,
    admission::{RouteAdmission, full_nat_addresses, own_address},
    adopt,
    dry_run::DryRunner,
    engine_thread::EngineThread,
    host,
    interfaces::{Interfaces, occupied},
    multicast::Marks,
    observe::Observer,
    reconcile::{Progress, Reconciler},
    target::{Targets, target},
};
use crate::{
    api::{self, AppState, Listeners, Tokens},
    config::{AttachMode, Capacities, Config, LocalClients},
    datapath::{
        Capacity, Contents, Datapath as _,
        bpf::{AttachedMode, BpfDatapath, BpfOptions, WantedMode},
        socket,
    },
    desired::{Condition, DesiredState},
    engine::{Engine, monotonic_micros},
    health::{
        self,
        samples::{Samples, deliver},
    },
    model::{Desired, Service},
    netlink::{Netlink, Snapshot},
    next_hops::{self, NextHops, Resolved},
};

/// The API's socket in the runtime directory.
const SOCKET: &str = "control.sock";
/// The store in the state directory.
const STORE: &str = "desired.redb";

/// Runs until SIGTERM or SIGINT; what is installed stays.
pub async fn run(config: Config, object: &'static [u8]) -> anyhow::Result<()> {
    let directories = &config.directories;
    for directory in [&directories.state, &directories.runtime] {
        host::private_directory(directory)?;
    }
    let _runtime_lock = host::lock(&directories.runtime, "runtime directory")?;
    if let Some(tcp) = &config.tcp_api {
        Tokens::read(&tcp.token_file)
            .with_context(|| format!("--token-file {}", tcp.token_file.display()))?;
    }
    let desired = Arc::new(DesiredState::open(&directories.state.join(STORE))?);
    let netlink = Netlink::start().await?;
    let fresh = is_empty(&directories.pins);
    if fresh {
        check_unoccupied(&config.interfaces, &netlink.snapshot())?;
    }
    host::pin_directory(&directories.pins)?;
    let _pins_lock = host::lock(&directories.pins, "pin directory")?;

    let started = start(&config, object, desired.clone(), netlink.clone()).await;
    let (reconciler, listeners) = match started {
        Ok(started) => started,
        Err(error) => {
            if fresh {
                // Nothing was there before: leave nothing.
                let _ = Marks::new(&directories.pins).release_all(&netlink).await;
                let _ = BpfDatapath::unload(&directories.pins);
            }
            return Err(error);
        }
    };
    let (samples, times) = Samples::channel();
    tokio::spawn(health::run(desired.clone(), samples.clone()));
    let engine = reconciler.engine.clone();
    tokio::spawn(deliver(times, async move |times| {
        let note = move |engine: &mut Bpf| engine.note_response_times(&times, monotonic_micros());
        engine.call(note).await.is_ok()
    }));
    let dry_runs = DryRunner { engine: reconciler.engine.clone(), resolved: reconciler.resolved.clone() };
    let observer = reconciler.observer.clone();
    let state = AppState { desired, observer, engine: Arc::new(dry_runs), samples };
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(api::serve(state, listeners, async move {
        let mut stopped = stopped;
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }));
    tracing::info!("connections that this host itself opens to a virtual address are not balanced");
    tracing::info!("ready: orders are taken on {}", directories.runtime.join(SOCKET).display());
    let ended = tokio::select! {
        gone = reconciler.run() => Err(gone.into()),
        signal = termination() => signal,
    };
    stop.send_replace(true);
    let _ = serving.await;
    if ended.is_ok() {
        tracing::info!("ended: the program and its tables stay, packets keep flowing");
    }
    ended
}

/// Removes the program, its links and its tables.
pub fn unload(pins: &Path) -> anyhow::Result<()> {
    if !pins.exists() || !host::on_bpffs(pins)? {
        println!("nothing is loaded: nothing is pinned in {}", pins.display());
        return Ok(());
    }
    let _lock = host::lock(pins, "pin directory")?;
    if let Some(stranger) = stranger(pins)? {
        bail!(
            "--pin-dir {}: holds {stranger:?}, which is not this program's; nothing was removed",
            pins.display()
        );
    }
    release_multicast(&Marks::new(pins))?;
    BpfDatapath::unload(pins)?;
    println!("unloaded: the program and its tables are gone");
    Ok(())
}

fn release_multicast(marks: &Marks) -> anyhow::Result<()> {
    if marks.marked()?.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { marks.release_all(&Netlink::start().await?).await })
}

/// Whether nothing is pinned in a directory, by this program or another.
fn is_empty(pins: &Path) -> bool {
    std::fs::read_dir(pins).is_ok_and(|mut entries| entries.next().is_none()) || !pins.exists()
}

/// The name of something in a pin directory that no version of this program pinned: they pin in `v1`, `v2`, …
fn stranger(pins: &Path) -> anyhow::Result<Option<String>> {
    for entry in std::fs::read_dir(pins)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.strip_prefix('v').is_none_or(|version| version.parse::<u32>().is_err()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Refuses before anything is loaded: a first start finds no program of ours anywhere.
fn check_unoccupied(names: &[String], snapshot: &Snapshot) -> anyhow::Result<()> {
    for name in names {
        match snapshot.link_by_name(name) {
            None => tracing::warn!("there is no interface {name} yet; it is attached to when it appears"),
            Some((_, link)) => {
                if let Some(other) = link.xdp {
                    bail!("interfaces: {}", occupied(name, other));
                }
            }
        }
    }
    Ok(())
}

async fn start(
    config: &Config,
    object: &'static [u8],
    desired: Arc<DesiredState>,
    netlink: Netlink,
) -> anyhow::Result<(Reconciler, Listeners)> {
    let pool = &config.packets.full_nat.addresses;
    if let Some(rule) = full_nat_addresses(pool, &desired.current(), &netlink.snapshot()) {
        bail!("full_nat.addresses: {rule}");
    }
    let (options, capacities) = (options(config, object, &desired.current()), config.capacities);
    let (engine, (contents, slots)) = EngineThread::start(move || open(options, capacities)).await?;
    desired.set_slots(slots);
    desired.set_full_nat(pool.clone());
    adopt::health(&desired, &contents, host::unix_seconds());
    make_services(&desired, &config.services)?;
    warn_of_own_addresses(&desired.current(), &netlink.snapshot());
    let mut next_hops = NextHops::new(config.interfaces.clone());
    next_hops.adopt(&contents.interfaces, &adopt::ways(&contents));
    let (wanted, wanted_receiver) = watch::channel(backend_addresses(&desired.current()));
    let (resolved, resolved_receiver) = watch::channel(None);
    tokio::spawn(next_hops::run(netlink.clone(), next_hops, wanted_receiver, resolved));
    desired.set_admission(Arc::new(RouteAdmission::new(netlink.clone())));

    let wanted_mode = match config.mode {
        AttachMode::Auto => WantedMode::Auto,
        AttachMode::Driver => WantedMode::Only(AttachedMode::Driver),
        AttachMode::Generic => WantedMode::Only(AttachedMode::Generic),
    };
    let mut reconciler = Reconciler {
        engine,
        snapshots: netlink.watch(),
        netlink,
        interfaces: Interfaces::new(
            config.interfaces.clone(),
            wanted_mode,
            Marks::new(&config.directories.pins),
        ),
        targets: Targets::new(config.packets.clone()),
        effective: desired.effective().clone(),
        desired: desired.subscribe(),
        resolved: resolved_receiver,
        wanted,
        observer: Arc::new(Observer::default()),
        observing: None,
        progress: Progress::default(),
    };
    reconciler.start().await?;
    let bound = match reconciler.interfaces.errors().next() {
        Some(error) => Err(anyhow::anyhow!(error)),
        None => {
            let socket = config.directories.runtime.join(SOCKET);
            let listeners = Listeners::bind(&socket, config.tcp_api.as_ref()).await;
            listeners.context("the API cannot listen").and_then(|listeners| {
                turn_sockets(config)?;
                Ok(listeners)
            })
        }
    };
    match bound {
        Ok(listeners) => {
            reconciler.interfaces.let_go_of_others(&reconciler.netlink, &reconciler.engine).await?;
            Ok((reconciler, listeners))
        }
        Err(error) => {
            reconciler.interfaces.take_back(&reconciler.netlink, &reconciler.engine).await?;
            Err(error)
        }
    }
}

/// Has sockets of this host reach services, or leaves them alone.
fn turn_sockets(config: &Config) -> anyhow::Result<()> {
    let pins = &config.directories.pins;
    let attached = match &config.local_clients {
        LocalClients::Off => return socket::detach(pins).context("local_clients"),
        LocalClients::On(Some(cgroup)) => socket::attach(pins, cgroup),
        LocalClients::On(None) => socket::cgroup_root().and_then(|root| socket::attach(pins, &root)),
    };
    attached.context("local_clients")
}

/// The program is loaded for what is desired at the start, and again for what comes later.
fn options(config: &Config, object: &'static [u8], desired: &Desired) -> BpfOptions<'static> {
    let mut wanted = desired.clone();
    for service in &config.services {
        if !wanted.services.contains_key(&service.name) {
            wanted.services.insert(service.name.clone(), service.clone());
        }
    }
    let (nowhere, nothing) = (Resolved::default(), Snapshot::default());
    let target = target(&wanted, &config.packets, &nowhere, &nothing, host::unix_seconds());
    BpfOptions {
        object,
        pin_dir: config.directories.pins.clone(),
        log_level: config.log_level.number(),
        features: target.features(),
        max_entries: vec![
            (limits::maps::FLOWS, config.capacities.flows),
            (limits::maps::SLOTS, config.capacities.slots),
        ],
    }
}

/// Loads or takes over. Tells what is installed and how many slots there are.
fn open(options: BpfOptions<'_>, capacities: Capacities) -> anyhow::Result<(Bpf, (Contents, u32))> {
    let mut datapath = BpfDatapath::open(options)?;
    datapath.forward_logs()?;
    if datapath.took_over() {
        tracing::info!("took over the tables of an earlier controller");
        let Capacity { slots, flows, .. } = datapath.capacity();
        if (flows, slots) != (capacities.flows, capacities.slots) {
            tracing::warn!(
                "the tables keep their sizes, {flows} flows and {slots} slots: `lb-control unload` before changing \
                 `limits`"
            );
        }
    }
    let found = (datapath.contents()?, datapath.capacity().slots);
    Ok((Engine::adopt(datapath)?, found))
}

/// The file's services, where none of the name exists. They are made without asking for routes: at boot
/// the network may come up after the balancer.
fn make_services(desired: &DesiredState, services: &[Service]) -> anyhow::Result<()> {
    for service in services {
        if desired.current().services.contains_key(&service.name) {
            tracing::debug!(service = %service.name, "exists; the file's is left aside");
            continue;
        }
        let insert = |state: &mut Desired| {
            state.services.insert(service.name.clone(), service.clone());
            Ok(())
        };
        desired
            .order(Condition::None, insert)
            .map_err(|refusal| anyhow::anyhow!("services: {}: {}", service.name, refusal.in_words()))?;
        tracing::info!(service = %service.name, "made as the configuration file says");
    }
    Ok(())
}

/// Orders for such services are refused; those of the file and of the store are kept.
fn warn_of_own_addresses(desired: &Desired, snapshot: &Snapshot) {
    for service in desired.services.values() {
        if let Some(rule) = own_address(service.address, snapshot) {
            tracing::warn!(service = %service.name, "{rule}");
        }
    }
}

fn backend_addresses(desired: &Desired) -> BTreeSet<IpAddr> {
    desired.services.values().flat_map(|service| service.backends.keys()).map(|at| at.ip()).collect()
}

async fn termination() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
