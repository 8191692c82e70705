//! One check of one backend: an exchange over the network, bounded in time.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::pin,
    time::{Duration, Instant},
};

use http_body_util::Empty;
use hyper::{
    Request,
    body::Bytes,
    header::{CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::model::Probe;

/// Why a check failed.
#[derive(Debug)]
pub enum Failure {
    /// No answer in time.
    Timeout(Duration),
    /// No connection.
    Connect(io::Error),
    /// The HTTP exchange broke off.
    Http(hyper::Error),
    /// The request could not be made of the configuration.
    Request(hyper::http::Error),
    /// A status outside the accepted range.
    Status(u16, (u16, u16)),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(limit) => write!(f, "no answer within {} ms", limit.as_millis()),
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Http(error) => write!(f, "no HTTP answer: {error}"),
            Self::Request(error) => write!(f, "cannot make the request: {error}"),
            Self::Status(status, (first, last)) => write!(f, "status {status} is not in {first}-{last}"),
        }
    }
}

/// Checks `target` once; returns how long that took, from the first segment to the last one that it waited for.
pub async fn check(probe: &Probe, target: SocketAddr, limit: Duration) -> Result<Duration, Failure> {
    let begun = Instant::now();
    timeout(limit, exchange(probe, target)).await.unwrap_or(Err(Failure::Timeout(limit)))?;
    Ok(begun.elapsed())
}

async fn exchange(probe: &Probe, target: SocketAddr) -> Result<(), Failure> {
    let stream = TcpStream::connect(target).await.map_err(Failure::Connect)?;
    let Probe::Http { path, host, status } = probe else { return Ok(()) };
    let host = host.clone().unwrap_or_else(|| target.to_string());
    let request = Request::get(path.as_str())
        .header(HOST, host)
        .header(USER_AGENT, concat!("portcullis/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(Failure::Request)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Failure::Http)?;
    let mut response = pin!(sender.send_request(request));
    // The connection is driven beside the request and dropped with this future. It may end in the same turn
    // in which it delivers the response.
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        _ended = connection => response.await,
    };
    let answered = response.map_err(Failure::Http)?.status().as_u16();
    if (status.0..=status.1).contains(&answered) { Ok(()) } else { Err(Failure::Status(answered, *status)) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    /// A server on the loopback that answers one connection with `answer`.
    fn server(answer: &'static str) -> (SocketAddr, std::thread::JoinHandle<String>) {
        server_at("127.0.0.1", answer)
    }

    fn server_at(address: &str, answer: &'static str) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = std::net::TcpListener::bind((address, 0)).expect("the loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the check connects");
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap_or(0);
            let _ = stream.write_all(answer.as_bytes());
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        (address, thread)
    }

    fn http() -> Probe {
        Probe::Http { path: "/health?full=1".into(), host: Some("shop".into()), status: (200, 299) }
    }

    #[tokio::test]
    async fn http_compares_the_status() {
        for (answer, expected) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", None),
            ("HTTP/1.0 200 OK\r\n\r\nbody", None),
            ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", Some("status 503")),
            ("SSH-2.0-OpenSSH\r\n", Some("no HTTP answer")),
            ("", Some("no HTTP answer")),
        ] {
            let (address, thread) = server(answer);
            let outcome = check(&http(), address, LIMIT).await;
            let said = outcome.err().map(|failure| failure.to_string());
            assert_eq!(said.is_some(), expected.is_some(), "{answer:?}: {said:?}");
            if let (Some(said), Some(expected)) = (said, expected) {
                assert!(said.contains(expected), "{answer:?}: {said}");
            }
            let request = thread.join().expect("the server does not panic").to_ascii_lowercase();
            assert!(request.starts_with("get /health?full=1 http/1.1\r\n"), "{request}");
            assert!(request.contains("\r\nhost: shop\r\n"), "{request}");
        }
    }

    #[tokio::test]
    async fn an_ipv6_server_is_named_in_brackets() {
        let (address, thread) = server_at("::1", "HTTP/1.1 200 OK\r\n\r\n");
        let probe = Probe::Http { path: "/".into(), host: None, status: (200, 299) };
        check(&probe, address, LIMIT).await.expect("it is well");
        let request = thread.join().expect("the server does not panic").to_ascii_lowercase();
        assert!(request.contains(&format!("\r\nhost: [::1]:{}\r\n", address.port())), "{request}");
    }

    #[tokio::test]
    async fn a_silent_server_times_out_and_a_closed_port_is_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        assert!(check(&Probe::Tcp, address, LIMIT).await.is_ok(), "the kernel accepts");
        let outcome = check(&http(), address, Duration::from_millis(50)).await;
        assert!(matches!(outcome, Err(Failure::Timeout(_))), "{outcome:?}");
        drop(listener);
        assert!(matches!(check(&Probe::Tcp, address, LIMIT).await, Err(Failure::Connect(_))));
    }
}
