//! Every error of the API, and the one place that turns an error into a status and an RFC 9457 document.

use std::net::SocketAddr;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::outcomes::Kind;
use crate::model::{BackendError, FieldError, Refusal, address::place};

/// Why a request got no answer of the kind that it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiError {
    /// The order was refused.
    Refused(Refusal, Places),
    /// The body is not JSON.
    MalformedJson {
        /// Of the first byte that does not fit, from 1.
        line: usize,
        /// Likewise.
        column: usize,
        /// What was expected.
        reason: String,
    },
    /// The body is declared to be something else than JSON.
    NotJson(String),
    /// The body is larger than [`super::BODY_BYTES_MAX`].
    BodyTooLarge,
    /// The body did not arrive.
    BodyLost,
    /// `If-Match` is not a generation.
    BadCondition(String),
    /// A parameter after `?` is unknown or has a bad value.
    BadQuery(FieldError),
    /// No valid token.
    Unauthorized,
    /// No such path.
    NoSuchRoute(String),
    /// The path does not take this method.
    MethodNotAllowed(String),
    /// What an order would do cannot be told.
    DryRun(String),
    /// A defect.
    Internal,
}

/// Where the backends that an order names stand in its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The service that the order is for.
    pub service: String,
    /// In the body's order; `None` where the body is one backend.
    pub backends: Option<Vec<SocketAddr>>,
}

impl Places {
    fn field(&self, error: BackendError) -> FieldError {
        let BackendError { service, backend, field, rule } = error;
        if service != self.service {
            let backend = place(&backend);
            return FieldError::new("address", format!("{rule} (backend {backend} of service {service})"));
        }
        match &self.backends {
            None => FieldError::new(field, rule),
            Some(order) => match order.iter().position(|at| *at == backend) {
                Some(index) => FieldError::new(format!("backends[{index}].{field}"), rule),
                None => FieldError::new("backends", format!("{}: {rule}", place(&backend))),
            },
        }
    }
}

/// An RFC 9457 problem document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The kind of problem; `urn:portcullis:problem:…` in JSON.
    #[serde(serialize_with = "urn")]
    pub r#type: &'static str,
    /// The kind, for people.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// This occurrence, for people.
    pub detail: String,
    /// Each field that breaks a rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal, Places::default())
    }
}

impl ApiError {
    /// The status and the document. Exhaustive: a new error gets its status here or does not compile.
    pub fn problem(self) -> Problem {
        let (status, kind, title, detail, errors) = match self {
            Self::Refused(refusal, places) => return refused(refusal, &places),
            Self::MalformedJson { line, column, reason } => (
                StatusCode::BAD_REQUEST,
                "malformed-json",
                "The body is not JSON",
                format!("line {line}, column {column}: {reason}"),
                vec![],
            ),
            Self::NotJson(found) => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "not-json",
                "The body is not declared as JSON",
                format!(
                    "Content-Type is {found}; send application/json, for PATCH also application/merge-patch+json"
                ),
                vec![],
            ),
            Self::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                "The body is too large",
                format!("at most {} bytes", super::BODY_BYTES_MAX),
                vec![],
            ),
            Self::BodyLost => (
                StatusCode::BAD_REQUEST,
                "body-lost",
                "The body did not arrive",
                "the connection failed before the end of the body".into(),
                vec![],
            ),
            Self::BadCondition(found) => (
                StatusCode::BAD_REQUEST,
                "bad-condition",
                "If-Match is not a generation",
                format!("found {found}; write If-Match: \"7\" for generation 7, or *"),
                vec![],
            ),
            Self::DryRun(reason) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no-dry-run",
                "What the order would do cannot be told",
                reason,
                vec![],
            ),
            Self::BadQuery(error) => (
                StatusCode::BAD_REQUEST,
                "bad-query",
                "A query parameter breaks a rule",
                format!("{}: {}", error.field, error.rule),
                vec![error],
            ),
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "A token is needed",
                "send Authorization: Bearer with a token from the controller's token file".into(),
                vec![],
            ),
            Self::NoSuchRoute(path) => (
                StatusCode::NOT_FOUND,
                "no-such-route",
                "There is no such path",
                format!("{path}: /v1/openapi.json lists every path"),
                vec![],
            ),
            Self::MethodNotAllowed(method) => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "The path does not take this method",
                format!("{method}: see the Allow header"),
                vec![],
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "The controller failed",
                "a defect: the controller's log says more".into(),
                vec![],
            ),
        };
        document(status, kind, title, detail, errors)
    }
}

fn refused(refusal: Refusal, places: &Places) -> Problem {
    let detail = refusal.to_string();
    let (status, kind, title, errors) = match refusal {
        Refusal::Invalid(errors) => {
            let detail = first_of(&errors);
            let title = "The order breaks rules";
            return document(StatusCode::UNPROCESSABLE_ENTITY, "invalid", title, detail, errors);
        }
        Refusal::Backends(errors) => {
            let errors: Vec<_> = errors.into_iter().map(|error| places.field(error)).collect();
            let (detail, title) = (first_of(&errors), "Backends cannot be used");
            return document(StatusCode::UNPROCESSABLE_ENTITY, "backends", title, detail, errors);
        }
        Refusal::NameTaken(name) => {
            let errors = vec![FieldError::new("name", format!("is taken: service {name} exists"))];
            (StatusCode::CONFLICT, "name-taken", "The name is taken", errors)
        }
        Refusal::BackendExists { .. } => {
            let errors = vec![FieldError::new("address", "is a backend of the service already")];
            (StatusCode::CONFLICT, "backend-exists", "The backend exists", errors)
        }
        Refusal::VirtualAddressTaken { owner, address, protocol } => {
            let rule = format!("{address} {protocol} belongs to service {owner}");
            let errors = vec![FieldError::new("address", rule)];
            (StatusCode::CONFLICT, "virtual-address-taken", "The virtual address is taken", errors)
        }
        Refusal::Capacity { field, rule } => {
            let errors = vec![FieldError::new(field, rule)];
            (StatusCode::CONFLICT, "capacity", "There is no room for the order", errors)
        }
        Refusal::NoSuchService(_) => {
            (StatusCode::NOT_FOUND, "no-such-service", "There is no such service", vec![])
        }
        Refusal::NoSuchBackend { .. } => {
            (StatusCode::NOT_FOUND, "no-such-backend", "There is no such backend", vec![])
        }
        Refusal::Stale { .. } => {
            (StatusCode::PRECONDITION_FAILED, "stale", "The resource has changed since it was read", vec![])
        }
        Refusal::NothingToMatch(_) => {
            (StatusCode::PRECONDITION_FAILED, "nothing-to-match", "There is nothing to match", vec![])
        }
        Refusal::Store(_) => {
            tracing::error!(%detail, "an order could not be stored");
            (StatusCode::INTERNAL_SERVER_ERROR, "store", "The order could not be stored", vec![])
        }
    };
    document(status, kind, title, detail, errors)
}

fn first_of(errors: &[FieldError]) -> String {
    let Some(first) = errors.first() else { return String::new() };
    let more = match errors.len() {
        1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    format!("{} {}{more}", first.field, first.rule).trim_start().to_owned()
}

fn document(
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
    errors: Vec<FieldError>,
) -> Problem {
    Problem { r#type: kind, title, status: status.as_u16(), detail, errors }
}

fn urn<S: serde::Serializer>(kind: &&'static str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("urn:portcullis:problem:{kind}"))
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let challenge = self == Self::Unauthorized;
        let problem = self.problem();
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = Kind(problem.r#type);
        let mut response = (status, axum::Json(problem)).into_response();
        response.extensions_mut().insert(kind);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"portcullis\""));
        }
        response
    }
}
