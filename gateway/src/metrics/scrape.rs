//! Counters as OpenMetrics text. Sums are made here, when somebody asks.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{BUCKETS_US, REASONS, RouteMetrics};
use crate::{
    accept::opening::HandshakeFailure, clock::now_ns, shared::Shared, snapshot::Snapshot,
    upstream::endpoint::Health,
};

/// All metrics of `shared`.
///
/// # Errors
/// None is known: writing to memory does not fail.
pub fn render(shared: &Arc<Shared>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("gateway");
    registry.register_collector(Box::new(Scrape(shared.clone())));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

struct Scrape(Arc<Shared>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        let snapshot = self.0.snapshot();
        routes(&mut out, &self.0, &snapshot)?;
        upstreams(&mut out, &snapshot)?;
        callers(&mut out, &snapshot)?;
        connections(&mut out, &self.0, &snapshot)?;
        process(&mut out, &self.0, &snapshot)
    }
}

const NO_LABELS: [(&str, &str); 0] = [];

struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counters(name, help, [(NO_LABELS, value)])
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.gauges(name, help, [(NO_LABELS, value)])
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(family.encode_family(&NO_LABELS)?)
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn routes(out: &mut Out<'_>, shared: &Shared, snapshot: &Snapshot) -> fmt::Result {
    let mut all: Vec<(&str, &RouteMetrics)> =
        snapshot.routes.all().map(|route| (&*route.name, &*route.metrics)).collect();
    all.sort_unstable_by_key(|(name, _)| *name);
    all.push(("", &shared.metrics.unrouted));
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
    let by_class = all.iter().flat_map(|(route, metrics)| {
        let counts = metrics.by_class();
        std::array::from_fn::<_, 5, _>(|class| {
            ([("route", *route), ("class", classes[class])], counts[class])
        })
    });
    out.counters("requests", "Requests that are over, by route and class of status", by_class)?;
    let by_reason = all.iter().flat_map(|(route, metrics)| {
        let counted = REASONS.iter().map(|reason| (*reason, metrics.by_reason(reason)));
        let seen = counted.filter(|(_, count)| *count > 0);
        seen.map(|(reason, count)| ([("route", *route), ("reason", reason)], count))
    });
    out.counters("failures", "Requests that did not get the answer they asked for, by reason", by_reason)?;
    let bytes = all.iter().map(|(route, metrics)| ([("route", *route)], metrics.bytes()));
    out.counters("response_bytes", "Bytes of answers' bodies", bytes)?;
    let tunnels = all.iter().filter(|(_, metrics)| metrics.tunnel_bytes() != (0, 0));
    let carried = tunnels.flat_map(|(route, metrics)| {
        let (received, sent) = metrics.tunnel_bytes();
        [("received", received), ("sent", sent)]
            .map(|(direction, bytes)| ([("route", *route), ("direction", direction)], bytes))
    });
    out.counters("tunnel_bytes", "Bytes that tunnels carried, once they are over", carried)?;
    let help = "From a request's head to the last byte of its answer";
    let mut family =
        out.0.encode_descriptor("request_duration_seconds", help, None, MetricType::Histogram)?;
    for (route, metrics) in &all {
        let counts = metrics.by_bucket();
        let bounds = BUCKETS_US.iter().map(|bound| *bound as f64 / 1e6).chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let labels = [("route", *route)];
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            metrics.seconds(),
            counts.iter().sum(),
            &buckets,
            None,
        )?;
    }
    let undecided = all.iter().map(|(route, metrics)| (*route, metrics.undecided()));
    let seen = undecided.filter(|(_, count)| *count > 0).map(|(route, count)| ([("route", route)], count));
    out.counters("route_expression_failures", "Expressions of `when` that came to no answer", seen)?;
    let bounded = snapshot.routes.all().filter_map(|route| Some((&*route.name, route.in_flight.as_ref()?)));
    let in_flight = bounded.map(|(route, count)| ([("route", route)], count.count().into()));
    out.gauges("route_requests_in_flight", "Requests in flight on routes that bound them", in_flight)?;
    out.gauge("requests_in_flight", "Requests in flight", snapshot.in_flight.count().into())
}

fn upstreams(out: &mut Out<'_>, snapshot: &Snapshot) -> fmt::Result {
    let all: Vec<_> = snapshot
        .upstreams
        .iter()
        .flat_map(|(name, upstream)| {
            upstream.endpoints.iter().map(move |endpoint| {
                ([("upstream", name.clone()), ("endpoint", endpoint.address.to_string())], endpoint)
            })
        })
        .collect();
    let now = now_ns();
    let each = |value: &dyn Fn(&crate::upstream::Endpoint) -> u64| -> Vec<_> {
        all.iter().map(|(labels, endpoint)| (labels.clone(), value(endpoint))).collect()
    };
    out.counters(
        "upstream_requests",
        "Requests sent to an endpoint",
        each(&|endpoint| endpoint.requests_total()),
    )?;
    out.gauges(
        "upstream_requests_in_flight",
        "Requests in flight on an endpoint",
        each(&|endpoint| endpoint.in_flight().into()),
    )?;
    out.gauges(
        "upstream_healthy",
        "0 where health checks say that the endpoint is down",
        each(&|endpoint| u64::from(endpoint.health() != Health::Down)),
    )?;
    out.gauges(
        "upstream_ejected",
        "1 while the endpoint is left out for its failures",
        each(&|endpoint| u64::from(endpoint.is_ejected(now))),
    )?;
    out.counters(
        "upstream_ejections",
        "How often the endpoint was left out",
        each(&|endpoint| endpoint.ejections_total()),
    )?;
    mirrors(out, snapshot)?;
    policies(out, snapshot)
}

fn mirrors(out: &mut Out<'_>, snapshot: &Snapshot) -> fmt::Result {
    let mirrored = || snapshot.routes.all().filter_map(|route| Some((&*route.name, route.mirror.as_ref()?)));
    let copies = mirrored().flat_map(|(route, mirror)| {
        let counts = mirror.counts.all();
        counts.map(move |(outcome, count)| ([("route", route), ("outcome", outcome.word())], count))
    });
    out.counters("mirrored_requests", "Copies of requests, by what became of them", copies)
}

fn policies(out: &mut Out<'_>, snapshot: &Snapshot) -> fmt::Result {
    let all = || snapshot.upstreams.iter().map(|(name, upstream)| (name.as_str(), upstream));
    let retries = all().flat_map(|(name, upstream)| {
        upstream
            .counters
            .retries()
            .map(|(cause, count)| ([("upstream", name), ("reason", cause.word())], count))
    });
    out.counters("upstream_retries", "Requests sent once more, by reason", retries)?;
    let refused = all().flat_map(|(name, upstream)| {
        upstream
            .counters
            .retries_refused()
            .map(|(reason, count)| ([("upstream", name), ("reason", reason)], count))
    });
    out.counters("upstream_retries_refused", "Repetitions without room, by what bounds them", refused)?;
    let breakers = || all().filter_map(|(name, upstream)| Some((name, upstream.breaker.as_ref()?)));
    let now = now_ns();
    let open = breakers().map(|(name, breaker)| ([("upstream", name)], u64::from(breaker.is_open(now))));
    out.gauges("upstream_circuit_open", "1 while nothing is sent to the upstream", open)?;
    let opened = breakers().map(|(name, breaker)| ([("upstream", name)], breaker.opened_total()));
    out.counters("upstream_circuit_opened", "How often an upstream's circuit opened", opened)
}

fn callers(out: &mut Out<'_>, snapshot: &Snapshot) -> fmt::Result {
    let overflowed =
        snapshot.limiters.iter().map(|(rate, limiter)| ([("rate", rate.as_str())], limiter.overflowed()));
    out.counters("rate_overflows", "Requests counted by the budget of keys without room", overflowed)?;
    let verdicts = snapshot.credentials.verdicts();
    let found = [([("known", "true")], verdicts.hits()), ([("known", "false")], verdicts.misses())];
    out.counters("tokens", "Tokens, by whether a verdict on them was known", found)?;
    let failures = snapshot.credentials.fetch_failures().map(|(issuer, count)| ([("issuer", issuer)], count));
    out.counters("key_fetch_failures", "Fetches of an issuer's keys that failed", failures)
}

fn connections(out: &mut Out<'_>, shared: &Shared, snapshot: &Snapshot) -> fmt::Result {
    let counted = &shared.metrics.connections;
    out.gauge("connections", "Connections of clients", shared.connections.count().into())?;
    out.counter("connections_accepted", "Connections taken", counted.accepted.load(Relaxed))?;
    out.counter("connections_refused", "Connections beyond the limit", shared.connections.refused())?;
    out.gauge("tunnels", "Open tunnels: WebSockets and other upgrades", snapshot.tunnels.count().into())?;
    out.counter("tunnels_refused", "Tunnels beyond the limit", snapshot.tunnels.refused())?;
    let closed = [
        ("idle", &counted.idle),
        ("slow_head", &counted.slow_head),
        ("stalled", &counted.stalled),
        ("resets", &counted.resets),
        ("proxy_header", &counted.proxy_header),
    ];
    let closed = closed.map(|(reason, counter)| ([("reason", reason)], counter.load(Relaxed)));
    out.counters("connections_closed", "Connections that the gateway closed, by reason", closed)?;
    out.gauge("handshakes_in_flight", "TLS handshakes of clients", shared.handshakes.count().into())?;
    let handshakes = &shared.metrics.handshakes;
    out.counter("handshakes", "TLS handshakes that led to a connection", handshakes.completed.load(Relaxed))?;
    let failed = HandshakeFailure::ALL.iter();
    let failed = failed.map(|failure| ([("reason", failure.name())], handshakes.by_failure(*failure)));
    out.counters("handshakes_failed", "TLS handshakes that came to nothing, by reason", failed)?;
    out.counter("accept_errors", "Failures to take a connection", counted.accept_errors.load(Relaxed))?;
    out.counter("request_panics", "Requests that ended in a panic", counted.panics.load(Relaxed))
}

fn process(out: &mut Out<'_>, shared: &Shared, snapshot: &Snapshot) -> fmt::Result {
    let config = &shared.metrics.config;
    out.gauge("config_generation", "Generation of the configuration", snapshot.generation)?;
    out.counter("config_reloads", "Configurations taken since the start", config.reloads.load(Relaxed))?;
    out.counter("config_reload_failures", "Configurations refused", config.failures.load(Relaxed))?;
    let well = u64::from(!config.last_failed.load(Relaxed));
    out.gauge("config_last_reload_successful", "0 when the last configuration was refused", well)?;
    let took = config.took_us.load(Relaxed) as f64 / 1e6;
    let help = "From reading the last configuration that was taken until requests met it";
    out.seconds("config_reload_duration_seconds", help, took)?;
    let warnings = config.warnings.load(Relaxed).into();
    out.gauge("config_warnings", "Warnings about the configuration", warnings)?;
    let log = &shared.access_log;
    out.counter("access_log_lines", "Lines handed to the access log's writer", log.lines())?;
    out.counter("access_log_dropped_lines", "Lines that the writer was too slow for", log.dropped())?;
    out.counter("access_log_errors", "Failures to write the access log", log.errors())?;
    if let Some(tracer) = &snapshot.tracer {
        out.counter("spans_exported", "Spans that the collector took", tracer.counts.exported())?;
        out.counter(
            "spans_dropped",
            "Spans that it did not take, or too many that waited",
            tracer.counts.dropped(),
        )?;
    }
    out.gauge("phase", "0 serving, 1 unready, 2 closing, 3 ending", shared.phase() as u64)
}
