//! The kernel's maps, program and links. Nothing else of the controller talks to aya.

pub(super) mod attach;
mod batch;
mod pins;
mod words;

use std::{
    collections::HashMap,
    io::Read as _,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap as BpfHashMap, Map, MapData, PerCpuArray, PerCpuValues, ProgramArray},
    programs::{
        ProgramFd, Xdp,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use aya_log::EbpfLogger;
use lb_common::{
    Address, Backend, BackendId, Counters, Features, Flow, FlowKey, HashKeys, Interface, NextHop, Reason,
    Reply, Service, ServiceKey, Settings, Slot, VirtualAddress,
    limits::{self, maps},
};

pub use self::attach::{AttachedMode, WantedMode};
use self::{
    attach::is_errno,
    pins::{Existing, Pins},
    words::Words,
};
use super::{Capacity, Change, Contents, Datapath};

/// The first program's name in the object.
const PROGRAM: &str = "portcullis";
/// The others', by their index in `PROGRAMS`.
const NEXT_PROGRAMS: [&str; limits::PROGRAMS as usize] =
    ["portcullis_uncommon", "portcullis_control", "portcullis_full_nat", "portcullis_full_nat_open"];
/// Its global for what it is loaded for.
const FEATURES: &str = "FEATURES";
const BACKEND_WORDS: usize = size_of::<Backend>() / size_of::<u64>();
const NEXT_HOP_WORD: usize = std::mem::offset_of!(Backend, next_hop) / size_of::<u64>();
/// `service` and `state` share this word.
const STATE_WORD: usize = std::mem::offset_of!(Backend, service) / size_of::<u64>();

/// How to load.
pub struct BpfOptions<'o> {
    /// The object, aligned to 8 bytes.
    pub object: &'o [u8],
    /// Below a mounted bpffs.
    pub pin_dir: PathBuf,
    /// Of the program's own messages: 0 off, 1 error … 5 trace.
    pub log_level: u8,
    /// What the program is loaded for.
    pub features: Features,
    /// Elements of maps that are created, by name; pinned maps keep theirs.
    pub max_entries: Vec<(&'static str, u32)>,
}

/// The loaded program, its pinned maps and links.
pub struct BpfDatapath {
    ebpf: Ebpf,
    pins: Pins,
    maps: HashMap<&'static str, Map>,
    slots: Words,
    backends: Words,
    capacity: Capacity,
    hash_keys: HashKeys,
    /// By interface number. Dropping one does not detach: the pin keeps it.
    links: HashMap<u32, (AttachedMode, FdLink)>,
    cpus: usize,
    took_over: bool,
}

impl BpfDatapath {
    /// Loads the program over pinned maps, or over new ones that it pins. Pinned links run the new program
    /// from here on, without a gap.
    pub fn open(options: BpfOptions<'_>) -> Result<Self> {
        let pins = Pins::open(&options.pin_dir)?;
        let object = aya_obj::Object::parse(options.object).context("parsing the BPF object")?;
        let existing = pins.check_maps(&object)?;
        let mut loader = EbpfLoader::new();
        loader.override_global(aya_log::LEVEL, &options.log_level, true);
        loader.override_global(FEATURES, &options.features, true);
        for name in maps::ALL {
            loader.map_pin_path(name, pins.map(name));
        }
        let sizes = match &existing {
            Existing::None => &options.max_entries,
            Existing::All(sizes) => sizes,
        };
        for &(name, entries) in sizes {
            loader.map_max_entries(name, entries);
        }
        let mut ebpf = loader.load(options.object).context("creating the BPF maps")?;
        for name in NEXT_PROGRAMS.into_iter().chain([PROGRAM]) {
            attach::load(&mut ebpf, name)?;
        }
        put_programs(&mut ebpf)?;

        let mut taken = HashMap::new();
        for name in maps::ALL {
            taken.insert(
                name,
                ebpf.take_map(name).with_context(|| format!("the object defines no map {name}"))?,
            );
        }
        let entries = |name: &str| -> Result<u32> { Ok(data(&taken[name])?.info()?.max_entries()) };
        let capacity = Capacity {
            slots: entries(maps::SLOTS)?,
            flows: entries(maps::FLOWS)?,
            translations: entries(maps::TRANSLATIONS)?,
            backends: entries(maps::BACKENDS)?,
            services: entries(maps::SERVICES)?,
        };
        let slots = Words::map(fd(&taken[maps::SLOTS])?, capacity.slots as usize)?;
        let backends = Words::map(fd(&taken[maps::BACKENDS])?, capacity.backends as usize * BACKEND_WORDS)?;
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?;
        let took_over = matches!(existing, Existing::All(_));
        let mut datapath = Self {
            ebpf,
            pins,
            maps: taken,
            slots,
            backends,
            capacity,
            hash_keys: HashKeys::default(),
            links: HashMap::new(),
            cpus,
            took_over,
        };
        datapath.hash_keys = datapath.keys()?;
        datapath.pin_program()?;
        datapath.take_over_links()?;
        Ok(datapath)
    }

    /// Whether maps of an earlier controller were found.
    pub fn took_over(&self) -> bool {
        self.took_over
    }

    /// Attaches to an interface and pins the link. `Ok` also where it is attached already.
    ///
    /// # Errors
    /// Another XDP program is there, or the mode is not to be had.
    pub fn attach(&mut self, interface: &str, ifindex: u32, wanted: WantedMode) -> Result<AttachedMode> {
        if let Some((mode, _)) = self.links.get(&ifindex) {
            return Ok(*mode);
        }
        let pins = self.pins.clone();
        let (mode, link) = attach::attach(self.program()?, (interface, ifindex), wanted, |mode| {
            pins.link(ifindex, mode.name())
        })?;
        self.links.insert(ifindex, (mode, link));
        Ok(mode)
    }

    /// Detaches from an interface, or forgets one that has vanished.
    pub fn detach(&mut self, ifindex: u32) -> Result<()> {
        let Some((mode, link)) = self.links.remove(&ifindex) else { return Ok(()) };
        let path = self.pins.link(ifindex, mode.name());
        drop(link);
        std::fs::remove_file(&path).with_context(|| format!("unpinning {}", path.display()))
    }

    /// Interfaces that run the program.
    pub fn attached(&self) -> impl Iterator<Item = (u32, AttachedMode)> {
        self.links.iter().map(|(&ifindex, &(mode, _))| (ifindex, mode))
    }

    /// Passes the program's own messages on to the `log` crate from a thread of its own, until the process ends.
    pub fn forward_logs(&mut self) -> Result<()> {
        let mut logger = match EbpfLogger::init(&mut self.ebpf) {
            Ok(logger) => logger,
            // With logging off the verifier removed the last message, and the map with it.
            Err(aya_log::Error::MapNotFound) => return Ok(()),
            Err(error) => return Err(error).context("reading the program's messages"),
        };
        std::thread::Builder::new().name("bpf-log".into()).spawn(move || {
            loop {
                let mut poll =
                    libc::pollfd { fd: logger.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one valid pollfd.
                unsafe { libc::poll(&mut poll, 1, -1) };
                logger.flush();
            }
        })?;
        Ok(())
    }

    /// Detaches from every interface and removes what is pinned.
    pub fn unload(pin_dir: &Path) -> Result<()> {
        Pins::remove(pin_dir)
    }

    fn program(&mut self) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(PROGRAM).context("the object has no program portcullis")?;
        Ok(program.try_into()?)
    }

    fn pin_program(&mut self) -> Result<()> {
        let path = self.pins.program();
        let _ = std::fs::remove_file(&path);
        self.program()?.pin(&path).context("pinning the program")
    }

    fn take_over_links(&mut self) -> Result<()> {
        for (ifindex, mode, path) in self.pins.pinned_links()? {
            let link: FdLink = PinnedLink::from_pin(&path)?.into();
            let link: XdpLink = link.try_into()?;
            match self.program()?.attach_to_link(link) {
                Ok(id) => {
                    let link: FdLink = self.program()?.take_link(id)?.try_into()?;
                    self.links.insert(ifindex, (AttachedMode::from_name(&mode), link));
                }
                // The interface vanished while nobody was looking.
                Err(error) if is_errno(&error, libc::ENOLINK) => std::fs::remove_file(&path)?,
                Err(error) => return Err(error).with_context(|| format!("taking over {}", path.display())),
            }
        }
        Ok(())
    }

    /// The keys of the flow hash: those in use, or new random ones.
    fn keys(&mut self) -> Result<HashKeys> {
        let mut settings: Array<&mut MapData, Settings> = self.map_mut(maps::SETTINGS)?.try_into()?;
        let known = settings.get(&0, 0)?.hash_keys;
        if known != HashKeys::default() {
            return Ok(known);
        }
        let mut random = [0u8; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut random).context("reading /dev/urandom")?;
        let (first, second) = random.split_at(8);
        let hash_keys =
            HashKeys([u64::from_ne_bytes(first.try_into()?), u64::from_ne_bytes(second.try_into()?)]);
        settings.set(0, Settings { hash_keys, ..Settings::default() }, 0)?;
        Ok(hash_keys)
    }

    fn map_mut(&mut self, name: &str) -> Result<&mut Map> {
        self.maps.get_mut(name).with_context(|| format!("no map {name}"))
    }

    fn put<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: &K, value: &V) -> Result<()> {
        let mut map: BpfHashMap<&mut MapData, K, V> = self.map_mut(name)?.try_into()?;
        map.insert(key, value, 0).with_context(|| format!("writing {name}"))
    }

    fn delete<K: aya::Pod, V: aya::Pod>(&mut self, name: &str, key: &K) -> Result<()> {
        let mut map: BpfHashMap<&mut MapData, K, V> = self.map_mut(name)?.try_into()?;
        match map.remove(key) {
            Err(aya::maps::MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("deleting from {name}")),
        }
    }

    fn entries<K: aya::Pod + Default, V: aya::Pod + Default>(&self, name: &str) -> Result<Vec<(K, V)>> {
        batch::read_hash(fd(&self.maps[name])?).with_context(|| format!("reading {name}"))
    }

    fn set_interface(&mut self, index: u16, interface: Interface) -> Result<()> {
        let mut map: Array<&mut MapData, Interface> = self.map_mut(maps::INTERFACES)?.try_into()?;
        map.set(index as u32, interface, 0).context("writing INTERFACES")
    }

    fn reset_counters(&mut self, name: &str, index: u32) -> Result<()> {
        let zeroes = PerCpuValues::try_from(vec![Counters::default(); self.cpus])?;
        let mut map: PerCpuArray<&mut MapData, Counters> = self.map_mut(name)?.try_into()?;
        map.set(index, zeroes, 0).with_context(|| format!("writing {name}"))
    }

    fn counters(&self, name: &str, index: u32) -> Result<Counters> {
        let map: PerCpuArray<&MapData, Counters> = (&self.maps[name]).try_into()?;
        let values = map.get(&index, 0).with_context(|| format!("reading {name}"))?;
        Ok(values.iter().fold(Counters::default(), |sum, one| Counters {
            packets: sum.packets + one.packets,
            bytes: sum.bytes + one.bytes,
            new_flows: sum.new_flows + one.new_flows,
            refused_flows: sum.refused_flows + one.refused_flows,
        }))
    }

    fn put_backend(&self, id: BackendId, backend: &Backend) -> Result<()> {
        self.backends.store(id.0 as usize * BACKEND_WORDS, backend_words(backend).into_iter())
    }

    fn backend(&self, id: u32) -> Backend {
        let words: [u64; BACKEND_WORDS] = std::array::from_fn(|word| {
            self.backends
                .get(id as usize * BACKEND_WORDS + word)
                .map_or(0, |word| word.load(Ordering::Acquire))
        });
        // SAFETY: `Backend` is `repr(C)` over integers, valid for every bit pattern, and of this size.
        unsafe { std::mem::transmute::<[u64; BACKEND_WORDS], Backend>(words) }
    }

    fn backend_word(&self, id: BackendId, word: usize) -> Result<&std::sync::atomic::AtomicU64> {
        self.backends
            .get(id.0 as usize * BACKEND_WORDS + word)
            .with_context(|| format!("backend id {} is too large", id.0))
    }

    fn delete_flows(&mut self, flows: &[(FlowKey, Flow)]) -> Result<()> {
        let mut map: BpfHashMap<&mut MapData, FlowKey, Flow> = self.map_mut(maps::FLOWS)?.try_into()?;
        for (key, seen) in flows {
            // A packet may have reopened or refreshed the flow since it was read.
            if map.get(key, 0).is_ok_and(|flow| flow == *seen) {
                let _ = map.remove(key);
            }
        }
        Ok(())
    }
}

impl Datapath for BpfDatapath {
    fn apply(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::PutInterface(index, interface) => self.set_interface(*index, *interface),
            Change::DeleteInterface(index) => self.set_interface(*index, Interface::default()),
            Change::PutLocal(address) => self.put(maps::LOCALS, address, &1u32),
            Change::DeleteLocal(address) => self.delete::<_, u32>(maps::LOCALS, address),
            Change::PutBackend(id, backend) => {
                self.reset_counters(maps::BACKEND_COUNTERS, id.0)?;
                self.put_backend(*id, backend)
            }
            Change::SetBackendState(id, state) => {
                // One store: `service` does not change.
                let service = self.backend(id.0).service as u64;
                self.backend_word(*id, STATE_WORD)?
                    .store(service | (state.word() as u64) << 32, Ordering::Release);
                Ok(())
            }
            Change::SetNextHop(id, hop) => {
                self.backend_word(*id, NEXT_HOP_WORD)?.store(hop.map_or(0, NextHop::word), Ordering::Release);
                Ok(())
            }
            Change::FreeBackend(id) => self.put_backend(*id, &Backend::default()),
            Change::PutReply(key, reply) => self.put(maps::REPLIES, key, reply),
            Change::DeleteReply(key) => self.delete::<_, Reply>(maps::REPLIES, key),
            Change::WriteSlots(start, slots) => {
                self.slots.store(*start as usize, slots.iter().map(|slot| slot.word()))
            }
            Change::PutService(key, service) => {
                let known: BpfHashMap<&mut MapData, ServiceKey, Service> =
                    self.map_mut(maps::SERVICES)?.try_into()?;
                if known.get(key, 0).is_err() {
                    self.reset_counters(maps::SERVICE_COUNTERS, service.id)?;
                }
                self.put(maps::SERVICES, key, service)
            }
            Change::DeleteService(key) => self.delete::<_, Service>(maps::SERVICES, key),
            Change::PutVirtualAddress(address, entry) => self.put(maps::VIPS, address, entry),
            Change::DeleteVirtualAddress(address) => self.delete::<_, VirtualAddress>(maps::VIPS, address),
            Change::DeleteFlows(flows) => self.delete_flows(flows),
        }
    }

    fn contents(&self) -> Result<Contents> {
        let slots = |service: &Service| -> Vec<Slot> {
            (service.slots_start..service.slots_start + service.slots())
                .map(|index| {
                    Slot::from_word(
                        self.slots.get(index as usize).map_or(0, |word| word.load(Ordering::Acquire)),
                    )
                })
                .collect()
        };
        let interfaces: Array<&MapData, Interface> = (&self.maps[maps::INTERFACES]).try_into()?;
        let interfaces: Result<Vec<(u16, Interface)>, _> = (0..interfaces.len())
            .map(|index| interfaces.get(&index, 0).map(|interface| (index as u16, interface)))
            .collect();
        Ok(Contents {
            services: self
                .entries::<ServiceKey, Service>(maps::SERVICES)?
                .into_iter()
                .map(|(key, service)| (key, service, slots(&service)))
                .collect(),
            backends: (1..self.capacity.backends)
                .map(|id| (BackendId(id), self.backend(id)))
                .filter(|(_, backend)| *backend != Backend::default())
                .collect(),
            replies: self.entries(maps::REPLIES)?,
            interfaces: interfaces?.into_iter().filter(|(_, interface)| interface.ifindex != 0).collect(),
            locals: self
                .entries::<Address, u32>(maps::LOCALS)?
                .into_iter()
                .map(|(address, _)| address)
                .collect(),
            virtual_addresses: self.entries(maps::VIPS)?,
        })
    }

    fn flows(&self) -> Result<Vec<(FlowKey, Flow)>> {
        self.entries(maps::FLOWS)
    }

    fn service_counters(&self, id: u32) -> Result<Counters> {
        self.counters(maps::SERVICE_COUNTERS, id)
    }

    fn backend_counters(&self, id: BackendId) -> Result<Counters> {
        self.counters(maps::BACKEND_COUNTERS, id.0)
    }

    fn reason_counters(&self) -> Result<Vec<u64>> {
        let map: PerCpuArray<&MapData, u64> = (&self.maps[maps::REASON_COUNTERS]).try_into()?;
        let sum = |reason: &Reason| -> Result<u64> { Ok(map.get(&(*reason as u32), 0)?.iter().sum()) };
        Reason::ALL.iter().map(sum).collect()
    }

    fn hash_keys(&self) -> HashKeys {
        self.hash_keys
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

/// Fills the map by which the first program finds the others: before a link runs the first. Old and new programs of
/// one layout fit each other.
fn put_programs(ebpf: &mut Ebpf) -> Result<()> {
    let programs = NEXT_PROGRAMS
        .iter()
        .map(|name| -> Result<ProgramFd> {
            let program = ebpf.program(name).with_context(|| format!("the object has no program {name}"))?;
            Ok(<&Xdp>::try_from(program)?.fd()?.try_clone()?)
        })
        .collect::<Result<Vec<ProgramFd>>>()?;
    let map = ebpf.map_mut(maps::PROGRAMS).context("the object defines no map PROGRAMS")?;
    let mut map: ProgramArray<&mut MapData> = map.try_into()?;
    for (index, program) in (0..).zip(&programs) {
        map.set(index, program, 0).context("writing PROGRAMS")?;
    }
    Ok(())
}

fn backend_words(backend: &Backend) -> [u64; BACKEND_WORDS] {
    // SAFETY: `Backend` is `repr(C)` over integers without padding and of this size.
    unsafe { std::mem::transmute::<Backend, [u64; BACKEND_WORDS]>(*backend) }
}

fn data(map: &Map) -> Result<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::PerCpuArray(data)
        | Map::ProgramArray(data) => Ok(data),
        other => bail!("a map of an unexpected type: {other:?}"),
    }
}

fn fd(map: &Map) -> Result<BorrowedFd<'_>> {
    Ok(data(map)?.fd().as_fd())
}
