//! The stages in order, in six programs: what most packets need, and what few do.
//!
//! A program has 512 bytes of stack and a cache to share, so the path of whole TCP and UDP packets is one, IPv6
//! extension headers and SYNs that are clamped are another, fragments the third, everything that is answered or is
//! about another packet the fourth, and `full-nat` has two. The kernel goes from one to the next by a tail call, before a byte was changed; on the host
//! [`process`] does.

use lb_common::{
    Address, Algorithm, BackendId, Features, FlowKey, Mode, QuicScheme, Reason, Service, Settings, Tracking,
    hash::flow_hash,
};

use crate::{
    forward, fragment, icmp, mss, neighbour,
    packet::Packet,
    parse::{Obstacle, Parsed, Part, Transport, ipv4, parse},
    quic, reset,
    select::{Choice, select},
    service::{Owner, owner},
    tables::Tables,
    track,
};

/// What becomes of a packet. Three plain words, always written: a variant with a word more than another would be read
/// where it was never written, which the verifier refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Why; it alone decides between passing, dropping and sending.
    pub reason: Reason,
    /// Where to, if it is sent.
    pub egress: Egress,
    /// The program that goes on with the packet, which is unchanged but for a clamped segment size; `reason` is for where there is no such program.
    pub next: Option<Stage>,
}

impl Verdict {
    /// A packet that is sent out of an interface.
    #[inline(always)]
    pub const fn send(reason: Reason, egress: Egress) -> Self {
        Self { reason, egress, next: None }
    }

    /// A packet that is not sent anywhere by the program.
    #[inline(always)]
    pub const fn stay(reason: Reason) -> Self {
        Self::send(reason, Egress::INGRESS)
    }

    /// A packet for another program.
    #[inline(always)]
    pub const fn to(stage: Stage) -> Self {
        Self { reason: Reason::TableInconsistent, egress: Egress::INGRESS, next: Some(stage) }
    }
}

/// The interface that a packet is sent out of: its number, or zero for the one that it came in by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Egress(u32);

impl Egress {
    /// The interface that the packet came in by.
    pub const INGRESS: Self = Self(0);

    /// Out of `ifindex`, having come in by `ingress`.
    #[inline(always)]
    pub const fn by_ifindex(ifindex: u32, ingress: u32) -> Self {
        if ifindex == ingress { Self::INGRESS } else { Self(ifindex) }
    }

    /// The number of another interface than the one that the packet came in by.
    #[inline(always)]
    pub const fn other_ifindex(self) -> Option<u32> {
        if self.0 == 0 { None } else { Some(self.0) }
    }

    /// Whether it is the interface that the packet came in by.
    #[inline(always)]
    pub const fn is_ingress(self) -> bool {
        self.0 == 0
    }
}

/// The programs that the first one hands packets to; the number is the index into `PROGRAMS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Stage {
    /// [`uncommon`].
    Uncommon = 0,
    /// [`control`].
    Control = 1,
    /// [`full_nat`].
    FullNat = 2,
    /// [`full_nat_open`].
    FullNatOpen = 3,
    /// [`fragments`].
    Fragment = 4,
    /// [`track::send_on`].
    Track = 5,
    /// [`track::open`].
    Open = 6,
    /// [`reset::answer`].
    Reset = 7,
}

/// Takes one packet through all programs.
pub fn process<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let mut verdict = first(packet, tables);
    while let Some(stage) = verdict.next {
        verdict = match stage {
            Stage::Uncommon => uncommon(packet, tables),
            Stage::Control => control(packet, tables),
            Stage::FullNat => full_nat(packet, tables),
            Stage::FullNatOpen => full_nat_open(packet, tables),
            Stage::Fragment => fragments(packet, tables),
            Stage::Track => track::send_on(packet, tables),
            Stage::Open => track::open(packet, tables),
            Stage::Reset => reset::answer(packet, tables),
        };
    }
    verdict
}

/// Whole TCP and UDP packets.
#[inline(always)]
pub fn first<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    match parse::<P, false>(packet, tables.features(), |word| tables.launder(word)) {
        Parsed::Transport(transport) => match transport.ip.part() {
            Part::Whole => balance::<P, T, false>(packet, tables, &transport),
            Part::First | Part::Later => Verdict::to(Stage::Fragment),
        },
        Parsed::LaterFragment(_) => Verdict::to(Stage::Fragment),
        Parsed::Extended => Verdict::to(Stage::Uncommon),
        Parsed::Icmp(_) | Parsed::Arp(_) => Verdict::to(Stage::Control),
        Parsed::Other => Verdict::stay(Reason::NotIp),
        Parsed::Unbalanceable(destination, obstacle) => hindered(tables, &destination, obstacle),
    }
}

#[inline(always)]
fn hindered<T: Tables>(tables: &T, destination: &Address, obstacle: Obstacle) -> Verdict {
    let reason = match obstacle {
        Obstacle::Extension => Reason::ExtensionUnsupported,
        Obstacle::Malformed => Reason::Malformed,
        Obstacle::Protocol | Obstacle::NotUnicast => return Verdict::stay(Reason::NotOurs),
    };
    let ours = tables.virtual_address(destination).is_some();
    Verdict::stay(if ours { reason } else { Reason::NotOurs })
}

/// Packets with extension headers or options, and SYNs that are clamped: from there on they go as others do.
#[inline(always)]
pub fn uncommon<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    if let Some(destination) = ipv4::source_routed(packet, |word| tables.launder(word)) {
        return hindered(tables, &destination, Obstacle::Malformed);
    }
    match parse::<P, true>(packet, tables.features(), |word| tables.launder(word)) {
        Parsed::Transport(transport) => match transport.ip.part() {
            Part::Whole => balance::<P, T, true>(packet, tables, &transport),
            Part::First | Part::Later => Verdict::to(Stage::Fragment),
        },
        Parsed::LaterFragment(_) => Verdict::to(Stage::Fragment),
        Parsed::Icmp(_) => Verdict::to(Stage::Control),
        Parsed::Unbalanceable(destination, obstacle) => hindered(tables, &destination, obstacle),
        Parsed::Extended | Parsed::Arp(_) | Parsed::Other => Verdict::stay(Reason::TableInconsistent),
    }
}

/// Fragments: the first is remembered, the others follow it.
#[inline(always)]
pub fn fragments<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let transport = match parse::<P, true>(packet, tables.features(), |word| tables.launder(word)) {
        Parsed::Transport(transport) => transport,
        Parsed::LaterFragment(ip) => Transport::of_later(ip),
        _ => return Verdict::stay(Reason::TableInconsistent),
    };
    fragment::send_on(packet, tables, &transport)
}

/// Packets that are answered here, or that are about others.
#[inline(always)]
pub fn control<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let (ip, mut tuple) = match parse::<P, true>(packet, tables.features(), |word| tables.launder(word)) {
        Parsed::Icmp(ip) => (ip, ip.tuple(0)),
        Parsed::Transport(transport) => (transport.ip, transport.tuple),
        Parsed::Arp(offset) => return neighbour::answer_arp(packet, tables, offset),
        Parsed::LaterFragment(_) | Parsed::Extended | Parsed::Unbalanceable(..) | Parsed::Other => {
            return Verdict::stay(Reason::TableInconsistent);
        }
    };
    // One call, or most of it would stand in the program twice.
    icmp::receive(packet, tables, &ip, &mut tuple)
}

/// Packets of `full-nat`: a client's, or a backend's to the pool; also their first fragments.
#[inline(always)]
pub fn full_nat<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    match parse::<P, true>(packet, tables.features(), |word| tables.launder(word)) {
        Parsed::Transport(transport) => forward::full_nat::send_on(packet, tables, &transport),
        _ => Verdict::stay(Reason::TableInconsistent),
    }
}

/// Clients' packets of `full-nat` that open a flow.
#[inline(always)]
pub fn full_nat_open<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    match parse::<P, true>(packet, tables.features(), |word| tables.launder(word)) {
        Parsed::Transport(transport) => forward::full_nat::open(packet, tables, &transport),
        _ => Verdict::stay(Reason::TableInconsistent),
    }
}

#[inline(always)]
fn balance<P: Packet + ?Sized, T: Tables, const UNCOMMON: bool>(
    packet: &mut P,
    tables: &T,
    transport: &Transport,
) -> Verdict {
    let owner = owner(tables, transport);
    if is_full_nat(tables, &owner) {
        return Verdict::to(Stage::FullNat);
    }
    let mss = match owner {
        Owner::Client(service) => service.mss,
        Owner::Backend(reply) => reply.mss,
        _ => 0,
    };
    if mss::applies(tables, transport, mss) {
        if !UNCOMMON {
            return Verdict::to(Stage::Uncommon);
        }
        mss::clamp(packet, tables, transport, mss);
    }
    match owner {
        Owner::Client(service) => to_backend::<P, T, UNCOMMON>(packet, tables, transport, service),
        Owner::Backend(reply) if reply.is_cut() && forward::may_reset(tables, transport) => {
            Verdict::to(Stage::Reset)
        }
        Owner::Backend(reply) if reply.is_measured() && tables.features().contains(Features::TRACKED) => {
            Verdict::to(Stage::Track)
        }
        Owner::Backend(reply) => forward::to_client(packet, tables, transport, reply),
        Owner::Local => Verdict::stay(Reason::LocalReply),
        Owner::Nobody | Owner::Translated => Verdict::stay(Reason::NotOurs),
    }
}

#[inline(always)]
fn is_full_nat<T: Tables>(tables: &T, owner: &Owner) -> bool {
    let full_nat = match owner {
        Owner::Client(service) => matches!(service.mode(), Mode::FullNat),
        Owner::Translated => true,
        Owner::Backend(_) | Owner::Local | Owner::Nobody => false,
    };
    full_nat && tables.features().contains(Features::FULL_NAT)
}

#[inline(always)]
fn to_backend<P: Packet + ?Sized, T: Tables, const UNCOMMON: bool>(
    packet: &mut P,
    tables: &T,
    transport: &Transport,
    service: &Service,
) -> Verdict {
    let Some(settings) = tables.settings() else { return Verdict::stay(Reason::TableInconsistent) };
    let tuple = service.flow_key(&transport.tuple);
    let hash = hash_of(tables, service, settings, &transport.tuple, &tuple);
    let Some(slot) = tables.slot(service.slot_index(hash)) else {
        return Verdict::stay(Reason::TableInconsistent);
    };
    let by_quic = tables.features().contains(Features::QUIC) && !matches!(service.quic(), QuicScheme::None);
    let named = if by_quic { quic::server(packet, tables, service, &transport.ip) } else { BackendId::NONE };
    let choice = if named != BackendId::NONE {
        Choice { backend: named, ..Choice::default() }
    } else if tables.features().contains(Features::TRACKED)
        && matches!(service.tracking(), Tracking::EveryFlow)
    {
        let backend = track::known(packet, tables, service, transport, &tuple, hash);
        if backend == BackendId::NONE {
            return Verdict::to(Stage::Track);
        }
        Choice { backend, ..Choice::default() }
    } else {
        select(tables, service, slot, &tuple, hash, transport.event())
    };
    // Or every way to a choice would be verified to its end; most packets should not pay for that.
    let choice = if UNCOMMON || tables.features().contains(Features::QUIC) {
        Choice::from_word(tables.launder(choice.word()))
    } else {
        choice
    };
    forward::to_backend(packet, tables, transport, service, choice, hash)
}

/// The hash that a service chooses by; `key` is the [`Service::flow_key`] of `tuple`.
#[inline(always)]
pub fn hash_of<T: Tables>(
    tables: &T,
    service: &Service,
    settings: &Settings,
    tuple: &FlowKey,
    key: &FlowKey,
) -> u64 {
    if tables.features().contains(Features::SOURCE) && matches!(service.algorithm(), Algorithm::SourceHash) {
        flow_hash(settings.hash_keys, &service.slot_key(tuple))
    } else {
        flow_hash(settings.hash_keys, key)
    }
}
