//! [`Tables`] over BPF maps: every map definition, and the only raw pointers into maps.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
    },
    btf_maps::{Array, HashMap, PerCpuArray},
    helpers,
    macros::btf_map,
    programs::XdpContext,
};
use lb_common::{
    Address, Backend, BackendId, Counters, Flow, FlowKey, HashKeys, Interface, Mac, Reason, Reply, Service,
    ServiceKey, Settings, Slot, VirtualAddress, limits,
};
use lb_ebpf::tables::{Refused, Route, RouteQuery, Tables, Tally};

/// `BPF_F_MMAPABLE`: the controller changes these by plain stores.
const MMAPABLE: usize = 1 << 10;

#[btf_map]
static SERVICES: HashMap<ServiceKey, Service, { limits::SERVICES as usize }> = HashMap::new();
#[btf_map]
static SLOTS: Array<u64, { limits::SLOTS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static BACKENDS: Array<Backend, { limits::BACKENDS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static REPLIES: HashMap<ServiceKey, Reply, { limits::REPLIES as usize }> = HashMap::new();
#[btf_map]
static INTERFACES: Array<Interface, { limits::INTERFACES as usize }> = Array::new();
#[btf_map]
static VIPS: HashMap<Address, VirtualAddress, { limits::VIPS as usize }> = HashMap::new();
#[btf_map]
static LOCALS: HashMap<Address, u32, { limits::LOCALS as usize }> = HashMap::new();
#[btf_map]
static FLOWS: HashMap<FlowKey, Flow, { limits::FLOWS as usize }> = HashMap::new();
#[btf_map]
static SERVICE_COUNTERS: PerCpuArray<Counters, { limits::SERVICES as usize }> = PerCpuArray::new();
#[btf_map]
static BACKEND_COUNTERS: PerCpuArray<Counters, { limits::BACKENDS as usize }> = PerCpuArray::new();
#[btf_map]
static REASON_COUNTERS: PerCpuArray<u64, { Reason::ALL.len() }> = PerCpuArray::new();
#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();

const AF_INET: u8 = 2;
const FIB_LOOKUP_WORDS: usize = size_of::<bpf_fib_lookup>() / size_of::<u64>();
const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// The maps, and the context of the packet under way.
pub struct KernelTables<'c> {
    ctx: &'c XdpContext,
}

impl<'c> KernelTables<'c> {
    #[inline(always)]
    pub fn new(ctx: &'c XdpContext) -> Self {
        Self { ctx }
    }

    /// Counts one way out of the pipeline.
    #[inline(always)]
    pub fn count_reason(reason: Reason) {
        if let Some(counter) = REASON_COUNTERS.get_ptr_mut(reason as u32) {
            // SAFETY: a per-CPU element, and XDP programs of one CPU do not interrupt each other.
            unsafe { *counter += 1 }
        }
    }
}

#[inline(always)]
fn add(counters: Option<*mut Counters>, tally: &Tally) {
    if let Some(counters) = counters {
        // SAFETY: as in `count_reason`.
        let counters = unsafe { &mut *counters };
        counters.packets += 1;
        counters.bytes += tally.bytes;
        if tally.new_flow {
            counters.new_flows += 1;
        }
        if tally.refused {
            counters.refused_flows += 1;
        }
    }
}

impl Tables for KernelTables<'_> {
    /// The two words of a map value.
    type Place = *mut u64;

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn now_seconds(&self) -> u32 {
        // SAFETY: a plain helper call.
        (unsafe { helpers::generated::bpf_ktime_get_coarse_ns() } / NANOSECONDS_PER_SECOND) as u32
    }

    #[inline(always)]
    fn hash_keys(&self) -> HashKeys {
        SETTINGS.get(0).map(|settings| settings.hash_keys).unwrap_or_default()
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        // SAFETY: the controller replaces entries by new elements; a recycled one is still a whole entry.
        unsafe { SERVICES.get(key) }
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        // SAFETY: an aligned word in a mapped array, written by single stores.
        SLOTS.get_ptr(index).map(|word| Slot::from_word(unsafe { word.read_volatile() }))
    }

    #[inline(always)]
    fn backend(&self, id: BackendId) -> Option<&Backend> {
        BACKENDS.get(id.0)
    }

    #[inline(always)]
    fn reply(&self, source: &ServiceKey) -> Option<&Reply> {
        // SAFETY: as in `service`.
        unsafe { REPLIES.get(source) }
    }

    #[inline(always)]
    fn is_local(&self, address: &Address) -> bool {
        LOCALS.get_ptr(address).is_some()
    }

    #[inline(always)]
    fn virtual_address(&self, address: &Address) -> Option<VirtualAddress> {
        // SAFETY: as in `service`; copied out.
        unsafe { VIPS.get(address) }.copied()
    }

    #[inline(always)]
    fn interface(&self, index: u16) -> Option<Interface> {
        INTERFACES.get(index as u32).copied().filter(|interface| interface.ifindex != 0)
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<(Flow, Self::Place)> {
        let words = FLOWS.get_ptr_mut(key)?.cast::<u64>();
        // SAFETY: two aligned words of a map value, each read whole.
        let flow = Flow::from_words(unsafe { [words.read_volatile(), words.add(1).read_volatile()] });
        Some((flow, words))
    }

    #[inline(always)]
    fn remember(&self, key: &FlowKey, flow: Flow) -> Result<(), Refused> {
        FLOWS.insert(key, flow, 0).map_err(|_| Refused)
    }

    #[inline(always)]
    fn refresh(&self, words: Self::Place, flow: Flow) {
        // SAFETY: a map value is never unmapped while a program runs. Should the element be recycled between the
        // comparison and the store, the flow that took it over is noted as seen in this second, which it was.
        unsafe {
            if words.read_volatile() == flow.words()[0] {
                words.add(1).write_volatile(flow.words()[1]);
            }
        }
    }

    #[inline(always)]
    fn route(&self, query: &RouteQuery) -> Route {
        // Zeroed by words: `mem::zeroed` becomes a call that stores byte by byte, 20 ns of every reply.
        let mut words = MaybeUninit::<[u64; FIB_LOOKUP_WORDS]>::uninit();
        for index in 0..FIB_LOOKUP_WORDS {
            // SAFETY: within the array; volatile, or the stores are merged into that call again.
            unsafe { words.as_mut_ptr().cast::<u64>().add(index).write_volatile(0) }
        }
        // SAFETY: of the same size, less aligned, integers and arrays of them: all zeroes are valid.
        let lookup = unsafe { &mut *words.as_mut_ptr().cast::<bpf_fib_lookup>() };
        lookup.family = AF_INET;
        lookup.l4_protocol = query.protocol;
        lookup.__bindgen_anon_1.tot_len = query.length;
        lookup.ifindex = self.ingress_ifindex();
        lookup.__bindgen_anon_3.ipv4_src = query.source.ipv4_word();
        lookup.__bindgen_anon_4.ipv4_dst = query.destination.ipv4_word();
        // SAFETY: `lookup` is initialised and of the length given.
        let answer = unsafe {
            helpers::generated::bpf_fib_lookup(
                self.ctx.as_ptr(),
                &raw mut *lookup,
                size_of::<bpf_fib_lookup>() as i32,
                0,
            )
        };
        match answer as u32 {
            BPF_FIB_LKUP_RET_SUCCESS => Route::Found {
                ifindex: lookup.ifindex,
                source: Mac::new(lookup.smac),
                destination: Mac::new(lookup.dmac),
            },
            BPF_FIB_LKUP_RET_NO_NEIGH => Route::NeighbourUnknown,
            BPF_FIB_LKUP_RET_FRAG_NEEDED => Route::TooBig,
            _ => Route::None,
        }
    }

    #[inline(always)]
    fn count(&self, service: u32, backend: BackendId, tally: Tally) {
        add(SERVICE_COUNTERS.get_ptr_mut(service), &tally);
        add(BACKEND_COUNTERS.get_ptr_mut(backend.0), &tally);
    }
}

const _: () = assert!(size_of::<bpf_fib_lookup>() % size_of::<u64>() == 0);
