//! What a packet costs: the shipped program, run by the kernel over packets that a wrapper program writes
//! afresh before each run. The method is described in `docs/benchmarks.md`.
//!
//! | module | what |
//! |---|---|
//! | [`stage`] | the real maps with services, backends, slots and flows; the programs; a namespace with routes |
//! | [`row`] | one thing that is measured, and the list of all |
//! | [`report`] | medians, the table, the rows as JSON, and the bars in words |

pub mod report;
pub mod row;
pub mod stage;

#[path = "../../lb-ebpf/src/bench/recipe.rs"]
pub mod recipe;
