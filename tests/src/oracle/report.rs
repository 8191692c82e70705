//! What a run says at its end: counts by class and reason, or a difference.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use lb_common::Reason;

use super::craft::Class;
use super::pcap::{hexdump, write};

/// What was run.
#[derive(Debug, Default)]
pub struct Report {
    /// Packets.
    pub packets: u64,
    /// Configurations.
    pub scenes: u64,
    /// By what they were made as.
    pub classes: BTreeMap<Class, u64>,
    /// By the oracle's reason.
    pub reasons: BTreeMap<u32, u64>,
    /// Time within each lane and in the oracle.
    pub host: Duration,
    /// See `host`.
    pub kernel: Duration,
    /// In all.
    pub all: Duration,
    /// Packets that the kernel's lane saw.
    pub kernel_packets: u64,
}

/// A difference: everything that is needed to see it again.
#[derive(Debug)]
pub struct Difference {
    /// See [`Plan::seed`].
    pub seed: u64,
    /// The configuration's number.
    pub scene: u64,
    /// The packet's number in it.
    pub packet: u64,
    /// In all.
    pub total: u64,
    /// What the packet was made as.
    pub class: Class,
    /// Which lane, and what is wrong.
    pub wrong: String,
    /// The packet as it came, and as it left.
    pub frames: (Vec<u8>, Vec<u8>),
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../target/diff")
            .join(format!("seed-{}-scene-{}-packet-{}.pcap", self.seed, self.scene, self.packet));
        let file = match write(&path, &[&self.frames.0, &self.frames.1]) {
            Ok(()) => path.display().to_string(),
            Err(error) => format!("not written: {error}"),
        };
        write!(
            f,
            "seed {}, scene {}, packet {} ({} in all), made as {}\n    {}\n    in: {}\n    out: {}\n    {file}",
            self.seed,
            self.scene,
            self.packet,
            self.total,
            self.class.name(),
            self.wrong,
            hexdump(&self.frames.0),
            hexdump(&self.frames.1)
        )
    }
}

impl Report {
    /// As it is printed.
    pub fn text(&self) -> String {
        let mut text = format!("{} packets, {} configurations\n", self.packets, self.scenes);
        for (class, count) in &self.classes {
            let _ = writeln!(text, "  {count:>9}  {}", class.name());
        }
        for reason in Reason::ALL {
            let count = self.reasons.get(&(*reason as u32)).copied().unwrap_or(0);
            let _ = writeln!(text, "  {count:>9}  {}", reason.name());
        }
        let rate = |packets: u64, time: Duration| packets as f64 / time.as_secs_f64().max(1e-9);
        let _ = writeln!(text, "host lane: {:.0} packets/s", rate(self.packets, self.host));
        if self.kernel_packets > 0 {
            let _ = writeln!(text, "kernel lane: {:.0} packets/s", rate(self.kernel_packets, self.kernel));
        }
        let _ = write!(text, "with the oracle: {:.0} packets/s", rate(self.packets, self.all));
        text
    }
}

/// Fails with what was found.
pub fn conclude(result: (Report, Option<Difference>)) -> Result<Report> {
    match result {
        (report, None) => Ok(report),
        (_, Some(difference)) => bail!("a difference:\n{difference}"),
    }
}
