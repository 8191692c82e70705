//! Datagrams with the time to live that they arrived with, which tells who forwarded them.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

use anyhow::Result;

use crate::netns::Namespace;

/// A socket in a namespace.
pub struct Udp {
    socket: UdpSocket,
}

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The payload.
    pub payload: Vec<u8>,
    /// The time to live in its IP header.
    pub ttl: u8,
    /// Who sent it.
    pub from: SocketAddr,
}

impl Udp {
    /// Binds one; nothing received for `limit` is an error.
    pub fn bind(namespace: &Namespace, address: Ipv4Addr, port: u16, limit: Duration) -> Result<Self> {
        let socket = namespace.enter(|| UdpSocket::bind((address, port)))??;
        socket.set_read_timeout(Some(limit))?;
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open, and the option is an int.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_RECVTTL,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        match set {
            0 => Ok(Self { socket }),
            _ => Err(io::Error::last_os_error().into()),
        }
    }

    /// The same socket, whose datagrams may not be fragmented, whatever size it has been told to keep to
    /// (`IP_PMTUDISC_PROBE`).
    pub fn unfragmented(self) -> Result<Self> {
        let probe: libc::c_int = libc::IP_PMTUDISC_PROBE;
        // SAFETY: the descriptor is open, and the option is an int.
        let set = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                (&raw const probe).cast(),
                size_of_val(&probe) as libc::socklen_t,
            )
        };
        match set {
            0 => Ok(self),
            _ => Err(io::Error::last_os_error().into()),
        }
    }

    /// Sends one.
    pub fn send(&self, payload: &[u8], to: SocketAddr) -> Result<()> {
        self.socket.send_to(payload, to)?;
        Ok(())
    }

    /// Waits for one.
    pub fn receive(&self) -> Result<Datagram> {
        let (mut payload, mut control) = (vec![0_u8; 65_536], [0_u64; 8]);
        let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
        // SAFETY: all-zero is a valid msghdr and a valid sockaddr_in.
        let (mut message, mut from): (libc::msghdr, libc::sockaddr_in) = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = size_of_val(&from) as libc::socklen_t;
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer in the message points to a live buffer of the length beside it.
        let length = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &mut message, 0) };
        if length < 0 {
            return Err(io::Error::last_os_error().into());
        }
        payload.truncate(length as usize);
        let address = Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr));
        let from = SocketAddr::from((address, u16::from_be(from.sin_port)));
        Ok(Datagram { payload, ttl: ttl(&message).unwrap_or_default(), from })
    }
}

fn ttl(message: &libc::msghdr) -> Option<u8> {
    // SAFETY: the kernel filled the control buffer, and IP_TTL carries an int.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        let is_ttl = header.as_ref()?.cmsg_type == libc::IP_TTL;
        is_ttl.then(|| *libc::CMSG_DATA(header).cast::<libc::c_int>() as u8)
    }
}
