//! One row: what is given, the packet, and what must become of it.

use lb_common::{Algorithm, FlowState, Mode, Reason, SlotState};
use tests::packet::{Frame, flags};

use crate::world::{Svc, Who};

/// What the kernel does with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Drop,
    Pass,
    Tx,
    Redirect,
}

/// How the tables differ from [`crate::world::target`] with every slot settled on A.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Given {
    /// Every slot of the service: current, previous, state, seconds since it moved.
    Slots(Who, Who, SlotState, u32),
    /// The packet's flow is remembered as this backend's, seen so many seconds ago.
    Remembered(Who, u32),
    /// The same, closed by its client.
    Closed(Who, u32),
    /// Another tuple's flow stands where the packet's would.
    Recycled(Who),
    /// The backend serves no more.
    Down(Who),
    /// The backend's connections are ended.
    Cut(Who),
    /// The backend serves old flows.
    Draining(Who),
    /// The controller has not resolved the way to the backend.
    Unresolved(Who),
    /// The backend's next hop names an interface that does not exist.
    WayMissing(Who),
    /// The service's table lies beyond the slots.
    TableBeyond,
    /// The flow table is full of other flows.
    Full,
    /// No ICMP error may be sent.
    Muted,
    /// Both directions of the packet's flow are translated, to this backend; each with its state and how many seconds
    /// ago it was seen.
    Translated(Who, (FlowState, u32), (FlowState, u32)),
    /// Only the client's direction is.
    HalfTranslated(Who, (FlowState, u32)),
    /// Another tuple's entry stands where the packet's would.
    TranslatedByAnother(Who),
    /// Another client's flow has the port of the pool towards this backend.
    OtherTranslated(Who),
    /// A client's direction of a flow is known whose service is gone, under a port of the pool.
    ServiceGone(Who),
    /// The table of translated flows has room for so many more directions.
    TranslationsLeft(u32),
    /// The service tracks every flow, and chooses so.
    Tracked(Algorithm),
    /// It tracks on change, and chooses so.
    Chooses(Algorithm),
    /// A client's network keeps to its backend for so many seconds.
    Affinity(u32),
    /// So many of 128 bits make a client's network.
    ClientBits(u8),
    /// Slots belong to A and B in turns.
    Alternating,
    /// One slot in 256 is A's, the others are B's.
    RarelyA,
    /// The slot of the service's client is this backend's.
    OwnSlot(Who),
    /// The backend's weight.
    Weight(Who, u16),
    /// So many connections the backend takes.
    Capped(Who, u32),
    /// So many it has.
    Connections(Who, u64),
    /// It answered within so many microseconds.
    Response(Who, u32),
    /// The packet's flow is remembered, and one of this backend's live connections, seen so many seconds ago.
    Counted(Who, u32),
    /// The client's network keeps to this backend, and was seen so many seconds ago.
    KeptTo(Who, u32),
}

/// Who decides on the way that a packet takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// The tables: kernel and host agree in every byte.
    Tables,
    /// The kernel's routes; the host's stand-in finds a way through another interface.
    Routes,
    /// The kernel's routes, which the host has no stand-in for.
    KernelOnly,
    /// A packet that the kernel's test run does not take: shorter than an Ethernet header. Or one whose backend is drawn
    /// at random, which the host does from a seed.
    HostOnly,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub service: Svc,
    pub given: Vec<Given>,
    /// Packets that came before.
    pub before: Vec<Vec<u8>>,
    pub packet: Vec<u8>,
    pub reason: Reason,
    pub action: Action,
    pub out: Vec<u8>,
    /// Bytes of `out` that follow the flow's hash, which the kernel's random keys decide.
    pub free: Vec<std::ops::Range<usize>>,
    /// Whose counters grow by one packet.
    pub counted: Option<Who>,
    pub opens: bool,
    pub refused: bool,
    /// It went past a backend that has as many connections as it may.
    pub overflowed: bool,
    /// What is remembered of the flow afterwards: whose it is, and whether it is closed.
    pub remembered: Option<(Who, bool)>,
    /// How the flow is translated afterwards: to whom, and the states of the client's and the backend's direction.
    pub translated: Option<(Who, FlowState, FlowState)>,
    pub way: Way,
    /// How many live connections more or less these backends have afterwards; the others as many.
    pub connects: Vec<(Who, i64)>,
    /// What is remembered counts no more.
    pub stale: bool,
    /// Whose response time was noted.
    pub answers: Option<Who>,
    /// To whom the client's network keeps afterwards.
    pub keeps: Option<Who>,
}

impl Row {
    /// The packet opened a flow.
    pub fn opens(self) -> Self {
        Self { opens: true, ..self }
    }

    /// The full table refused to remember the flow.
    pub fn refused(self) -> Self {
        Self { refused: true, ..self }
    }

    /// The flow is remembered afterwards.
    pub fn remembers(self, who: Who) -> Self {
        Self { remembered: Some((who, false)), ..self }
    }

    /// The flow is remembered as closed afterwards.
    pub fn remembers_closed(self, who: Who) -> Self {
        Self { remembered: Some((who, true)), ..self }
    }

    /// The flow is translated afterwards.
    pub fn translates(self, who: Who, first: FlowState, second: FlowState) -> Self {
        Self { translated: Some((who, first, second)), ..self }
    }

    /// What was remembered still stands, and counts no more.
    pub fn stale(self, who: Who) -> Self {
        Self { remembered: Some((who, false)), stale: true, ..self }
    }

    /// A backend has so many live connections more or less afterwards.
    pub fn connects(mut self, who: Who, change: i64) -> Self {
        self.connects.push((who, change));
        self
    }

    /// The client's network keeps to the backend afterwards.
    pub fn keeps(self, who: Who) -> Self {
        Self { keeps: Some(who), ..self }
    }

    /// See [`Way`].
    pub fn by(self, way: Way) -> Self {
        Self { way, ..self }
    }

    pub fn in_memory(&self) -> bool {
        self.way != Way::KernelOnly
    }

    pub fn in_kernel(&self) -> bool {
        self.way != Way::HostOnly
    }
}

/// Every slot settled on nobody.
pub const NOBODY: Given = Given::Slots(Who::Nobody, Who::Nobody, SlotState::Settled, 0);

/// What stands above IP, put onto a frame.
pub type Shape = fn(&Frame) -> Vec<u8>;

/// A client's packet that goes to a backend.
pub fn sent(service: Svc, name: &str, given: &[Given], shape: Shape, to: Who) -> Row {
    Row {
        name: format!("{service:?}: {name}"),
        service,
        given: given.to_vec(),
        before: Vec::new(),
        packet: shape(&service.client_packet()),
        reason: Reason::Forwarded,
        action: if to == Who::A { Action::Tx } else { Action::Redirect },
        out: service.wrapped(to, shape(&service.to_backend(to))),
        free: hashed(service, service.client_packet().tags),
        counted: Some(to),
        opens: false,
        refused: false,
        overflowed: false,
        remembered: None,
        translated: None,
        way: Way::Tables,
        connects: Vec::new(),
        stale: false,
        answers: None,
        keeps: None,
    }
}

/// Where the outer headers of a service's mode follow the flow's hash: the IPv6 flow label, and GUE's source port.
pub fn hashed(service: Svc, tags: &[u16]) -> Vec<std::ops::Range<usize>> {
    let l3 = 14 + 4 * tags.len();
    let v4 = service.backend(Who::A).is_ipv4();
    let (label, port) = (l3 + 1..l3 + 4, l3 + if v4 { 20 } else { 40 });
    match service.mode() {
        Mode::DsrIpip if v4 => vec![],
        Mode::DsrIpip => vec![label],
        Mode::DsrGue if v4 => std::iter::once(port..port + 2).collect(),
        Mode::DsrGue => vec![label, port..port + 2],
        Mode::Nat | Mode::FullNat | Mode::DsrL2 => vec![],
    }
}

/// A packet that stays as it is.
pub fn stays(service: Svc, name: &str, given: &[Given], packet: Vec<u8>, reason: Reason) -> Row {
    let action = match reason {
        Reason::NotIp | Reason::NotOurs | Reason::LocalReply | Reason::ReplyLeft => Action::Pass,
        _ => Action::Drop,
    };
    Row {
        name: format!("{service:?}: {name}"),
        service,
        given: given.to_vec(),
        before: Vec::new(),
        out: packet.clone(),
        free: Vec::new(),
        packet,
        reason,
        action,
        counted: None,
        opens: false,
        refused: false,
        overflowed: false,
        remembered: None,
        translated: None,
        way: Way::Tables,
        connects: Vec::new(),
        stale: false,
        answers: None,
        keeps: None,
    }
}

pub const ODD: &[u8] = b"an odd number of bytes.";

pub fn syn(frame: &Frame) -> Vec<u8> {
    frame.tcp(flags::SYN, b"")
}

pub fn ack(frame: &Frame) -> Vec<u8> {
    frame.tcp(flags::ACK, b"")
}

pub fn syn_ack(frame: &Frame) -> Vec<u8> {
    frame.tcp(flags::SYN | flags::ACK, b"")
}

pub fn fin(frame: &Frame) -> Vec<u8> {
    frame.tcp(flags::FIN | flags::ACK, b"")
}

pub fn rst(frame: &Frame) -> Vec<u8> {
    frame.tcp(flags::RST, b"")
}

/// A segment with an odd payload.
pub fn segment(frame: &Frame) -> Vec<u8> {
    frame.tcp(flags::PSH | flags::ACK, ODD)
}

/// A datagram with an even payload.
pub fn datagram(frame: &Frame) -> Vec<u8> {
    frame.udp(b"even")
}

pub fn odd_datagram(frame: &Frame) -> Vec<u8> {
    frame.udp(ODD)
}

pub fn empty_datagram(frame: &Frame) -> Vec<u8> {
    frame.udp(b"")
}
