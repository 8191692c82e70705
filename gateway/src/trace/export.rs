//! Spans to a collector: OTLP over HTTP in its JSON form (OpenTelemetry Protocol, section "JSON Protobuf Encoding"), off
//! the hot path, in batches. A collector that is too slow or gone costs spans, which are counted, and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::mpsc, time::sleep};

use super::{Context, TraceSettings};
use crate::record::Record;

/// Spans in one request to the collector.
const BATCH_MAX: usize = 512;
/// After the first span of a batch others may join it for so long.
const GATHER: Duration = Duration::from_millis(500);
/// The collector's answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// `SPAN_KIND_SERVER`.
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// What became of spans.
#[derive(Debug, Default)]
pub struct Counts {
    exported: AtomicU64,
    dropped: AtomicU64,
}

/// A request that is over, as collectors see it.
#[derive(Debug)]
pub struct Span(Value);

impl Counts {
    /// Taken by the collector.
    pub fn exported(&self) -> u64 {
        self.exported.load(Relaxed)
    }

    /// Dropped: too many waited, or the collector did not take them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    pub(super) fn drop_spans(&self, count: u64) {
        self.dropped.fetch_add(count, Relaxed);
    }
}

impl Span {
    /// The span of `record`, which is over now.
    pub(super) fn new(context: Context, begun_ns: u128, record: &Record) -> Self {
        let ended_ns = begun_ns + record.begun.elapsed().as_nanos();
        let route = record.route.as_ref().map(|route| &*route.name);
        let texts = [
            ("http.request.method", Some(record.method.as_str().to_owned())),
            ("url.path", Some(record.uri.path().to_owned())),
            ("client.address", Some(record.client.ip().to_string())),
            ("portcullis.request_id", Some(record.id.to_string())),
            ("portcullis.route", route.map(str::to_owned)),
            ("portcullis.upstream", record.endpoint.as_ref().map(|endpoint| endpoint.address.to_string())),
            ("error.type", record.reason.map(str::to_owned)),
        ];
        let status = json!({ "intValue": record.status.as_u16().to_string() });
        let attributes: Vec<Value> = texts
            .into_iter()
            .filter_map(|(key, text)| Some(json!({ "key": key, "value": { "stringValue": text? } })))
            .chain([json!({ "key": "http.response.status_code", "value": status })])
            .collect();
        let mut span = json!({
            "traceId": format!("{:032x}", context.trace),
            "spanId": format!("{:016x}", context.span),
            "name": route.map_or(record.method.to_string(), |route| format!("{} {route}", record.method)),
            "kind": SERVER,
            "startTimeUnixNano": begun_ns.to_string(),
            "endTimeUnixNano": ended_ns.to_string(),
            "attributes": attributes,
        });
        if let Some(parent) = context.parent {
            span["parentSpanId"] = format!("{parent:016x}").into();
        }
        if record.status.is_server_error() {
            span["status"] = json!({ "code": ERROR });
        }
        Self(span)
    }
}

/// Sends spans until nobody is left who could record one.
pub(super) async fn export(settings: TraceSettings, mut spans: mpsc::Receiver<Span>, counts: Arc<Counts>) {
    let client = match reqwest::Client::builder().timeout(PATIENCE).build() {
        Ok(client) => client,
        Err(error) => return tracing::error!(%error, "no spans are exported"),
    };
    let mut batch = Vec::new();
    while spans.recv_many(&mut batch, 1).await > 0 {
        sleep(GATHER).await;
        while batch.len() < BATCH_MAX
            && let Ok(span) = spans.try_recv()
        {
            batch.push(span);
        }
        let count = batch.len() as u64;
        let body = document(&settings.service, std::mem::take(&mut batch));
        let request = client.post(&settings.endpoint).header("content-type", "application/json").body(body);
        match request.send().await.and_then(reqwest::Response::error_for_status) {
            Ok(_) => drop(counts.exported.fetch_add(count, Relaxed)),
            Err(error) => {
                counts.drop_spans(count);
                tracing::warn!(%error, count, "the collector did not take spans");
            }
        }
    }
}

fn document(service: &str, spans: Vec<Span>) -> String {
    let spans: Vec<Value> = spans.into_iter().map(|Span(span)| span).collect();
    let scope = json!({ "name": "portcullis", "version": env!("CARGO_PKG_VERSION") });
    let name = json!({ "key": "service.name", "value": { "stringValue": service } });
    let scoped = json!({ "scope": scope, "spans": spans });
    let resource = json!({ "resource": { "attributes": [name] }, "scopeSpans": [scoped] });
    json!({ "resourceSpans": [resource] }).to_string()
}
