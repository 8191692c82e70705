//! [`Tables`] over BPF maps: every map definition, and the only raw pointers into maps.

use core::mem::MaybeUninit;

use crate::atomic::{compare_exchange, fetch_add};
use aya_ebpf::{
    EbpfContext as _, Global,
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_NOEXIST,
        bpf_fib_lookup,
    },
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, lpm_trie::Key},
    helpers,
    macros::btf_map,
    programs::XdpContext,
};
use lb_common::{
    Address, Answers, Backend, BackendId, Counters, Features, Flow, FlowKey, FragmentKey, FragmentWay,
    Interface, Load, Mac, Owed, Protocol, QuicKey, Reason, Reply, Service, ServiceKey, Settings, Slot,
    Translation, VirtualAddress, Wide, WideKey, limits,
};
use lb_ebpf::{
    pipeline::Stage,
    tables::{NotAdded, Refused, Route, RouteQuery, Tables, Tally},
    track::choose::{Chosen, Terms, choose},
};

/// What the program is loaded for; the loader writes it, and the verifier removes what is off.
#[unsafe(no_mangle)]
static FEATURES: Global<u32> = Global::new(0);

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
#[btf_map]
static TRANSLATIONS: HashMap<FlowKey, Translation, { limits::TRANSLATIONS as usize }> = HashMap::new();
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentWay, { limits::FRAGMENTS as usize }> = LruHashMap::new();
#[btf_map]
static WIDE: LpmTrie<WideKey, Wide, { limits::WIDE as usize }> = LpmTrie::new();
#[btf_map]
static QUIC_SERVERS: HashMap<QuicKey, u32, { limits::QUIC_SERVERS as usize }> = HashMap::new();
/// IPv4 addresses, then IPv6 ones.
#[btf_map]
static POOL: Array<Address, { 2 * limits::POOL_ADDRESSES as usize }> = Array::new();
/// Where words are laundered, and one that is handed over; not pinned, and nobody else's.
#[btf_map]
static SCRATCH: PerCpuArray<u64, 2> = PerCpuArray::new();
/// The programs after the first, by [`Stage`].
#[btf_map]
static PROGRAMS: ProgramArray<{ limits::PROGRAMS as usize }> = ProgramArray::new();
#[btf_map]
static ANSWERS: PerCpuArray<Answers, 1> = PerCpuArray::new();
#[btf_map]
static LOADS: Array<Load, { limits::BACKENDS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static TURNS: Array<u64, { limits::SERVICES as usize }> = Array::new();

/// The coarse clock, and the tick at which it was asked: it moves with the ticks only, and asking takes 14 ns.
#[derive(Clone, Copy)]
#[repr(C)]
struct Clock {
    jiffies: u64,
    seconds: u64,
}
/// Not pinned, and nobody else's.
#[btf_map]
static CLOCK: PerCpuArray<Clock, 1> = PerCpuArray::new();

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const FIB_LOOKUP_WORDS: usize = size_of::<bpf_fib_lookup>() / size_of::<u64>();
const NANOSECONDS_PER_MICROSECOND: u64 = 1_000;
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

    /// Becomes another program; returns only if there is none.
    #[inline(always)]
    pub fn go_on(ctx: &XdpContext, stage: Stage) {
        // SAFETY: XDP programs of one object, in a map that only the controller writes.
        unsafe { PROGRAMS.tail_call(ctx, stage as u32) }
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

/// A function of plain numbers that is exported, so that the verifier walks it once, whoever calls it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn choose_backend(place: u64, table: u64, hash: u64, full: u64) -> u64 {
    // No packet is looked at.
    let ctx = XdpContext::new(core::ptr::null_mut());
    choose(&KernelTables::new(&ctx), Terms::from_words([place, table]), hash, full != 0).word()
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
        if tally.overflowed {
            counters.overflowed += 1;
        }
    }
}

impl Tables for KernelTables<'_> {
    /// The two words of a map value.
    type Place = *mut u64;

    #[inline(always)]
    fn launder(&self, word: u64) -> u64 {
        let Some(place) = SCRATCH.get_ptr_mut(0) else { return 0 };
        // SAFETY: as in `count_reason`; volatile, or the compiler sees through it.
        unsafe {
            place.write_volatile(word);
            place.read_volatile()
        }
    }

    #[inline(always)]
    fn features(&self) -> Features {
        Features::from_word(FEATURES.load())
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn now_seconds(&self) -> u32 {
        // SAFETY: plain helper calls; the verifier makes a load of this one.
        let jiffies = unsafe { helpers::generated::bpf_jiffies64() };
        // SAFETY: likewise, but for the load.
        let seconds = || unsafe { helpers::generated::bpf_ktime_get_coarse_ns() } / NANOSECONDS_PER_SECOND;
        let Some(clock) = CLOCK.get_ptr_mut(0) else { return seconds() as u32 };
        // SAFETY: as in `count_reason`.
        let clock = unsafe { &mut *clock };
        if clock.jiffies != jiffies {
            *clock = Clock { jiffies, seconds: seconds() };
        }
        // SAFETY: it is valid; volatile, so that the rest is verified once for both ways here.
        (unsafe { (&raw const clock.seconds).read_volatile() }) as u32
    }

    #[inline(always)]
    fn now_micros(&self) -> u64 {
        // SAFETY: a plain helper call.
        (unsafe { helpers::generated::bpf_ktime_get_ns() }) / NANOSECONDS_PER_MICROSECOND
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a plain helper call.
        unsafe { helpers::generated::bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        // SAFETY: the controller replaces entries by new elements; a recycled one is still a whole entry.
        unsafe { SERVICES.get(key) }
    }

    #[inline(always)]
    fn wide(&self, protocol: Protocol, address: &Address) -> Option<&Wide> {
        let key = Key::new(WideKey::prefix_len(128), WideKey::new(protocol as u8, *address));
        WIDE.get(&key)
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
    fn refresh(&self, words: Self::Place, seen: Flow, flow: Flow) -> bool {
        // SAFETY: a map value is never unmapped while a program runs, and its words are aligned. Should the element be
        // recycled between the comparisons, the flow that took it over was in the same state in the same second.
        unsafe {
            if words.read_volatile() != flow.words()[0] {
                return false;
            }
            compare_exchange(words.add(1), seen.words()[1], flow.words()[1])
        }
    }

    #[inline(always)]
    fn load(&self, id: BackendId) -> Option<Load> {
        let words = LOADS.get_ptr(id.0)?.cast::<u64>();
        // SAFETY: two aligned words in a mapped array, each read whole.
        Some(unsafe { Load { connections: words.read_volatile(), response: words.add(1).read_volatile() } })
    }

    #[inline(always)]
    fn count_connection(&self, id: BackendId, more: bool) {
        if let Some(words) = LOADS.get_ptr_mut(id.0) {
            let one = if more { 1 } else { u64::MAX };
            // SAFETY: an aligned word in a mapped array.
            unsafe { fetch_add(words.cast(), one) };
        }
    }

    #[inline(always)]
    fn note_response(&self, id: BackendId, response: u64) {
        if let Some(words) = LOADS.get_ptr_mut(id.0) {
            // SAFETY: as in `load`.
            unsafe { words.cast::<u64>().add(1).write_volatile(response) }
        }
    }

    #[inline(always)]
    fn hand_over(&self, word: u64) {
        if let Some(place) = SCRATCH.get_ptr_mut(1) {
            // SAFETY: as in `count_reason`, and until the last program of a packet no other packet comes.
            unsafe { place.write_volatile(word) }
        }
    }

    #[inline(always)]
    fn handed_over(&self) -> u64 {
        // SAFETY: likewise.
        SCRATCH.get_ptr_mut(1).map_or(0, |place| unsafe { place.read_volatile() })
    }

    #[inline(always)]
    fn choose(&self, terms: Terms, hash: u64, full: bool) -> Chosen {
        let [place, table] = terms.words();
        Chosen::from_word(choose_backend(place, table, hash, full as u64))
    }

    #[inline(always)]
    fn next_turn(&self, service: u32) -> u32 {
        let Some(turn) = TURNS.get_ptr_mut(service) else { return 0 };
        // SAFETY: as in `count_connection`.
        (unsafe { fetch_add(turn, 1) }) as u32
    }

    #[inline(always)]
    fn translation(&self, key: &FlowKey) -> Option<(Translation, Self::Place)> {
        let pointer = TRANSLATIONS.get_ptr_mut(key)?;
        let words = pointer.cast::<u64>();
        // SAFETY: a whole element; its two words of time and owner are read whole, as in `flow`.
        let (translation, flow) =
            unsafe { (*pointer, [words.read_volatile(), words.add(1).read_volatile()]) };
        Some((Translation { flow: Flow::from_words(flow), ..translation }, words))
    }

    #[inline(always)]
    fn add_translation(&self, key: &FlowKey, translation: &Translation) -> Result<(), NotAdded> {
        const EEXIST: i32 = -17;
        TRANSLATIONS.insert(key, translation, BPF_NOEXIST.into()).map_err(|error| match error {
            EEXIST => NotAdded::Taken,
            _ => NotAdded::Full,
        })
    }

    #[inline(always)]
    fn remove_translation(&self, key: &FlowKey) {
        // It may have been removed meanwhile: then there is nothing to do.
        let _ = TRANSLATIONS.remove(key);
    }

    #[inline(always)]
    fn pool_address(&self, index: u32) -> Option<Address> {
        POOL.get(index).copied()
    }

    #[inline(always)]
    fn fragment_way(&self, key: &FragmentKey) -> Option<FragmentWay> {
        // SAFETY: as in `service`; copied out.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn remember_fragment(&self, key: &FragmentKey, way: &FragmentWay) {
        // A table of the least recently used makes room; should it fail, later fragments are unknown, and counted.
        let _ = FRAGMENTS.insert(key, way, 0);
    }

    #[inline(always)]
    fn quic_server(&self, key: &QuicKey) -> Option<BackendId> {
        // SAFETY: one word.
        unsafe { QUIC_SERVERS.get(key) }.map(|id| BackendId(*id))
    }

    #[inline(always)]
    fn may_answer(&self, owed: Owed) -> bool {
        let (Some(answers), Some(settings)) = (ANSWERS.get_ptr_mut(0), self.settings()) else { return false };
        let now = self.now_seconds();
        // SAFETY: as in `count_reason`.
        unsafe { &mut *answers }.count(owed, now, settings.answers_per_second)
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
        lookup.l4_protocol = query.protocol;
        // Nothing longer is one packet: see `way_by_route`.
        lookup.__bindgen_anon_1.tot_len = query.length.min(u16::MAX as u32) as u16;
        lookup.ifindex = self.ingress_ifindex();
        if query.destination.is_ipv4() {
            lookup.family = AF_INET;
            lookup.__bindgen_anon_3.ipv4_src = query.source.ipv4_word();
            lookup.__bindgen_anon_4.ipv4_dst = query.destination.ipv4_word();
        } else {
            lookup.family = AF_INET6;
            lookup.__bindgen_anon_3.ipv6_src = query.source.words();
            lookup.__bindgen_anon_4.ipv6_dst = query.destination.words();
        }
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
            // SAFETY: a union of two 16-bit integers; the kernel wrote the size that fits.
            BPF_FIB_LKUP_RET_FRAG_NEEDED => {
                Route::TooBig(unsafe { lookup.__bindgen_anon_1.mtu_result } as u32)
            }
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
