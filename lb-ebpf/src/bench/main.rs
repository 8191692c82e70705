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
        bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
        btf_maps::{Array, HashMap, ProgramArray},
        macros::{btf_map, xdp},
        programs::XdpContext,
    };
    use lb_common::{Features, Flow, FlowKey, Service, ServiceKey, limits};
    use lb_ebpf::parse::{Parsed, parse};

    use crate::{
        packet::XdpPacket,
        recipe::{FRAME_LEN, Recipe, flow_parts, next_flow},
    };

    #[btf_map]
    static RECIPE: Array<Recipe, 1> = Array::new();
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

    const SOURCE_ADDRESS: usize = 26;
    const DESTINATION_ADDRESS: usize = 30;
    const SOURCE_PORT: usize = 34;
    const DESTINATION_PORT: usize = 36;

    /// Writes the next flow's packet, then becomes the program under test.
    #[xdp]
    pub fn wrapper(ctx: XdpContext) -> u32 {
        let Some(recipe) = RECIPE.get_ptr_mut(0) else { return XDP_ABORTED };
        let start = ctx.data();
        if start + FRAME_LEN > ctx.data_end() {
            return XDP_ABORTED;
        }
        // SAFETY: the comparison above covers every store, and one CPU measures at a time.
        unsafe {
            let recipe = &mut *recipe;
            let flow = next_flow(recipe.flow, recipe.multiplier, recipe.flow_mask);
            recipe.flow = flow;
            let (address, port) = flow_parts(flow);
            let frame = start as *mut u8;
            for (index, word) in recipe.frame.iter().enumerate() {
                *frame.cast::<u32>().add(index) = *word;
            }
            let of_source = recipe.source_mask;
            *frame.add(SOURCE_ADDRESS).cast::<u32>() |= address & of_source;
            *frame.add(SOURCE_PORT).cast::<u16>() |= port & of_source as u16;
            let of_destination = recipe.destination_mask;
            *frame.add(DESTINATION_ADDRESS).cast::<u32>() |= address & of_destination;
            *frame.add(DESTINATION_PORT).cast::<u16>() |= port & of_destination as u16;
            PROGRAM_UNDER_TEST.tail_call(&ctx, 0);
        }
        XDP_ABORTED
    }

    /// Nothing: what the wrapper and the kernel's loop cost.
    #[xdp]
    pub fn empty(_: XdpContext) -> u32 {
        XDP_TX
    }

    /// The shipped parser.
    #[xdp]
    pub fn parse_only(ctx: XdpContext) -> u32 {
        let Some(tuple) = tuple(&ctx) else { return XDP_DROP };
        // Every field has a part in the outcome, so that none is left unread.
        let ports = tuple.client_port.word() as u32 ^ tuple.vip_port.word() as u32 ^ tuple.protocol as u32;
        if tuple.client.ipv4_word() ^ tuple.vip.ipv4_word() ^ ports == 0 { XDP_PASS } else { XDP_TX }
    }

    /// The parser and one lookup in the hash of services.
    #[xdp]
    pub fn parse_and_service(ctx: XdpContext) -> u32 {
        let Some(tuple) = tuple(&ctx) else { return XDP_DROP };
        let key = ServiceKey { address: tuple.vip, port: tuple.vip_port, protocol: tuple.protocol, width: 0 };
        if SERVICES.get_ptr(&key).is_some() { XDP_TX } else { XDP_PASS }
    }

    /// The parser and one lookup in a hash of as many flows as the flow table holds.
    #[xdp]
    pub fn parse_and_flow(ctx: XdpContext) -> u32 {
        let Some(tuple) = tuple(&ctx) else { return XDP_DROP };
        if PLAIN.get_ptr(&tuple).is_some() { XDP_TX } else { XDP_PASS }
    }

    /// Fills the hash that `parse_and_flow` looks into.
    #[xdp]
    pub fn fill_plain(ctx: XdpContext) -> u32 {
        let Some(tuple) = tuple(&ctx) else { return XDP_DROP };
        let _ = PLAIN.insert(&tuple, Flow::default(), 0);
        XDP_TX
    }

    /// Empties the load balancer's flow table of the recipe's flows.
    #[xdp]
    pub fn forget(ctx: XdpContext) -> u32 {
        let Some(tuple) = tuple(&ctx) else { return XDP_DROP };
        let _ = FLOWS.remove(&tuple);
        XDP_TX
    }

    #[inline(always)]
    fn tuple(ctx: &XdpContext) -> Option<FlowKey> {
        match parse::<_, false>(&XdpPacket::new(ctx), Features::NONE, |word| word) {
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
