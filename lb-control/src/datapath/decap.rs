//! The decapsulating program of backends: loaded, attached by a pinned link, read, and detached.
//!
//! Each interface has a directory of its number below the pin directory, with the maps and the link in it. The link's
//! pin is the last to be written and the first to be removed: what has no link is a remnant.

use std::{
    ffi::{CStr, CString},
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    EbpfLoader,
    maps::{Array, LpmTrie, Map, MapData, PerCpuArray, lpm_trie::Key},
    programs::{
        Xdp,
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use lb_common::{Address, DecapReason, DecapSettings, limits::DECAP_SOURCES};

use super::bpf::attach::{self, AttachedMode, WantedMode};
use crate::model::{Network, address};

/// The BPF object, aligned as its ELF header asks; empty where it could not be built.
#[cfg(not(bpf_object_missing))]
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/decap.o"));
#[cfg(bpf_object_missing)]
static OBJECT: &[u8] = &[];

/// Where interfaces' directories are, unless it is said otherwise.
pub const PIN_DIR: &str = "/sys/fs/bpf/portcullis-decap";

const PROGRAM: &str = "portcullis_decap";
const SETTINGS: &str = "SETTINGS";
const SOURCES: &str = "SOURCES";
const REASON_COUNTERS: &str = "REASON_COUNTERS";
/// The mode follows in the name, because the kernel does not tell it.
const LINK_PREFIX: &str = "link-";

/// What the program is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The UDP port of GUE.
    pub gue_port: u16,
    /// Networks that outer sources must be in; empty for any source. At most [`DECAP_SOURCES`].
    pub sources: Vec<Network>,
}

/// One interface that runs the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its number.
    pub ifindex: u32,
    /// Its name in this network namespace, if it is there.
    pub interface: Option<String>,
    /// How it runs the program.
    pub mode: AttachedMode,
    /// What the program was told.
    pub options: Options,
    /// How often each [`DecapReason`] was the outcome, by its number.
    pub reasons: Vec<u64>,
}

/// Attaches the program to an interface. Where it runs already, a new program with these options takes over without a
/// gap, in the mode of the old one, and counts from zero.
///
/// # Errors
/// The pin directory is in no bpffs, the interface does not exist or runs another program, or the mode is not to be had.
pub fn attach(
    pin_dir: &Path,
    interface: &str,
    wanted: WantedMode,
    options: &Options,
) -> Result<AttachedMode> {
    ensure!(!OBJECT.is_empty(), "this build carries no BPF object: `cargo xtask setup`, and build it again");
    ensure!(
        options.sources.len() <= DECAP_SOURCES as usize,
        "{} networks of sources: there is room for {DECAP_SOURCES}",
        options.sources.len()
    );
    let ifindex = index(interface)?;
    let directory = directory(pin_dir, ifindex);
    fs::create_dir_all(&directory).with_context(|| {
        format!("pin directory: creating {} (is a bpffs mounted there?)", directory.display())
    })?;
    let mut ebpf = EbpfLoader::new().load(OBJECT).context("creating the BPF maps")?;
    attach::load(&mut ebpf, PROGRAM)?;
    tell(&mut ebpf, options)?;
    let program: &mut Xdp = ebpf.program_mut(PROGRAM).context("the object has no program")?.try_into()?;
    let mode = match take_over(program, &directory, wanted)? {
        Some(mode) => mode,
        None => {
            attach::attach(program, (interface, ifindex), wanted, |mode| link_path(&directory, mode))
                .inspect_err(|_| {
                    // Nothing runs there; what else it held is a remnant.
                    let _ = fs::remove_dir_all(&directory);
                })?
                .0
        }
    };
    for name in [SETTINGS, SOURCES, REASON_COUNTERS] {
        let path = directory.join(name);
        let _ = fs::remove_file(&path);
        ebpf.map(name)
            .with_context(|| format!("the object defines no map {name}"))?
            .pin(&path)
            .with_context(|| format!("pinning {}", path.display()))?;
    }
    Ok(mode)
}

/// Detaches the program from an interface, which is named or, where it has vanished, numbered.
///
/// # Errors
/// It does not run there.
pub fn detach(pin_dir: &Path, interface: &str) -> Result<()> {
    let ifindex = index(interface).or_else(|error| interface.parse().map_err(|_| error))?;
    let directory = directory(pin_dir, ifindex);
    let Some((_, path)) = pinned_link(&directory)? else {
        bail!("interface {interface}: lbctl attached nothing there, as far as {} tells", pin_dir.display());
    };
    attach::detach(&path)?;
    fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))?;
    // Others may be in it.
    let _ = fs::remove_dir(pin_dir);
    Ok(())
}

/// Every interface that runs the program, by its number.
pub fn status(pin_dir: &Path) -> Result<Vec<Attached>> {
    let entries = match fs::read_dir(pin_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {}", pin_dir.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let Some(ifindex) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let directory = directory(pin_dir, ifindex);
        if let Some((mode, _)) = pinned_link(&directory)? {
            found.push(Attached {
                ifindex,
                interface: name(ifindex),
                mode,
                options: told(&directory)?,
                reasons: reasons(&directory)?,
            });
        }
    }
    found.sort_by_key(|one| one.ifindex);
    Ok(found)
}

/// Lets the pinned link of an interface run this program; `None` where there is no link, or its interface has vanished.
fn take_over(program: &mut Xdp, directory: &Path, wanted: WantedMode) -> Result<Option<AttachedMode>> {
    let Some((mode, path)) = pinned_link(directory)? else { return Ok(None) };
    if wanted != WantedMode::Auto && wanted != WantedMode::Only(mode) {
        bail!("it runs there in mode {} already: detach it first", mode.name());
    }
    let link: FdLink =
        PinnedLink::from_pin(&path).with_context(|| format!("opening {}", path.display()))?.into();
    let link: XdpLink = link.try_into()?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin keeps it attached.
            let _: FdLink = program.take_link(id)?.try_into()?;
            Ok(Some(mode))
        }
        Err(error) if attach::is_errno(&error, libc::ENOLINK) => {
            fs::remove_file(&path).with_context(|| format!("unpinning {}", path.display()))?;
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("taking over {}", path.display())),
    }
}

fn tell(ebpf: &mut aya::Ebpf, options: &Options) -> Result<()> {
    let map = ebpf.map_mut(SOURCES).context("the object defines no map SOURCES")?;
    let mut sources: LpmTrie<&mut MapData, Address, u32> = map.try_into()?;
    for network in &options.sources {
        let key = Key::new(u32::from(network.mapped_bits()), address::to_map(network.trimmed().address));
        let family = match network.address {
            IpAddr::V4(_) => DecapSettings::IPV4_SOURCE,
            IpAddr::V6(_) => DecapSettings::IPV6_SOURCE,
        };
        sources.insert(&key, family, 0).with_context(|| format!("allowing {network}"))?;
    }
    let settings =
        DecapSettings { gue_port: options.gue_port, only_listed_sources: !options.sources.is_empty() };
    let map = ebpf.map_mut(SETTINGS).context("the object defines no map SETTINGS")?;
    let mut map: Array<&mut MapData, u32> = map.try_into()?;
    map.set(0, settings.word(), 0).context("writing SETTINGS")
}

fn told(directory: &Path) -> Result<Options> {
    let settings: Array<MapData, u32> = Map::Array(pinned_map(directory, SETTINGS)?).try_into()?;
    let gue_port = DecapSettings::from_word(settings.get(&0, 0)?).gue_port;
    let sources: LpmTrie<MapData, Address, u32> = Map::LpmTrie(pinned_map(directory, SOURCES)?).try_into()?;
    let mut networks = Vec::new();
    for entry in sources.iter() {
        let (key, family) = entry.context("reading SOURCES")?;
        networks.push(network(key.data(), key.prefix_len() as u8, family));
    }
    networks.sort();
    Ok(Options { gue_port, sources: networks })
}

/// From the form that stands in the map.
fn network(mapped: Address, mapped_bits: u8, family: u32) -> Network {
    if family == DecapSettings::IPV4_SOURCE {
        let address = Ipv4Addr::from(mapped.ipv4_word().to_ne_bytes()).into();
        return Network { address, bits: mapped_bits.saturating_sub(96) };
    }
    Network { address: address::from_map(mapped), bits: mapped_bits }
}

fn reasons(directory: &Path) -> Result<Vec<u64>> {
    let map: PerCpuArray<MapData, u64> =
        Map::PerCpuArray(pinned_map(directory, REASON_COUNTERS)?).try_into()?;
    (0..DecapReason::ALL.len() as u32)
        .map(|index| Ok(map.get(&index, 0).context("reading REASON_COUNTERS")?.iter().sum()))
        .collect()
}

fn pinned_map(directory: &Path, name: &str) -> Result<MapData> {
    let path = directory.join(name);
    MapData::from_pin(&path)
        .with_context(|| format!("opening {}: attach again, or detach, to mend it", path.display()))
}

fn directory(pin_dir: &Path, ifindex: u32) -> PathBuf {
    pin_dir.join(ifindex.to_string())
}

fn link_path(directory: &Path, mode: AttachedMode) -> PathBuf {
    directory.join(format!("{LINK_PREFIX}{}", mode.name()))
}

fn pinned_link(directory: &Path) -> Result<Option<(AttachedMode, PathBuf)>> {
    for mode in [AttachedMode::Driver, AttachedMode::Generic] {
        let path = link_path(directory, mode);
        if path.try_exists().with_context(|| format!("looking for {}", path.display()))? {
            return Ok(Some((mode, path)));
        }
    }
    Ok(None)
}

fn index(interface: &str) -> Result<u32> {
    let name = CString::new(interface).context("the interface's name")?;
    // SAFETY: takes a C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()).with_context(|| format!("interface {interface}")),
        index => Ok(index),
    }
}

fn name(ifindex: u32) -> Option<String> {
    let mut buffer: [libc::c_char; libc::IF_NAMESIZE] = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that the function asks for, and it ends what it writes with a zero.
    let name = unsafe {
        let name = libc::if_indextoname(ifindex, buffer.as_mut_ptr());
        if name.is_null() { None } else { Some(CStr::from_ptr(name)) }
    };
    name.map(|name| name.to_string_lossy().into_owned())
}
