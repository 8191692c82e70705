//! Sockets that listen: TCP once for each worker (SO_REUSEPORT), a Unix socket once for all of them.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::stream::Socket;
use crate::{config::listen::ListenAddress, snapshot::Place};

/// Connections that the kernel holds until a worker takes them.
const BACKLOG: i32 = 4096;

/// One worker's sockets, in the order of the configuration.
#[derive(Debug)]
pub struct Listeners(Vec<Bound>);

#[derive(Debug)]
enum Bound {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// Files of Unix sockets; removed when this is dropped.
#[derive(Debug, Default)]
pub struct SocketFiles(Vec<PathBuf>);

/// A socket from which a worker takes connections.
pub(super) enum Source {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listeners {
    /// Listens at each place for each worker. Port 0 becomes one free port for all of them.
    ///
    /// # Errors
    /// The address, and why it cannot be listened at.
    pub fn bind(
        places: &[Place],
        workers: usize,
    ) -> Result<(Vec<Self>, SocketFiles), (ListenAddress, io::Error)> {
        let mut all: Vec<_> = (0..workers).map(|_| Self(Vec::new())).collect();
        let mut files = SocketFiles::default();
        for place in places {
            let bound = match &place.address {
                ListenAddress::Tcp(address) => bind_tcp(*address, &mut all),
                ListenAddress::Unix(path) => bind_unix(path, place.mode, &mut all, &mut files),
            };
            bound.map_err(|error| (place.address.clone(), error))?;
        }
        Ok((all, files))
    }

    /// Where TCP is listened at.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let tcp = self.0.iter().filter_map(|bound| match bound {
            Bound::Tcp(listener) => listener.local_addr().ok(),
            Bound::Unix(_) => None,
        });
        tcp.collect()
    }

    /// The same within a worker's runtime.
    pub(super) fn into_sources(self) -> io::Result<Vec<Source>> {
        let sources = self.0.into_iter().map(|bound| match bound {
            Bound::Tcp(listener) => TcpListener::from_std(listener).map(Source::Tcp),
            Bound::Unix(listener) => UnixListener::from_std(listener).map(Source::Unix),
        });
        sources.collect()
    }
}

impl Source {
    /// The next connection, and where it came from.
    pub(super) async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Answers are written whole: waiting for more to send only delays them. A socket that refuses is
                // dead already.
                let _ = stream.set_nodelay(true);
                Ok((Socket::Tcp(stream), peer))
            }
            // Who can open a socket of this host's file system is on this host.
            Self::Unix(listener) => {
                listener.accept().await.map(|(stream, _)| (Socket::Unix(stream), ([127, 0, 0, 1], 0).into()))
            }
        }
    }
}

impl SocketFiles {
    /// Where they are.
    pub fn paths(&self) -> &[PathBuf] {
        &self.0
    }
}

impl Drop for SocketFiles {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

fn bind_tcp(address: SocketAddr, workers: &mut [Listeners]) -> io::Result<()> {
    let mut actual = address;
    for worker in workers {
        let listener = listen_tcp(actual)?;
        actual = listener.local_addr()?;
        worker.0.push(Bound::Tcp(listener));
    }
    Ok(())
}

fn listen_tcp(address: SocketAddr) -> io::Result<StdTcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // An IPv4 address is listened at where the configuration names one.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path, mode: u32, workers: &mut [Listeners], files: &mut SocketFiles) -> io::Result<()> {
    remove_stale(path)?;
    let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    files.0.push(path.to_owned());
    // Before it listens nobody can connect, whatever the process' umask allowed.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    let shared: StdUnixListener = socket.into();
    for worker in workers {
        worker.0.push(Bound::Unix(shared.try_clone()?));
    }
    Ok(())
}

/// Removes a socket at which nobody listens any more; all else stays, and fails the bind.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) | Err(_) => return Ok(()),
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(_) | Err(_) => Ok(()),
    }
}
