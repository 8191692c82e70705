//! The two that run the packet path: the kernel with the shipped object, and the host with the same code.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use aya::{
    maps::{Array, HashMap, Map, MapData},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use aya_obj::programs::XdpAttachType;
use lb_common::{BackendId, Flow, FlowKey, HashKeys, Load, Translation, limits, limits::maps};
use lb_control::{
    datapath::{
        Capacity, Datapath,
        bpf::{BpfDatapath, BpfOptions},
        memory::MemoryDatapath,
    },
    engine::{Engine, monotonic_seconds},
};
use lb_ebpf::tables::Tables as _;

use crate::{
    row::Action,
    world::{BACKENDS, FLOWS, INGRESS, SLOTS, TRANSLATIONS, target},
};

/// Runs packets against tables.
pub trait Lane {
    type Tables: Datapath;
    fn engine(&mut self) -> &mut Engine<Self::Tables>;
    /// Puts a flow into the flow table, which only packets do otherwise.
    fn remember(&mut self, key: FlowKey, flow: Flow) -> Result<()>;
    /// Directions of translated flows.
    fn translations(&mut self) -> Result<Vec<(FlowKey, Translation)>>;
    /// Puts one into the table, which only packets do otherwise.
    fn translate(&mut self, key: FlowKey, translation: Translation) -> Result<()>;
    /// Removes all.
    fn forget_translations(&mut self) -> Result<()>;
    /// Sets how busy a backend is, which only packets do otherwise.
    fn put_load(&mut self, id: BackendId, load: Load) -> Result<()>;
    /// Has round robin begin anew.
    fn reset_turn(&mut self, service: u32) -> Result<()>;
    /// What becomes of a packet. The host has no action for packets that are not sent.
    fn run(&mut self, packet: &[u8]) -> Result<(Option<Action>, Vec<u8>)>;
    /// Whether the kernel's routes decide.
    fn has_routes(&self) -> bool;
}

/// The shipped object, by its pins.
pub struct Kernel {
    engine: Engine<BpfDatapath>,
    program: Xdp,
    flows: HashMap<MapData, FlowKey, Flow>,
    translations: HashMap<MapData, FlowKey, Translation>,
    loads: Array<MapData, Load>,
    turns: Array<MapData, u64>,
    pin_dir: PathBuf,
}

impl Kernel {
    pub fn new(pin_dir: PathBuf) -> Result<Self> {
        // Inside the binary, because the virtual machine has no build folder.
        let object = aya::include_bytes_aligned!(env!("PORTCULLIS_BPF_OBJECT"));
        let options = BpfOptions {
            object,
            pin_dir: pin_dir.clone(),
            log_level: 1,
            features: lb_common::Features::ALL,
            max_entries: vec![
                (maps::FLOWS, FLOWS),
                (maps::TRANSLATIONS, TRANSLATIONS),
                (maps::SLOTS, SLOTS),
                (maps::BACKENDS, BACKENDS),
            ],
        };
        let mut engine = Engine::adopt(BpfDatapath::open(options)?)?;
        engine.apply(&target(), monotonic_seconds())?;
        let pins = pin_dir.join(format!("v{}", limits::LAYOUT_VERSION));
        let program = Xdp::from_pin(pins.join("program"), XdpAttachType::Interface)?;
        let map = |name: &str| -> Result<Map> {
            Ok(Map::HashMap(MapData::from_pin(pins.join("maps").join(name))?))
        };
        let (flows, translations) = (map(maps::FLOWS)?.try_into()?, map(maps::TRANSLATIONS)?.try_into()?);
        let array =
            |name: &str| -> Result<Map> { Ok(Map::Array(MapData::from_pin(pins.join("maps").join(name))?)) };
        let (loads, turns) = (array(maps::LOADS)?.try_into()?, array(maps::TURNS)?.try_into()?);
        Ok(Self { engine, program, flows, translations, loads, turns, pin_dir })
    }
}

impl Lane for Kernel {
    type Tables = BpfDatapath;

    fn engine(&mut self) -> &mut Engine<BpfDatapath> {
        &mut self.engine
    }

    fn remember(&mut self, key: FlowKey, flow: Flow) -> Result<()> {
        Ok(self.flows.insert(key, flow, 0)?)
    }

    fn translations(&mut self) -> Result<Vec<(FlowKey, Translation)>> {
        self.translations.iter().map(|entry| Ok(entry?)).collect()
    }

    fn translate(&mut self, key: FlowKey, translation: Translation) -> Result<()> {
        Ok(self.translations.insert(key, translation, 0)?)
    }

    fn forget_translations(&mut self) -> Result<()> {
        for (key, _) in self.translations()? {
            self.translations.remove(&key)?;
        }
        Ok(())
    }

    fn put_load(&mut self, id: BackendId, load: Load) -> Result<()> {
        Ok(self.loads.set(id.0, load, 0)?)
    }

    fn reset_turn(&mut self, service: u32) -> Result<()> {
        Ok(self.turns.set(service, 0, 0)?)
    }

    fn run(&mut self, packet: &[u8]) -> Result<(Option<Action>, Vec<u8>)> {
        let mut out = vec![0; 4_096];
        let options =
            TestRunOptions { data_in: Some(packet), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result = self.program.test_run(options).context("BPF_PROG_TEST_RUN")?;
        out.truncate(result.data_size_out as usize);
        let action = match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Tx,
            4 => Action::Redirect,
            other => anyhow::bail!("XDP action {other}"),
        };
        Ok((Some(action), out))
    }

    fn has_routes(&self) -> bool {
        true
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = BpfDatapath::unload(&self.pin_dir);
    }
}

/// What the host draws from for every row: both halves of a table come up among the first numbers.
const SEED: u32 = 4;

/// The host build over plain memory.
pub struct Host {
    engine: Engine<MemoryDatapath>,
}

impl Host {
    pub fn new() -> Result<Self> {
        let capacity = Capacity {
            slots: SLOTS,
            flows: FLOWS,
            translations: TRANSLATIONS,
            backends: BACKENDS,
            services: limits::SERVICES,
        };
        let keys = HashKeys([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210]);
        let mut engine = Engine::adopt(MemoryDatapath::new(capacity, keys))?;
        engine.apply(&target(), monotonic_seconds())?;
        assert_eq!(engine.datapath().ingress_ifindex(), INGRESS);
        Ok(Self { engine })
    }
}

impl Host {
    /// Goes on as if the program had been loaded for these features.
    pub fn load_for(&mut self, features: lb_common::Features) {
        self.engine.datapath_mut().features = features;
    }
}

impl Lane for Host {
    type Tables = MemoryDatapath;

    fn engine(&mut self) -> &mut Engine<MemoryDatapath> {
        &mut self.engine
    }

    fn remember(&mut self, key: FlowKey, flow: Flow) -> Result<()> {
        self.engine.datapath().remember(&key, flow).map_err(|_| anyhow::anyhow!("the flow table is full"))
    }

    fn translations(&mut self) -> Result<Vec<(FlowKey, Translation)>> {
        let translations = self.engine.datapath().translations.borrow();
        Ok(translations.iter().map(|(&key, &translation)| (key, translation)).collect())
    }

    fn translate(&mut self, key: FlowKey, translation: Translation) -> Result<()> {
        self.engine.datapath().translations.borrow_mut().insert(key, translation);
        Ok(())
    }

    fn forget_translations(&mut self) -> Result<()> {
        self.engine.datapath().translations.borrow_mut().clear();
        Ok(())
    }

    fn put_load(&mut self, id: BackendId, load: Load) -> Result<()> {
        self.engine.datapath().loads.borrow_mut().insert(id, load);
        Ok(())
    }

    fn reset_turn(&mut self, service: u32) -> Result<()> {
        self.engine.datapath().turns.borrow_mut().remove(&service);
        self.engine.datapath().random.set(SEED);
        Ok(())
    }

    fn run(&mut self, packet: &[u8]) -> Result<(Option<Action>, Vec<u8>)> {
        let mut out = packet.to_vec();
        let tables = self.engine.datapath();
        tables.now_seconds.set(monotonic_seconds());
        let verdict = tables.process(&mut out);
        let action = crate::check::is_sent(verdict.reason).then_some(if verdict.egress.is_ingress() {
            Action::Tx
        } else {
            Action::Redirect
        });
        Ok((action, out))
    }

    fn has_routes(&self) -> bool {
        false
    }
}
