//! The configuration: a YAML file, and what is wrong with one.
//!
//! | module | what |
//! |---|---|
//! | [`document`] | the file as it is written: listeners, limits, times |
//! | [`listen`] | addresses, and what is spoken there |
//! | [`access_log`] | lines about requests |
//! | [`connect`] | how instances are reached: address, protocol, TLS |
//! | [`upstream`] | services and their instances |
//! | [`balance`] | which instance a request goes to |
//! | [`retry`], [`breaker`] | when a request is sent once more, what a service is spared |
//! | [`route`] | what is served at a path |
//! | [`action`] | what a route does beside asking one service |
//! | [`predicate`] | what a request must have beside path and method |
//! | [`credentials`] | API keys and issuers of tokens |
//! | [`rates`] | rate limits |
//! | [`compose`] | steps of a composed answer |
//! | [`traces`] | where spans go |
//! | [`units`] | durations, sizes |
//! | [`finding`] | what is wrong, and on which line |
//!
//! [`crate::compile`] turns a document into a [`crate::snapshot::Snapshot`].

pub mod access_log;
pub mod action;
pub mod balance;
pub mod breaker;
pub mod compose;
pub mod connect;
pub mod credentials;
pub mod document;
pub mod finding;
pub mod listen;
pub mod predicate;
pub mod rates;
pub mod retry;
pub mod route;
pub mod traces;
pub mod units;
pub mod upstream;

pub use document::Document;
pub use finding::{Finding, Findings, Severity};
pub use serde_saphyr::Spanned;
use serde_saphyr::{Budget, Error};

/// Reads the text of a configuration. Pure.
///
/// # Errors
/// One finding, with its place, for the first thing that is not YAML or not of the model.
pub fn parse(text: &str) -> Result<Document, Finding> {
    let options = serde_saphyr::options! { with_snippet: false, budget: budget() };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| finding_of(&error))
}

/// Room for 100,000 routes of 80 nodes each; two events to a node, if all were collections. Depth, aliases and merges
/// are bounded as the library does.
fn budget() -> Option<Budget> {
    serde_saphyr::budget! { max_nodes: 8_000_000, max_events: 16_000_000, max_total_scalar_bytes: 256 << 20 }
}

fn finding_of(error: &Error) -> Finding {
    let place = error.location().map(|place| (place.line(), place.column())).unwrap_or_default();
    let text = error.to_string();
    // The library says the place as well, at one end or the other of its text.
    let rule = text.split(" at line ").next().unwrap_or(&text).trim().to_owned();
    Finding { severity: Severity::Error, line: place.0, column: place.1, field: String::new(), rule }
}
