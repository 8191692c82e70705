//! A balancer's end of a cable, and a backend whose sockets are bound to the virtual addresses.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsRawFd as _,
    path::PathBuf,
    process::Output,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::{
    netns::{Namespace, cable},
    process::binary,
    requires::{pin_directory, requires},
    wire::Wire,
};

use super::tunnel::{
    BACKEND_4, BACKEND_6, BACKEND_MAC, BALANCER_4, BALANCER_MAC, CLIENT_4, CLIENT_6, Family, VIP_4, VIP_6,
    datagram, frame,
};

/// A frame takes microseconds.
pub const LIMIT: Duration = Duration::from_secs(10);

pub struct Stage {
    balancer: Namespace,
    pub backend: Namespace,
    /// The balancer's end.
    pub wire: Wire,
    pins: PathBuf,
}

impl Stage {
    pub fn new() -> Result<Self> {
        // Beyond the numbers of topologies, which share the names.
        static NUMBER: AtomicU32 = AtomicU32::new(50_000);
        requires();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let balancer = Namespace::create(&format!("decap-l{number}"))?;
        let backend = Namespace::create(&format!("decap-b{number}"))?;
        for interfaces in ["all", "default", "lo"] {
            backend.sysctl(&format!("ipv6/conf/{interfaces}/disable_ipv6"), "0")?;
        }
        backend.ip(&format!("addr add {VIP_4}/32 dev lo\naddr add {VIP_6}/128 dev lo nodad"))?;
        wire(&balancer, &backend)?;
        let wire = Wire::open(&balancer, "eth0")?;
        Ok(Self { balancer, backend, wire, pins: pin_directory(number) })
    }

    /// Sets what both ends of the cable take.
    pub fn set_mtu(&self, mtu: usize) -> Result<()> {
        [&self.balancer, &self.backend].iter().try_for_each(|end| end.ip(&format!("link set eth0 mtu {mtu}")))
    }

    /// Gives the backend, whose cable was removed, another interface of this number.
    pub fn connect_as(&self, number: &str) -> Result<()> {
        self.backend.ip(&format!(
            "link add name eth0 index {number} type veth peer name eth0 netns {}",
            self.balancer.name()
        ))
    }

    /// Runs `lbctl decap` on the backend.
    pub fn lbctl(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.backend.command(binary("lbctl")?);
        command.arg("decap").args(arguments);
        if !arguments.contains(&"--pin-dir") {
            command.arg("--pin-dir").arg(&self.pins);
        }
        Ok(command.output()?)
    }

    /// Likewise; it must succeed.
    pub fn lbctl_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.lbctl(arguments)?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Likewise; it must fail. What it says.
    pub fn refused(&self, arguments: &[&str]) -> Result<String> {
        let output = self.lbctl(arguments)?;
        ensure!(output.status.code() == Some(2), "{arguments:?}: {}", output.status);
        Ok(String::from_utf8(output.stderr)?)
    }

    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.lbctl_ok(&["status", "--json"])?)?)
    }

    /// How often a reason was counted on the one interface.
    pub fn reason(&self, name: &str) -> Result<u64> {
        let status = self.status()?;
        let reasons = status["interfaces"][0]["reasons"].as_array().context("no interface")?;
        let reason = reasons.iter().find(|reason| reason["name"] == name);
        reason.and_then(|reason| reason["count"].as_u64()).with_context(|| format!("{name}: {status}"))
    }

    /// A frame without a tunnel, to the virtual address.
    pub fn plain(&self, family: Family, payload: &[u8]) -> Vec<u8> {
        frame(family, &datagram(family, 0, payload))
    }

    /// A socket at the virtual address.
    pub fn bind(&self, family: Family) -> Result<Datagrams> {
        let socket = self.backend.enter(|| UdpSocket::bind(family.vip()))??;
        socket.set_read_timeout(Some(LIMIT))?;
        let option = match family {
            Family::V4 => (libc::IPPROTO_IP, libc::IP_RECVTOS),
            Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
        };
        let on: libc::c_int = 1;
        let length = size_of_val(&on) as libc::socklen_t;
        // SAFETY: the descriptor is open, and the options are ints.
        let set = unsafe {
            libc::setsockopt(socket.as_raw_fd(), option.0, option.1, (&raw const on).cast(), length)
        };
        ensure!(set == 0, "{}", io::Error::last_os_error());
        Ok(Datagrams { socket })
    }

    /// A listener at the virtual address.
    pub fn listen(&self, family: Family) -> Result<Listener> {
        Ok(Listener { listener: self.backend.enter(|| TcpListener::bind(family.vip()))?? })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}

fn wire(balancer: &Namespace, backend: &Namespace) -> Result<()> {
    cable((balancer, "eth0"), (backend, "eth0"))?;
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    balancer.ip(&format!("link set eth0 address {}", mac(BALANCER_MAC)))?;
    for interfaces in ["all", "eth0"] {
        backend.sysctl(&format!("ipv4/conf/{interfaces}/rp_filter"), "0")?;
    }
    let neighbour = mac(BALANCER_MAC);
    backend.ip(&format!(
        "link set eth0 address {}\n\
         addr add {BACKEND_4}/24 dev eth0\n\
         addr add {BACKEND_6}/64 dev eth0 nodad\n\
         neigh replace {BALANCER_4} lladdr {neighbour} dev eth0\n\
         neigh replace fd20::1 lladdr {neighbour} dev eth0\n\
         route replace {CLIENT_4}/32 via {BALANCER_4}\n\
         route replace {CLIENT_6}/128 via fd20::1",
        mac(BACKEND_MAC)
    ))
}

/// A socket at the virtual address.
pub struct Datagrams {
    socket: UdpSocket,
}

/// What arrived.
#[derive(Debug)]
pub struct Arrived {
    pub payload: Vec<u8>,
    pub from: SocketAddr,
    /// DSCP and ECN.
    pub class: u8,
}

impl Datagrams {
    /// Waits for one.
    pub fn receive(&self) -> Result<Arrived> {
        let (mut payload, mut control) = (vec![0_u8; 65_536], [0_u64; 8]);
        let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
        // SAFETY: all-zero is a valid msghdr and a valid sockaddr_in6.
        let (mut message, mut from): (libc::msghdr, libc::sockaddr_in6) = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = size_of_val(&from) as libc::socklen_t;
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: every pointer in the message points to a live buffer of the length beside it.
        let length = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &mut message, 0) };
        ensure!(length >= 0, "{}", io::Error::last_os_error());
        payload.truncate(length as usize);
        let port = u16::from_be(from.sin6_port);
        let from = if i32::from(from.sin6_family) == libc::AF_INET6 {
            SocketAddr::from((Ipv6Addr::from(from.sin6_addr.s6_addr), port))
        } else {
            // Both kinds of addresses have the port in the same place; the IPv4 address follows it.
            SocketAddr::from((Ipv4Addr::from(from.sin6_flowinfo.to_ne_bytes()), port))
        };
        // SAFETY: the kernel filled the control buffer; IP_TOS carries a byte, IPV6_TCLASS an int.
        let class = unsafe {
            let header = libc::CMSG_FIRSTHDR(&message).as_ref().context("no traffic class")?;
            let data = libc::CMSG_DATA(header);
            if header.cmsg_level == libc::IPPROTO_IP { *data } else { *data.cast::<libc::c_int>() as u8 }
        };
        Ok(Arrived { payload, from, class })
    }
}

/// A listener at the virtual address.
pub struct Listener {
    listener: TcpListener,
}

impl Listener {
    /// Waits for a connection, and for so many bytes of it.
    pub fn hear(&self, length: usize) -> Result<(SocketAddr, Vec<u8>)> {
        let mut poll = libc::pollfd { fd: self.listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        let ready = unsafe { libc::poll(&mut poll, 1, LIMIT.as_millis() as libc::c_int) };
        ensure!(ready == 1, "nobody connects within {LIMIT:?}");
        let (mut connection, from) = self.listener.accept()?;
        connection.set_read_timeout(Some(LIMIT))?;
        let mut heard = vec![0; length];
        connection.read_exact(&mut heard).context("what the client says")?;
        Ok((from, heard))
    }
}
