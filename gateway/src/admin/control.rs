//! What operators change: the configuration, the log's level; and the stop. Wishes about the whole process go to its one
//! loop, which takes them in turn with signals and changes of the file.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::{
    config::{Finding, Findings, Severity},
    log,
    reload::LoadError,
    shared::Shared,
};

/// The largest configuration that is taken: 100,000 routes take about 15 MB.
const CONFIG_BYTES_MAX: usize = 64 << 20;

/// What operators ask of the process.
#[derive(Debug)]
pub enum Ask {
    /// Another configuration.
    Configure {
        /// Its text.
        text: String,
        /// Only if this is the present generation.
        expected: Option<u64>,
        /// Its generation, with warnings.
        reply: oneshot::Sender<Result<(u64, Findings), LoadError>>,
    },
    /// The stop.
    Stop,
}

#[derive(Clone)]
struct Control {
    shared: Arc<Shared>,
    asks: mpsc::Sender<Ask>,
}

pub(super) fn router(shared: Arc<Shared>, asks: mpsc::Sender<Ask>) -> Router {
    Router::new()
        .route("/v1/config", put(configure).layer(DefaultBodyLimit::max(CONFIG_BYTES_MAX)))
        .route("/v1/log-level", get(level).put(set_level))
        .route("/v1/stop", post(stop))
        .with_state(Control { shared, asks })
}

async fn configure(State(control): State<Control>, headers: HeaderMap, text: String) -> Response {
    let expected = match headers.get(header::IF_MATCH).map(|value| generation(value.to_str().ok()?)) {
        None => None,
        Some(Some(generation)) => Some(generation),
        Some(None) => return problem(StatusCode::BAD_REQUEST, "If-Match is a generation in quotes", vec![]),
    };
    let (reply, answer) = oneshot::channel();
    let asked = control.asks.send(Ask::Configure { text, expected, reply }).await.is_ok();
    let Some(taken) = answer.await.ok().filter(|_| asked) else {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "the gateway stops", vec![]);
    };
    match taken {
        Ok((generation, warnings)) => {
            let body = json!({ "generation": generation, "warnings": shown(&warnings) });
            ([(header::ETAG, format!("\"{generation}\""))], Json(body)).into_response()
        }
        Err(LoadError::Wrong(findings)) => {
            problem(StatusCode::UNPROCESSABLE_ENTITY, "the configuration is refused", shown(&findings))
        }
        Err(error @ LoadError::Superseded(_)) => {
            problem(StatusCode::PRECONDITION_FAILED, &error.to_string(), vec![])
        }
        Err(error @ (LoadError::Unreadable { .. } | LoadError::Unwritable { .. })) => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string(), vec![])
        }
    }
}

async fn level() -> Json<Value> {
    Json(json!({ "level": log::level() }))
}

async fn set_level(directives: String) -> Response {
    match log::set_level(directives.trim()) {
        Ok(()) => level().await.into_response(),
        Err(error) => problem(StatusCode::UNPROCESSABLE_ENTITY, &error, vec![]),
    }
}

async fn stop(State(control): State<Control>) -> Response {
    // A full queue holds a stop or what comes before it; a closed one belongs to a process that stops already.
    let _ = control.asks.send(Ask::Stop).await;
    let phase = format!("{:?}", control.shared.phase()).to_lowercase();
    (StatusCode::ACCEPTED, Json(json!({ "phase": phase }))).into_response()
}

/// `"7"`, as an entity tag is written.
fn generation(tag: &str) -> Option<u64> {
    tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

fn shown(findings: &Findings) -> Vec<Value> {
    let shown = |finding: &Finding| {
        json!({
            "severity": match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            "line": finding.line,
            "column": finding.column,
            "field": finding.field,
            "rule": finding.rule,
        })
    };
    findings.0.iter().map(shown).collect()
}

fn problem(status: StatusCode, detail: &str, findings: Vec<Value>) -> Response {
    let mut document = json!({ "type": "about:blank", "status": status.as_u16(), "detail": detail });
    if !findings.is_empty() {
        document["findings"] = findings.into();
    }
    (status, [(header::CONTENT_TYPE, "application/problem+json")], document.to_string()).into_response()
}
