//! Smuggling: whatever bytes a client sends, we refuse and close, or every origin sees exactly the requests that we
//! logged, with the same method, target, `Host` and body.
//!
//! After each payload comes a victim's request on the same connection, and one on another connection that takes the
//! gateway's pooled connection to the origin: neither may get another's answer.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    corpus::{self, Must, Payload},
    origin::{self, Origin},
    recorder::hex,
    report::Report,
    seen::{Lines, Logged, Seen},
    stage::Stage,
};
use crate::eventually::eventually;

/// What must be installed.
pub const PROGRAMS: [&str; 7] = ["nginx", "apache2", "haproxy", "varnishd", "lighttpd", "node", "gunicorn"];
/// A payload may leave a request unfinished: the gateway gives up after a second.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const VICTIM: &[u8] = b"GET /victim HTTP/1.1\r\nHost: victim.example\r\nConnection: close\r\n\r\n";

/// What one origin and the gateway in front of it made of a payload.
#[derive(Debug)]
struct Outcome {
    /// Whole requests that reached the origin, the victim's left out.
    seen: Vec<Seen>,
    /// Whether the origin itself refused one.
    origin_refused: bool,
    /// Whether the victim's request was served, so that all bytes before it were requests.
    victim_served: bool,
    /// The gateway's reasons.
    reasons: Vec<String>,
}

/// Sends every payload to every origin through a gateway.
pub fn run(stage: &Stage) -> Result<Report> {
    let origins = origin::start(stage)?;
    let mut gateways = Vec::new();
    for origin in Origin::ALL {
        let name = format!("gateway-{}", origin.name());
        gateways.push(stage.gateway(&name, &configuration(stage, origin), origin.gateway())?);
    }
    let payloads = corpus::all();
    let columns = thread::scope(|scope| {
        let column = |origin| {
            let payloads = &payloads;
            scope.spawn(move || column(stage, origin, payloads))
        };
        let threads = Origin::ALL.map(column);
        threads
            .into_iter()
            .map(|thread| thread.join().expect("it returns errors"))
            .collect::<Result<Vec<_>>>()
    })?;
    let mut report = Report::default();
    for (number, payload) in payloads.iter().enumerate() {
        let outcomes: Vec<_> =
            Origin::ALL.into_iter().zip(columns.iter().map(|column| &column[number])).collect();
        match judge(payload, &outcomes) {
            Ok(()) => report.pass(payload.class),
            Err(why) => report.fail(payload.class, format!("{why:#}\n    {}", payload.shown())),
        }
    }
    drop((gateways, origins));
    Ok(report)
}

fn configuration(stage: &Stage, origin: Origin) -> String {
    format!(
        "listen: ['{}']\nworkers: 1\naccess_log: '{}'\n\
         timeouts: {{ header: 1s, stall: 1s, keep_alive: 1s }}\n\
         drain: {{ unready: 0s, close: 0s, end: 0s }}\n\
         upstreams: {{ origin: {{ endpoints: ['{}'], ejection: {{ failures: 0 }} }} }}\n\
         routes: [{{ name: all, path: '/{{*rest}}', authenticate: [anonymous], upstream: origin }},\n\
         {{ name: root, path: /, authenticate: [anonymous], upstream: origin }}]\n",
        origin.gateway(),
        log(stage, origin).display(),
        origin.address(),
    )
}

fn log(stage: &Stage, origin: Origin) -> std::path::PathBuf {
    stage.file(&format!("{}.access", origin.name()))
}

/// All payloads, to one origin, one after the other. An error is an answer that went astray, or a request that the
/// origin saw otherwise than we logged it.
fn column(stage: &Stage, origin: Origin, payloads: &[Payload]) -> Result<Vec<Result<Outcome>>> {
    let sent = stage.namespace.enter(|| {
        let send = |(number, payload)| send(origin.gateway(), payload, &probe(number));
        payloads.iter().enumerate().map(send).collect::<Vec<_>>()
    })?;
    let (mut log, mut seen) = (Lines::new(log(stage, origin)), Lines::new(origin.seen(stage)));
    let mut logged: Vec<Logged> = Vec::new();
    let last = probe(payloads.len() - 1);
    eventually("the last probe is logged", ANSWER_LIMIT, || {
        logged.extend(log.added()?);
        ensure!(logged.iter().any(|line| line.path == last), "it is not");
        Ok(())
    })?;
    let (mut logged, mut seen) = (logged.into_iter(), seen.added::<Seen>()?.into_iter());
    let outcomes = sent.into_iter().enumerate().map(|(number, sent)| {
        let probe = probe(number);
        let logged = until(&mut logged, |line| line.path == probe);
        let seen = until(&mut seen, |seen| seen.target == probe);
        sent.and_then(|()| observe(logged, seen)).with_context(|| origin.name())
    });
    Ok(outcomes.collect())
}

/// What is asked after the payload of this number.
fn probe(number: usize) -> String {
    format!("/probe/{number}")
}

/// The items up to the first that is the last, itself included.
fn until<T>(items: &mut impl Iterator<Item = T>, is_last: impl Fn(&T) -> bool) -> Vec<T> {
    let mut found = Vec::new();
    for item in items {
        let end = is_last(&item);
        found.push(item);
        if end {
            break;
        }
    }
    found
}

/// The payload and a victim on one connection, then a probe on another, which must get its own answer.
fn send(gateway: SocketAddr, payload: &Payload, probe: &str) -> Result<()> {
    let victim = if payload.victim { VICTIM } else { b"" };
    let (_, closed) = exchange(gateway, &[&payload.bytes[..], victim].concat())?;
    let request = format!("GET {probe} HTTP/1.1\r\nHost: probe.example\r\nConnection: close\r\n\r\n");
    let (answer, _) = exchange(gateway, request.as_bytes())?;
    let answer = String::from_utf8_lossy(&answer);
    ensure!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(probe),
        "the next request of another client was answered {answer:?}"
    );
    ensure!(closed, "the connection was not closed");
    Ok(())
}

/// What came until the gateway closed, and whether it did.
fn exchange(gateway: SocketAddr, bytes: &[u8]) -> Result<(Vec<u8>, bool)> {
    let mut stream = TcpStream::connect(gateway)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    // A gateway that has refused may not read the rest.
    let _ = stream.write_all(bytes);
    let mut answers = Vec::new();
    let closed = match stream.read_to_end(&mut answers) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    Ok((answers, closed))
}

fn observe(logged: Vec<Logged>, mut seen: Vec<Seen>) -> Result<Outcome> {
    let served: Vec<&Logged> = logged.iter().filter(|line| line.was_served()).collect();
    let fits = |(logged, seen): (&&Logged, &Seen)| {
        let host =
            logged.host.is_none() || logged.host.as_deref().map(host) == seen.host.as_deref().map(host);
        logged.method == seen.method && logged.path == seen.path() && host
    };
    ensure!(
        served.len() == seen.len() && served.iter().zip(&seen).all(fits),
        "the gateway logged {served:?} and the origin saw {seen:?}"
    );
    seen.pop();
    let victim_served = seen.last().is_some_and(|last| last.target == "/victim");
    if victim_served {
        seen.pop();
    }
    Ok(Outcome {
        seen,
        origin_refused: logged.iter().any(Logged::was_refused_by_origin),
        victim_served,
        reasons: logged.into_iter().filter_map(|line| line.reason).collect(),
    })
}

/// One form of a host: lighttpd writes it in small letters, without a default port and a last dot.
fn host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    host.trim_end_matches(":80").trim_end_matches('.').to_owned()
}

/// Whether the origins agree with each other, and with what the payload must come to.
fn judge(payload: &Payload, outcomes: &[(Origin, &Result<Outcome>)]) -> Result<()> {
    let mut accepted = Vec::new();
    for (origin, outcome) in outcomes {
        match outcome {
            Ok(outcome) if outcome.origin_refused => {}
            Ok(outcome) => accepted.push((origin, outcome)),
            Err(error) => bail!("{error:#}"),
        }
    }
    let Some(((_, first), others)) = accepted.split_first() else { bail!("every origin refused it") };
    for (origin, other) in others {
        let alike = first.victim_served == other.victim_served
            && first.seen.len() == other.seen.len()
            && first.seen.iter().zip(&other.seen).all(|(first, other)| same(**origin, first, other));
        ensure!(alike, "{} saw {:?}, the first origin {:?}", origin.name(), other.seen, first.seen);
    }
    match &payload.must {
        // Of a stream that HTTP/2 resets, no line says why.
        Must::Refuse => ensure!(
            !first.victim_served && first.seen.is_empty() && (!first.reasons.is_empty() || !payload.victim),
            "it was not refused: {first:?}"
        ),
        Must::Pass(bodies) => {
            let bodies: Vec<_> = bodies.iter().map(|body| hex(body)).collect();
            let passed =
                first.victim_served == payload.victim && first.seen.iter().map(|seen| &seen.body).eq(&bodies);
            ensure!(passed, "it did not pass as {bodies:?}: {first:?}");
        }
        Must::Agree => {}
    }
    Ok(())
}

/// Whether two origins saw the same request; `Host` was compared with what we logged.
fn same(origin: Origin, first: &Seen, other: &Seen) -> bool {
    // Varnish hands a GET on without its body, as it may (RFC 9110, 9.3.1).
    let dropped = origin == Origin::Varnish && first.method == "GET" && other.body.is_empty();
    first.method == other.method && first.target == other.target && (dropped || first.body == other.body)
}
