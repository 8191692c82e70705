//! The OpenAPI document. A test keeps it equal to the routes and to the fields that are accepted.

use axum::{
    http::header,
    response::{IntoResponse, Response},
};

/// `docs/openapi.json`.
pub const DOCUMENT: &str = include_str!("../../../docs/openapi.json");

pub async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}
