//! The flow hash. Program and controller must agree: the program finds a slot by it, the controller finds
//! the slot of a remembered flow.
//!
//! Keyed multiply-xorshift over 64-bit words, with the finaliser of SplitMix64 (Steele, Lea, Flood 2014)
//! after each word. BPF has no 128-bit product and a SipHash costs as much as the rest of the path; who
//! does not hold the keys cannot choose the slot of a tuple. It is not a MAC.

use crate::FlowKey;

/// Two secret words, drawn at random when the maps are created.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct HashKeys(pub [u64; 2]);

impl core::fmt::Debug for HashKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("HashKeys(secret)")
    }
}

#[inline(always)]
const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word ^ (word >> 29)
}

#[inline(always)]
const fn pair(words: [u32; 4], at: usize) -> u64 {
    words[at] as u64 | (words[at + 1] as u64) << 32
}

/// The hash of a flow: the slot is its top bits, [`tag`] its low half.
#[inline(always)]
pub const fn flow_hash(keys: HashKeys, flow: &FlowKey) -> u64 {
    let [first, second] = keys.0;
    let (client, vip) = (flow.client.words(), flow.vip.words());
    let mut hash = first;
    if !flow.vip.is_ipv4() {
        hash = mix(hash ^ pair(client, 0));
        hash = mix(hash ^ pair(vip, 0)).wrapping_add(second);
        hash = mix(hash ^ (client[2] as u64 | (vip[2] as u64) << 32));
    }
    hash = mix(hash ^ (client[3] as u64 | (vip[3] as u64) << 32)).wrapping_add(second);
    let ports =
        flow.client_port.word() as u64 | (flow.vip_port.word() as u64) << 16 | (flow.protocol as u64) << 32;
    let hash = mix(hash ^ ports.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The part of a hash that tags a remembered flow.
#[inline(always)]
pub const fn tag(hash: u64) -> u32 {
    hash as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, Port};

    const KEYS: HashKeys = HashKeys([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);

    fn key(client: u32, port: u16, ipv6: bool) -> FlowKey {
        let address = |word: u32| {
            if ipv6 { Address::from_words([0x20, 1, word, 9]) } else { Address::from_ipv4_word(word.to_be()) }
        };
        FlowKey {
            client: address(client),
            vip: address(0x0a00_0001),
            client_port: Port::new(port),
            vip_port: Port::new(80),
            protocol: 6,
            reserved: [0; 3],
        }
    }

    /// Chi-square over 1,024 slots: 256 Ki flows that differ only in address and port spread evenly.
    #[test]
    fn neighbouring_tuples_spread_evenly() {
        for ipv6 in [false, true] {
            let mut counts = [0u32; 1024];
            for client in 0..512 {
                for port in 0..512 {
                    let hash = flow_hash(KEYS, &key(0xc0a8_0000 + client, 32_768 + port, ipv6));
                    counts[(hash >> 54) as usize] += 1;
                }
            }
            let expected = 256.0;
            let chi: f64 = counts.iter().map(|&c| (c as f64 - expected).powi(2) / expected).sum();
            // 1,023 degrees of freedom: mean 1,023, standard deviation 45.
            assert!((800.0..1250.0).contains(&chi), "ipv6 {ipv6}: chi-square {chi}");
        }
    }

    #[test]
    fn every_input_bit_flips_about_half_of_the_slot_bits() {
        let base = flow_hash(KEYS, &key(0xc0a8_0001, 40_000, false));
        let other = [
            flow_hash(KEYS, &key(0xc0a8_0000, 40_000, false)),
            flow_hash(KEYS, &key(0xc0a8_0001, 40_001, false)),
            flow_hash(HashKeys([1, 2]), &key(0xc0a8_0001, 40_000, false)),
        ];
        for hash in other {
            assert!((18..46).contains(&(hash ^ base).count_ones()));
        }
    }
}
