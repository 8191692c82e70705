//! The object's programs, loaded over the pinned maps for a set of features.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, ProgramArray},
    programs::{ProgramFd, Xdp},
};
use lb_common::{
    Features,
    limits::{self, maps},
};

use super::{attach, pins::Pins};

/// The first program's name in the object.
pub const FIRST: &str = "portcullis";
/// The others', by their index in `PROGRAMS`.
pub const NEXT: [&str; limits::PROGRAMS as usize] = [
    "portcullis_uncommon",
    "portcullis_control",
    "portcullis_full_nat",
    "portcullis_full_nat_open",
    "portcullis_fragment",
    "portcullis_track",
    "portcullis_open",
    "portcullis_reset",
];
/// Its global for what it is loaded for.
const FEATURES: &str = "FEATURES";

/// The object and how it is loaded: kept, because it is loaded again for every feature that comes later.
pub struct Loading {
    /// Words, for the alignment that the parser needs.
    words: Vec<u64>,
    bytes: usize,
    log_level: u8,
}

impl Loading {
    /// Keeps a copy of the object. `log_level` is of the program's own messages.
    pub fn new(object: &[u8], log_level: u8) -> Self {
        let word = |bytes: &[u8]| {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            u64::from_ne_bytes(padded)
        };
        Self { words: object.chunks(8).map(word).collect(), bytes: object.len(), log_level }
    }

    /// The object.
    pub fn object(&self) -> &[u8] {
        // SAFETY: the words hold at least so many bytes, and every byte of them is initialised.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.bytes) }
    }

    /// Loads every program over what is pinned, with maps of these sizes where none is, and has the first one find the
    /// others. No link runs the first one yet: with the old first, too, the new others are complete, because programs of
    /// one layout fit each other.
    pub fn load(&self, pins: &Pins, sizes: &[(&'static str, u32)], features: Features) -> Result<Ebpf> {
        let mut loader = EbpfLoader::new();
        loader.override_global(aya_log::LEVEL, &self.log_level, true);
        loader.override_global(FEATURES, &features, true);
        for name in maps::ALL {
            loader.map_pin_path(name, pins.map(name));
        }
        for &(name, entries) in sizes {
            loader.map_max_entries(name, entries);
        }
        let mut ebpf = loader.load(self.object()).context("creating the BPF maps")?;
        for name in NEXT.into_iter().chain([FIRST]) {
            attach::load(&mut ebpf, name)?;
        }
        put_programs(&mut ebpf)?;
        Ok(ebpf)
    }
}

/// Fills the map by which the first program finds the others.
fn put_programs(ebpf: &mut Ebpf) -> Result<()> {
    let programs = NEXT
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_any_length_is_kept_aligned() {
        for length in [0, 1, 8, 13] {
            let object: Vec<u8> = (0..length).collect();
            let loading = Loading::new(&object, 0);
            assert_eq!(loading.object(), object);
            assert!(loading.object().as_ptr().cast::<u64>().is_aligned());
        }
    }
}
