//! Clamps the maximum segment size that a SYN announces (RFC 9293, 3.7.1).

use lb_common::{Features, Protocol};
use network_types::tcp::TcpHdr;

use crate::{
    checksum::Difference,
    packet::Packet,
    parse::{Event, L4_MAX, Transport, transport::checksum_offset},
    tables::Tables,
};

/// Of the byte whose high half says how many words the TCP header has.
const DATA_OFFSET: usize = 12;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
const MAXIMUM_SEGMENT_SIZE_LEN: usize = 4;
/// Bytes of options: a header has 15 words, of which 5 are fixed.
const OPTIONS_LEN_MAX: usize = 40;
/// So many options are looked at. Stacks of our days announce the size first, others after eight at most.
const OPTIONS_MAX: usize = 16;

/// Whether a packet is to be clamped to `mss`: only SYNs announce a size, and 0 leaves it as it is.
#[inline(always)]
pub fn applies<T: Tables>(tables: &T, transport: &Transport, mss: u16) -> bool {
    tables.features().contains(Features::MSS) && is_clamped(transport.event(), mss)
}

#[inline(always)]
const fn is_clamped(event: Event, mss: u16) -> bool {
    mss != 0 && matches!(event, Event::Open | Event::Accept)
}

/// Lowers the size that a SYN announces to `mss`, host order. Where none is announced a smaller one holds.
#[inline(always)]
pub fn clamp<P: Packet + ?Sized, T: Tables>(packet: &mut P, tables: &T, transport: &Transport, mss: u16) {
    // Options that contradict themselves are the receiver's to judge.
    let _ = lower(packet, transport.ip.l4(), mss, |word| tables.launder(word));
}

#[inline(always)]
fn lower<P: Packet + ?Sized>(
    packet: &mut P,
    l4: usize,
    mss: u16,
    launder: impl Fn(u64) -> u64,
) -> Option<()> {
    let len = (packet.load::<u8>(l4 + DATA_OFFSET)? >> 4) as usize * 4;
    let options = len.checked_sub(TcpHdr::LEN)?;
    let mut option = 0;
    for _ in 0..OPTIONS_MAX {
        // Or every length of every option would be another state to the verifier.
        option = launder(option as u64) as usize & 0x1ff;
        if option > OPTIONS_LEN_MAX {
            return None;
        }
        if option + MAXIMUM_SEGMENT_SIZE_LEN > options {
            return None;
        }
        let at = l4 + TcpHdr::LEN + option;
        let [kind, len] = packet.load::<u16>(at)?.to_ne_bytes();
        match kind {
            END => return None,
            NO_OPERATION => option += 1,
            MAXIMUM_SEGMENT_SIZE if len as usize == MAXIMUM_SEGMENT_SIZE_LEN => {
                // The compiler knows that the header holds the checksum, the verifier would no longer.
                let l4 = launder(l4 as u64) as usize & L4_MAX;
                return store(packet, l4, at + 2, option % 2 != 0, mss);
            }
            _ if len < 2 => return None,
            _ => option += len as usize,
        }
    }
    None
}

/// Writes the size at `at`, if it is larger, and mends the checksum of the header at `l4`.
#[inline(always)]
fn store<P: Packet + ?Sized>(packet: &mut P, l4: usize, at: usize, is_odd: bool, mss: u16) -> Option<()> {
    let (old, new) = (packet.load::<u16>(at)?, mss.to_be());
    if u16::from_be(old) <= mss {
        return Some(());
    }
    let change = if is_odd {
        // It straddles two of the checksum's words: each byte counts in the other half (RFC 1071, 2).
        Difference::default().word16(old.swap_bytes(), new.swap_bytes())
    } else {
        Difference::default().word16(old, new)
    };
    packet.store(at, new)?;
    let check_at = checksum_offset(Protocol::Tcp, l4);
    let check = packet.load::<u16>(check_at)?;
    packet.store(check_at, change.apply(check))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        packet::Buffer,
        parse::{Parsed, parse},
    };
    use etherparse::{PacketBuilder, TcpHeaderSlice};

    const L4: usize = 34;

    fn segment(syn: bool, ack: bool, options: &[u8]) -> Vec<u8> {
        let mut step = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([198, 18, 0, 1], [203, 0, 113, 1], 64)
            .tcp(40_000, 80, 7, 64_000);
        step = if syn { step.syn() } else { step };
        step = if ack { step.ack(9) } else { step };
        let step = step.options_raw(options).expect("whole words");
        let mut bytes = Vec::new();
        step.write(&mut bytes, b"odd").expect("a vector takes every byte");
        bytes
    }

    fn clamped(frame: &[u8], mss: u16) -> Vec<u8> {
        let mut packet = Buffer::new(frame);
        let Parsed::Transport(transport) = parse::<_, false>(&packet, Features::NONE, |word| word) else {
            panic!("no TCP segment")
        };
        if is_clamped(transport.event(), mss) {
            let _ = lower(&mut packet, transport.ip.l4(), mss, |word| word);
        }
        packet.frame().to_vec()
    }

    /// The checksum as etherparse computes it in full.
    fn full_checksum(frame: &[u8]) -> u16 {
        let tcp = TcpHeaderSlice::from_slice(&frame[L4..]).expect("a TCP header");
        let payload = &frame[L4 + tcp.slice().len()..];
        tcp.calc_checksum_ipv4_raw([198, 18, 0, 1], [203, 0, 113, 1], payload).expect("short enough")
    }

    /// What a SYN says, and what becomes of it under a limit of 1,400.
    #[test]
    fn options_are_walked_and_the_checksum_holds() {
        let cases: &[(&str, &[u8], &[u8])] = &[
            ("none", &[], &[]),
            ("larger", &[2, 4, 0x05, 0xb4], &[2, 4, 0x05, 0x78]),
            ("jumbo", &[2, 4, 0xff, 0xff], &[2, 4, 0x05, 0x78]),
            ("equal", &[2, 4, 0x05, 0x78], &[2, 4, 0x05, 0x78]),
            ("smaller", &[2, 4, 0x02, 0x18], &[2, 4, 0x02, 0x18]),
            ("at an odd offset", &[1, 2, 4, 0x05, 0xb4, 0, 0, 0], &[1, 2, 4, 0x05, 0x78, 0, 0, 0]),
            (
                "after others",
                &[4, 2, 3, 3, 7, 2, 4, 0x23, 0x28, 0, 0, 0],
                &[4, 2, 3, 3, 7, 2, 4, 0x05, 0x78, 0, 0, 0],
            ),
            ("last", &[1, 1, 1, 1, 2, 4, 0x05, 0xb4], &[1, 1, 1, 1, 2, 4, 0x05, 0x78]),
            ("after the end", &[0, 1, 1, 1, 2, 4, 0x05, 0xb4], &[0, 1, 1, 1, 2, 4, 0x05, 0xb4]),
            (
                "after one of another length",
                &[2, 3, 0x05, 1, 2, 4, 0x05, 0xb4],
                &[2, 3, 0x05, 1, 2, 4, 0x05, 0x78],
            ),
            ("after an option of length 0", &[8, 0, 1, 1, 2, 4, 0x05, 0xb4], &[8, 0, 1, 1, 2, 4, 0x05, 0xb4]),
            ("after an option of length 1", &[8, 1, 1, 1, 2, 4, 0x05, 0xb4], &[8, 1, 1, 1, 2, 4, 0x05, 0xb4]),
            (
                "after one that is too long",
                &[8, 200, 1, 1, 2, 4, 0x05, 0xb4],
                &[8, 200, 1, 1, 2, 4, 0x05, 0xb4],
            ),
            (
                "after one that would end at the header's size modulo 64",
                &[8, 69, 1, 1, 1, 1, 1, 2, 4, 0x05, 0xb4, 0],
                &[8, 69, 1, 1, 1, 1, 1, 2, 4, 0x05, 0xb4, 0],
            ),
            ("cut by the header's end", &[1, 1, 2, 4], &[1, 1, 2, 4]),
        ];
        for (name, options, expected) in cases {
            for ack in [false, true] {
                let out = clamped(&segment(true, ack, options), 1_400);
                assert_eq!(out[L4 + 20..][..options.len()], **expected, "{name}");
                let sum = u16::from_be_bytes([out[L4 + 16], out[L4 + 17]]);
                assert_eq!(sum, full_checksum(&out), "{name}");
            }
        }
    }

    #[test]
    fn it_is_found_at_every_offset() {
        for before in 0..=36usize {
            // Few options, whatever the offset.
            let mut options = vec![1; before.min(3)];
            options.extend(std::iter::repeat_n(0x55, before - before.min(3)));
            if before > 4 {
                options[3..5].copy_from_slice(&[253, before as u8 - 3]);
            } else {
                options.fill(1);
            }
            options.extend([2, 4, 0x23, 0x28]);
            options.resize(options.len().next_multiple_of(4).min(40), 0);
            let out = clamped(&segment(true, false, &options), 536);
            assert_eq!(out[L4 + 20 + before..][..4], [2, 4, 0x02, 0x18], "after {before}");
            assert_eq!(
                u16::from_be_bytes([out[L4 + 16], out[L4 + 17]]),
                full_checksum(&out),
                "after {before}"
            );
        }
    }

    #[test]
    fn what_is_no_syn_or_has_no_limit_stays() {
        let options = [2, 4, 0x05, 0xb4];
        for (frame, mss) in [(segment(false, true, &options), 536), (segment(true, false, &options), 0)] {
            assert_eq!(clamped(&frame, mss), frame);
        }
    }
}
