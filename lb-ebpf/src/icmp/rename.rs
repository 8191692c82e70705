//! Rewrites an error for the end that knows its flow by other names: addresses and ports of the quoted packet, the
//! addresses of the error itself, and every checksum over them.
//!
//! An error goes to the sender of what it quotes, so that its destination and the quoted source change alike. What was
//! there is read from the packet once more, which costs less than to remember it in 512 bytes of stack. Each region is
//! read and written as one, at an offset of which the compiler knows nothing: it would leave out comparisons that the
//! verifier asks for. Within a header the order is from front to back for the same reason.

use lb_common::{Address, Port, Protocol};

use super::{CHECKSUM, quote::Quote};
use crate::{
    checksum::Difference,
    packet::Packet,
    parse::{Family, Ip, L4_MAX, ipv6, transport::checksum_offset},
    tables::Tables,
};

/// What an error is about, by the names that its receiver knows.
#[derive(Clone, Copy)]
pub struct Names {
    /// Who sent the quoted packet; the error's destination too.
    pub sender: (Address, Port),
    /// Whom it was for.
    pub receiver: (Address, Port),
    /// Whether the error comes from the receiver as well; else its source stays.
    pub reported_by_receiver: bool,
}

/// Rewrites the quoted packet, of `protocol`, and the error; takes a hop off the latter if `hop`.
#[inline(always)]
pub fn rename<P: Packet + ?Sized, T: Tables>(
    packet: &mut P,
    tables: &T,
    ip: &Ip,
    (quote, protocol): (&Quote, Protocol),
    new: &Names,
    hop: bool,
) -> Option<()> {
    let offset = |offset: usize| tables.launder(offset as u64) as usize & L4_MAX;
    let inner =
        readdress(packet, ip.family(), offset(quote.l3), (Some(&new.sender.0), &new.receiver.0), false)?;

    let ports_at = offset(quote.l4);
    let [source, destination] = [new.sender.1.word().to_ne_bytes(), new.receiver.1.word().to_ne_bytes()];
    let ports = u32::from_ne_bytes([source[0], source[1], destination[0], destination[1]]);
    let old_ports = packet.load::<u32>(ports_at)?;
    packet.store(ports_at, ports)?;
    let ends = inner.addresses.word32(old_ports, ports);
    let mut message = ends.plus(inner.header);
    if quote.has_checksum {
        let at = checksum_offset(protocol, offset(quote.l4));
        let old = packet.load::<u16>(at)?;
        let new = match protocol {
            Protocol::Tcp => ends.apply(old),
            Protocol::Udp => ends.apply_udp(old),
        };
        packet.store(at, new)?;
        message = message.word16(old, new);
    }

    let source = if new.reported_by_receiver { Some(&new.receiver.0) } else { None };
    let outer = readdress(packet, ip.family(), offset(ip.l3()), (source, &new.sender.0), hop)?;
    if matches!(ip.family(), Family::V6) {
        // The pseudo-header (RFC 4443, 2.3).
        message = message.plus(outer.addresses);
    }
    let at = offset(ip.l4()) + CHECKSUM;
    let check = packet.load::<u16>(at)?;
    packet.store(at, message.apply(check))
}

/// What changed in an IP header.
struct Change {
    /// Its addresses.
    addresses: Difference,
    /// All but them.
    header: Difference,
}

/// Writes source, if there is a new one, and destination of the IP header at `l3`.
#[inline(always)]
fn readdress<P: Packet + ?Sized>(
    packet: &mut P,
    family: Family,
    l3: usize,
    (source, destination): (Option<&Address>, &Address),
    hop: bool,
) -> Option<Change> {
    match family {
        Family::V4 => {
            readdress_v4(packet, l3, (source.map(Address::ipv4_word), destination.ipv4_word()), hop)
        }
        Family::V6 => {
            if hop {
                let at = l3 + ipv6::NEXT_HEADER;
                let [next_header, hop_limit] = packet.load::<u16>(at)?.to_ne_bytes();
                packet.store(at, u16::from_ne_bytes([next_header, hop_limit.wrapping_sub(1)]))?;
            }
            let first = match source {
                Some(source) => readdress_v6(packet, l3 + ipv6::SOURCE, source)?,
                None => Difference::default(),
            };
            let addresses = first.plus(readdress_v6(packet, l3 + ipv6::DESTINATION, destination)?);
            Some(Change { addresses, header: Difference::default() })
        }
    }
}

#[inline(always)]
fn readdress_v4<P: Packet + ?Sized>(
    packet: &mut P,
    l3: usize,
    (source, destination): (Option<u32>, u32),
    hop: bool,
) -> Option<Change> {
    /// Of the time to live, which the protocol, the checksum and both addresses follow.
    const TTL: usize = 8;
    let [old, old_source, old_destination] = packet.load::<[u32; 3]>(l3 + TTL)?;
    let [ttl, protocol, check_low, check_high] = old.to_ne_bytes();
    let source = source.unwrap_or(old_source);
    let addresses = Difference::default().word32(old_source, source).word32(old_destination, destination);

    let (old_ttl, check) = (u16::from_ne_bytes([ttl, protocol]), u16::from_ne_bytes([check_low, check_high]));
    let ttl = ttl.wrapping_sub(hop as u8);
    let new_check = addresses.word16(old_ttl, u16::from_ne_bytes([ttl, protocol])).apply(check);
    let [check_low, check_high] = new_check.to_ne_bytes();
    let new = u32::from_ne_bytes([ttl, protocol, check_low, check_high]);
    packet.store(l3 + TTL, [new, source, destination])?;
    Some(Change { addresses, header: Difference::default().word32(old, new) })
}

#[inline(always)]
fn readdress_v6<P: Packet + ?Sized>(packet: &mut P, at: usize, new: &Address) -> Option<Difference> {
    let (old, new) = (packet.load::<[u32; 4]>(at)?, new.words());
    packet.store(at, new)?;
    let mut change = Difference::default();
    for (old, new) in old.into_iter().zip(new) {
        change = change.word32(old, new);
    }
    Some(change)
}
