//! A client whose datagrams tell which backend the table names, and orders on a connection that is kept.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, UdpSocket},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::world::{BIG_PORT, BIG_VIP, BIG_VIP_PORT, World};

/// Between two datagrams of a probe.
const PROBE_EVERY: Duration = Duration::from_micros(100);
/// An order that is not effective after so long never will be.
const EFFECTIVE_LIMIT: Duration = Duration::from_secs(30);
/// Marks a probe's datagrams; others are load.
const PROBE: u8 = b'p';

/// Who received the last probe: the address in the low half, a count of receptions in the high one.
#[derive(Clone, Default)]
pub struct Receiver(Arc<AtomicU64>);

impl Receiver {
    /// Listens at every backend of the big service until the process ends.
    pub fn start(world: &World) -> Result<Self> {
        let receiver = Self::default();
        let socket =
            world.topology.servers[0].enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, BIG_PORT)))??;
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open, and the option is an int.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_PKTINFO,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        ensure!(set == 0, "IP_PKTINFO: {}", io::Error::last_os_error());
        let last = receiver.0.clone();
        thread::Builder::new().name("receiver".into()).spawn(move || {
            let mut count = 0_u64;
            while let Ok((payload, address)) = receive(&socket) {
                if payload == PROBE {
                    count += 1;
                    last.store(count << 32 | u64::from(u32::from(address)), Ordering::Release);
                }
            }
        })?;
        Ok(receiver)
    }

    fn look(&self) -> (u64, Ipv4Addr) {
        let word = self.0.load(Ordering::Acquire);
        (word >> 32, Ipv4Addr::from(word as u32))
    }
}

/// A socket whose datagrams all belong to one slot.
pub struct Probe {
    socket: UdpSocket,
    receiver: Receiver,
}

impl Probe {
    /// A new one, in whatever slot its port falls.
    pub fn new(world: &World, receiver: &Receiver) -> Result<Self> {
        let socket = world.topology.client.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        socket.connect((BIG_VIP, BIG_VIP_PORT))?;
        Ok(Self { socket, receiver: receiver.clone() })
    }

    /// The backend that the table names now.
    pub fn backend(&self) -> Result<Ipv4Addr> {
        let seen = self.receiver.look().0;
        // Datagrams of an earlier probe may still be under way: the last of several is this one's.
        self.until("a datagram arrives", |count, _| count > seen + 3)?;
        Ok(self.receiver.look().1)
    }

    /// Sends until a backend of this kind received one; when that was.
    pub fn until(&self, what: &str, is_it: impl Fn(u64, Ipv4Addr) -> bool) -> Result<Instant> {
        let begun = Instant::now();
        loop {
            // An ICMP error of a datagram before is told here; it means nothing.
            let _ = self.socket.send(&[PROBE]);
            let next = Instant::now() + PROBE_EVERY;
            while Instant::now() < next {
                let (count, address) = self.receiver.look();
                if is_it(count, address) {
                    return Ok(Instant::now());
                }
                thread::yield_now();
            }
            ensure!(begun.elapsed() < EFFECTIVE_LIMIT, "not within {EFFECTIVE_LIMIT:?}: {what}");
        }
    }
}

fn receive(socket: &UdpSocket) -> Result<(u8, Ipv4Addr)> {
    let (mut payload, mut control) = ([0_u8; 64], [0_u64; 8]);
    let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in the message points to a live buffer of the length beside it.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, 0) };
    if length < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the kernel filled the control buffer, and IP_PKTINFO carries an in_pktinfo.
    let address = unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        let header = header.as_ref().context("no IP_PKTINFO")?;
        (*libc::CMSG_DATA(header).cast::<libc::in_pktinfo>()).ipi_addr.s_addr
    };
    Ok((payload[0], Ipv4Addr::from(u32::from_be(address))))
}

/// A connection to the API that is kept, as a controller of a cluster keeps one.
pub struct Orders(UnixStream);

impl Orders {
    /// Connects.
    pub fn connect(socket: &Path) -> Result<Self> {
        Ok(Self(UnixStream::connect(socket)?))
    }

    /// Gives an order, which must be accepted; returns when it is answered.
    pub fn give(&mut self, method: &str, path: &str, body: &str) -> Result<()> {
        write!(
            self.0,
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = Vec::new();
        let mut part = [0_u8; 4_096];
        loop {
            let length = self.0.read(&mut part)?;
            ensure!(length > 0, "{method} {path}: the connection was closed");
            answer.extend_from_slice(&part[..length]);
            let text = String::from_utf8_lossy(&answer);
            let Some((head, rest)) = text.split_once("\r\n\r\n") else { continue };
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if rest.len() < length.context("content-length")?.trim().parse()? {
                continue;
            }
            match head.starts_with("http/1.1 2") {
                true => return Ok(()),
                false => bail!("{method} {path}: {text}"),
            }
        }
    }
}

/// Something that goes on beside what is measured; it ends when dropped.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Nothing yet.
    pub fn none() -> Self {
        Self { stop: Arc::default(), done: Arc::default(), threads: Vec::new() }
    }

    /// Adds a thread in which `work` is done so often in a second, by its number.
    pub fn add(&mut self, per_second: u32, mut work: impl FnMut(u64) + Send + 'static) {
        let (stop, done) = (self.stop.clone(), self.done.clone());
        let begun = Instant::now();
        self.threads.push(thread::spawn(move || {
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let due = begun + Duration::from_secs(1) * (number as u32) / per_second.max(1);
                let early = due.saturating_duration_since(Instant::now());
                // Many at once where the pause would be shorter than the clock's steps.
                if early > Duration::from_millis(1) {
                    thread::sleep(early);
                }
                work(number);
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }

    /// How often work was done.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
