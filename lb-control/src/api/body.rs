//! Reading a request's body: size, media type, JSON, and errors that name line or field.

use axum::{
    body::to_bytes,
    extract::{FromRequest, Request},
    http::header,
};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, error::Category};

use super::{ApiError, BODY_BYTES_MAX};
use crate::model::{FieldError, Object, Refusal};

/// A body that is declared, or not declared otherwise, to be JSON.
pub struct Body(Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        if let Some(declared) = request.headers().get(header::CONTENT_TYPE) {
            let declared = String::from_utf8_lossy(declared.as_bytes());
            let media_type = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            // What curl -d declares unasked is taken too.
            let known =
                ["application/json", "application/merge-patch+json", "application/x-www-form-urlencoded"];
            if !known.contains(&media_type.as_str()) {
                return Err(ApiError::NotJson(declared.into_owned()));
            }
        }
        let is_too_large = |error: &axum::Error| {
            std::error::Error::source(error)
                .is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
        };
        match to_bytes(request.into_body(), BODY_BYTES_MAX).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(error) if is_too_large(&error) => Err(ApiError::BodyTooLarge),
            Err(_) => Err(ApiError::BodyLost),
        }
    }
}

impl Body {
    /// The body as a `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        decode(&self.0)
    }

    /// Likewise; an empty body is `T`'s default.
    pub fn decode_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, ApiError> {
        if self.0.is_empty() { Ok(T::default()) } else { self.decode() }
    }
}

/// `bytes` as a `T`, from an object.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let Object(value) = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        sort_out(&path, error.into_inner())
    })?;
    json.end().map_err(|error| sort_out("", error))?;
    Ok(value)
}

/// `value` as a `T`.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Refusal> {
    let Object(value) = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        Refusal::Invalid(vec![field_error(&path, &error.into_inner().to_string())])
    })?;
    Ok(value)
}

/// A JSON merge patch (RFC 7396).
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(&key);
            } else {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
    }
}

fn sort_out(path: &str, error: serde_json::Error) -> ApiError {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    match error.classify() {
        Category::Data => Refusal::Invalid(vec![field_error(path, reason)]).into(),
        Category::Syntax | Category::Eof | Category::Io => {
            ApiError::MalformedJson { line, column, reason: reason.to_owned() }
        }
    }
}

/// serde's words in this API's: the field is the one that is wrong, missing or unknown.
fn field_error(path: &str, reason: &str) -> FieldError {
    let path = path.trim_start_matches('.').trim_end_matches(".?").trim_matches('?');
    let quoted = |prefix: &str| {
        let rest = reason.strip_prefix(prefix)?;
        rest.split_once('`')
    };
    let below = |name: &str| match path {
        "" => name.to_owned(),
        path if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        path => format!("{path}.{name}"),
    };
    if let Some((name, _)) = quoted("missing field `") {
        FieldError::new(below(name), "is required")
    } else if let Some((name, rest)) = quoted("unknown field `") {
        let known = rest.trim_start_matches(", ").replace(", `generation`, `status`", "");
        FieldError::new(below(name), format!("is no field; {known}"))
    } else if let Some((name, _)) = quoted("duplicate field `") {
        FieldError::new(below(name), "is given twice")
    } else {
        FieldError::new(path, reason)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::ServiceSpec;

    #[test]
    fn a_merge_patch_sets_deletes_and_replaces_arrays() {
        for (target, patch, expected) in [
            (json!({"a": 1}), json!({"b": {"c": null, "d": 2}}), json!({"a": 1, "b": {"d": 2}})),
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": null}}), json!({"a": {"c": 2}})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({"a": 1}), json!([1]), json!([1])),
        ] {
            let mut target = target;
            merge(&mut target, patch);
            assert_eq!(target, expected);
        }
    }

    #[test]
    fn errors_name_line_or_field() {
        let problem = |text: &str| match decode::<ServiceSpec>(text.as_bytes()) {
            Err(ApiError::MalformedJson { line, column, .. }) => format!("{line}:{column}"),
            Err(ApiError::Refused(Refusal::Invalid(errors), _)) => {
                format!("{}: {}", errors[0].field, errors[0].rule)
            }
            other => format!("{other:?}"),
        };
        for (text, expected) in [
            ("{\n \"name\": }", "2:10"),
            ("", "1:0"),
            ("{} x", "address: is required"),
            (
                r#"{"address":"10.0.0","port":80}"#,
                "address: must be an IP address, like 192.0.2.10, or a network",
            ),
            (
                r#"{"address":"10.0.0.1","ports":"80"}"#,
                "ports: must be the lowest and the highest port, like \"8000-8999\", or \"any\"",
            ),
            (r#"{"address":"10.0.0.1","ports":80}"#, "ports: invalid type: integer `80`, expected a string"),
            (
                r#"{"address":"10.0.0.1","port":80,"backends":[{"address":"10.1.0.1","server_id":true}]}"#,
                "backends[0].server_id: invalid type: boolean `true`, expected hexadecimal digits like",
            ),
            (
                r#"{"address":"10.0.0.1","port":80,"quic":{"scheme":"quic"}}"#,
                "quic.scheme: unknown variant `quic`, expected one of `quic-lb`, `katran-v1`, `katran-v2`",
            ),
            (r#"{"adress":"10.0.0.1"}"#, "adress: is no field"),
            (
                r#"{"address":"10.0.0.1","port":80,"backends":[{"address":"10.1.0.1","wieght":1}]}"#,
                "backends[0].wieght: is no field; expected one of `address`, `port`, `weight`, `max_connections`, `priority`, `fallback`, `server_id`",
            ),
            (
                r#"{"address":"10.0.0.1","port":80,"backends":[{"port":1}]}"#,
                "backends[0].address: is required",
            ),
            (
                r#"{"address":"10.0.0.1","port":80,"backends":[{"address":"10.1.0.1","weight":-1}]}"#,
                "backends[0].weight: invalid value: integer `-1`, expected u32",
            ),
            ("[1]", ": invalid type: sequence, expected an object"),
            (
                r#"{"address":"10.0.0.1","port":80,"backends":[["10.1.0.1",80,1]]}"#,
                "backends[0]: invalid type: sequence, expected an object",
            ),
            (
                r#"{"address":"10.0.0.1","port":80,"health_check":["tcp"]}"#,
                "health_check: invalid type: sequence, expected an object",
            ),
            (r#"{"address":"10.0.0.1","port":80,"port":80}"#, "port: is given twice"),
            (
                r#"{"address":"10.0.0.1","port":80,"mode":"n"}"#,
                "mode: unknown variant `n`, expected one of `nat`, `full-nat`, `dsr-l2`, `dsr-ipip`, `dsr-gue`",
            ),
            (
                r#"{"address":"10.0.0.1","port":80,"health_check":{"interval_ms":9}}"#,
                "health_check.type: is required",
            ),
        ] {
            let found = problem(text);
            assert!(found.starts_with(expected), "{text}: {found}");
        }
    }
}
