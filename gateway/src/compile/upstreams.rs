//! Services and their instances.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use http::{HeaderValue, uri::PathAndQuery};

use super::{Context, connect, policies};
use crate::{
    config::{
        Document, Findings,
        upstream::{EndpointDocument, HealthDocument, UpstreamDocument},
    },
    upstream::{
        Ejection, Endpoint, HealthSettings, PoolSettings, Upstream,
        balance::{Balance, Instance},
        retry::Retry,
    },
};

/// Requests on one HTTP/2 connection: what most servers take.
const STREAMS_MAX: usize = 100;
/// HTTP/2 connections of one worker to one instance.
const CONNECTIONS_MAX: usize = 8;

/// Of the endpoints of a priority.
const FAILOVER_PERCENT: u8 = 50;

/// All services by name.
pub fn compile(
    document: &Document,
    context: Context<'_>,
    findings: &mut Findings,
) -> BTreeMap<String, Arc<Upstream>> {
    let mut upstreams = BTreeMap::new();
    for (name, written) in &document.upstreams {
        let field = format!("upstreams.{name}");
        let previous = context.previous.and_then(|previous| previous.upstreams.get(name));
        let upstream = upstream(name, &field, &written.value, document, context, previous, findings);
        upstreams.insert(name.clone(), Arc::new(upstream));
    }
    upstreams
}

fn upstream(
    name: &str,
    field: &str,
    written: &UpstreamDocument,
    document: &Document,
    context: Context<'_>,
    previous: Option<&Arc<Upstream>>,
    findings: &mut Findings,
) -> Upstream {
    if written.endpoints.value.is_empty() {
        findings.error(&written.endpoints, format!("{field}.endpoints"), "name at least one address");
    }
    let distinct: BTreeSet<_> = written.endpoints.value.iter().map(|endpoint| &endpoint.address).collect();
    if distinct.len() < written.endpoints.value.len() {
        findings.error(&written.endpoints, format!("{field}.endpoints"), "each address once");
    }
    let host = written.host.as_ref().and_then(|host| {
        let value = HeaderValue::from_str(&host.value).ok().filter(|value| !value.is_empty());
        if value.is_none() {
            findings.error(host, format!("{field}.host"), "a host such as accounts.internal:8080");
        }
        value
    });
    let health = written.health.as_ref().map(|health| health_settings(field, health, findings));
    if written.pool.max_age.0.is_zero() || written.connect_timeout.0.is_zero() {
        findings.error(&written.endpoints, field, "pool.max_age and connect_timeout are longer than 0s");
    }
    let (streams_max, connections_max) = connect::multiplexing(field, written, findings);
    // A checker asks as it was told when it began: other questions need other endpoints.
    let connector = connect::compile(
        field,
        written,
        host.as_ref(),
        context,
        previous.map(|previous| &previous.connector),
        findings,
    );
    let ejection = policies::ejection(written, field, findings);
    let window = |ejection: &Ejection| ejection.ratio.map(|ratio| ratio.window);
    let same_questions = previous.filter(|previous| {
        previous.health == health
            && previous.host == host
            && previous.connector.id == connector.id
            && window(&previous.ejection) == window(&ejection)
    });
    let instances = written.endpoints.value.iter().map(|EndpointDocument { address, weight, priority }| {
        let known = |upstream: &Arc<Upstream>| {
            upstream.endpoints.iter().find(|endpoint| endpoint.address == *address).cloned()
        };
        let endpoint = same_questions.and_then(known).unwrap_or_else(|| {
            let endpoint = Endpoint::new(address.clone(), ejection.ratio.as_ref());
            if let Some(before) = previous.and_then(known).filter(|_| health.is_some()) {
                endpoint.set_health(before.health());
            }
            Arc::new(endpoint)
        });
        Instance { endpoint, weight: *weight, priority: *priority }
    });
    let instances: Vec<_> = instances.collect();
    let failover_percent = failover_percent(field, written, findings);
    let slow_start = written.slow_start.as_ref().map(|time| {
        if time.value.0.is_zero() {
            findings.error(time, format!("{field}.slow_start"), "longer than 0s");
        }
        time.value.0
    });
    let first_byte_timeout = written.first_byte_timeout.as_ref().map(|time| {
        if time.value.0.is_zero() {
            findings.error(time, format!("{field}.first_byte_timeout"), "longer than 0s");
        }
        time.value.0
    });
    let retry = written.retry.as_ref();
    Upstream {
        retry: retry.map_or_else(Retry::unsent_only, |retry| policies::retry(retry, field, findings)),
        budget: retry.map(|retry| policies::budget(retry, field, previous, findings)),
        breaker: written
            .breaker
            .as_ref()
            .map(|breaker| policies::breaker(breaker, field, previous, findings)),
        counters: previous.map(|previous| previous.counters.clone()).unwrap_or_default(),
        first_byte_timeout,
        name: name.into(),
        endpoints: instances.iter().map(|instance| instance.endpoint.clone()).collect(),
        balance: Balance::new(written.balance.clone(), failover_percent, slow_start, instances),
        host,
        connector,
        pool: PoolSettings {
            idle_max: usize::from(written.pool.idle_max),
            streams_max: streams_max.unwrap_or(STREAMS_MAX),
            connections_max: connections_max.unwrap_or(CONNECTIONS_MAX),
            ping: written.pool.ping.as_ref().map(|ping| ping.value.0),
            idle_timeout: written.pool.idle_timeout.0,
            max_age: written.pool.max_age.0,
        },
        ejection,
        health,
        connect_timeout: written.connect_timeout.0,
        stall: document.timeouts.stall.0,
    }
}

fn failover_percent(field: &str, written: &UpstreamDocument, findings: &mut Findings) -> u8 {
    let Some(percent) = &written.failover_percent else { return FAILOVER_PERCENT };
    let mut priorities = written.endpoints.value.iter().map(|endpoint| endpoint.priority);
    let first = priorities.next();
    if !(1..=100).contains(&percent.value) {
        findings.error(percent, format!("{field}.failover_percent"), "from 1 to 100");
    } else if priorities.all(|priority| Some(priority) == first) {
        let rule = "all endpoints have one priority: there is none to hand on to";
        findings.error(percent, format!("{field}.failover_percent"), rule);
    }
    percent.value
}

fn health_settings(field: &str, written: &HealthDocument, findings: &mut Findings) -> HealthSettings {
    if !written.path.value.starts_with('/') || PathAndQuery::try_from(written.path.value.as_str()).is_err() {
        findings.error(&written.path, format!("{field}.health.path"), "a path such as /healthz");
    }
    if written.interval.0.is_zero() || written.timeout.0.is_zero() || written.rise == 0 || written.fall == 0 {
        let rule = "interval and timeout are longer than 0s, rise and fall at least 1";
        findings.error(&written.path, format!("{field}.health"), rule);
    }
    HealthSettings {
        path: written.path.value.clone(),
        interval: written.interval.0,
        timeout: written.timeout.0,
        rise: written.rise,
        fall: written.fall,
    }
}
