//! The way to every backend, kept fresh: route, neighbour, Ethernet address and interface.
//!
//! Packets that XDP forwards do not count as use in the kernel's neighbour table, so entries that only they
//! need would go stale and be collected: this task asks in their stead. The decisions are pure and stand in
//! [`ways`]; this file asks the kernel what they want to know.

mod indexes;
pub mod ways;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::netlink::Netlink;

pub use self::ways::{NextHops, Question, Resolved, Unresolved};

/// How often due questions are looked for.
const TICK: Duration = Duration::from_millis(500);

/// Resolves `wanted` until the last reader of `published` is gone. The first publication follows the first
/// round of questions, so that who waits for it finds every route answered.
pub async fn run(
    netlink: Netlink,
    mut next_hops: NextHops,
    mut wanted: watch::Receiver<BTreeSet<IpAddr>>,
    published: watch::Sender<Option<Arc<Resolved>>>,
) {
    let start = Instant::now();
    let mut snapshots = netlink.watch();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        next_hops.want(&wanted.borrow_and_update());
        let snapshot = snapshots.borrow_and_update().clone();
        for question in next_hops.questions(&snapshot, start.elapsed()) {
            ask(&netlink, &mut next_hops, question, snapshot.routes_version).await;
        }
        let resolved = next_hops.resolved(&snapshot);
        let before = published.borrow().clone();
        if before.as_deref() != Some(&resolved) {
            tell(before.as_deref(), &resolved);
            published.send_replace(Some(Arc::new(resolved)));
        }
        tokio::select! {
            _ = tick.tick() => {}
            changed = snapshots.changed() => if changed.is_err() { return },
            changed = wanted.changed() => if changed.is_err() { return },
            () = published.closed() => return,
        }
    }
}

/// Logs ways that were lost or found again, or that could not be found.
fn tell(before: Option<&Resolved>, now: &Resolved) {
    for (backend, way) in &now.ways {
        let was = before.and_then(|before| before.ways.get(backend));
        match (was, way) {
            (Some(Ok(_)), Ok(_)) | (_, Err(Unresolved::NotAsked | Unresolved::Asking)) => {}
            (Some(Err(was)), Err(is)) if was == is => {}
            (_, Err(reason)) => tracing::warn!(%backend, %reason, "no way to the backend"),
            (_, Ok(_)) => tracing::debug!(%backend, "there is a way to the backend"),
        }
    }
}

async fn ask(netlink: &Netlink, next_hops: &mut NextHops, question: Question, routes_version: u64) {
    match question {
        Question::Route(address) => match netlink.route(address).await {
            Ok(answer) => next_hops.answer(address, routes_version, answer),
            Err(error) => tracing::warn!(%address, %error, "cannot ask the kernel for a route"),
        },
        Question::Neighbour(route) => {
            if let Err(error) = netlink.ask_neighbour(route.ifindex, route.neighbour).await {
                tracing::debug!(neighbour = %route.neighbour, %error, "cannot have a neighbour asked for");
            }
        }
    }
}
