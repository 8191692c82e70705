//! A steady stream of requests from one namespace, counted: sent, answered, failed, by whom.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use tokio::{runtime, task::JoinSet, time::sleep};

use crate::{
    http::{Answer, Ask, Connection, Failure, FailureKind},
    netns::Namespace,
};

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where to.
    pub target: SocketAddr,
    /// Workers that keep their connection until the server closes it or it has served `requests_kept`.
    pub keep_alive: usize,
    /// Requests on one connection of a worker that keeps it: pools recycle theirs, too, or a new server
    /// would never get its share.
    pub requests_kept: usize,
    /// Workers that open a connection for every request.
    pub fresh: usize,
    /// Between the answer and the next request of a worker.
    pub pause: Duration,
    /// A request, or a connection, without an answer for so long has failed.
    pub timeout: Duration,
}

impl Plan {
    /// A plan of about 2,000 requests a second at most, half of them on fresh connections.
    pub fn steady(target: SocketAddr) -> Self {
        Self {
            target,
            keep_alive: 20,
            requests_kept: 150,
            fresh: 20,
            pause: Duration::from_millis(20),
            timeout: Duration::from_secs(5),
        }
    }
}

/// What the workers ask for, and whether they got it.
pub trait Script: Send + Sync + 'static {
    /// The next request of a worker.
    fn ask(&self, worker: usize) -> Ask;

    /// Judges an answer of a good status; the error says what is wrong with it.
    fn judge(&self, worker: usize, ask: &Ask, answer: &Answer) -> Result<(), String>;
}

/// Everybody gets `/`, whatever it is.
struct Page;

impl Script for Page {
    fn ask(&self, _: usize) -> Ask {
        Ask::get("/")
    }

    fn judge(&self, _: usize, _: &Ask, _: &Answer) -> Result<(), String> {
        Ok(())
    }
}

/// What came of it so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests begun.
    pub sent: u64,
    /// Requests answered well.
    pub answered: u64,
    /// Requests that failed, in the order in which they did.
    pub failures: Vec<Failure>,
    /// Answers by server.
    pub by_server: BTreeMap<String, u64>,
    /// Kept connections on which another server answered than before.
    pub resteered: u64,
}

/// A running load; stopped when dropped.
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts the plan's workers on a thread inside the namespace; they get `/`.
    pub fn start(namespace: &Namespace, plan: Plan) -> Result<Self> {
        Self::start_script(namespace, plan, Arc::new(Page))
    }

    /// Likewise, with workers that ask for what the script says.
    pub fn start_script(namespace: &Namespace, plan: Plan, script: Arc<dyn Script>) -> Result<Self> {
        let (tally, stop) = (Arc::new(Mutex::new(Tally::default())), Arc::new(AtomicBool::new(false)));
        let thread = namespace.spawn({
            let (tally, stop) = (tally.clone(), stop.clone());
            move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(work(plan, script, tally, stop));
            }
        })?;
        Ok(Self { tally, stop, thread: Some(thread) })
    }

    /// The counts so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().expect("no worker panics with the lock").clone()
    }

    /// Lets every worker finish its request; then the final counts.
    pub fn stop(mut self) -> Result<Tally> {
        self.end()?;
        Ok(self.tally())
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_| anyhow!("a worker of the load panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Tally {
    /// Requests that failed.
    pub fn failed(&self) -> u64 {
        self.failures.len() as u64
    }

    /// Adds what another load counted after this one.
    pub fn add(&mut self, later: &Self) {
        self.sent += later.sent;
        self.answered += later.answered;
        self.failures.extend_from_slice(&later.failures);
        for (server, count) in &later.by_server {
            *self.by_server.entry(server.clone()).or_default() += count;
        }
        self.resteered += later.resteered;
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut by_server = self.by_server.clone();
        for (server, count) in &earlier.by_server {
            *by_server.entry(server.clone()).or_default() -= count;
        }
        by_server.retain(|_, count| *count > 0);
        Self {
            sent: self.sent - earlier.sent,
            answered: self.answered - earlier.answered,
            failures: self.failures[earlier.failures.len()..].to_vec(),
            by_server,
            resteered: self.resteered - earlier.resteered,
        }
    }

    /// The part of the answers that one server gave, from 0 to 1.
    pub fn share(&self, server: &str) -> f64 {
        self.by_server.get(server).copied().unwrap_or_default() as f64 / self.answered.max(1) as f64
    }

    /// The answers of one server.
    pub fn of(&self, server: &str) -> u64 {
        self.by_server.get(server).copied().unwrap_or_default()
    }

    /// When the last failed request began.
    pub fn last_failure_begun(&self) -> Option<Instant> {
        self.failures.iter().map(|failure| failure.begun).max()
    }
}

async fn work(plan: Plan, script: Arc<dyn Script>, tally: Arc<Mutex<Tally>>, stop: Arc<AtomicBool>) {
    let mut workers = JoinSet::new();
    let count = plan.keep_alive + plan.fresh;
    for index in 0..count {
        let (tally, stop, script) = (tally.clone(), stop.clone(), script.clone());
        workers.spawn(async move {
            // Spread over the first pause, so that they do not march in step.
            sleep(plan.pause * index as u32 / count as u32).await;
            let keeps = index < plan.keep_alive;
            let mut worker = Worker { plan, index, script, keeps, connection: None };
            while !stop.load(Ordering::Relaxed) {
                worker.request(&tally).await;
                sleep(plan.pause).await;
            }
        });
    }
    while workers.join_next().await.is_some() {}
}

struct Worker {
    plan: Plan,
    index: usize,
    script: Arc<dyn Script>,
    keeps: bool,
    connection: Option<Kept>,
}

struct Kept {
    connection: Connection,
    /// Who answered on it first.
    server: Option<String>,
    requests: usize,
}

impl Worker {
    async fn request(&mut self, tally: &Mutex<Tally>) {
        tally.lock().expect("unpoisoned").sent += 1;
        let known = self.connection.as_ref().and_then(|kept| kept.server.clone());
        let ask = self.script.ask(self.index);
        let begun = Instant::now();
        let result = match self.exchange(&ask).await {
            // As any client does: a kept connection that was closed before the request left is replaced.
            Err(failure) if failure.kind == FailureKind::Unsent && known.is_some() => {
                self.connection = None;
                self.exchange(&ask).await
            }
            result => result,
        };
        let result = result.and_then(|answer| match self.script.judge(self.index, &ask, &answer) {
            Ok(()) => Ok(answer),
            Err(detail) => Err(Failure { begun, server: None, kind: FailureKind::Content, detail }),
        });
        let mut tally = tally.lock().expect("unpoisoned");
        match result {
            Ok(answer) => {
                let met = self.connection.as_ref().and_then(|kept| kept.server.as_ref());
                if met.is_some_and(|met| *met != answer.server) {
                    tally.resteered += 1;
                }
                tally.answered += 1;
                *tally.by_server.entry(answer.server.clone()).or_default() += 1;
                match &mut self.connection {
                    Some(kept) if self.keeps && !answer.closes && kept.requests < self.plan.requests_kept => {
                        kept.server = Some(answer.server);
                    }
                    connection => *connection = None,
                }
            }
            Err(failure) => {
                tally.failures.push(Failure { server: known, ..failure });
                self.connection = None;
            }
        }
    }

    async fn exchange(&mut self, ask: &Ask) -> Result<Answer, Failure> {
        let kept = match self.connection.take() {
            Some(kept) => kept,
            None => {
                let connection = Connection::open(self.plan.target, self.plan.timeout).await?;
                Kept { connection, server: None, requests: 0 }
            }
        };
        let kept = self.connection.insert(kept);
        kept.requests += 1;
        kept.connection.ask(ask).await
    }
}
