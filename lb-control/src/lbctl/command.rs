//! From a command to the request that it stands for and the way to show the answer.

use hyper::Method;
use serde_json::{Value, json};

use super::{
    body,
    cli::{At, BackendCommand, BackendFlags, Command, ServiceCommand, Terms},
    client::{Call, Failure},
    show,
};

/// A request and what to do with the answer.
pub struct Order {
    pub request: Call,
    /// The answer for people.
    pub show: fn(&Value) -> String,
    /// The backend whose drain is to be followed to its end.
    pub follow: Option<String>,
}

/// The order that a command stands for.
pub fn order(command: &Command) -> Result<Order, Failure> {
    let ask = |path: &str, show| Ok(Order { request: Call::get(path), show, follow: None });
    match command {
        Command::Status => ask("/v1/status", show::status),
        Command::Counters => ask("/v1/counters", show::counters),
        Command::Reasons => ask("/v1/reasons", show::reasons),
        Command::Interfaces => ask("/v1/interfaces", show::interfaces),
        Command::Service(command) => service(command),
        Command::Backend(command) => backend(command),
    }
}

fn service(command: &ServiceCommand) -> Result<Order, Failure> {
    const ALL: &str = "/v1/services";
    use ServiceCommand as Is;
    match command {
        Is::List => Ok(Order { request: Call::get(ALL), show: show::services, follow: None }),
        Is::Get { name } => Ok(Order { request: Call::get(one(name)), show: show::service, follow: None }),
        Is::Create { name, service, terms, wait } => {
            let body = body::service(name.as_deref(), service)?;
            Ok(change(Method::POST, ALL.into(), Some(body), terms, *wait, show::service))
        }
        Is::Replace { name, service, terms, wait } => {
            let body = body::service(Some(name), service)?;
            Ok(change(Method::PUT, one(name), Some(body), terms, *wait, show::service))
        }
        Is::Patch { name, patch, file, terms, wait } => {
            let patch = match (patch, file) {
                (Some(text), _) => serde_json::from_str(text)
                    .map_err(|error| Failure::Local(format!("the patch is not JSON: {error}")))?,
                (None, Some(file)) => body::read(file)?,
                (None, None) => return Err(Failure::Local("say a patch or -f FILE".into())),
            };
            Ok(change(Method::PATCH, one(name), Some(patch), terms, *wait, show::service))
        }
        Is::Delete { name, terms, wait } => {
            Ok(change(Method::DELETE, one(name), None, terms, *wait, show::deleted))
        }
    }
}

fn backend(command: &BackendCommand) -> Result<Order, Failure> {
    use BackendCommand as Is;
    let all = |service: &str| format!("{}/backends", one(service));
    let at = |at: &At| format!("{}/{}", all(&at.service), at.backend);
    let body_of = |fields: &BackendFlags| {
        let mut body = json!({});
        body::set(&mut body, fields);
        body
    };
    Ok(match command {
        Is::List { service } => {
            Order { request: Call::get(all(service)), show: show::backends, follow: None }
        }
        Is::Get { at: place } => Order { request: Call::get(at(place)), show: show::backend, follow: None },
        Is::Add { service, backend, fields, terms, wait } => {
            let mut body = body::backend(backend).map_err(Failure::Local)?;
            body::set(&mut body, fields);
            change(Method::POST, all(service), Some(body), terms, *wait, show::backend)
        }
        Is::Replace { at: place, fields, terms, wait } => {
            let body = body_of(fields);
            change(Method::PUT, at(place), Some(body), terms, *wait, show::backend)
        }
        Is::Set { at: place, fields, terms, wait } => {
            let body = body_of(fields);
            change(Method::PATCH, at(place), Some(body), terms, *wait, show::backend)
        }
        Is::Drain { at: place, deadline, on_deadline, terms, wait } => {
            let body = json!({ "deadline_seconds": deadline, "on_deadline": on_deadline });
            let path = format!("{}/drain", at(place));
            let order = change(Method::POST, path, Some(body), terms, false, show::backend);
            Order { follow: wait.then(|| at(place)), ..order }
        }
        Is::Undrain { at: place, terms, wait } => {
            change(Method::DELETE, format!("{}/drain", at(place)), None, terms, *wait, show::backend)
        }
        Is::Delete { at: place, terms, wait } => {
            change(Method::DELETE, at(place), None, terms, *wait, show::deleted)
        }
    })
}

fn one(name: &str) -> String {
    let mut path = String::from("/v1/services/");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(byte.into());
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

fn change(
    method: Method,
    path: String,
    body: Option<Value>,
    terms: &Terms,
    wait: bool,
    show: fn(&Value) -> String,
) -> Order {
    let (path, show) = match (wait, terms.dry_run) {
        (_, true) => (format!("{path}?dry_run=true"), show::dry_run as fn(&Value) -> String),
        (true, false) => (format!("{path}?wait=installed"), show),
        (false, false) => (path, show),
    };
    Order { request: Call { method, path, body, if_match: terms.if_match }, show, follow: None }
}
