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

/// Keeps this thread on one CPU: the caches of another are cold.
pub fn pin_to_cpu(cpu: usize) -> anyhow::Result<()> {
    // SAFETY: a zeroed set is empty; the calls take it by pointer and length.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    anyhow::ensure!(result == 0, "sched_setaffinity: {}", std::io::Error::last_os_error());
    Ok(())
}
