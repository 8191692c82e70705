//! Request bodies from flags and files.

use std::{
    fs,
    io::{self, Read},
    net::SocketAddr,
    path::Path,
};

use serde_json::{Map, Value, json};

use super::{
    cli::{BackendFlags, ServiceFlags},
    client::Failure,
};
use crate::model::address::parse_place;

/// The service that file and flags describe; flags win.
pub fn service(name: Option<&str>, flags: &ServiceFlags) -> Result<Value, Failure> {
    let mut body = match flags.file.as_deref().map(read).transpose()? {
        None => Map::new(),
        Some(Value::Object(body)) => body,
        Some(_) => return Err(Failure::Local("the file must hold one JSON object".into())),
    };
    // A service has either: the flag wins over the file's other one.
    for (given, other) in [(flags.ports.is_some(), "port"), (flags.port.is_some(), "ports")] {
        if given {
            body.remove(other);
        }
    }
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(key.to_owned(), value);
        }
    };
    set("name", name.map(Into::into));
    set("address", flags.address.clone().map(Into::into));
    set("port", flags.port.map(Into::into));
    set("ports", flags.ports.clone().map(Into::into));
    set("protocol", flags.protocol.clone().map(Into::into));
    set("mode", flags.mode.clone().map(Into::into));
    set("algorithm", flags.algorithm.clone().map(Into::into));
    set("tracking", flags.tracking.clone().map(Into::into));
    set("client_prefix", flags.client_prefix.map(Into::into));
    set("affinity_seconds", flags.affinity.map(Into::into));
    set("slow_start_seconds", flags.slow_start.map(Into::into));
    set("panic_threshold_percent", flags.panic_threshold.map(Into::into));
    set("min_active_backends", flags.min_active.map(Into::into));
    set("connectionless", flags.connectionless.then_some(true.into()));
    set("flow_idle_seconds", flags.flow_idle.map(Into::into));
    set("fragments", flags.fragments.clone().map(Into::into));
    set("answer_arp", flags.no_arp.then_some(false.into()));
    set("answer_echo", flags.echo.then_some(true.into()));
    set("mss", flags.mss.map(Into::into));
    set("quic", quic(flags));
    set("on_failure", flags.on_failure.clone().map(Into::into));
    set("health_check", health_check(flags)?);
    if !flags.backends.is_empty() {
        let backends: Result<Vec<_>, _> =
            flags.backends.iter().map(|text| backend(text).map_err(Failure::Local)).collect();
        set("backends", Some(backends?.into()));
    }
    Ok(body.into())
}

fn quic(flags: &ServiceFlags) -> Option<Value> {
    let mut quic = json!({ "scheme": flags.quic.as_ref()? });
    if let Some(id) = flags.quic_config_id {
        quic["config_id"] = id.into();
    }
    if let Some(length) = flags.quic_server_id_length {
        quic["server_id_length"] = length.into();
    }
    Some(quic)
}

fn health_check(flags: &ServiceFlags) -> Result<Option<Value>, Failure> {
    let mut check = Map::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            check.insert(key.to_owned(), value);
        }
    };
    set("interval_ms", flags.check_interval_ms.map(Into::into));
    set("timeout_ms", flags.check_timeout_ms.map(Into::into));
    set("rise", flags.check_rise.map(Into::into));
    set("fall", flags.check_fall.map(Into::into));
    set("port", flags.check_port.map(Into::into));
    set("host", flags.check_host.clone().map(Into::into));
    set("path", flags.check_http.clone().map(Into::into));
    match (&flags.check_http, flags.check_tcp) {
        (Some(_), _) => check.insert("type".into(), "http".into()),
        (None, true) => check.insert("type".into(), "tcp".into()),
        (None, false) if check.is_empty() => return Ok(None),
        (None, false) => {
            return Err(Failure::Local(
                "say --check-tcp or --check-http PATH beside other --check flags".into(),
            ));
        }
    };
    Ok(Some(check.into()))
}

/// `ADDRESS[:PORT][,weight=N][,…]`.
pub fn backend(text: &str) -> Result<Value, String> {
    let mut parts = text.split(',');
    let place = parts.next().unwrap_or_default();
    let at = parse_place(place).ok_or_else(|| {
        format!(
            "{text}: write a backend like 10.1.0.2:8080, [2001:db8::2]:8080 or 10.1.0.2,weight=2,server_id=0a1b"
        )
    })?;
    let mut body = json!({ "address": at.ip() });
    if place.parse::<SocketAddr>().is_ok() {
        body["port"] = at.port().into();
    }
    let mut fields = BackendFlags::default();
    for part in parts {
        if !fields.take(part) {
            return Err(format!(
                "{text}: {part} is none of weight=N, max_connections=N, priority=N, fallback and server_id=HEX"
            ));
        }
    }
    set(&mut body, &fields);
    Ok(body)
}

/// The fields of a backend that flags give.
pub fn set(body: &mut Value, flags: &BackendFlags) {
    let BackendFlags { weight, max_connections, priority, fallback, server_id } = flags;
    let fields = [
        ("weight", weight.map(Value::from)),
        ("max_connections", max_connections.map(Value::from)),
        ("priority", priority.map(Value::from)),
        ("fallback", fallback.map(Value::from)),
        ("server_id", server_id.clone().map(Value::from)),
    ];
    for (key, value) in fields {
        if let Some(value) = value {
            body[key] = value;
        }
    }
}

/// The JSON in a file, or in standard input for `-`.
pub fn read(path: &Path) -> Result<Value, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Local(format!("{}: {error}", path.display()));
    let mut text = String::new();
    if path.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text).map_err(|error| failed(&error))?;
    } else {
        text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    }
    serde_json::from_str(&text).map_err(|error| failed(&error))
}
