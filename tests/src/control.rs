//! The controller's API over its Unix socket, and `lbctl` as a user would run it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1::handshake, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::UnixStream, runtime, time::timeout};

use crate::{eventually::eventually, process::binary, topology::VIP};

/// An order is written to disk before it is answered; everything else is faster.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Installing takes milliseconds; a busy machine with emulated CPUs takes seconds.
const INSTALL_LIMIT: Duration = Duration::from_secs(20);

/// A client of one controller.
#[derive(Clone)]
pub struct Control {
    socket: PathBuf,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The body; `null` where it is none, a string where it is not JSON.
    pub body: Value,
}

impl Control {
    /// A client of the controller that listens on `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_path_buf() }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a body of any form; the answer's status is not judged.
    pub fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Result<Reply> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.into()))?;
        let exchange = async {
            let stream = UnixStream::connect(&self.socket).await?;
            let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            let body = match body.is_empty() {
                true => Value::Null,
                false => serde_json::from_slice(&body)
                    .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned())),
            };
            Ok(Reply { status, body })
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { timeout(ANSWER_LIMIT, exchange).await.context("no answer in time")? })
    }

    /// An order that must be accepted.
    pub fn order(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let text = body.map(ToString::to_string).unwrap_or_default();
        let reply = self.send(method.clone(), path, text)?;
        ensure!((200..300).contains(&reply.status), "{method} {path}: {} {}", reply.status, reply.body);
        Ok(reply.body)
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.order(Method::GET, path, None)
    }

    /// POST.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.order(Method::POST, path, Some(body))
    }

    /// Creates a service and waits until it is installed with the way to each of its backends.
    pub fn create(&self, service: &Value) -> Result<()> {
        self.post("/v1/services", service)?;
        self.installed()
    }

    /// Adds a backend and waits until it is installed.
    pub fn add_backend(&self, service: &str, backend: SocketAddr) -> Result<()> {
        self.post(&format!("/v1/services/{service}/backends"), &backend_body(backend, 1))?;
        self.installed()
    }

    /// Removes a backend and waits until that is installed.
    pub fn remove_backend(&self, service: &str, backend: SocketAddr) -> Result<()> {
        self.order(Method::DELETE, &format!("/v1/services/{service}/backends/{backend}"), None)?;
        self.installed()
    }

    /// Drains a backend and waits until that is installed.
    pub fn drain(&self, service: &str, backend: SocketAddr) -> Result<()> {
        self.order(Method::POST, &format!("/v1/services/{service}/backends/{backend}/drain"), None)?;
        self.installed()
    }

    /// Waits until everything that was ordered is installed and the way to every backend is known.
    pub fn installed(&self) -> Result<()> {
        eventually("the orders are installed", INSTALL_LIMIT, || {
            let status = self.get("/v1/status")?;
            ensure!(status["installed"] == true, "{status}");
            let services = self.get("/v1/services")?;
            for service in services["services"].as_array().context("services")? {
                for backend in service["backends"].as_array().into_iter().flatten() {
                    let known = !backend["status"]["installed"]["next_hop"].is_null();
                    ensure!(known, "no way to {} of {}: {backend}", backend["address"], service["name"]);
                }
            }
            Ok(())
        })
    }

    /// What became of a service: its slots and counters.
    pub fn service(&self, name: &str) -> Result<Value> {
        Ok(self.get(&format!("/v1/services/{name}"))?["status"].take())
    }

    /// What became of a backend: its state, health, drain, and under `installed` its part of the tables.
    pub fn backend(&self, service: &str, backend: SocketAddr) -> Result<Value> {
        Ok(self.get(&format!("/v1/services/{service}/backends/{backend}"))?["status"].take())
    }

    /// How many of a service's slots are in this state; `moving`, `pinned` or `settled`.
    pub fn slots(&self, service: &str, state: &str) -> Result<u64> {
        let status = self.service(service)?;
        status[format!("slots_{state}")].as_u64().with_context(|| format!("slots_{state} in {status}"))
    }

    /// Waits until the data plane gives a backend this state.
    pub fn backend_is(&self, service: &str, backend: SocketAddr, state: &str, limit: Duration) -> Result<()> {
        eventually(&format!("{backend} is {state}"), limit, || {
            let found = self.backend(service, backend)?;
            ensure!(found["state"] == state && found["installed"]["state"] == state, "{found}");
            Ok(())
        })
    }

    /// How many packets left the program for a reason.
    pub fn reason(&self, name: &str) -> Result<u64> {
        let answer = self.get("/v1/reasons")?;
        let reasons = answer["reasons"].as_array().context("reasons")?;
        let found = reasons.iter().find(|reason| reason["name"] == name);
        found.and_then(|reason| reason["count"].as_u64()).with_context(|| format!("no {name} in {answer}"))
    }

    /// Waits until packets were counted for a reason; observations are up to a second old.
    pub fn counted(&self, name: &str) -> Result<()> {
        eventually(&format!("{name} is counted"), INSTALL_LIMIT, || {
            ensure!(self.reason(name)? > 0, "none");
            Ok(())
        })
    }

    /// Runs `lbctl` against this controller.
    pub fn lbctl(&self, arguments: &[&str]) -> Result<Output> {
        Ok(Command::new(binary("lbctl")?).arg("--socket").arg(&self.socket).args(arguments).output()?)
    }

    /// [`Self::lbctl`], which must succeed; what it printed.
    pub fn lbctl_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.lbctl(arguments)?;
        let (out, error) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "lbctl {}: {}{out}{error}", arguments.join(" "), output.status);
        Ok(out)
    }
}

/// A service on the virtual address, for the API. Add further fields as wanted.
pub fn service(name: &str, port: u16, mode: &str, backends: &[SocketAddr]) -> Value {
    let backends: Vec<Value> = backends.iter().map(|backend| backend_body(*backend, 1)).collect();
    json!({
        "name": name, "address": VIP.to_string(), "port": port, "protocol": "tcp", "mode": mode,
        "backends": backends,
    })
}

/// A backend, for the API.
pub fn backend_body(backend: SocketAddr, weight: u32) -> Value {
    json!({ "address": backend.ip().to_string(), "port": backend.port(), "weight": weight })
}

/// Backends at these addresses, all on one port.
pub fn at(addresses: impl IntoIterator<Item = Ipv4Addr>, port: u16) -> Vec<SocketAddr> {
    addresses.into_iter().map(|address| SocketAddr::from((address, port))).collect()
}
