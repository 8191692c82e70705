//! Sockets that listen: TCP once for each worker (SO_REUSEPORT), a Unix socket once for all of them.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    os::fd::OwnedFd,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::{TcpListener, UnixListener};

use super::stream::Socket;
use crate::{config::listen::ListenAddress, handover::Inherited, snapshot::Place};

/// Connections that the kernel holds until a worker takes them.
const BACKLOG: i32 = 4096;

/// One worker's sockets, each with its place's index in the configuration.
#[derive(Debug)]
pub struct Listeners(Vec<(usize, Bound)>);

#[derive(Debug)]
enum Bound {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// Files of Unix sockets; removed when this is dropped.
#[derive(Debug, Default)]
pub struct SocketFiles {
    own: Vec<PathBuf>,
    /// Another process' until it has handed over.
    inherited: Vec<PathBuf>,
}

/// A socket from which a worker takes connections.
pub(super) enum Source {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listeners {
    /// Listens at each place for each worker. Port 0 becomes one free port for all of them. Inherited sockets come first;
    /// all of them are used, since connections may wait in each.
    ///
    /// # Errors
    /// The address, and why it cannot be listened at.
    pub fn bind(
        places: &[Place],
        workers: usize,
        inherited: &mut Inherited,
    ) -> Result<(Vec<Self>, SocketFiles), (ListenAddress, io::Error)> {
        let mut all: Vec<_> = (0..workers).map(|_| Self(Vec::new())).collect();
        let mut files = SocketFiles::default();
        for (place_index, place) in places.iter().enumerate() {
            let bound = match &place.address {
                ListenAddress::Tcp(address) => bind_tcp(*address, workers, inherited.tcp(*address)),
                ListenAddress::Unix(path) => {
                    bind_unix(path, place.mode, workers, inherited.unix(path), &mut files)
                }
            };
            let bound = bound.map_err(|error| (place.address.clone(), error))?;
            for (index, socket) in bound.into_iter().enumerate() {
                all[index % workers].0.push((place_index, socket));
            }
        }
        Ok((all, files))
    }

    /// The same sockets once more, for another process.
    ///
    /// # Errors
    /// Too many file descriptors are open.
    pub fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let duplicates = self.0.iter().map(|(_, bound)| match bound {
            Bound::Tcp(listener) => listener.try_clone().map(OwnedFd::from),
            Bound::Unix(listener) => listener.try_clone().map(OwnedFd::from),
        });
        duplicates.collect()
    }

    /// Where TCP is listened at.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let tcp = self.0.iter().filter_map(|(_, bound)| match bound {
            Bound::Tcp(listener) => listener.local_addr().ok(),
            Bound::Unix(_) => None,
        });
        tcp.collect()
    }

    /// The same within a worker's runtime.
    pub(super) fn into_sources(self) -> io::Result<Vec<(usize, Source)>> {
        let sources = self.0.into_iter().map(|(index, bound)| {
            let source = match bound {
                Bound::Tcp(listener) => Source::Tcp(TcpListener::from_std(listener)?),
                Bound::Unix(listener) => Source::Unix(UnixListener::from_std(listener)?),
            };
            Ok((index, source))
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
        &self.own
    }

    /// An inherited socket, or a new one at `path`.
    ///
    /// # Errors
    /// There is something at `path` that was not left behind, or its directory cannot be written to.
    pub fn listen(
        &mut self,
        path: &Path,
        mode: u32,
        inherited: Option<StdUnixListener>,
    ) -> io::Result<StdUnixListener> {
        match inherited {
            Some(inherited) => {
                self.inherited.push(path.to_owned());
                Ok(inherited)
            }
            None => listen_unix(path, mode, self),
        }
    }

    /// Those that were inherited are this process' own from now on.
    pub fn adopt(&mut self) {
        self.own.append(&mut self.inherited);
    }

    /// They are another process' own from now on.
    pub fn leave(&mut self) {
        self.own.clear();
    }
}

impl Drop for SocketFiles {
    fn drop(&mut self) {
        for path in &self.own {
            let _ = fs::remove_file(path);
        }
    }
}

/// At least `workers` sockets.
fn bind_tcp(address: SocketAddr, workers: usize, inherited: Vec<StdTcpListener>) -> io::Result<Vec<Bound>> {
    let (mut bound, mut actual) = (inherited, address);
    let first = bound.first().map(StdTcpListener::try_clone).transpose()?;
    while bound.len() < workers {
        let listener = match (listen_tcp(actual), &first) {
            // A service manager's socket need not share its address: its workers share the socket.
            (Err(error), Some(first)) if error.kind() == io::ErrorKind::AddrInUse => first.try_clone()?,
            (listener, _) => listener?,
        };
        actual = listener.local_addr()?;
        bound.push(listener);
    }
    Ok(bound.into_iter().map(Bound::Tcp).collect())
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

/// One socket, `workers` times.
fn bind_unix(
    path: &Path,
    mode: u32,
    workers: usize,
    inherited: Option<StdUnixListener>,
    files: &mut SocketFiles,
) -> io::Result<Vec<Bound>> {
    let socket = files.listen(path, mode, inherited)?;
    (0..workers).map(|_| socket.try_clone().map(Bound::Unix)).collect()
}

fn listen_unix(path: &Path, mode: u32, files: &mut SocketFiles) -> io::Result<StdUnixListener> {
    remove_stale(path)?;
    let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    files.own.push(path.to_owned());
    // Before it listens nobody can connect, whatever the process' umask allowed.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
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
