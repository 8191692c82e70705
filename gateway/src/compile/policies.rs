//! How services are called: repetitions and their budget, what they are spared.

use std::sync::Arc;

use super::routes::Scene;
use crate::{
    config::{
        Findings, Spanned,
        breaker::{BreakerDocument, CircuitDocument},
        retry::{RetryDocument, RetryOn},
        upstream::{EjectionDocument, RatioDocument, UpstreamDocument},
    },
    upstream::{
        Ejection, Ratio, Upstream,
        breaker::{Breaker, BreakerSettings, CircuitSettings},
        retry::{Backoff, Budget, BudgetSettings, Retry},
    },
};

/// Tries beyond which a mistake is more likely than a purpose.
const TRIES_MAX: u32 = 10;
/// The largest body that may be kept for a repetition: each request in flight may hold one.
const BODY_BYTES_MAX: u64 = 1 << 20;

/// A service's rule of repeating.
pub fn retry(written: &Spanned<RetryDocument>, field: &str, findings: &mut Findings) -> Retry {
    let RetryDocument { on, tries, per_try_timeout, backoff, budget: _, body_bytes } = &written.value;
    let rules = [
        (!on.is_empty(), "on", "name at least one cause, or leave retry out"),
        ((1..=TRIES_MAX).contains(tries), "tries", "from 1 to 10, the first included"),
        (per_try_timeout.is_none_or(|time| !time.0.is_zero()), "per_try_timeout", "longer than 0s"),
        (backoff.base <= backoff.max, "backoff", "base is at most max"),
        (body_bytes.0 <= BODY_BYTES_MAX, "body_bytes", "at most 1MiB"),
    ];
    for (_, name, rule) in rules.iter().filter(|(holds, ..)| !holds) {
        findings.error(written, format!("{field}.retry.{name}"), *rule);
    }
    if per_try_timeout.is_some() && !on.contains(&RetryOn::Timeout) {
        let rule = "a try that ends early is repeated only where retry.on names timeout";
        findings.warning(written, format!("{field}.retry.per_try_timeout"), rule);
    }
    Retry {
        on_connect: on.contains(&RetryOn::Connect),
        on_reset: on.contains(&RetryOn::Reset),
        on_timeout: on.contains(&RetryOn::Timeout),
        on_statuses: on
            .iter()
            .filter_map(|on| match on {
                RetryOn::Status(status) => Some(*status),
                RetryOn::Connect | RetryOn::Reset | RetryOn::Timeout => None,
            })
            .collect(),
        tries: *tries,
        per_try_timeout: per_try_timeout.map(|time| time.0),
        backoff: Backoff { base: backoff.base.0, max: backoff.max.0 },
        body_bytes: body_bytes.0,
    }
}

/// A route's own rule of repeating.
pub fn route_retry(written: &Spanned<RetryDocument>, scene: &mut Scene<'_>) -> Retry {
    if let Some(budget) = &written.value.budget {
        scene.error(budget, "retry.budget", "the budget is the upstream's: write it there");
    }
    let field = scene.field.clone();
    retry(written, &field, scene.findings)
}

/// A service's budget of repetitions, with what was spent of it before.
pub fn budget(
    written: &Spanned<RetryDocument>,
    field: &str,
    previous: Option<&Arc<Upstream>>,
    findings: &mut Findings,
) -> Arc<Budget> {
    let document = written.value.budget.as_ref().map(|budget| budget.value).unwrap_or_default();
    if document.percent > 100 {
        findings.error(written, format!("{field}.retry.budget.percent"), "at most 100");
    }
    let settings = BudgetSettings { percent: document.percent, min_per_second: document.min };
    match previous.and_then(|previous| previous.budget.clone()) {
        Some(budget) if budget.settings() == settings => budget,
        _ => Arc::new(Budget::new(settings)),
    }
}

/// What a service is spared, with what was counted of it before.
pub fn breaker(
    written: &Spanned<BreakerDocument>,
    field: &str,
    previous: Option<&Arc<Upstream>>,
    findings: &mut Findings,
) -> Arc<Breaker> {
    let BreakerDocument { requests, retries, open } = &written.value;
    let field = format!("{field}.breaker");
    if requests.is_none() && retries.is_none() && open.is_none() {
        findings.error(written, &field, "name requests, retries or open, or leave breaker out");
    }
    if *requests == Some(0) || *retries == Some(0) {
        findings.error(written, &field, "requests and retries are at least 1; leave out what has no bound");
    }
    let open = open.as_ref().map(|open| {
        let CircuitDocument { percent, window, volume, duration, probes } = open.value;
        for (holds, name, rule) in [
            ((1..=100).contains(&percent), "percent", "from 1 to 100"),
            (!window.0.is_zero(), "window", "longer than 0s"),
            (!duration.0.is_zero(), "duration", "longer than 0s"),
            (volume > 0, "volume", "at least 1"),
            (probes > 0, "probes", "at least 1"),
        ] {
            if !holds {
                findings.error(open, format!("{field}.open.{name}"), rule);
            }
        }
        let (window, duration) = (window.0, duration.0);
        CircuitSettings { percent, window, volume: volume.into(), duration, probes }
    });
    let settings = BreakerSettings { requests: *requests, retries: *retries, open };
    match previous.and_then(|previous| previous.breaker.clone()) {
        Some(breaker) if *breaker.settings() == settings => breaker,
        _ => Arc::new(Breaker::new(settings)),
    }
}

/// When an instance of a service is left out.
pub fn ejection(written: &UpstreamDocument, field: &str, findings: &mut Findings) -> Ejection {
    let EjectionDocument { failures, ratio, duration, percent_max } = &written.ejection;
    let field = format!("{field}.ejection");
    if let Some(percent) = percent_max {
        let rule = match usize::from(percent.value) {
            0 | 101.. => Some("from 1 to 100"),
            percent if percent * written.endpoints.value.len() < 100 => {
                Some("that is less than one endpoint")
            }
            _ if *failures == 0 && ratio.is_none() => Some("nothing is left out: name failures or ratio"),
            _ => None,
        };
        if let Some(rule) = rule {
            findings.error(percent, format!("{field}.percent_max"), rule);
        }
    }
    let ratio = ratio.as_ref().map(|ratio| {
        let RatioDocument { percent, volume, window } = ratio.value;
        for (holds, name, rule) in [
            ((1..=100).contains(&percent), "percent", "from 1 to 100"),
            (volume > 0, "volume", "at least 1"),
            (!window.0.is_zero(), "window", "longer than 0s"),
        ] {
            if !holds {
                findings.error(ratio, format!("{field}.ratio.{name}"), rule);
            }
        }
        Ratio { percent, volume, window: window.0 }
    });
    let percent_max = percent_max.as_ref().map(|percent| percent.value);
    Ejection { failures: *failures, ratio, duration: duration.0, percent_max }
}
