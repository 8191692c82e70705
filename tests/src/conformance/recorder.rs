//! An origin of our own, on hyper: notes each whole request in a file, then answers it. It stands behind the servers
//! that only hand on.

use std::{convert::Infallible, fs::File, io::Write as _, net::SocketAddr, path::PathBuf, rc::Rc};

use anyhow::Result;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::HOST,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, runtime, task::LocalSet};

use super::seen::Seen;
use crate::netns::Namespace;

/// Serves each address for as long as this process lives; what it sees goes to the file beside it.
pub fn start(namespace: &Namespace, recorders: Vec<(SocketAddr, PathBuf)>) -> Result<()> {
    // Bound here, so that nobody asks before they listen.
    let listeners = namespace.enter(|| {
        recorders
            .into_iter()
            .map(|(address, file)| {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok((listener, File::options().create(true).append(true).open(file)?))
            })
            .collect::<Result<Vec<_>>>()
    })??;
    namespace.spawn(move || -> Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let local = LocalSet::new();
        for (listener, file) in listeners {
            local.spawn_local(serve(listener, Rc::new(file)));
        }
        runtime.block_on(local);
        Ok(())
    })?;
    Ok(())
}

async fn serve(listener: std::net::TcpListener, file: Rc<File>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let file = file.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| note(request, file.clone()));
            // A connection that breaks off has nothing to tell.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn note(request: Request<Incoming>, file: Rc<File>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        let mut broken = Response::default();
        *broken.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(broken);
    };
    let target = head.uri.to_string();
    let seen = Seen {
        method: head.method.to_string(),
        target: target.clone(),
        host: head.headers.get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()),
        body: hex(&body.to_bytes()),
    };
    let line = serde_json::to_string(&seen).expect("strings") + "\n";
    (&*file).write_all(line.as_bytes()).expect("the folder is writable");
    Ok(Response::new(Full::from(target)))
}

/// As the other origins write bodies.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
