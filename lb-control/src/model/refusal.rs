//! Why an order is refused: one closed list. `api/error.rs` alone turns it into a status and a document.

use std::net::SocketAddr;

use super::address::place;

/// A field of the request and the rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FieldError {
    /// Path from the top of the body, like `backends[1].weight`; empty for the body as a whole.
    pub field: String,
    /// What must hold, or what holds instead.
    pub rule: String,
}

impl FieldError {
    /// An error at `field`.
    pub fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { field: field.into(), rule: rule.into() }
    }
}

/// A rule that one backend breaks. The API names its place in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendError {
    /// The service's name.
    pub service: String,
    /// The backend.
    pub backend: SocketAddr,
    /// The field of the backend, like `address`.
    pub field: &'static str,
    /// Like `no route to 10.9.9.9`.
    pub rule: String,
}

/// Why an order is refused. A refused order changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Fields of the request break rules.
    #[error("the order breaks {} rule(s)", .0.len())]
    Invalid(Vec<FieldError>),
    /// Backends break rules of the world that they would live in.
    #[error("{} backend(s) cannot be used", .0.len())]
    Backends(Vec<BackendError>),
    /// Another service has this name.
    #[error("a service named {0} exists")]
    NameTaken(String),
    /// The service already has this backend.
    #[error("service {service} already has the backend {}", place(backend))]
    BackendExists {
        /// The service's name.
        service: String,
        /// The backend.
        backend: SocketAddr,
    },
    /// Another service has the address and protocol, and one of the ports.
    #[error("service {owner} already has {address} {protocol}")]
    VirtualAddressTaken {
        /// The service that has it.
        owner: String,
        /// Its addresses and ports, like `10.0.0.1:80` or `203.0.113.0/24:any`.
        address: String,
        /// `tcp` or `udp`.
        protocol: &'static str,
    },
    /// A table has no room for the order.
    #[error("{field}: {rule}")]
    Capacity {
        /// The field that asks for the room, like `backends`.
        field: &'static str,
        /// Like `at most 131071 backends in all services together`.
        rule: String,
    },
    /// There is no service of this name.
    #[error("no service is named {0}")]
    NoSuchService(String),
    /// The service has no such backend.
    #[error("service {service} has no backend {backend}")]
    NoSuchBackend {
        /// The service's name.
        service: String,
        /// As it was asked for.
        backend: String,
    },
    /// The resource was changed by an order after the generation that `If-Match` names.
    #[error(
        "If-Match names generation {expected}, but the resource was last changed in generation {changed}"
    )]
    Stale {
        /// What the client has seen.
        expected: u64,
        /// When the resource last changed.
        changed: u64,
    },
    /// `If-Match` asks for a resource that exists.
    #[error("If-Match asks for a resource that exists, and there is no {0}")]
    NothingToMatch(String),
    /// The store did not take the order.
    #[error("the store failed: {0}")]
    Store(String),
}

impl Refusal {
    /// Every broken rule in words, where the summary only counts them.
    pub fn in_words(&self) -> String {
        let rules: Vec<String> = match self {
            Self::Invalid(errors) => errors.iter().map(|one| format!("{} {}", one.field, one.rule)).collect(),
            Self::Backends(errors) => errors.iter().map(|one| one.rule.clone()).collect(),
            other => vec![other.to_string()],
        };
        rules.join("; ")
    }

    /// One field that breaks one rule.
    pub fn field(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError::new(field, rule)])
    }

    /// One backend that breaks one rule.
    pub fn backend(service: &str, backend: SocketAddr, field: &'static str, rule: impl Into<String>) -> Self {
        Self::Backends(vec![BackendError { service: service.into(), backend, field, rule: rule.into() }])
    }
}
