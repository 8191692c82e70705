//! Request bodies from flags and files.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use serde_json::{Map, Value, json};

use super::{cli::ServiceFlags, client::Failure};

/// The service that file and flags describe; flags win.
pub fn service(name: Option<&str>, flags: &ServiceFlags) -> Result<Value, Failure> {
    let mut body = match flags.file.as_deref().map(read).transpose()? {
        None => Map::new(),
        Some(Value::Object(body)) => body,
        Some(_) => return Err(Failure::Local("the file must hold one JSON object".into())),
    };
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(key.to_owned(), value);
        }
    };
    set("name", name.map(Into::into));
    set("address", flags.address.clone().map(Into::into));
    set("port", flags.port.map(Into::into));
    set("protocol", flags.protocol.clone().map(Into::into));
    set("mode", flags.mode.clone().map(Into::into));
    set("connectionless", flags.connectionless.then_some(true.into()));
    set("flow_idle_seconds", flags.flow_idle.map(Into::into));
    set("answer_arp", flags.no_arp.then_some(false.into()));
    set("on_failure", flags.on_failure.clone().map(Into::into));
    set("health_check", health_check(flags)?);
    if !flags.backends.is_empty() {
        let backends: Result<Vec<_>, _> =
            flags.backends.iter().map(|text| backend(text, None).map_err(Failure::Local)).collect();
        set("backends", Some(backends?.into()));
    }
    Ok(body.into())
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

/// `ADDRESS[:PORT][,weight=N]`.
pub fn backend(text: &str, weight: Option<u32>) -> Result<Value, String> {
    let mut parts = text.split(',');
    let place = parts.next().unwrap_or_default();
    let mut body = match place.parse::<std::net::SocketAddr>() {
        Ok(at) => json!({ "address": at.ip(), "port": at.port() }),
        Err(_) => match place.parse::<std::net::IpAddr>() {
            Ok(address) => json!({ "address": address }),
            Err(_) => {
                return Err(format!("{text}: write a backend like 10.1.0.2:8080 or 10.1.0.2:8080,weight=2"));
            }
        },
    };
    if let Some(weight) = weight {
        body["weight"] = weight.into();
    }
    for part in parts {
        match part.split_once('=').map(|(key, value)| (key, value.parse::<u32>())) {
            Some(("weight", Ok(weight))) => body["weight"] = weight.into(),
            _ => return Err(format!("{text}: {part} is not weight=N")),
        }
    }
    Ok(body)
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
