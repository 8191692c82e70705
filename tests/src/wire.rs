//! Frames as they are on a cable, sent and received past the stack.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::netns::Namespace;

/// One end of a cable.
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// Of an interface in a namespace.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        let name = CString::new(interface)?;
        namespace
            .enter(|| open(&name))?
            .map(|socket| Self { socket })
            .with_context(|| format!("a packet socket on {interface} of {}", namespace.name()))
    }

    /// Sends a frame as it is.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the descriptor is open, and the buffer lives.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        match usize::try_from(sent) {
            Ok(length) if length == frame.len() => Ok(()),
            Ok(length) => bail!("{length} of {} bytes were sent", frame.len()),
            Err(_) => Err(io::Error::last_os_error()).context("sending a frame"),
        }
    }

    /// Waits for a frame out of which `look` makes something.
    pub fn receive<T>(&self, limit: Duration, mut look: impl FnMut(&[u8]) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + limit;
        let mut frame = vec![0; 65_536];
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one valid pollfd, and a buffer of the length beside it.
            let length = unsafe {
                libc::poll(&mut poll, 1, left.as_millis().min(1_000) as libc::c_int);
                let socket = self.socket.as_raw_fd();
                libc::recv(socket, frame.as_mut_ptr().cast(), frame.len(), libc::MSG_DONTWAIT)
            };
            if let Some(found) = usize::try_from(length).ok().and_then(|length| look(&frame[..length])) {
                return Ok(found);
            }
        }
        bail!("no such frame within {limit:?}")
    }
}

fn open(interface: &CString) -> io::Result<OwnedFd> {
    let every_protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: plain values; the descriptor is new and nobody else's; all-zero is a valid address, which is bound with
    // its own length.
    unsafe {
        let socket =
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, every_protocol.into());
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(socket);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every_protocol;
        address.sll_ifindex = libc::if_nametoindex(interface.as_ptr()) as i32;
        let length = size_of_val(&address) as libc::socklen_t;
        match libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) {
            0 => Ok(socket),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
