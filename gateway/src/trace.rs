//! Traces: the context of W3C Trace Context, taken from the caller or begun here and passed on with a span of ours; and a
//! span for each request that is recorded, handed to [`export`] when the request is over.
//!
//! Off, a request pays the look at an empty option.

mod export;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{runtime::Handle, sync::mpsc};

use crate::record::Record;
pub use export::Counts;
use export::Span;

/// Trace Context, section 3.2.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Trace Context, section 3.3.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Bytes of a `traceparent` of version 00: `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const PARENT_BYTES: usize = 55;
/// Bit of the flags: the caller may record.
const SAMPLED: u8 = 1;
/// Spans that wait for their export, of about 300 bytes each.
const SPANS_MAX: usize = 4096;

/// Where spans go.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSettings {
    /// A collector's OTLP over HTTP.
    pub endpoint: String,
    /// The part of traces that begin here and are recorded, from 0 to 1.
    pub sample: f64,
    /// `service.name`.
    pub service: String,
}

/// Begins spans, and hands them on. Handed on by reloads for as long as its settings stay.
#[derive(Debug)]
pub struct Tracer {
    /// Where spans go.
    pub settings: TraceSettings,
    /// What became of spans.
    pub counts: Arc<Counts>,
    spans: mpsc::Sender<Span>,
    /// Until the export begins.
    waiting: Mutex<Option<mpsc::Receiver<Span>>>,
}

/// A request's place in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    trace: u128,
    /// The caller's span, if it has one.
    parent: Option<u64>,
    /// Ours.
    span: u64,
    sampled: bool,
}

/// A request's span while it runs.
#[derive(Clone, Debug)]
pub struct Running {
    tracer: Arc<Tracer>,
    context: Context,
    begun: SystemTime,
}

impl Tracer {
    /// One that exports nothing until [`Self::start`].
    pub fn new(settings: TraceSettings) -> Self {
        let (spans, waiting) = mpsc::channel(SPANS_MAX);
        Self { settings, counts: Arc::default(), spans, waiting: Mutex::new(Some(waiting)) }
    }

    /// Begins to export on `background`; it ends when the last request with a span is over and no snapshot knows this.
    pub fn start(&self, background: &Handle) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(spans) = waiting {
            background.spawn(export::export(self.settings.clone(), spans, self.counts.clone()));
        }
    }

    /// Begins a request's span: in its caller's trace if it names one rightly, else in a new one. `headers` name this
    /// span as the parent from then on.
    pub fn begin(self: &Arc<Self>, headers: &mut HeaderMap) -> Box<Running> {
        let mut random = [0; 16 + 8 + 8];
        // Without randomness the ids are zero, which collectors drop.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let trace = u128::from_le_bytes(std::array::from_fn(|at| random[at]));
        let span = u64::from_le_bytes(std::array::from_fn(|at| random[16 + at]));
        let dice = u64::from_le_bytes(std::array::from_fn(|at| random[24 + at]));
        let context = match parent_of(headers) {
            Some((trace, parent, sampled)) => Context { trace, parent: Some(parent), span, sampled },
            None => {
                // A new trace has no state (Trace Context, section 4.3).
                headers.remove(TRACESTATE);
                let sampled = (dice as f64) < self.settings.sample * u64::MAX as f64;
                Context { trace, parent: None, span, sampled }
            }
        };
        headers.insert(TRACEPARENT, context.header());
        Box::new(Running { tracer: self.clone(), context, begun: SystemTime::now() })
    }
}

impl Running {
    /// Hands the span of a request that is over to the export, if it is recorded.
    pub fn end(&self, record: &Record) {
        if !self.context.sampled {
            return;
        }
        let begun_ns = self.begun.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let span = Span::new(self.context, begun_ns, record);
        if self.tracer.spans.try_send(span).is_err() {
            self.tracer.counts.drop_spans(1);
        }
    }
}

impl Context {
    /// As `traceparent`: our span is the next one's parent.
    fn header(&self) -> HeaderValue {
        let flags = u8::from(self.sampled);
        let text = format!("00-{:032x}-{:016x}-{flags:02x}", self.trace, self.span);
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
    }
}

/// Trace, span and whether it is recorded, as the caller says; nothing if it says it wrongly or twice.
fn parent_of(headers: &HeaderMap) -> Option<(u128, u64, bool)> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let text = values.next().filter(|_| values.next().is_none())?.to_str().ok()?;
    let digits = |from: usize, to: usize| {
        let part = text.get(from..to)?;
        part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)).then_some(part)
    };
    let version = u8::from_str_radix(digits(0, 2)?, 16).ok()?;
    let dashes = [2, 35, 52].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-'));
    // Later versions may be longer, behind a dash.
    let ends = match version {
        0 => text.len() == PARENT_BYTES,
        _ => text.as_bytes().get(PARENT_BYTES).is_none_or(|byte| *byte == b'-'),
    };
    if version == 0xff || !dashes || !ends {
        return None;
    }
    let trace = u128::from_str_radix(digits(3, 35)?, 16).ok().filter(|trace| *trace != 0)?;
    let span = u64::from_str_radix(digits(36, 52)?, 16).ok().filter(|span| *span != 0)?;
    let flags = u8::from_str_radix(digits(53, 55)?, 16).ok()?;
    Some((trace, span, flags & SAMPLED != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(values: &[&'static str]) -> Option<(u128, u64, bool)> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, HeaderValue::from_static(value));
        }
        parent_of(&headers)
    }

    /// The example of Trace Context, section 3.2.4.
    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_parent_is_read_as_the_standard_says() {
        let expected = (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7, true);
        assert_eq!(parent(&[GOOD]), Some(expected));
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-what-the-future-brings";
        assert_eq!(parent(&[later]), Some((expected.0, expected.1, false)));
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
        ] {
            assert_eq!(parent(&[wrong]), None, "{wrong}");
        }
        assert_eq!(parent(&[GOOD, GOOD]), None);
    }

    #[test]
    fn the_next_one_has_our_span_as_its_parent() {
        let settings = TraceSettings { endpoint: String::new(), sample: 0.0, service: String::new() };
        let tracer = Arc::new(Tracer::new(settings));
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(GOOD));
        headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        let running = tracer.begin(&mut headers);
        assert_eq!(parent_of(&headers), Some((running.context.trace, running.context.span, true)));
        assert_eq!(running.context.parent, Some(0x00f0_67aa_0ba9_02b7));
        assert!(headers.contains_key(TRACESTATE));
        headers.insert(TRACEPARENT, HeaderValue::from_static("wrong"));
        let running = tracer.begin(&mut headers);
        assert!(!headers.contains_key(TRACESTATE) && running.context.parent.is_none());
        assert_eq!(parent_of(&headers), Some((running.context.trace, running.context.span, false)));
    }
}
