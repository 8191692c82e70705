//! The stages in order.

use lb_common::{Reason, hash::flow_hash};

use crate::{
    arp, forward,
    packet::Packet,
    parse::{Obstacle, Parsed, Transport, parse},
    select::select,
    service::{Owner, owner},
    tables::Tables,
};

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Why; it alone decides between passing, dropping and sending.
    pub reason: Reason,
    /// Where to, if it is sent.
    pub egress: Egress,
}

impl Verdict {
    /// A packet that is not sent anywhere by the program.
    #[inline(always)]
    pub const fn stay(reason: Reason) -> Self {
        Self { reason, egress: Egress::Ingress }
    }
}

/// The interface that a packet is sent out of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Egress {
    /// The one that it came in by.
    Ingress,
    /// Another, by its number.
    Interface(u32),
}

impl Egress {
    /// Out of `ifindex`, having come in by `ingress`.
    #[inline(always)]
    pub const fn by_ifindex(ifindex: u32, ingress: u32) -> Self {
        if ifindex == ingress { Self::Ingress } else { Self::Interface(ifindex) }
    }
}

/// Takes one packet through all stages.
#[inline(always)]
pub fn process<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T) -> Verdict {
    let transport = match parse(packet) {
        Parsed::Transport(transport) => transport,
        Parsed::Arp(offset) => return arp::answer(packet, tables, offset),
        Parsed::Other => return Verdict::stay(Reason::NotIp),
        Parsed::Unbalanceable(destination, obstacle) => {
            let ours = tables.virtual_address(&destination).is_some();
            return Verdict::stay(match obstacle {
                Obstacle::Fragment if ours => Reason::Fragment,
                Obstacle::Options if ours => Reason::OptionsUnsupported,
                Obstacle::Malformed if ours => Reason::Malformed,
                Obstacle::Fragment
                | Obstacle::Options
                | Obstacle::Malformed
                | Obstacle::Protocol
                | Obstacle::NotUnicast => Reason::NotOurs,
            });
        }
    };
    match owner(tables, &transport.tuple) {
        Owner::Client(service) => balance(packet, tables, &transport, service),
        Owner::Backend(reply) => forward::to_client(packet, tables, &transport, reply),
        Owner::Local => Verdict::stay(Reason::LocalReply),
        Owner::Nobody => Verdict::stay(Reason::NotOurs),
    }
}

#[inline(always)]
fn balance<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    transport: &Transport,
    service: &lb_common::Service,
) -> Verdict {
    let hash = flow_hash(tables.hash_keys(), &transport.tuple);
    let Some(slot) = tables.slot(service.slot_index(hash)) else {
        return Verdict::stay(Reason::TableInconsistent);
    };
    let choice = select(tables, service, slot, &transport.tuple, hash, transport.event);
    forward::to_backend(packet, tables, transport, service, choice)
}
