//! The kernel's maps, program and links. Nothing else of the controller talks to aya.

pub(super) mod attach;
mod batch;
mod element;
mod pins;
mod program;
mod tables;
mod words;

use std::{
    collections::HashMap,
    io::{PipeWriter, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    maps::{Array, Map, MapData},
    programs::{
        Xdp,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use aya_log::EbpfLogger;
use lb_common::{Backend, Features, HashKeys, Load, Settings, limits::maps};

use self::{
    attach::is_errno,
    pins::{Existing, Pins},
    program::Loading,
    words::Words,
};
pub use self::{
    attach::{AttachedMode, WantedMode},
    program::NEXT,
};
use super::Capacity;

const BACKEND_WORDS: usize = size_of::<Backend>() / size_of::<u64>();
const LOAD_WORDS: usize = size_of::<Load>() / size_of::<u64>();

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
    loading: Loading,
    features: Features,
    pins: Pins,
    maps: HashMap<&'static str, Map>,
    slots: Words,
    backends: Words,
    loads: Words,
    capacity: Capacity,
    hash_keys: HashKeys,
    /// By interface number. Dropping one does not detach: the pin keeps it.
    links: HashMap<u32, (AttachedMode, FdLink)>,
    cpus: usize,
    took_over: bool,
    /// Held while the thread that passes the program's messages on is to run.
    logging: Option<PipeWriter>,
}

impl BpfDatapath {
    /// Loads the program over pinned maps, or over new ones that it pins. Pinned links run the new program
    /// from here on, without a gap.
    pub fn open(options: BpfOptions<'_>) -> Result<Self> {
        let pins = Pins::open(&options.pin_dir)?;
        let loading = Loading::new(options.object, options.log_level);
        let object = aya_obj::Object::parse(loading.object()).context("parsing the BPF object")?;
        let existing = pins.check_maps(&object)?;
        let sizes = match &existing {
            Existing::None => &options.max_entries,
            Existing::All(sizes) => sizes,
        };
        let features = options.features;
        let mut ebpf = loading.load(&pins, sizes, features)?;
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
        let loads = Words::map(fd(&taken[maps::LOADS])?, entries(maps::LOADS)? as usize * LOAD_WORDS)?;
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?;
        let took_over = matches!(existing, Existing::All(_));
        let mut datapath = Self {
            ebpf,
            loading,
            features,
            pins,
            maps: taken,
            slots,
            backends,
            loads,
            capacity,
            hash_keys: HashKeys::default(),
            links: HashMap::new(),
            cpus,
            took_over,
            logging: None,
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

    /// Passes the program's own messages on to the `log` crate from a thread of its own, until the program is loaded
    /// anew or the process ends.
    pub fn forward_logs(&mut self) -> Result<()> {
        let mut logger = match EbpfLogger::init(&mut self.ebpf) {
            Ok(logger) => logger,
            // With logging off the verifier removed the last message, and the map with it.
            Err(aya_log::Error::MapNotFound) => return Ok(()),
            Err(error) => return Err(error).context("reading the program's messages"),
        };
        let (ended, running) = std::io::pipe()?;
        self.logging = Some(running);
        std::thread::Builder::new().name("bpf-log".into()).spawn(move || {
            let wait = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            loop {
                let mut polled = [wait(logger.as_fd().as_raw_fd()), wait(ended.as_raw_fd())];
                // SAFETY: two valid pollfds.
                unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) };
                logger.flush();
                if polled[1].revents != 0 {
                    return;
                }
            }
        })?;
        Ok(())
    }

    /// Loads the programs anew for these features. Pinned links run them from here on, without a gap.
    fn enable(&mut self, features: Features) -> Result<()> {
        let size = |name| Ok((name, data(&self.maps[name])?.info()?.max_entries()));
        let sizes = maps::ALL.into_iter().map(size).collect::<Result<Vec<_>>>()?;
        self.ebpf = self.loading.load(&self.pins, &sizes, features)?;
        self.pin_program()?;
        self.take_over_links()?;
        self.features = features;
        if self.logging.take().is_some() {
            self.forward_logs()?;
        }
        Ok(())
    }

    /// Detaches from every interface and removes what is pinned.
    pub fn unload(pin_dir: &Path) -> Result<()> {
        Pins::remove(pin_dir)
    }

    /// Where a controller may make directories; [`Self::unload`] removes them.
    pub fn marks(pin_dir: &Path) -> PathBuf {
        Pins::marks(pin_dir)
    }

    fn program(&mut self) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(program::FIRST).context("the object has no first program")?;
        Ok(program.try_into()?)
    }

    fn pin_program(&mut self) -> Result<()> {
        let path = self.pins.program();
        let _ = std::fs::remove_file(&path);
        self.program()?.pin(&path).context("pinning the program")
    }

    /// Has every pinned link run the program. One that cannot keeps what it runs, and is known all the same.
    fn take_over_links(&mut self) -> Result<()> {
        let mut failure = None;
        for (ifindex, mode, path) in self.pins.pinned_links()? {
            let mode = AttachedMode::from_name(&mode);
            let link: FdLink = PinnedLink::from_pin(&path)?.into();
            let link: XdpLink = link.try_into()?;
            match self.program()?.attach_to_link(link) {
                Ok(id) => {
                    let link: FdLink = self.program()?.take_link(id)?.try_into()?;
                    self.links.insert(ifindex, (mode, link));
                }
                // The interface vanished while nobody was looking.
                Err(error) if is_errno(&error, libc::ENOLINK) => {
                    self.links.remove(&ifindex);
                    std::fs::remove_file(&path)?;
                }
                Err(error) => {
                    self.links.insert(ifindex, (mode, PinnedLink::from_pin(&path)?.into()));
                    failure = Some((error, path));
                }
            }
        }
        match failure {
            None => Ok(()),
            Some((error, path)) => Err(error).with_context(|| format!("taking over {}", path.display())),
        }
    }

    /// The keys of the flow hash: those in use, or new random ones.
    fn keys(&mut self) -> Result<HashKeys> {
        let known = self.settings()?.hash_keys;
        if known != HashKeys::default() {
            return Ok(known);
        }
        let mut random = [0u8; 16];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut random).context("reading /dev/urandom")?;
        let (first, second) = random.split_at(8);
        let hash_keys =
            HashKeys([u64::from_ne_bytes(first.try_into()?), u64::from_ne_bytes(second.try_into()?)]);
        let mut settings: Array<&mut MapData, Settings> = self.map_mut(maps::SETTINGS)?.try_into()?;
        settings.set(0, Settings { hash_keys, ..Settings::default() }, 0)?;
        Ok(hash_keys)
    }
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
