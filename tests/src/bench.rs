//! What a packet costs: the shipped program, run by the kernel over packets that a wrapper program writes
//! afresh before each run. The method is described in `docs/benchmarks.md`.
//!
//! | module | what |
//! |---|---|
//! | [`stage`] | the real maps with services, backends, slots and flows; the programs; a namespace with routes |
//! | [`offer`] | the services that rows are about |
//! | [`row`] | one thing that is measured, and the list of all |
//! | [`report`] | medians, the table, the rows as JSON, and the bars in words |
//! | [`forward`] | packets per second through it, and through the kernel's own |
//! | [`table`] | what building, changing and swapping a service's table takes |
//! | [`chart`] | rows as a chart |

pub mod chart;
pub mod forward;
pub mod offer;
pub mod report;
pub mod row;
pub mod stage;
pub mod table;

#[path = "../../lb-ebpf/src/bench/recipe.rs"]
pub mod recipe;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use lb_common::{Port, Settings};
use lb_control::model::address::to_map;
use serde_json::Value;

/// How a measuring program ends: with its error, if it has one, in words.
pub fn exit(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes rows to a file, where one was asked for.
pub fn write_rows(file: Option<&PathBuf>, rows: impl FnOnce() -> Value) -> Result<()> {
    let Some(path) = file else { return Ok(()) };
    fs::write(path, serde_json::to_string_pretty(&rows())? + "\n").with_context(|| path.display().to_string())
}

/// The object with the measuring programs, which `cargo xtask bench` of this name builds.
pub fn measuring_object(bench: &str) -> Result<Vec<u8>> {
    let object = std::env::var_os("PORTCULLIS_BENCH_OBJECT").with_context(|| {
        format!("PORTCULLIS_BENCH_OBJECT names no object with the measuring programs: run\n  cargo xtask bench {bench}")
    })?;
    fs::read(&object).with_context(|| Path::new(&object).display().to_string())
}

/// What services of any mode need of the program: tunnels, and a pool of an address for each family.
pub fn program_settings() -> Settings {
    let network = |text: &str| to_map(text.parse().expect("an address"));
    Settings {
        tunnel_ipv4: network("172.16.0.0"),
        tunnel_ipv6: network("100::"),
        tunnel_ipv4_hosts: 0xffffu32.to_be(),
        tunnel_ipv6_hosts: u32::MAX,
        gue_port: Port::new(6_080),
        pool_first_port: 1_024,
        pool_ports: 64_512,
        pool_ipv4: 1,
        pool_ipv6: 1,
        ..Settings::default()
    }
}

/// Keeps this thread on one CPU: the caches of another are cold.
pub fn pin_to_cpu(cpu: usize) -> Result<()> {
    // SAFETY: a zeroed set is empty; the calls take it by pointer and length.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    anyhow::ensure!(result == 0, "sched_setaffinity: {}", std::io::Error::last_os_error());
    Ok(())
}
