//! What the balancer itself answers: the errors that it owes, echo, and questions for neighbours. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::{Mode, Owed, Reason};

use super::edit::Edited;
use super::judge::{Judge, Way};
use super::outcome::Outcome;
use super::read::{ETHERNET, Ip, Part, tags};
use super::sum::{checksum, pseudo_header, residue, sum, together};

/// Bytes of an error at most, its IP header included (RFC 1812, 4.3.2.3; RFC 4443, 2.4).
const ERROR_MAX: (usize, usize) = (576, 1_280);

impl Judge<'_> {
    /// A packet that goes no further: its time to live ends, or it is too large for its way.
    pub fn refused(&self, ip: &Ip, mode: Mode, way: Way) -> Outcome {
        let expired = ip.ttl <= 1 && mode != Mode::DsrL2;
        let silent = if expired { Reason::TtlExpired } else { Reason::ExceedsMtu };
        let mtu = match way {
            Way::TooBig(mtu) => mtu.max(1),
            _ => 0,
        };
        let owed = expired || (mtu != 0 && ip.dont_fragment);
        // Nobody is told of what becomes of a later fragment (RFC 1122, 3.2.2).
        if !owed || !is_host(ip.source) || ip.part == Part::Later {
            return Outcome::stays(silent);
        }
        let kind = if expired { Owed::TimeExceeded } else { Owed::TooBig };
        let sent = self.world.sent(kind);
        let mut outcome = if sent >= self.world.settings.answers_per_second {
            Outcome::stays(Reason::AnswerLimited)
        } else if expired {
            self.back(Reason::TimeExceededAnswered, self.error(ip, 0))
        } else {
            self.back(Reason::TooBigAnswered, self.error(ip, mtu))
        };
        outcome.effects.answered = Some(kind);
        outcome
    }

    /// The error's frame; `mtu` of 0 is time exceeded.
    fn error(&self, ip: &Ip, mtu: u32) -> Edited {
        let quoted = ip.length();
        let message = |kind: [u8; 2], word: u32, most: usize| {
            let mut bytes = vec![kind[0], kind[1], 0, 0];
            bytes.extend(word.to_be_bytes());
            bytes.extend(&self.frame[ip.l3..ip.l3 + quoted.min(most - 8)]);
            bytes
        };
        let mut bytes = self.turned_link(ip.l3);
        match (ip.source, ip.destination) {
            (IpAddr::V4(to), IpAddr::V4(from)) => {
                let kind = if mtu == 0 { [11, 0] } else { [3, 4] };
                let mut icmp = message(kind, mtu.min(0xffff), ERROR_MAX.0 - 20);
                let check = checksum(&icmp, 2, 0);
                icmp[2..4].copy_from_slice(&check.to_be_bytes());
                let mut header = vec![0x45, 0xc0];
                header.extend((20 + icmp.len() as u16).to_be_bytes());
                header.extend([0, 0, 0x40, 0, 64, 1, 0, 0]);
                header.extend(from.octets());
                header.extend(to.octets());
                let check = checksum(&header, 10, 0);
                header[10..12].copy_from_slice(&check.to_be_bytes());
                bytes.extend(header);
                bytes.extend(icmp);
            }
            (IpAddr::V6(to), IpAddr::V6(from)) => {
                let (kind, word) = if mtu == 0 { ([3, 0], 0) } else { ([2, 0], mtu.max(1_280)) };
                let mut icmp = message(kind, word, ERROR_MAX.1 - 40);
                let pseudo = pseudo_header(ip.destination, ip.source, 58, icmp.len());
                let check = checksum(&icmp, 2, pseudo);
                icmp[2..4].copy_from_slice(&check.to_be_bytes());
                bytes.extend([0x60, 0, 0, 0]);
                bytes.extend((icmp.len() as u16).to_be_bytes());
                bytes.extend([58, 64]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
                bytes.extend(icmp);
            }
            // A packet has one family.
            _ => {}
        }
        Edited { bytes, damaged: Vec::new() }
    }

    /// The link layer back to where a frame came from, tags included.
    fn turned_link(&self, l3: usize) -> Vec<u8> {
        let mut bytes = self.frame[6..12].to_vec();
        bytes.extend(&self.frame[..6]);
        bytes.extend(&self.frame[12..l3]);
        bytes
    }

    /// An echo request, if it is to be answered.
    pub fn echo(&self, ip: &Ip) -> Outcome {
        let plain = ip.l4 - ip.l3 == if ip.is_v6() { 40 } else { 20 };
        let answers = self.world.services_of(ip.destination).any(|service| service.answers_echo);
        if !plain || !is_host(ip.source) || !answers {
            return Outcome::stays(Reason::NotOurs);
        }
        let mut edited = Edited::new(self.frame);
        let link = self.turned_link(ETHERNET);
        edited.bytes[..12].copy_from_slice(&link[..12]);
        edited.addresses(ip, ip.destination, ip.source);
        edited.bytes[ip.l3 + if ip.is_v6() { 7 } else { 8 }] = 64;
        edited.ip_checksum(ip, self.frame);
        edited.bytes[ip.l4] = if ip.is_v6() { 129 } else { 0 };
        let pseudo =
            if ip.is_v6() { pseudo_header(ip.source, ip.destination, 58, ip.end - ip.l4) } else { 0 };
        edited.checksum(self.frame, ip.l4 + 2, (ip.l4, ip.end), (pseudo, pseudo), false, true);
        self.back(Reason::EchoAnswered, edited)
    }

    /// A neighbour solicitation.
    pub fn solicitation(&self, ip: &Ip) -> Outcome {
        self.advertisement(ip).unwrap_or_else(|| Outcome::stays(Reason::NotOurs))
    }

    /// The advertisement for a solicitation that is valid (RFC 4861, 7.1.1) and for a virtual address.
    fn advertisement(&self, ip: &Ip) -> Option<Outcome> {
        let message = &self.frame[ip.l4..ip.end];
        let (fixed, options) = message.split_at_checked(24)?;
        let target = Ipv6Addr::from(*fixed[8..].first_chunk::<16>()?);
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (ip.source, ip.destination) else { return None };
        let probe = source.is_unspecified();
        let to_group = destination == group_of(target);
        let valid = ip.l4 == ip.l3 + 40
            && ip.ttl == 255
            && fixed[1] == 0
            && options.len() <= 64
            && (to_group || (destination == target && !probe))
            && !target.is_multicast()
            && !source.is_multicast()
            && options_are_whole(options, probe)
            && residue(together(&[
                sum(message),
                pseudo_header(ip.source, ip.destination, 58, message.len()),
            ])) == 0xffff;
        let answers = self.world.answers_neighbours(IpAddr::V6(target));
        let own = self.own_mac()?;
        let to_us = self.frame[0] & 1 == 1 || self.frame[..6] == own;
        if !valid || !answers || !to_us {
            return None;
        }
        let (to, mac, flags) = if probe {
            (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), [0x33, 0x33, 0, 0, 0, 1], 0x20)
        } else {
            let mut mac = [0; 6];
            mac.copy_from_slice(&self.frame[6..12]);
            (source, mac, 0x60)
        };
        let mut bytes = mac.to_vec();
        bytes.extend(own);
        bytes.extend(&self.frame[12..14 + 4 * tags(self.frame)]);
        bytes.extend([0x60, 0, 0, 0, 0, 32, 58, 255]);
        bytes.extend(target.octets());
        bytes.extend(to.octets());
        let mut icmp = vec![136, 0, 0, 0, flags, 0, 0, 0];
        icmp.extend(target.octets());
        icmp.extend([2, 1]);
        icmp.extend(own);
        let check = checksum(&icmp, 2, pseudo_header(IpAddr::V6(target), IpAddr::V6(to), 58, 32));
        icmp[2..4].copy_from_slice(&check.to_be_bytes());
        bytes.extend(icmp);
        Some(self.back(Reason::NeighbourAnswered, Edited { bytes, damaged: Vec::new() }))
    }
}

/// The solicited-node group (RFC 4291, 2.7.1).
fn group_of(address: Ipv6Addr) -> Ipv6Addr {
    let octets = address.octets();
    let [high, low] = [u16::from(octets[13]), u16::from_be_bytes([octets[14], octets[15]])];
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high, low)
}

/// No option is empty or ends beyond the message; a probe has no source address to tell.
fn options_are_whole(mut options: &[u8], probe: bool) -> bool {
    while let [kind, units, ..] = options {
        let len = 8 * usize::from(*units);
        if len == 0 || len > options.len() || (probe && *kind == 1) {
            return false;
        }
        options = &options[len..];
    }
    options.is_empty()
}

/// Whether an address is one host's, so that it can be answered (RFC 1122, 3.2.2; RFC 4443, 2.4 e).
pub fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address > Ipv4Addr::new(0, 255, 255, 255)
                && !address.is_loopback()
                && address < Ipv4Addr::new(224, 0, 0, 0)
        }
        IpAddr::V6(address) => {
            !address.is_unspecified()
                && !address.is_loopback()
                && !address.is_multicast()
                && address.to_ipv4_mapped().is_none()
        }
    }
}
