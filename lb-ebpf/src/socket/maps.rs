//! [`Tables`] over the balancer's maps, by their pins, and the only raw pointers into a socket's context.

use aya_ebpf::{
    Global,
    bindings::bpf_sock_addr,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, lpm_trie::Key},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie},
    macros::btf_map,
    programs::SockAddrContext,
};
use lb_common::{
    Address, Backend, BackendId, Port, Protocol, Service, ServiceKey, Slot, Wide, WideKey, limits,
};
use lb_ebpf::socket::{Endpoint, Peer, Tables};

/// The cookie of the network namespace whose sockets are turned; the loader writes it.
#[unsafe(no_mangle)]
static NETWORK_NAMESPACE: Global<u64> = Global::new(0);

/// `BPF_F_MMAPABLE`, as the balancer's maps have it.
const MMAPABLE: usize = 1 << 10;

#[btf_map]
static SERVICES: HashMap<ServiceKey, Service, { limits::SERVICES as usize }> = HashMap::new();
#[btf_map]
static WIDE: LpmTrie<WideKey, Wide, { limits::WIDE as usize }> = LpmTrie::new();
#[btf_map]
static SLOTS: Array<u64, { limits::SLOTS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static BACKENDS: Array<Backend, { limits::BACKENDS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static PEERS: LruHashMap<Peer, Endpoint, { limits::PEERS as usize }> = LruHashMap::new();

/// The context of a socket's call, of one family.
pub struct Socket<'c> {
    ctx: &'c SockAddrContext,
    ipv6: bool,
}

impl<'c> Socket<'c> {
    #[inline(always)]
    pub fn ipv4(ctx: &'c SockAddrContext) -> Self {
        Self { ctx, ipv6: false }
    }

    #[inline(always)]
    pub fn ipv6(ctx: &'c SockAddrContext) -> Self {
        Self { ctx, ipv6: true }
    }

    #[inline(always)]
    fn context(&self) -> *mut bpf_sock_addr {
        self.ctx.sock_addr
    }

    /// The protocol, if it is balanced and the socket is of the controller's network namespace.
    #[inline(always)]
    pub fn protocol(&self) -> Option<Protocol> {
        // SAFETY: a word of the context, and a plain helper call on it.
        let (protocol, namespace) = unsafe {
            (
                (&raw const (*self.context()).protocol).read_volatile(),
                bpf_get_netns_cookie(self.context().cast()),
            )
        };
        if namespace != NETWORK_NAMESPACE.load() {
            return None;
        }
        Protocol::from_number(protocol as u8)
    }

    /// The address and port that the call is about.
    #[inline(always)]
    pub fn peer(&self) -> Endpoint {
        let context = self.context();
        // SAFETY: words of the context, each read whole, as the verifier demands.
        let (address, port) = unsafe {
            let address = if self.ipv6 {
                let words = (&raw const (*context).user_ip6).cast::<u32>();
                Address::from_words([
                    words.read_volatile(),
                    words.add(1).read_volatile(),
                    words.add(2).read_volatile(),
                    words.add(3).read_volatile(),
                ])
            } else {
                Address::from_ipv4_word((&raw const (*context).user_ip4).read_volatile())
            };
            (address, (&raw const (*context).user_port).read_volatile())
        };
        Endpoint::new(address, Port::from_word(port as u16))
    }

    /// Puts others in their place.
    #[inline(always)]
    pub fn set_peer(&self, peer: &Endpoint) {
        let context = self.context();
        // SAFETY: as in `peer`; these words may be written.
        unsafe {
            if self.ipv6 {
                let words = (&raw mut (*context).user_ip6).cast::<u32>();
                let [first, second, third, fourth] = peer.address.words();
                words.write_volatile(first);
                words.add(1).write_volatile(second);
                words.add(2).write_volatile(third);
                words.add(3).write_volatile(fourth);
            } else {
                (&raw mut (*context).user_ip4).write_volatile(peer.address.ipv4_word());
            }
            (&raw mut (*context).user_port).write_volatile(peer.port.word() as u32);
        }
    }
}

/// The maps, and the socket under way.
pub struct KernelTables<'s> {
    socket: &'s Socket<'s>,
}

impl<'s> KernelTables<'s> {
    #[inline(always)]
    pub fn new(socket: &'s Socket<'s>) -> Self {
        Self { socket }
    }
}

impl Tables for KernelTables<'_> {
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
    fn random(&self) -> u32 {
        // SAFETY: a plain helper call.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: a plain helper call on the program's own context.
        unsafe { bpf_get_socket_cookie(self.socket.context().cast()) }
    }

    #[inline(always)]
    fn remember(&self, peer: &Peer, service: &Endpoint) {
        // Where the kernel has no room for it, the socket sees the backend.
        let _ = PEERS.insert(peer, *service, 0);
    }

    #[inline(always)]
    fn recall(&self, peer: &Peer) -> Option<Endpoint> {
        // SAFETY: copied out at once; a recycled element is still a whole one.
        unsafe { PEERS.get(peer) }.copied()
    }
}
