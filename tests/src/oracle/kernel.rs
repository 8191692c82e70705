//! The kernel's lane: the shipped object over real maps, by `BPF_PROG_TEST_RUN`, in a namespace with routes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use aya::{
    maps::{Array, HashMap as BpfHashMap, Map, MapData},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use aya_obj::programs::XdpAttachType;
use lb_common::{
    Address, Answers, Backend, BackendId, Features, Flow, FlowKey, FragmentKey, FragmentWay, Settings,
    Translation, limits, limits::maps,
};
use lb_control::datapath::{
    Change, Contents, Datapath as _,
    bpf::{BpfDatapath, BpfOptions},
    memory::MemoryDatapath,
};

use super::outcome::{Action, Seen};
use super::scene::{BACKENDS, FLOWS, SLOTS, TRANSLATIONS};
use super::world::Routed;
use crate::netns::{Namespace, cable};
use crate::requires::DIRECTORY_PREFIX;

const ROUTED_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x33];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x44];
const MTU: u32 = 1_500;

/// A namespace whose routes lead everything ordinary to one router.
pub struct Routes {
    balancer: Namespace,
    _far: Namespace,
}

impl Routes {
    /// Makes it; the kernel's neighbours are permanent.
    pub fn create() -> Result<Self> {
        let (balancer, far) = (Namespace::create("diff")?, Namespace::create("diff-far")?);
        cable((&balancer, "near0"), (&far, "far0"))?;
        let mac = |bytes: [u8; 6]| bytes.map(|byte| format!("{byte:02x}")).join(":");
        for (key, value) in [("all/disable_ipv6", "0"), ("near0/accept_dad", "0"), ("all/forwarding", "1")] {
            balancer.sysctl(&format!("ipv6/conf/{key}"), value)?;
        }
        balancer.sysctl("ipv4/ip_forward", "1")?;
        balancer.ip(&format!(
            "link set near0 address {0}\n\
             addr add 10.9.0.1/24 dev near0\n\
             addr add fd00:9::1/64 dev near0 nodad\n\
             neigh add 10.9.0.2 lladdr {1} nud permanent dev near0\n\
             neigh add fd00:9::2 lladdr {1} nud permanent dev near0\n\
             route add 198.18.0.0/15 via 10.9.0.2\n\
             route add 198.18.3.0/24 via 10.9.0.3\n\
             route add 198.19.3.0/24 via 10.9.0.3\n\
             route add unreachable 198.18.4.0/24\n\
             route add unreachable 198.19.4.0/24\n\
             route add 2001:db8:18:c:300::/72 via fd00:9::3 dev near0\n\
             route add 2001:db8:18:b:300::/72 via fd00:9::3 dev near0\n\
             route add unreachable 2001:db8:18:c:400::/72\n\
             route add unreachable 2001:db8:18:b:400::/72\n\
             route add 2001:db8:18::/48 via fd00:9::2 dev near0",
            mac(ROUTED_MAC),
            mac(ROUTER_MAC),
        ))?;
        Ok(Self { balancer, _far: far })
    }

    /// Runs `work` inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.balancer.enter(work)
    }

    /// What the oracle may expect of them; called inside.
    pub fn routed() -> Result<Routed> {
        // SAFETY: takes a C string.
        let ifindex = unsafe { libc::if_nametoindex(c"near0".as_ptr()) };
        anyhow::ensure!(ifindex != 0, "near0 has vanished");
        Ok(Routed { ifindex, source: ROUTED_MAC, destination: ROUTER_MAC, mtu: Some(MTU), real: true })
    }
}

/// The program and its maps, by their pins.
pub struct Kernel {
    datapath: BpfDatapath,
    program: Xdp,
    settings: Array<MapData, Settings>,
    flows: BpfHashMap<MapData, FlowKey, Flow>,
    translations: BpfHashMap<MapData, FlowKey, Translation>,
    fragments: BpfHashMap<MapData, FragmentKey, FragmentWay>,
    answers: aya::maps::PerCpuArray<MapData, Answers>,
    pool: Array<MapData, Address>,
    installed: Contents,
    pin_dir: PathBuf,
    out: Vec<u8>,
}

impl Kernel {
    /// Loads the object; the calling thread stays on its CPU, so that counters of one CPU are all there are.
    pub fn new() -> Result<Self> {
        stay_on_this_cpu()?;
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/{DIRECTORY_PREFIX}{}-diff", std::process::id()));
        let options = BpfOptions {
            object: aya::include_bytes_aligned!(env!("PORTCULLIS_BPF_OBJECT")),
            pin_dir: pin_dir.clone(),
            log_level: 0,
            features: Features::ALL,
            max_entries: vec![
                (maps::FLOWS, FLOWS),
                (maps::SLOTS, SLOTS),
                (maps::BACKENDS, BACKENDS),
                (maps::TRANSLATIONS, TRANSLATIONS),
            ],
        };
        let datapath = BpfDatapath::open(options)?;
        let pins = pin_dir.join(format!("v{}", limits::LAYOUT_VERSION));
        let data = |name: &str| MapData::from_pin(pins.join("maps").join(name));
        Ok(Self {
            program: Xdp::from_pin(pins.join("program"), XdpAttachType::Interface)?,
            settings: Map::Array(data(maps::SETTINGS)?).try_into()?,
            flows: Map::HashMap(data(maps::FLOWS)?).try_into()?,
            translations: Map::HashMap(data(maps::TRANSLATIONS)?).try_into()?,
            fragments: Map::LruHashMap(data(maps::FRAGMENTS)?).try_into()?,
            answers: Map::PerCpuArray(data(maps::ANSWERS)?).try_into()?,
            pool: Map::Array(data(maps::POOL)?).try_into()?,
            installed: Contents::default(),
            out: vec![0; 16_384],
            datapath,
            pin_dir,
        })
    }

    /// Makes the maps hold what the host's tables hold.
    pub fn copy(&mut self, host: &MemoryDatapath) -> Result<()> {
        let contents = host.contents()?;
        let old = std::mem::take(&mut self.installed);
        let mut changes: Vec<Change> = Vec::new();
        changes.extend(old.wide.iter().map(|(key, bits, _)| Change::DeleteWide(*key, *bits)));
        changes.extend(old.quic_servers.iter().map(|(key, _)| Change::DeleteQuicServer(*key)));
        changes.extend(contents.wide.iter().map(|(key, bits, wide)| Change::PutWide(*key, *bits, *wide)));
        changes.extend(contents.quic_servers.iter().map(|(key, id)| Change::PutQuicServer(*key, *id)));
        changes.extend(old.services.iter().map(|(key, ..)| Change::DeleteService(*key)));
        changes.extend(old.replies.iter().map(|(key, _)| Change::DeleteReply(*key)));
        changes.extend(old.virtual_addresses.iter().map(|(key, _)| Change::DeleteVirtualAddress(*key)));
        changes.extend(old.locals.iter().map(|address| Change::DeleteLocal(*address)));
        changes.extend(old.interfaces.iter().map(|(index, _)| Change::DeleteInterface(*index)));
        changes.extend(old.backends.iter().map(|(id, _)| Change::PutBackend(*id, Backend::default())));
        changes.extend(contents.interfaces.iter().map(|(index, entry)| Change::PutInterface(*index, *entry)));
        changes.extend(contents.locals.iter().map(|address| Change::PutLocal(*address)));
        changes.extend(contents.backends.iter().map(|(id, entry)| Change::PutBackend(*id, *entry)));
        changes.extend(contents.replies.iter().map(|(key, entry)| Change::PutReply(*key, *entry)));
        for (key, service, slots) in &contents.services {
            changes.push(Change::WriteSlots(service.slots_start, Arc::new(slots.clone())));
            changes.push(Change::PutService(*key, *service));
        }
        changes.extend(
            contents.virtual_addresses.iter().map(|(key, entry)| Change::PutVirtualAddress(*key, *entry)),
        );
        changes.push(Change::DeleteFlows(self.datapath.flows()?));
        for change in &changes {
            self.datapath.apply(change)?;
        }
        self.settings.set(0, host.settings, 0)?;
        for (index, address) in (0..).zip(&host.pool) {
            self.pool.set(index, address, 0)?;
        }
        clear(&mut self.translations)?;
        clear(&mut self.fragments)?;
        for (key, flow) in host.flows.borrow().iter() {
            self.flows.insert(key, flow, 0)?;
        }
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?;
        self.answers.set(0, aya::maps::PerCpuValues::try_from(vec![Answers::default(); cpus])?, 0)?;
        self.installed = contents;
        Ok(())
    }

    /// One packet, of at least an Ethernet header.
    pub fn run(&mut self, frame: &[u8]) -> Result<Seen> {
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut self.out),
            ..TestRunOptions::default()
        };
        let result = self.program.test_run(options).context("BPF_PROG_TEST_RUN")?;
        let action = match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            3 => Action::Back,
            4 => Action::Out(None),
            other => bail!("XDP action {other}"),
        };
        let bytes = self.out[..result.data_size_out as usize].to_vec();
        Ok(Seen { reason: None, action, bytes })
    }

    /// The maps.
    pub fn datapath(&self) -> &BpfDatapath {
        &self.datapath
    }

    /// One direction of a translated flow.
    pub fn translation(&self, key: &FlowKey) -> Option<Translation> {
        self.translations.get(key, 0).ok()
    }

    /// Every direction of every translated flow.
    pub fn translations(&self) -> Result<HashMap<FlowKey, Translation>> {
        Ok(self.translations.iter().collect::<Result<_, _>>()?)
    }

    /// Every remembered flow.
    pub fn flows(&self) -> Result<HashMap<FlowKey, Flow>> {
        Ok(self.datapath.flows()?.into_iter().collect())
    }

    /// Counters of a backend.
    pub fn backend_counters(&self, id: u32) -> Result<lb_common::Counters> {
        self.datapath.backend_counters(BackendId(id))
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = BpfDatapath::unload(&self.pin_dir);
    }
}

fn clear<K: aya::Pod, V: aya::Pod>(map: &mut BpfHashMap<MapData, K, V>) -> Result<()> {
    let keys: Vec<K> = map.keys().collect::<Result<_, _>>()?;
    for key in &keys {
        map.remove(key)?;
    }
    Ok(())
}

fn stay_on_this_cpu() -> Result<()> {
    // SAFETY: all-zero is an empty set; the calls read and write it only.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut set);
        anyhow::ensure!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) == 0, "affinity");
    }
    Ok(())
}
