//! Where the API listens: a Unix socket that only its owner may open and, where configured, TCP with
//! tokens. The socket appears under its name whole: bound and closed to others in a private directory,
//! then renamed over a dead one.

use std::{
    convert::Infallible,
    fs::{self, DirBuilder, Permissions},
    future::Future,
    io,
    net::SocketAddr,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, middleware, serve::Listener};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tower::ServiceExt;

use super::{
    auth::{TokenFileError, Tokens, require_token},
    outcomes::{self, Outcomes},
};

/// Connections at a time on each listener: an operator's tools and a scraper need a handful.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests that run may take after the shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// TCP, which needs tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// The file of tokens, mode 0600.
    pub token_file: PathBuf,
}

/// Bound listeners.
pub struct Listeners {
    unix: UnixListener,
    socket: OwnedSocket,
    tcp: Option<(TcpListener, Arc<Tokens>)>,
}

/// Why the API cannot listen.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ListenError {
    #[error("{}: another process answers on this socket; stop it first", .0.display())]
    SocketInUse(PathBuf),
    #[error("{}: is there and is no socket; it was left as it is", .0.display())]
    NoSocket(PathBuf),
    #[error("{}: {error}", path.display())]
    Socket { path: PathBuf, error: io::Error },
    #[error("{address}: {error}")]
    Tcp { address: SocketAddr, error: io::Error },
    #[error("token file {}: {error}", path.display())]
    Tokens { path: PathBuf, error: TokenFileError },
}

impl Listeners {
    /// Binds the socket `unix` and, where configured, TCP. Call it within a tokio runtime.
    pub async fn bind(unix: &Path, tcp: Option<&TcpConfig>) -> Result<Self, ListenError> {
        // Tokens and TCP first: what fails then has replaced nothing.
        let tcp = match tcp {
            Some(config) => Some(bind_tcp(config).await?),
            None => None,
        };
        let (unix, socket) = bind_unix(unix)?;
        Ok(Self { unix, socket, tcp })
    }

    /// Where TCP is listened on.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.0.local_addr().ok()
    }

    pub(super) async fn serve(
        self,
        app: Router,
        outcomes: Arc<Outcomes>,
        shutdown: impl Future<Output = ()>,
    ) {
        let Self { unix, socket, tcp } = self;
        let (stop, stopped) = watch::channel(false);
        let mut loops = JoinSet::new();
        let count = middleware::from_fn_with_state(outcomes, outcomes::count);
        if let Some((listener, tokens)) = tcp {
            let app = app.clone().layer(middleware::from_fn_with_state(tokens, require_token));
            let app = app.layer(count.clone());
            loops.spawn(accept_loop(listener, app, stopped.clone()));
        }
        loops.spawn(accept_loop(unix, app.layer(count), stopped));
        shutdown.await;
        drop(socket);
        stop.send_replace(true);
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, loops.join_all()).await.is_err() {
            tracing::warn!("requests that still ran at the shutdown were cut");
        }
    }
}

async fn accept_loop(mut listener: impl Listener, app: Router, stopped: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut stop = stopped.clone();
    loop {
        let next = async { (room.clone().acquire_owned().await, listener.accept().await) };
        let stop = async { drop(stop.wait_for(|stop| *stop).await) };
        let (permit, (stream, _)) = tokio::select! {
            next = next => next,
            () = stop => break,
        };
        let connection = serve_connection(stream, app.clone(), stopped.clone());
        connections.spawn(async move {
            connection.await;
            drop(permit);
        });
        while connections.try_join_next().is_some() {}
    }
    connections.join_all().await;
}

async fn serve_connection<S>(stream: S, app: Router, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let stop = async { drop(stopped.wait_for(|stop| *stop).await) };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the API ended early");
    }
}

async fn bind_tcp(config: &TcpConfig) -> Result<(TcpListener, Arc<Tokens>), ListenError> {
    let tokens = Tokens::read(&config.token_file)
        .map_err(|error| ListenError::Tokens { path: config.token_file.clone(), error })?;
    let address = config.address;
    let listener = TcpListener::bind(address).await.map_err(|error| ListenError::Tcp { address, error })?;
    Ok((listener, Arc::new(tokens)))
}

/// A socket file that is removed with its listener, unless another took its name.
struct OwnedSocket {
    path: PathBuf,
    inode: u64,
}

impl Drop for OwnedSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn bind_unix(path: &Path) -> Result<(UnixListener, OwnedSocket), ListenError> {
    let failed = |error: io::Error| ListenError::Socket { path: path.to_owned(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NoSocket(path.to_owned())),
        Ok(_) => match StdUnixStream::connect(path) {
            Ok(_) => return Err(ListenError::SocketInUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(failed(error)),
        },
    }
    let (listener, inode) = bind_private(path).map_err(failed)?;
    Ok((listener, OwnedSocket { path: path.to_owned(), inode }))
}

fn bind_private(path: &Path) -> io::Result<(UnixListener, u64)> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let private = directory.join(format!(".{}", std::process::id()));
    // Left by a process of the same number that died in between.
    let _ = fs::remove_dir_all(&private);
    DirBuilder::new().mode(0o700).create(&private)?;
    let bind = || {
        let socket = private.join("s");
        let listener = StdUnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
        let inode = fs::symlink_metadata(&socket)?.ino();
        fs::rename(&socket, path)?;
        Ok((UnixListener::from_std(listener)?, inode))
    };
    let bound = bind();
    let _ = fs::remove_dir_all(&private);
    bound
}
