//! Sockets of the balancer's own host: what they send to a service goes to a backend at once, because no packet of
//! theirs passes the receive path.
//!
//! | hook | does |
//! |---|---|
//! | connect | writes a backend in place of the service; TCP by chance, UDP by the socket |
//! | sendmsg | the same for a datagram of a socket that is not connected |
//! | recvmsg | writes the service in place of the backend that a datagram came from |
//! | getpeername | the same for what a socket is connected to |
//!
//! The backend is reached at its own address and port in every mode: there is no receive path to rewrite, encapsulate
//! or readdress anything.
//!
//! Invariant: a destination that is no service is not changed, and a source is changed only for the socket that sent
//! to the service.

use lb_common::{Address, Backend, BackendId, Port, Protocol, Service, ServiceKey, Slot, Wide};

/// Slots are drawn so often before a service is taken for one without backends. Tables name only backends that serve
/// but for the moment that a change takes, and for services that keep what fails.
const DRAWS: u32 = 8;
/// 2^64 divided by the golden ratio: the top bits of multiples of it are spread evenly (Knuth, 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// An address and a port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port.
    pub port: Port,
    reserved: u16,
}

impl Endpoint {
    /// Of these.
    #[inline(always)]
    pub const fn new(address: Address, port: Port) -> Self {
        Self { address, port, reserved: 0 }
    }
}

/// A backend as a socket met it; the value is the service that the socket meant.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Peer {
    /// The socket's cookie.
    pub socket: u64,
    address: Address,
    port: Port,
    protocol: u8,
    reserved: [u8; 5],
}

impl Peer {
    /// Of these.
    #[inline(always)]
    pub const fn new(socket: u64, backend: &Endpoint, protocol: Protocol) -> Self {
        Self {
            socket,
            address: backend.address,
            port: backend.port,
            protocol: protocol as u8,
            reserved: [0; 5],
        }
    }
}

const _: () = assert!(size_of::<Endpoint>() == 20 && size_of::<Peer>() == 32);

/// Families of backends that a socket can be turned to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// IPv4 sockets.
    Ipv4,
    /// Datagrams of IPv6 sockets, which the kernel has taken for IPv6 already.
    Ipv6,
    /// Connections of IPv6 sockets: IPv4 in its mapped form too.
    Both,
}

/// What a socket asks of the world.
pub trait Tables {
    /// The service at exactly this (address, port, protocol).
    fn service(&self, key: &ServiceKey) -> Option<&Service>;
    /// The services of several ports at the longest prefix of this address.
    fn wide(&self, protocol: Protocol, address: &Address) -> Option<&Wide>;
    /// One slot.
    fn slot(&self, index: u32) -> Option<Slot>;
    /// One backend.
    fn backend(&self, id: BackendId) -> Option<&Backend>;
    /// A number that nobody foresees.
    fn random(&self) -> u32;
    /// What the socket of the context is known by.
    fn cookie(&self) -> u64;
    /// Remembers which service a socket meant by a backend; the oldest makes room.
    fn remember(&self, peer: &Peer, service: &Endpoint);
    /// What is remembered.
    fn recall(&self, peer: &Peer) -> Option<Endpoint>;
}

/// What becomes of a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// It stays: it is no service.
    Stay,
    /// It becomes this.
    To(Endpoint),
    /// It is a service that has no backend for this socket.
    Nobody,
}

/// Where a socket that means `destination` is turned to. Datagrams of one socket to one service go to one backend, as
/// long as the service's table stays.
#[inline(always)]
pub fn turn<T: Tables>(tables: &T, protocol: Protocol, destination: &Endpoint, reach: Reach) -> Turn {
    let Some(service) = service_of(tables, protocol, destination) else { return Turn::Stay };
    let socket = tables.cookie();
    let start = match protocol {
        Protocol::Tcp => tables.random() as u64,
        Protocol::Udp => socket,
    };
    let Some(backend) = draw(tables, service, start, reach) else { return Turn::Nobody };
    // Services of several ports leave the port as it is.
    let port = if backend.port.word() == 0 { destination.port } else { backend.port };
    let backend = Endpoint::new(backend.address, port);
    tables.remember(&Peer::new(socket, &backend, protocol), destination);
    Turn::To(backend)
}

/// The service that the socket means by what it is connected to, or has received from.
#[inline(always)]
pub fn meant<T: Tables>(tables: &T, protocol: Protocol, peer: &Endpoint) -> Option<Endpoint> {
    tables.recall(&Peer::new(tables.cookie(), peer, protocol))
}

#[inline(always)]
fn service_of<'t, T: Tables>(
    tables: &'t T,
    protocol: Protocol,
    destination: &Endpoint,
) -> Option<&'t Service> {
    let exact = ServiceKey {
        address: destination.address,
        port: destination.port,
        protocol: protocol as u8,
        width: 0,
    };
    if let Some(service) = tables.service(&exact) {
        return Some(service);
    }
    let key = tables.wide(protocol, &destination.address)?.service_key(destination.port.number())?;
    tables.service(&key)
}

#[inline(always)]
fn draw<'t, T: Tables>(tables: &'t T, service: &Service, start: u64, reach: Reach) -> Option<&'t Backend> {
    for step in 0..DRAWS {
        let hash = start.wrapping_add(step as u64).wrapping_mul(SPREAD);
        let slot = tables.slot(service.slot_index(hash))?;
        if let Some(backend) = tables.backend(slot.current())
            && backend.serves()
            && reaches(reach, &backend.address)
        {
            return Some(backend);
        }
    }
    None
}

#[inline(always)]
const fn reaches(reach: Reach, address: &Address) -> bool {
    match reach {
        Reach::Ipv4 => address.is_ipv4(),
        Reach::Ipv6 => !address.is_ipv4(),
        Reach::Both => true,
    }
}

#[cfg(test)]
mod tests;
