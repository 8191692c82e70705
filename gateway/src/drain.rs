//! The stop: unready first, then answers that close their connections, idle connections last.
//!
//! Whoever is asked to go must not break a request that is on its way. So the health path says no while everything is
//! served as before, until the balancer knows; then each answer closes its connection, so that clients move by
//! themselves; only then connections without a request are closed. What is left at the end is cut, and said.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use crate::shared::{Phase, Shared};

/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(20);
/// No connection was seen for so long: none waits to be taken either.
const QUIET: Duration = Duration::from_millis(100);

/// How a stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that are cut.
    pub cut: u32,
    /// Somebody could not wait.
    pub hurried: bool,
}

/// Serves what is left after another process took over: it takes all that comes, so that nobody need be told.
pub async fn leave(shared: &Arc<Shared>, hurry: impl Future<Output = ()>) -> Drained {
    shared.hand_over();
    until_over(shared, closing_phases(shared), hurry).await
}

/// Stops, until nothing is left, the times are over, or `hurry` says to end now.
pub async fn drain(shared: &Arc<Shared>, hurry: impl Future<Output = ()>) -> Drained {
    until_over(shared, phases(shared), hurry).await
}

async fn until_over(
    shared: &Shared,
    phases: impl Future<Output = ()>,
    hurry: impl Future<Output = ()>,
) -> Drained {
    let hurried = tokio::select! {
        () = phases => false,
        () = hurry => true,
    };
    let cut = shared.open();
    match cut {
        0 => tracing::info!("stopped; no connection was cut"),
        _ => tracing::warn!(cut, hurried, "stopped; connections were cut"),
    }
    Drained { cut, hurried }
}

async fn phases(shared: &Arc<Shared>) {
    let unready = shared.snapshot().settings.drain.unready;
    tracing::info!(connections = shared.open(), "stopping: unready for {unready:?}");
    shared.advance(Phase::Unready);
    sleep(unready).await;
    closing_phases(shared).await;
}

async fn closing_phases(shared: &Arc<Shared>) {
    let times = shared.snapshot().settings.drain;
    let open = || shared.open();
    tracing::info!(connections = open(), "stopping: answers close their connections for {:?}", times.close);
    shared.advance(Phase::Closing);
    if timeout(times.close, until_none(shared)).await.is_ok() {
        return;
    }
    tracing::info!(
        connections = open(),
        "stopping: idle connections are closed, the rest after {:?}",
        times.end
    );
    shared.advance(Phase::Ending);
    let _ = timeout(times.end, until_none(shared)).await;
}

async fn until_none(shared: &Shared) {
    let mut none_since = None;
    loop {
        if shared.open() > 0 {
            none_since = None;
        } else if none_since.get_or_insert_with(Instant::now).elapsed() >= QUIET {
            return;
        }
        sleep(LOOK).await;
    }
}
