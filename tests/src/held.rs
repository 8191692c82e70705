//! Many connections, held open and asked again and again: is each still there, and still with its server?

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::{runtime, task::JoinSet};

use crate::{
    http::{Answer, Connection, Failure},
    netns::Namespace,
};

/// Connections that are opened at the same time, so that no accept queue overflows.
const OPENED_AT_ONCE: usize = 64;

/// Open connections, each with the server that it met first; closed when dropped.
pub struct Held {
    asks: Option<Sender<()>>,
    rounds: Receiver<Round>,
    thread: Option<JoinHandle<Result<()>>>,
    servers: BTreeMap<String, usize>,
}

/// One request on every connection.
#[derive(Clone, Debug, Default)]
pub struct Round {
    /// Answered by the server that the connection met first.
    pub kept: usize,
    /// (first server, server now) of each connection that another server answered.
    pub resteered: Vec<(String, String)>,
    /// Connections that broke, with their server. They stay out of later rounds.
    pub cut: Vec<Failure>,
    /// Connections that the server closed in good order. They stay out of later rounds.
    pub closed: usize,
}

impl Held {
    /// Opens `count` connections and asks each once.
    pub fn open(namespace: &Namespace, target: SocketAddr, count: usize, limit: Duration) -> Result<Self> {
        let (asks, asked) = channel();
        let (report, rounds) = channel();
        let (opened, open) = channel();
        let thread = namespace.spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let mut connections = runtime.block_on(open_all(target, count, limit))?;
            let mut servers = BTreeMap::new();
            for connection in &connections {
                *servers.entry(connection.server.clone()).or_default() += 1;
            }
            opened.send(servers)?;
            while asked.recv().is_ok() {
                let round;
                (connections, round) = runtime.block_on(ask_all(connections));
                report.send(round)?;
            }
            Ok(())
        })?;
        match open.recv() {
            Ok(servers) => Ok(Self { asks: Some(asks), rounds, thread: Some(thread), servers }),
            Err(_) => match thread.join() {
                Ok(Err(error)) => Err(error),
                _ => Err(anyhow!("the thread of the connections panicked")),
            },
        }
    }

    /// How many connections met each server first.
    pub fn servers(&self) -> &BTreeMap<String, usize> {
        &self.servers
    }

    /// One request on every connection that is left.
    pub fn ask(&self) -> Result<Round> {
        self.asks.as_ref().context("open")?.send(())?;
        Ok(self.rounds.recv()?)
    }

    /// [`Self::ask`], where every connection must answer as before.
    pub fn ask_and_expect_all(&self, count: usize) -> Result<()> {
        let round = self.ask()?;
        ensure!(
            round.kept == count,
            "of {count} connections {} kept their server, {} were resteered, {} cut, {} closed: {:?} {:?}",
            round.kept,
            round.resteered.len(),
            round.cut.len(),
            round.closed,
            round.resteered.first(),
            round.cut.first().map(ToString::to_string),
        );
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.asks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Open {
    connection: Connection,
    server: String,
}

async fn open_all(target: SocketAddr, count: usize, limit: Duration) -> Result<Vec<Open>> {
    let mut opening = JoinSet::new();
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        if opening.len() == OPENED_AT_ONCE {
            connections.push(opening.join_next().await.context("one is opening")???);
        }
        opening.spawn(async move {
            let mut connection = Connection::open(target, limit).await?;
            let server = connection.get("/whoami").await?.server;
            Ok::<_, Failure>(Open { connection, server })
        });
    }
    while let Some(connection) = opening.join_next().await {
        connections.push(connection??);
    }
    Ok(connections)
}

async fn ask_all(connections: Vec<Open>) -> (Vec<Open>, Round) {
    let mut asking = JoinSet::new();
    for mut open in connections {
        asking.spawn(async move {
            let answer = open.connection.get("/whoami").await;
            (open, answer)
        });
    }
    let (mut left, mut round) = (Vec::new(), Round::default());
    while let Some(asked) = asking.join_next().await {
        let (open, answer) = asked.expect("asking does not panic");
        match answer {
            Err(failure) => round.cut.push(Failure { server: Some(open.server), ..failure }),
            Ok(Answer { server, closes, .. }) => {
                match server == open.server {
                    true => round.kept += 1,
                    false => round.resteered.push((open.server.clone(), server)),
                }
                match closes {
                    true => round.closed += 1,
                    false => left.push(open),
                }
            }
        }
    }
    (left, round)
}
