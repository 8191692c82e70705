//! The XDP program of backends: no logic, only the shell around [`lb_ebpf::decap`].
//!
//! On the host this is an empty program, like the one in `xdp/`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[path = "../xdp/packet.rs"]
mod packet;

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        bindings::xdp_action,
        btf_maps::{Array, LpmTrie, PerCpuArray, lpm_trie::Key},
        macros::{btf_map, xdp},
        programs::XdpContext,
    };
    use lb_common::{Address, DecapReason, DecapSettings, limits};
    use lb_ebpf::decap::{Tables, decapsulate};

    use crate::packet::XdpPacket;

    /// A word of [`DecapSettings`].
    #[btf_map]
    static SETTINGS: Array<u32, 1> = Array::new();
    #[btf_map]
    static SOURCES: LpmTrie<Address, u32, { limits::DECAP_SOURCES as usize }> = LpmTrie::new();
    #[btf_map]
    static REASON_COUNTERS: PerCpuArray<u64, { DecapReason::ALL.len() }> = PerCpuArray::new();
    /// Where words are laundered.
    #[btf_map]
    static SCRATCH: PerCpuArray<u64, 1> = PerCpuArray::new();

    /// Bits of [`Address`].
    const ADDRESS_BITS: u32 = 128;

    /// Takes packets out of tunnels.
    #[xdp(frags)]
    pub fn portcullis_decap(ctx: XdpContext) -> u32 {
        let reason = decapsulate(&mut XdpPacket::new(&ctx), &KernelTables);
        if let Some(counter) = REASON_COUNTERS.get_ptr_mut(reason as u32) {
            // SAFETY: a per-CPU element, and XDP programs of one CPU do not interrupt each other.
            unsafe { *counter += 1 }
        }
        action(reason)
    }

    /// The only place where a reason becomes an action.
    #[inline(always)]
    fn action(reason: DecapReason) -> u32 {
        match reason {
            DecapReason::Ipip
            | DecapReason::Gue
            | DecapReason::NotTunnel
            | DecapReason::Fragment
            | DecapReason::GueUnsupported => xdp_action::XDP_PASS,
            DecapReason::SourceRefused | DecapReason::Malformed | DecapReason::CongestionUnmarkable => {
                xdp_action::XDP_DROP
            }
        }
    }

    struct KernelTables;

    impl Tables for KernelTables {
        #[inline(always)]
        fn launder(&self, word: u64) -> u64 {
            let Some(place) = SCRATCH.get_ptr_mut(0) else { return 0 };
            // SAFETY: as for the counters; volatile, or the compiler sees through it.
            unsafe {
                place.write_volatile(word);
                place.read_volatile()
            }
        }

        #[inline(always)]
        fn settings(&self) -> DecapSettings {
            DecapSettings::from_word(SETTINGS.get(0).copied().unwrap_or_default())
        }

        #[inline(always)]
        fn listed(&self, source: &Address) -> Option<u32> {
            SOURCES.get(&Key::new(ADDRESS_BITS, *source)).copied()
        }
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo) -> ! {
        // The verifier refuses the loop, so no reachable panic loads.
        loop {}
    }
}
