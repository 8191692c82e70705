//! What is known of a request, for its log line and the counters. Filled in by the stages, closed when the last byte
//! of the answer is gone or the client is.

use std::{
    cell::Cell,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};

use http::{HeaderValue, Method, Request, StatusCode, Uri, header::HOST};

use crate::{
    grpc,
    pipeline::Peer,
    shared::Shared,
    snapshot::Route,
    tls::server::ClientCertificate,
    trace,
    upgrade::pump::Moved,
    upstream::{Endpoint, answer::BrokeOff},
};

/// A request, so far.
#[derive(Clone)]
pub struct Record {
    /// When its headers were there.
    pub begun: Instant,
    /// Its name, unique among gateways.
    pub id: RequestId,
    /// Where it came from.
    pub client: SocketAddr,
    /// As it came.
    pub method: Method,
    /// As it came.
    pub uri: Uri,
    /// As it came.
    pub host: Option<HeaderValue>,
    /// Its route, once it is known.
    pub route: Option<Arc<Route>>,
    /// The certificate by which the client's connection is known.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// Who asks, once that is known.
    pub consumer: Option<Arc<str>>,
    /// The instance that answered, or was tried last.
    pub endpoint: Option<Arc<Endpoint>>,
    /// Why it was refused, if it was; a word of [`crate::error::Refusal::reason`].
    pub reason: Option<&'static str>,
    /// More about the reason, for the log alone.
    pub detail: Option<String>,
    /// Of the answer.
    pub status: StatusCode,
    /// Bytes of the answer's body, or to the client through a tunnel.
    pub bytes: u64,
    /// Bytes from the client through a tunnel.
    pub received: u64,
    /// Whether it is a call of gRPC, which is refused otherwise.
    pub grpc: bool,
    /// Its span, where traces are recorded.
    pub trace: Option<Box<trace::Running>>,
}

/// A request's name: its worker's, and a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    worker: u64,
    count: u32,
}

/// Closes a record when it is dropped.
pub struct Closing {
    record: Box<Record>,
    shared: Arc<Shared>,
}

thread_local! {
    static NEXT: Cell<RequestId> = Cell::new(RequestId { worker: worker_name(), count: 0 });
}

/// Random, so that no two workers of any two gateways share it but by great misfortune.
fn worker_name() -> u64 {
    static WORKERS: AtomicU32 = AtomicU32::new(0);
    let mut random = [0; 8];
    // Without a source of randomness the time does: names need be unique, not secret.
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        random = crate::clock::now_ns().to_le_bytes();
    }
    u64::from_le_bytes(random) ^ u64::from(WORKERS.fetch_add(1, Relaxed))
}

impl RequestId {
    fn next() -> Self {
        NEXT.with(|next| {
            let id = next.get();
            next.set(Self { count: id.count.wrapping_add(1), ..id });
            id
        })
    }
}

impl RequestId {
    /// How many its worker named before.
    pub fn count(self) -> u32 {
        self.count
    }

    /// As a header's value.
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_bytes(&self.digits()).unwrap_or(HeaderValue::from_static(""))
    }

    /// 24 hexadecimal digits: the worker's 16, the count's 8.
    fn digits(self) -> [u8; 24] {
        let number = (u128::from(self.worker) << 32) | u128::from(self.count);
        let mut text = [0; 24];
        for (index, digit) in text.iter_mut().rev().enumerate() {
            *digit = b"0123456789abcdef"[(number >> (4 * index)) as usize & 15];
        }
        text
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.digits()))
    }
}

impl Record {
    /// Begins one; on the heap, where it stays until it is closed.
    pub fn begin<B>(peer: &Peer, request: &Request<B>) -> Box<Self> {
        Box::new(Self {
            begun: Instant::now(),
            id: RequestId::next(),
            client: peer.address,
            method: request.method().clone(),
            uri: request.uri().clone(),
            host: request.headers().get(HOST).cloned(),
            route: None,
            certificate: peer.certificate.clone(),
            consumer: None,
            endpoint: None,
            reason: None,
            detail: None,
            status: StatusCode::OK,
            bytes: 0,
            received: 0,
            grpc: grpc::is_call(request.version(), request.headers()),
            trace: None,
        })
    }

    /// The request's name as a header's value.
    pub fn request_id(&self) -> HeaderValue {
        self.id.header()
    }

    /// Closes it when the result is dropped.
    pub fn closing(self: Box<Self>, shared: Arc<Shared>) -> Closing {
        Closing { record: self, shared }
    }
}

impl Closing {
    /// Counts bytes of the body.
    pub fn sent(&mut self, bytes: usize) {
        self.record.bytes += bytes as u64;
    }

    /// Counts bytes that a tunnel carried.
    pub fn carried(&mut self, moved: Moved) {
        self.record.bytes += moved.sent;
        self.record.received += moved.received;
    }

    /// Notes how a tunnel ended, or would if it were cut now; a word of [`crate::metrics`].
    pub fn ended(&mut self, reason: Option<&'static str>) {
        self.record.reason = reason;
    }

    /// Notes that the body broke off.
    pub fn broke_off(&mut self, error: BrokeOff) {
        self.record.reason = Some(match error {
            BrokeOff::Connection => "answer_broke_off",
            BrokeOff::Stalled => "answer_stalled",
        });
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.shared.observe(&self.record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_alike_in_headers_and_lines() {
        for (worker, count) in [(0, 0), (1, 2), (0xfedc_ba98_7654_3210, 0x0123_4567), (u64::MAX, u32::MAX)] {
            let id = RequestId { worker, count };
            assert_eq!(id.header(), id.to_string());
            assert_eq!(id.to_string(), format!("{worker:016x}{count:08x}"));
        }
    }
}
