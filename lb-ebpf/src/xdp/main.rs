//! The XDP entry point: no logic, only the shell around [`lb_ebpf::pipeline`].
//!
//! On the host this is an empty program, so that `cargo build` and `cargo clippy` need no BPF target.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod atomic;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod packet;

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{bindings::xdp_action, helpers::bpf_redirect, macros::xdp, programs::XdpContext};
    use aya_log_ebpf::{debug, error};
    use lb_common::Reason;
    use lb_ebpf::{
        pipeline::{Verdict, control, first, fragments, full_nat, full_nat_open, uncommon},
        reset, track,
    };

    use crate::{maps::KernelTables, packet::XdpPacket};

    // The macro wraps each of these in the program proper, and one of this size is not inlined by itself: a call and a
    // return, which takes 6 to 9 ns where returns go by a thunk.

    /// The load balancer: whole TCP and UDP packets.
    #[xdp(frags)]
    #[inline(always)]
    pub fn portcullis(ctx: XdpContext) -> u32 {
        let verdict = first(&mut XdpPacket::new(&ctx), &KernelTables::new(&ctx));
        if verdict.next.is_none() {
            report(&ctx, verdict.reason);
        }
        end(&ctx, verdict)
    }

    /// IPv6 extension headers, and SYNs that are clamped.
    #[xdp(frags)]
    #[inline(always)]
    pub fn portcullis_uncommon(ctx: XdpContext) -> u32 {
        let verdict = uncommon(&mut XdpPacket::new(&ctx), &KernelTables::new(&ctx));
        end(&ctx, verdict)
    }

    /// Packets that are answered here, or that are about others.
    #[xdp(frags)]
    #[inline(always)]
    pub fn portcullis_control(ctx: XdpContext) -> u32 {
        let verdict = control(&mut XdpPacket::new(&ctx), &KernelTables::new(&ctx));
        end(&ctx, verdict)
    }

    /// Packets of `full-nat`.
    #[xdp(frags)]
    #[inline(always)]
    pub fn portcullis_full_nat(ctx: XdpContext) -> u32 {
        let verdict = full_nat(&mut XdpPacket::new(&ctx), &KernelTables::new(&ctx));
        end(&ctx, verdict)
    }

    /// Clients' packets of `full-nat` that open a flow.
    #[xdp(frags)]
    #[inline(always)]
    pub fn portcullis_full_nat_open(ctx: XdpContext) -> u32 {
        let verdict = full_nat_open(&mut XdpPacket::new(&ctx), &KernelTables::new(&ctx));
        end(&ctx, verdict)
    }

    /// Fragments: the first is remembered, the others follow it.
    #[xdp(frags)]
    #[inline(always)]
    pub fn portcullis_fragment(ctx: XdpContext) -> u32 {
        let verdict = fragments(&mut XdpPacket::new(&ctx), &KernelTables::new(&ctx));
        end(&ctx, verdict)
    }

    /// Services that track every flow: what opens and ends one, and what is measured.
    #[xdp(frags)]
    #[inline(always)]
    pub fn portcullis_track(ctx: XdpContext) -> u32 {
        let verdict = track::send_on(&mut XdpPacket::new(&ctx), &KernelTables::new(&ctx));
        end(&ctx, verdict)
    }

    /// Services that track every flow: a backend for a new one.
    #[xdp(frags)]
    #[inline(always)]
    pub fn portcullis_open(ctx: XdpContext) -> u32 {
        let verdict = track::open(&mut XdpPacket::new(&ctx), &KernelTables::new(&ctx));
        end(&ctx, verdict)
    }

    /// Connections of a cut backend: the sender is answered with a reset.
    #[xdp(frags)]
    #[inline(always)]
    pub fn portcullis_reset(ctx: XdpContext) -> u32 {
        let verdict = reset::answer(&mut XdpPacket::new(&ctx), &KernelTables::new(&ctx));
        end(&ctx, verdict)
    }

    #[inline(always)]
    fn end(ctx: &XdpContext, verdict: Verdict) -> u32 {
        if let Some(stage) = verdict.next {
            KernelTables::go_on(ctx, stage);
        }
        KernelTables::count_reason(verdict.reason);
        action(verdict)
    }

    /// The only place where a reason becomes an action.
    #[inline(always)]
    fn action(verdict: Verdict) -> u32 {
        match verdict.reason {
            Reason::Forwarded
            | Reason::Replied
            | Reason::ErrorForwarded
            | Reason::ErrorReplied
            | Reason::ArpAnswered
            | Reason::NeighbourAnswered
            | Reason::EchoAnswered
            | Reason::TooBigAnswered
            | Reason::TimeExceededAnswered
            | Reason::ConnectionReset => match verdict.egress.other_ifindex() {
                None => xdp_action::XDP_TX,
                // SAFETY: a plain helper call; an unknown ifindex is dropped and counted by the kernel.
                Some(ifindex) => (unsafe { bpf_redirect(ifindex, 0) }) as u32,
            },
            Reason::NotIp
            | Reason::NotOurs
            | Reason::LocalReply
            | Reason::ResolvingNextHop
            | Reason::LeftToFragment
            | Reason::ReplyLeft
            | Reason::FragmentPassed => xdp_action::XDP_PASS,
            Reason::FragmentUnknown
            | Reason::ExtensionUnsupported
            | Reason::Malformed
            | Reason::IcmpUnrelated
            | Reason::AnswerLimited
            | Reason::TtlExpired
            | Reason::ExceedsMtu
            | Reason::NoBackend
            | Reason::BackendsFull
            | Reason::NextHopUnresolved
            | Reason::NoRoute
            | Reason::OwnClient
            | Reason::PortsExhausted
            | Reason::TranslationsFull
            | Reason::TableInconsistent => xdp_action::XDP_DROP,
        }
    }

    /// Rare events only: a line costs 20 ns even where nobody reads it. And of the first program only: lines are written
    /// by functions of their own, for which the others' stacks have no room.
    #[inline(always)]
    fn report(ctx: &XdpContext, reason: Reason) {
        match reason {
            Reason::TableInconsistent => {
                error!(ctx, "a table names a slot, an interface or a program that does not exist")
            }
            Reason::NoRoute => {
                debug!(ctx, "no route for a packet that came in by interface {}", ctx.ingress_ifindex())
            }
            _ => {}
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
