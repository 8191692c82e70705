//! Programs for measuring what a packet costs: a wrapper that writes a fresh packet before each run and
//! tail-calls the program under test, which so runs exactly as it ships; and programs that do only a part,
//! as floors to compare with.
//!
//! On the host this is an empty program, like the one in `xdp/`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[path = "../xdp/packet.rs"]
mod packet;
#[cfg(target_arch = "bpf")]
mod recipe;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        EbpfContext as _,
        bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
        btf_maps::{Array, HashMap, PerCpuArray, ProgramArray},
        helpers::generated::{bpf_redirect, bpf_xdp_adjust_head},
        macros::{btf_map, xdp},
        programs::XdpContext,
    };
    use lb_common::{Features, Flow, FlowKey, Service, ServiceKey, limits};
    use lb_ebpf::parse::{Parsed, parse};

    use crate::{
        packet::XdpPacket,
        recipe::{FRAME_LEN, Recipe, flow_parts, next_flow, with_added},
    };

    #[btf_map]
    static RECIPE: PerCpuArray<Recipe, 1> = PerCpuArray::new();
    /// Read by `grow` alone, so that it is no line that the wrapper writes.
    #[btf_map]
    static GROWTH: Array<u32, 1> = Array::new();
    #[btf_map]
    static PROGRAM_UNDER_TEST: ProgramArray<1> = ProgramArray::new();
    /// A hash of the flow table's shape that nothing but the floor rows uses.
    #[btf_map]
    static PLAIN: HashMap<FlowKey, Flow, { limits::FLOWS as usize }> = HashMap::new();
    /// The load balancer's own maps, by their pins.
    #[btf_map]
    static SERVICES: HashMap<ServiceKey, Service, { limits::SERVICES as usize }> = HashMap::new();
    #[btf_map]
    static FLOWS: HashMap<FlowKey, Flow, { limits::FLOWS as usize }> = HashMap::new();

    /// Writes the next flow's packet, then becomes the program under test.
    #[xdp(frags)]
    pub fn wrapper(ctx: XdpContext) -> u32 {
        let Some(recipe) = RECIPE.get_ptr_mut(0) else { return XDP_ABORTED };
        // SAFETY: a per-CPU element; programs of one CPU do not interrupt each other.
        let recipe = unsafe { &mut *recipe };
        if ctx.data_end() - ctx.data() > FRAME_LEN
            // SAFETY: a plain helper call on the program's own context.
            && unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), recipe.grown as i32) } != 0
        {
            return XDP_ABORTED;
        }
        let (start, end) = (ctx.data(), ctx.data_end());
        let (address_at, port_at) = (recipe.address_at as usize & 0x7f, recipe.port_at as usize & 0x7f);
        let (address_at, port_at) = (start + address_at, start + port_at);
        if start + FRAME_LEN > end || address_at + 4 > end || port_at + 2 > end {
            return XDP_ABORTED;
        }
        let flow = next_flow(recipe.flow, recipe.multiplier, recipe.flow_mask);
        recipe.flow = flow;
        let (address, port) = flow_parts(flow);
        // SAFETY: the comparisons above cover every store.
        unsafe {
            let frame = start as *mut u32;
            for (index, word) in recipe.frame.iter().enumerate() {
                *frame.add(index) = *word;
            }
            *(address_at as *mut u32) |= address;
            *(port_at as *mut u16) |= port;
            PROGRAM_UNDER_TEST.tail_call(&ctx, 0);
        }
        XDP_ABORTED
    }

    /// Writes the next flow's packet with all checksums right and sends it out of the interface that it is run for.
    #[xdp(frags)]
    pub fn generate(ctx: XdpContext) -> u32 {
        let Some(recipe) = RECIPE.get_ptr_mut(0) else { return XDP_ABORTED };
        // SAFETY: as in `wrapper`.
        let recipe = unsafe { &mut *recipe };
        let (start, end) = (ctx.data(), ctx.data_end());
        let (address_at, port_at) = (recipe.address_at as usize & 0x7f, recipe.port_at as usize & 0x7f);
        let (ip_at, l4_at) = (recipe.ip_check_at as usize & 0x7f, recipe.l4_check_at as usize & 0x7f);
        let (address_at, port_at) = (start + address_at, start + port_at);
        let (ip_check, l4_check) = (start + ip_at, start + l4_at);
        if start + FRAME_LEN > end || address_at + 4 > end || port_at + 2 > end {
            return XDP_ABORTED;
        }
        if ip_check + 2 > end || l4_check + 2 > end {
            return XDP_ABORTED;
        }
        let flow = next_flow(recipe.flow, recipe.multiplier, recipe.flow_mask);
        recipe.flow = flow;
        let (address, port) = flow_parts(flow);
        // SAFETY: the comparisons above cover every access.
        unsafe {
            let frame = start as *mut u32;
            for (index, word) in recipe.frame.iter().enumerate() {
                *frame.add(index) = *word;
            }
            *(address_at as *mut u32) |= address;
            *(port_at as *mut u16) |= port;
            let l4_check = l4_check as *mut u16;
            *l4_check = with_added(*l4_check, address, port);
            if ip_at != 0 {
                let ip_check = ip_check as *mut u16;
                *ip_check = with_added(*ip_check, address, 0);
            }
        }
        XDP_TX
    }

    /// The interface that `relay` sends to.
    #[btf_map]
    static RELAY: Array<u32, 1> = Array::new();

    /// Sends on without a look: what the wire, the generator and the sink cost.
    #[xdp(frags)]
    pub fn relay(_: XdpContext) -> u32 {
        let Some(ifindex) = RELAY.get(0) else { return XDP_ABORTED };
        // SAFETY: a plain helper call.
        unsafe { bpf_redirect(*ifindex, 0) as u32 }
    }

    /// What `sink` counted.
    #[btf_map]
    static ARRIVED: PerCpuArray<u64, 1> = PerCpuArray::new();

    /// Counts what arrives, and drops it.
    #[xdp(frags)]
    pub fn sink(_: XdpContext) -> u32 {
        if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
            // SAFETY: a per-CPU element, as in `wrapper`.
            unsafe { *arrived += 1 }
        }
        XDP_DROP
    }

    /// Only puts bytes in front, which the wrapper takes off again.
    #[xdp(frags)]
    pub fn grow(ctx: XdpContext) -> u32 {
        let Some(growth) = GROWTH.get(0) else { return XDP_ABORTED };
        // SAFETY: a plain helper call on the program's own context.
        let grown = unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), -(*growth as i32)) } == 0;
        if grown { XDP_TX } else { XDP_ABORTED }
    }

    /// Nothing: what the wrapper and the kernel's loop cost.
    #[xdp(frags)]
    pub fn empty(_: XdpContext) -> u32 {
        XDP_TX
    }

    /// The shipped parser, IPv6 included.
    #[xdp(frags)]
    pub fn parse_only(ctx: XdpContext) -> u32 {
        let Some(tuple) = tuple(&ctx) else { return XDP_DROP };
        // Every field has a part in the outcome, so that none is left unread.
        let ports = tuple.client_port.word() as u32 ^ tuple.vip_port.word() as u32 ^ tuple.protocol as u32;
        if tuple.client.ipv4_word() ^ tuple.vip.ipv4_word() ^ ports == 0 { XDP_PASS } else { XDP_TX }
    }

    /// The parser and one lookup in the hash of services.
    #[xdp(frags)]
    pub fn parse_and_service(ctx: XdpContext) -> u32 {
        let Some(tuple) = tuple(&ctx) else { return XDP_DROP };
        let key = ServiceKey { address: tuple.vip, port: tuple.vip_port, protocol: tuple.protocol, width: 0 };
        if SERVICES.get_ptr(&key).is_some() { XDP_TX } else { XDP_PASS }
    }

    /// The parser and one lookup in a hash of as many flows as the flow table holds.
    #[xdp(frags)]
    pub fn parse_and_flow(ctx: XdpContext) -> u32 {
        let Some(tuple) = tuple(&ctx) else { return XDP_DROP };
        if PLAIN.get_ptr(&tuple).is_some() { XDP_TX } else { XDP_PASS }
    }

    /// Fills the hash that `parse_and_flow` looks into.
    #[xdp(frags)]
    pub fn fill_plain(ctx: XdpContext) -> u32 {
        let Some(tuple) = tuple(&ctx) else { return XDP_DROP };
        let _ = PLAIN.insert(&tuple, Flow::default(), 0);
        XDP_TX
    }

    /// Empties the load balancer's flow table of the recipe's flows, and of what their clients keep to.
    #[xdp(frags)]
    pub fn forget(ctx: XdpContext) -> u32 {
        let Some(tuple) = tuple(&ctx) else { return XDP_DROP };
        let _ = FLOWS.remove(&tuple);
        let key = ServiceKey { address: tuple.vip, port: tuple.vip_port, protocol: tuple.protocol, width: 0 };
        // SAFETY: nobody changes services while this runs.
        if let Some(service) = unsafe { SERVICES.get(&key) }
            && service.affinity_seconds != 0
        {
            let _ = FLOWS.remove(&service.affinity_key(&tuple));
        }
        XDP_TX
    }

    #[btf_map]
    static SCRATCH: PerCpuArray<u64, 1> = PerCpuArray::new();

    /// As the load balancer does.
    #[inline(always)]
    fn launder(word: u64) -> u64 {
        let Some(place) = SCRATCH.get_ptr_mut(0) else { return 0 };
        // SAFETY: a per-CPU element.
        unsafe {
            place.write_volatile(word);
            place.read_volatile()
        }
    }

    #[inline(always)]
    fn tuple(ctx: &XdpContext) -> Option<FlowKey> {
        match parse::<_, false>(&XdpPacket::new(ctx), Features::IPV6, launder) {
            Parsed::Transport(transport) => Some(transport.tuple),
            _ => None,
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
