//! From a document to a snapshot: everything that can be known before the first request is checked here, with the
//! line on which it stands. Nothing is started and nothing is changed: a configuration that is refused leaves no trace.
//!
//! What must outlive a reload is taken from the snapshot before: endpoints with their health, limits with their
//! counts, counters by route.
//!
//! | module | what |
//! |---|---|
//! | [`listeners`] | addresses, and what is spoken there |
//! | [`access_log`] | which requests have a line |
//! | [`traces`] | where spans go |
//! | [`connect`] | how services are reached: protocol, TLS |
//! | [`upstreams`] | services and instances |
//! | [`policies`] | how services are called: repetitions |
//! | [`routes`] | routes: changes |
//! | [`matching`] | what they match |
//! | [`rewrites`] | what is written anew for the service |
//! | [`actions`] | who answers |

pub mod access_log;
pub mod actions;
pub mod connect;
pub mod listeners;
pub mod matching;
pub mod policies;
pub mod rewrites;
pub mod routes;
pub mod traces;
pub mod upstreams;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use crate::{
    authenticate::Credentials,
    config::{Document, Findings, document::Behind},
    forwarded::Forwarding,
    in_flight::InFlight,
    limit,
    snapshot::{DrainTimes, Fixed, Listener, Settings, Snapshot},
};

/// Threads beyond which a mistake is more likely than a machine.
const WORKERS_MAX: u16 = 1024;
/// Headers beyond which hyper's parser does not go.
const HEADER_COUNT_MAX: u16 = 1000;

/// What a configuration is compiled beside.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Where the configuration stands: relative paths begin here.
    pub directory: &'a Path,
    /// The snapshot that it replaces, if any.
    pub previous: Option<&'a Snapshot>,
}

/// Compiles a document. Warnings come back beside the snapshot.
///
/// # Errors
/// All findings, if one of them is an error.
pub fn compile(document: &Document, context: Context<'_>) -> Result<(Snapshot, Findings), Findings> {
    let mut findings = Findings::default();
    let listeners = listeners::compile(document, context, &mut findings);
    let settings = settings(document, &listeners, context, &mut findings);
    let upstreams = upstreams::compile(document, context, &mut findings);
    let limiters = limit::compile(document, context, &mut findings);
    let credentials = Arc::new(Credentials::compile(document, context, &mut findings));
    let tunnels_max = document.limits.tunnels;
    let tunnels = match context.previous {
        Some(previous) => previous.tunnels.clone(),
        None => Arc::new(InFlight::new(tunnels_max)),
    };
    let parts = routes::Parts {
        upstreams: &upstreams,
        limiters: &limiters,
        credentials: &credentials,
        tunnels: &tunnels,
    };
    let routes = routes::compile(document, context, &parts, &mut findings);
    let tracer = traces::compile(document, context.previous, &mut findings);
    if !findings.usable() {
        return Err(findings);
    }
    let in_flight = match context.previous {
        Some(previous) => previous.in_flight.clone(),
        None => Arc::new(InFlight::new(document.limits.in_flight)),
    };
    let generation = context.previous.map_or(1, |previous| previous.generation + 1);
    let in_flight_max = document.limits.in_flight;
    let snapshot = Snapshot {
        generation,
        tracer,
        settings,
        listeners,
        routes,
        credentials,
        upstreams,
        limiters,
        in_flight,
        in_flight_max,
        tunnels,
        tunnels_max,
    };
    Ok((snapshot, findings))
}

fn settings(
    document: &Document,
    listeners: &[Arc<Listener>],
    context: Context<'_>,
    findings: &mut Findings,
) -> Settings {
    let limits = &document.limits;
    let times = &document.timeouts;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    if let Some(workers) = &document.workers
        && !(1..=WORKERS_MAX).contains(&workers.value)
    {
        findings.error(workers, "workers", format!("from 1 to {WORKERS_MAX}"));
    }
    let health_path = &document.health_path;
    if !health_path.value.starts_with('/') || health_path.value.contains(['{', '}', '?', '#', ' ']) {
        findings.error(health_path, "health_path", "a path such as /healthz, without parameters or query");
    }
    if !(1..=HEADER_COUNT_MAX).contains(&limits.header_count) {
        findings.general_error("limits.header_count", format!("from 1 to {HEADER_COUNT_MAX}"));
    }
    if !(1 << 10..=1 << 20).contains(&limits.header_bytes.0) {
        findings.general_error("limits.header_bytes", "from 1KiB to 1MiB");
    }
    for (name, value) in [
        ("connections", limits.connections),
        ("handshakes", limits.handshakes),
        ("in_flight", limits.in_flight),
        ("tunnels", limits.tunnels),
    ] {
        if value == 0 {
            findings.general_error(format!("limits.{name}"), "at least 1");
        }
    }
    for (name, time) in [
        ("header", times.header),
        ("keep_alive", times.keep_alive),
        ("request", times.request),
        ("stall", times.stall),
        ("tunnel", times.tunnel),
    ] {
        if time.0.is_zero() {
            findings.general_error(format!("timeouts.{name}"), "longer than 0s");
        }
    }
    if document.behind.value == Behind::FullNat {
        findings.warning(
            &document.behind,
            "behind",
            "behind a balancer in mode full-nat no client's address is seen: X-Forwarded-For, the access log and \
             rate limits by address know only the balancer; use nat or dsr-l2 where clients must be told apart",
        );
    }
    let settings = Settings {
        fixed: Fixed {
            listen: listeners.iter().map(|listener| listener.place.clone()).collect(),
            workers: document.workers.as_ref().map_or(cores, |workers| usize::from(workers.value)),
            control: control(document, findings),
            admin: document.admin.as_ref().map(|admin| admin.value),
            health_path: health_path.value.clone(),
            access_log: document.access_log.value.to.clone(),
            connections: limits.connections,
            header_bytes: usize::try_from(limits.header_bytes.0).unwrap_or(usize::MAX),
            header_count: usize::from(limits.header_count),
            header_timeout: times.header.0,
            keep_alive: times.keep_alive.0,
        },
        stall: times.stall.0,
        handshakes: limits.handshakes,
        forwarding: Forwarding { trusted: document.trusted_proxies.clone(), family: document.forwarded },
        http2: listeners::http2(&document.http2, findings),
        access_lines: access_log::compile(&document.access_log, findings),
        drain: DrainTimes {
            unready: document.drain.unready.0,
            close: document.drain.close.0,
            end: document.drain.end.0,
        },
        behind: document.behind.value,
    };
    if let Some(previous) = context.previous {
        changes_with_a_restart_only(&previous.settings.fixed, &settings.fixed, findings);
    }
    settings
}

fn control(document: &Document, findings: &mut Findings) -> Option<PathBuf> {
    let control = document.control.as_ref()?;
    if !control.value.is_absolute() {
        findings.error(control, "control", "a socket's path that begins with /");
    }
    Some(control.value.clone())
}

fn changes_with_a_restart_only(before: &Fixed, after: &Fixed, findings: &mut Findings) {
    let fields = [
        ("listen", before.listen == after.listen),
        ("workers", before.workers == after.workers),
        ("admin", before.admin == after.admin),
        ("control", before.control == after.control),
        ("health_path", before.health_path == after.health_path),
        ("access_log.to", before.access_log == after.access_log),
        ("limits.connections", before.connections == after.connections),
        ("limits.header_bytes", before.header_bytes == after.header_bytes),
        ("limits.header_count", before.header_count == after.header_count),
        ("timeouts.header", before.header_timeout == after.header_timeout),
        ("timeouts.keep_alive", before.keep_alive == after.keep_alive),
    ];
    for (field, _) in fields.iter().filter(|(_, same)| !same) {
        findings.general_error(*field, "changes with a restart only; take the change back, or restart");
    }
}
