//! Where spans go.

use std::sync::Arc;

use crate::{
    config::{Document, Findings},
    snapshot::Snapshot,
    trace::{TraceSettings, Tracer},
};

/// The tracer, if spans are asked for: the previous one as long as nothing else is asked.
pub fn compile(
    document: &Document,
    previous: Option<&Snapshot>,
    findings: &mut Findings,
) -> Option<Arc<Tracer>> {
    let written = document.traces.as_ref()?;
    let traces = &written.value;
    if reqwest::Url::parse(&traces.endpoint.value).is_err() || !traces.endpoint.value.starts_with("http") {
        findings.error(&traces.endpoint, "traces.endpoint", "a URL such as http://127.0.0.1:4318/v1/traces");
    }
    if !(0.0..=1.0).contains(&traces.sample) {
        findings.error(written, "traces.sample", "from 0 to 1");
    }
    let settings = TraceSettings {
        endpoint: traces.endpoint.value.clone(),
        sample: traces.sample,
        service: traces.service.clone(),
    };
    let same =
        previous.and_then(|previous| previous.tracer.clone()).filter(|tracer| tracer.settings == settings);
    Some(same.unwrap_or_else(|| Arc::new(Tracer::new(settings))))
}
