//! What is pinned, and whether it may be taken over: aya opens any pinned map without a look at its shape.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::MapInfo;
use aya_obj::Object;
use lb_common::limits::{self, LAYOUT_VERSION};

/// The directory of this layout below the configured one.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Below `pin_dir`, which another layout must not occupy.
    pub fn open(pin_dir: &Path) -> Result<Self> {
        let own = format!("v{LAYOUT_VERSION}");
        if let Some(name) = directories(pin_dir).into_iter().find(|name| *name != own) {
            bail!(
                "pin_dir {} holds {name:?}, but this version's layout is {own:?}: unload with the version that \
                 pinned it, or choose another pin_dir",
                pin_dir.display()
            );
        }
        let pins = Self { root: pin_dir.join(own) };
        for directory in [pins.maps(), pins.links()] {
            fs::create_dir_all(&directory).with_context(|| {
                format!("pin_dir: creating {} (is a bpffs mounted there?)", directory.display())
            })?;
        }
        Ok(pins)
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where the program is pinned.
    pub fn program(&self) -> PathBuf {
        self.root.join("program")
    }

    /// Where the link to an interface is pinned; `mode` is part of the name because the kernel does not tell.
    pub fn link(&self, ifindex: u32, mode: &str) -> PathBuf {
        self.links().join(format!("{ifindex}-{mode}"))
    }

    /// Pinned links: interface number, mode, path.
    pub fn pinned_links(&self) -> Result<Vec<(u32, String, PathBuf)>> {
        let mut links = Vec::new();
        for entry in fs::read_dir(self.links())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some((ifindex, mode)) = name.split_once('-')
                && let Ok(ifindex) = ifindex.parse()
            {
                links.push((ifindex, mode.to_owned(), entry.path()));
            }
        }
        Ok(links)
    }

    /// Whether all, none or some of the maps are pinned; what is pinned must have the object's shape, but
    /// for the number of elements, which is the pinned map's.
    pub fn check_maps(&self, object: &Object) -> Result<Existing> {
        let pinned: Vec<&str> =
            limits::maps::ALL.into_iter().filter(|name| self.map(name).exists()).collect();
        if pinned.len() < limits::maps::ALL.len() && self.pinned_links()?.is_empty() {
            // A first start that was killed half-way: nothing forwards by these.
            for name in pinned {
                fs::remove_file(self.map(name)).with_context(|| format!("pin_dir: unpinning {name}"))?;
            }
            return Ok(Existing::None);
        }
        let mut sizes = Vec::new();
        for name in limits::maps::ALL {
            let path = self.map(name);
            let definition =
                object.maps.get(name).with_context(|| format!("the object defines no map {name}"))?;
            let info = MapInfo::from_pin(&path).with_context(|| {
                format!(
                    "pin_dir: {} is missing among pinned maps; `lb-control unload` and start again",
                    path.display()
                )
            })?;
            let shape = |kind, key, value, flags| {
                format!("type {kind}, key {key}, value {value} bytes, flags {flags}")
            };
            let found = shape(
                info.map_type().map(|kind| kind as u32)?,
                info.key_size(),
                info.value_size(),
                info.map_flags(),
            );
            let wanted = shape(
                definition.map_type(),
                definition.key_size(),
                definition.value_size(),
                definition.map_flags(),
            );
            if found != wanted {
                bail!(
                    "pin_dir: {} has another layout ({found}) than this version's ({wanted})",
                    path.display()
                );
            }
            sizes.push((name, info.max_entries()));
        }
        Ok(Existing::All(sizes))
    }

    /// Where a controller may make directories, which [`Self::remove`] removes.
    pub fn marks(pin_dir: &Path) -> PathBuf {
        pin_dir.join(format!("v{LAYOUT_VERSION}"))
    }

    /// Removes everything of this layout, and `pin_dir` where that leaves it empty; links that are unpinned detach.
    pub fn remove(pin_dir: &Path) -> Result<()> {
        let root = Self::marks(pin_dir);
        fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
        // It may be the mount point of a bpffs, or hold what is not ours.
        let _ = fs::remove_dir(pin_dir);
        Ok(())
    }

    fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }
}

/// Names of the directories in `path`; a bpffs also holds files of the kernel's own at its root.
fn directories(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Which maps are pinned.
pub enum Existing {
    /// A fresh start.
    None,
    /// A take-over: every map, with its number of elements.
    All(Vec<(&'static str, u32)>),
}
