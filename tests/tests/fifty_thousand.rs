//! Fifty thousand live flows over a hundred backends, through the program in the kernel: one backend leaves, the
//! table grows, the controller is succeeded, slots settle, and no flow of another backend moves.
//!
//! Packets go in by `BPF_PROG_TEST_RUN`; which backend each reached is read from the packet that comes out.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use lb_common::{
    Address, BackendState, FragmentPolicy, Interface, Mac, Mode, NextHop, Port, ServiceKey, ServiceSettings,
    SlotState, Tracking,
    limits::{self, maps},
};
use lb_control::{
    datapath::bpf::{BpfDatapath, BpfOptions},
    engine::{Engine, monotonic_seconds},
    target::{Target, TargetBackend, TargetService},
};
use tests::requires::{DIRECTORY_PREFIX, requires};

const FLOWS: u32 = 50_000;
/// The program's clock is the kernel's, so a change's idle timeout has to pass for real.
const IDLE_SECONDS: u32 = 60;
const REMOVED: u32 = 40;
/// XDP_TX: every backend's next hop leads out of the interface that test runs come in by.
const SENT: u32 = 3;

const KEY: ServiceKey =
    ServiceKey { address: Address::from_ipv4([203, 0, 113, 9]), port: Port::new(80), protocol: 6, width: 0 };

struct Pinned(PathBuf);

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = BpfDatapath::unload(&self.0);
    }
}

#[test]
fn only_flows_of_the_removed_backend_move() -> Result<()> {
    requires();
    let pinned = Pinned(format!("/sys/fs/bpf/{DIRECTORY_PREFIX}{}-flows", std::process::id()).into());
    let mut engine = start(&pinned.0)?;
    engine.apply(&target(1..101), monotonic_seconds())?;
    let before = send_all(&pinned.0)?;
    ensure!(engine.settle(monotonic_seconds())?.flows == 0, "a settled table remembers flows");

    let owned = before.iter().filter(|&&backend| backend == REMOVED).count();
    ensure!(owned > 100, "only {owned} flows belong to the backend that is removed");
    engine.apply(&target((1..101).filter(|&id| id != REMOVED)), monotonic_seconds())?;
    let after = send_all(&pinned.0)?;
    let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
    assert_eq!(moved, owned, "flows of the removed backend move, and no other");

    // A successor takes over while slots move, and then doubles the table.
    drop(engine);
    let mut engine = start(&pinned.0)?;
    ensure!(engine.datapath().took_over(), "the tables were not taken over");
    engine.apply(&target((1..201).filter(|&id| id != REMOVED)), monotonic_seconds())?;
    let slots = &engine.installed().services[&KEY].slots;
    assert_eq!(slots.len(), 32_768);
    ensure!(
        slots.iter().filter(|slot| slot.state() == SlotState::Moving).count() > 16_384,
        "the table did not move"
    );
    ensure!(send_all(&pinned.0)? == after, "growth moved a flow");

    // The controller's clock runs ahead of the idle timeout: every flow is remembered by now, so slots are
    // pinned, entries of current owners are forgotten, and still no flow moves.
    engine.settle(monotonic_seconds() + IDLE_SECONDS + 2)?;
    let pinned_slots = engine.service(&KEY)?.context("the service is installed")?.pinned;
    ensure!(pinned_slots > 16_384, "{pinned_slots} slots are pinned");
    ensure!(send_all(&pinned.0)? == after, "pinning moved a flow");
    Ok(())
}

fn start(pin_dir: &Path) -> Result<Engine<BpfDatapath>> {
    let options = BpfOptions {
        object: aya::include_bytes_aligned!(env!("PORTCULLIS_BPF_OBJECT")),
        pin_dir: pin_dir.to_owned(),
        log_level: 1,
        features: lb_common::Features::ALL,
        max_entries: vec![(maps::FLOWS, 131_072), (maps::SLOTS, 131_072), (maps::BACKENDS, 1_024)],
    };
    Engine::adopt(BpfDatapath::open(options)?)
}

fn target(backends: impl Iterator<Item = u32>) -> Target {
    let backend = |id: u32| TargetBackend {
        share: 1,
        resets: false,
        max_connections: 0,
        server_id: None,
        address: Address::from_ipv4([10, 1, (id >> 8) as u8, id as u8]),
        port: Port::new(8_080),
        weight: 1,
        state: BackendState::Up,
        next_hop: Some(NextHop { mac: Mac::new([2, 0, 0, 1, (id >> 8) as u8, id as u8]), interface: 0 }),
    };
    Target {
        services: vec![
            TargetService {
                key: KEY,
                last_port: 0,
                settings: ServiceSettings::new(Mode::Nat, Tracking::OnChange, IDLE_SECONDS),
                fragments: FragmentPolicy::Drop,
                answer_echo: false,
                answer_arp: false,
                backends: backends.map(backend).collect(),
            }
            .into(),
        ],
        interfaces: vec![(0, Interface { mac: Mac::new([2, 0, 0, 0, 0, 1]).word(), ifindex: 1, mtu: 1_500 })],
        locals: vec![],
        ..Target::default()
    }
}

/// Sends a mid-flow packet of every flow; the backend that each reached.
fn send_all(pin_dir: &Path) -> Result<Vec<u32>> {
    let pins = pin_dir.join(format!("v{}", limits::LAYOUT_VERSION));
    let program = Xdp::from_pin(pins.join("program"), XdpAttachType::Interface)?;
    (0..FLOWS)
        .map(|flow| {
            let mut packet = [0u8; 64];
            let client = [172, 16, (flow >> 8) as u8, flow as u8];
            etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 9, 9], [2, 0, 0, 0, 0, 1])
                .ipv4(client, [203, 0, 113, 9], 64)
                .tcp(32_768 + (flow % 20_000) as u16, 80, flow, 1_024)
                .ack(1)
                .write(&mut packet.as_mut_slice(), &[])?;
            let mut out = [0u8; 64];
            let options = TestRunOptions {
                data_in: Some(&packet),
                data_out: Some(&mut out),
                ..TestRunOptions::default()
            };
            let result = program.test_run(options).context("BPF_PROG_TEST_RUN")?;
            ensure!(result.return_value == SENT, "flow {flow}: XDP action {}", result.return_value);
            Ok((out[32] as u32) << 8 | out[33] as u32)
        })
        .collect()
}
