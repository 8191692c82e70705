//! The controller: brings everything up in order, then keeps what is installed equal to what is desired.
//!
//! ```text
//! desired ┐
//! netlink ┼→ target → engine (a thread of its own) → installed generation, observation
//! health  ┘        ↑ every change at once, and every second: drains end, flows are forgotten
//! ```
//!
//! Invariant: nothing that fails after the start ends the process; what is installed keeps forwarding, the
//! failure is shown and tried again.

pub mod admission;
mod adopt;
mod dry_run;
pub mod engine_thread;
pub mod host;
pub mod interfaces;
mod multicast;
mod needs;
pub mod observe;
mod reconcile;
mod startup;
mod target;

pub use startup::{run, unload};

/// The engine over the kernel's maps.
pub type Bpf = crate::engine::Engine<crate::datapath::bpf::BpfDatapath>;
