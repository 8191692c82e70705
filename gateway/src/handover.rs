//! Another process takes over, without a client noticing: it gets the very sockets at which this one listens, so that no
//! connection that waits in one is lost, proves that it serves, and only then this one takes no more.
//!
//! The sockets are inherited as file descriptors; [`VARIABLE`] names them, and the end of a pair of sockets through which
//! the new process says `ready`, or why it is not. A service manager's sockets come in by its own variables
//! (sd_listen_fds(3)).

use std::{
    env,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use socket2::{Socket, Type};
use thiserror::Error;

/// `READY LISTENER…`, numbers of file descriptors.
const VARIABLE: &str = "GATEWAY_HANDOVER";
/// What the new process says when it serves.
const READY: &str = "ready";
/// Until the new process serves: it may have to wait for the keys of issuers.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of why it does not.
const REASON_BYTES_MAX: u64 = 16 << 10;

/// Why another process did not take over. This one goes on.
#[derive(Debug, Error)]
pub enum HandoverError {
    /// It could not be started.
    #[error("cannot start {}: {error}", program.display())]
    Start {
        /// What.
        program: std::path::PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It said why.
    #[error("the new process does not serve: {0}")]
    Refused(String),
    /// It ended without a word.
    #[error("the new process ended before it served: {0}")]
    Ended(std::process::ExitStatus),
    /// It said nothing in time, or not what it should.
    #[error("the new process did not say that it serves: {0}")]
    Silent(io::Error),
}

/// Sockets at which another process, or a service manager, listened before.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<Socket>,
    /// To the process that waits until this one serves.
    waiting: Option<UnixStream>,
}

impl Inherited {
    /// What this process was started with. Called once, at its start.
    ///
    /// # Errors
    /// A variable names what is no listening socket.
    pub fn take() -> io::Result<Self> {
        let (waiting, listeners): (Option<RawFd>, Vec<RawFd>) = match env::var(VARIABLE) {
            Ok(text) => {
                let numbers: Result<Vec<RawFd>, _> = text.split(' ').map(str::parse).collect();
                let mut numbers = numbers.map_err(io::Error::other)?.into_iter();
                (numbers.next(), numbers.collect())
            }
            Err(_) => (None, sd_notify::listen_fds()?.collect()),
        };
        let waiting = waiting.map(adopt).transpose()?.map(|socket| UnixStream::from(OwnedFd::from(socket)));
        let sockets = listeners.into_iter().map(adopt).collect::<io::Result<Vec<_>>>()?;
        for socket in &sockets {
            if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
                return Err(io::Error::other(format!(
                    "file descriptor {} does not listen",
                    socket.as_raw_fd()
                )));
            }
            socket.set_nonblocking(true)?;
        }
        Ok(Self { sockets, waiting })
    }

    /// Whether another process waits until this one serves.
    pub fn is_handover(&self) -> bool {
        self.waiting.is_some()
    }

    /// Those that listen at `address`.
    pub fn tcp(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        let at =
            |socket: &mut Socket| socket.local_addr().is_ok_and(|local| local.as_socket() == Some(address));
        self.sockets.extract_if(.., at).map(TcpListener::from).collect()
    }

    /// The one that listens at `path`.
    pub fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        let at = |socket: &mut Socket| {
            socket.local_addr().is_ok_and(|local| local.as_pathname().is_some_and(|known| known == path))
        };
        self.sockets.extract_if(.., at).next().map(UnixListener::from)
    }

    /// Tells the process that waits how the start went. What was not asked for is closed.
    pub fn tell(self, started: Result<(), String>) {
        if let Some(mut waiting) = self.waiting {
            let text = started.err().unwrap_or_else(|| READY.into());
            // It may have given up by now, and goes on itself.
            if let Err(error) = waiting.write_all(text.as_bytes()) {
                tracing::warn!(%error, "the process before this one does not wait any more");
            }
        }
    }
}

/// Owns an inherited file descriptor, which no process of ours inherits unasked.
fn adopt(number: RawFd) -> io::Result<Socket> {
    if !Path::new(&format!("/proc/self/fd/{number}")).exists() {
        return Err(io::Error::other(format!("file descriptor {number} is not open")));
    }
    // SAFETY: it is open, was named to this process by whoever started it, and nobody else here knows of it: this is
    // called once, for each number once.
    let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(number) });
    socket.set_cloexec(true)?;
    Ok(socket)
}

/// Starts this program anew, as it was started, with `sockets`, and waits until it serves. Its process id.
///
/// # Errors
/// [`HandoverError`]; the new process is gone then.
pub async fn hand_over(sockets: &[OwnedFd]) -> Result<u32, HandoverError> {
    let mut arguments = env::args_os();
    let program = arguments.next().unwrap_or_default();
    let mut command = Command::new(&program);
    command.args(arguments);
    let failed = |error| HandoverError::Start { program: program.clone().into(), error };
    let (said, waiting) = start(&mut command, sockets).map_err(failed)?;
    let mut started = Started(Some(said));
    let read = tokio::task::spawn_blocking(move || read_answer(waiting)).await;
    let answer = read.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(HandoverError::Silent)?;
    match answer.as_str() {
        READY => Ok(started.leave()),
        "" => Err(HandoverError::Ended(started.end().map_err(HandoverError::Silent)?)),
        reason => Err(HandoverError::Refused(reason.to_owned())),
    }
}

fn start(command: &mut Command, sockets: &[OwnedFd]) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut passed = vec![Socket::from(OwnedFd::from(theirs))];
    for socket in sockets {
        passed.push(Socket::from(socket.try_clone()?));
    }
    // Nothing else starts a process here, so nobody else inherits them.
    passed.iter().try_for_each(|socket| socket.set_cloexec(false))?;
    let numbers: Vec<String> = passed.iter().map(|socket| socket.as_raw_fd().to_string()).collect();
    let child = command.env(VARIABLE, numbers.join(" ")).spawn()?;
    Ok((child, ours))
}

fn read_answer(mut waiting: UnixStream) -> io::Result<String> {
    waiting.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    (&mut waiting).take(REASON_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// A process that was started; stopped when this is dropped before it is left alone.
struct Started(Option<Child>);

impl Started {
    /// Leaves it alone from now on.
    fn leave(&mut self) -> u32 {
        self.0.take().map_or(0, |child| child.id())
    }

    /// Ends it, and says how it ended.
    fn end(&mut self) -> io::Result<std::process::ExitStatus> {
        let Some(mut child) = self.0.take() else { return Err(io::ErrorKind::NotFound.into()) };
        let _ = child.kill();
        child.wait()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
