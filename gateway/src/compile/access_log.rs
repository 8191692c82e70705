//! Which requests have an access line, and what stands in it.

use crate::{
    access_log::{ALL, Choice},
    config::{
        Findings, Spanned,
        access_log::{AccessLogDocument, Always},
    },
};

/// The choice, or what is wrong with it.
pub fn compile(written: &Spanned<AccessLogDocument>, findings: &mut Findings) -> Choice {
    let AccessLogDocument { to: _, sample, always, slow, fields, query } = &written.value;
    let part = sample.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&part) {
        findings.error(written, "access_log.sample", "from 0 to 1");
    }
    let asks_slow = always.contains(&Always::Slow);
    if asks_slow != slow.is_some() {
        findings.error(written, "access_log.slow", "`slow` is a time, and stands where `always` names slow");
    }
    if part >= 1.0 && !always.is_empty() {
        findings.error(written, "access_log.always", "every request has a line unless `sample` is below 1");
    }
    if fields.as_ref().is_some_and(Vec::is_empty) {
        findings.error(written, "access_log.fields", "name at least one");
    }
    Choice {
        sample: (part * (1u64 << 32) as f64) as u64,
        errors: always.contains(&Always::Errors),
        slow: slow.map(|slow| slow.0),
        fields: fields.as_ref().map_or(ALL.fields, |fields| fields.iter().copied().collect()),
        query: query.clone(),
    }
}
