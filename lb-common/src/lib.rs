//! The contract of Portcullis' kernel half and controller: plain data that both sides read byte for byte.
//!
//! | type | map | written by | read by |
//! |---|---|---|---|
//! | [`ServiceKey`] → [`Service`] | `SERVICES` | controller | program: exact (address, port, protocol) |
//! | [`Slot`] | `SLOTS` | controller, by plain aligned stores | program: one load per packet |
//! | [`Backend`] | `BACKENDS` | controller; `state`, `next_hop` by plain aligned stores | program |
//! | [`ServiceKey`] → [`Reply`] | `REPLIES` | controller | program: source of a `nat` reply |
//! | [`Interface`] | `INTERFACES` | controller | program: egress MAC, MTU and ifindex |
//! | [`Address`] → [`VirtualAddress`] | `VIPS` | controller | program: ARP |
//! | [`Address`] → `u32` | `LOCALS` | controller | program: the balancer's own addresses |
//! | [`FlowKey`] → [`Flow`] | `FLOWS` | program; the controller only deletes | both |
//! | [`Counters`] | `SERVICE_COUNTERS`, `BACKEND_COUNTERS` | program, per CPU | controller |
//! | `u64` by [`Reason`] | `REASON_COUNTERS` | program, per CPU | controller |
//! | [`Settings`] | `SETTINGS` | controller | program: hash keys |
//!
//! Invariant: this crate depends on nothing (aya's `Pod` behind the feature `user`), contains nothing that
//! can fail, and every struct that stands in a map has no implicit padding.

#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]
// `pod` holds the one exception: `unsafe impl Pod`.

mod backend;
mod flow;
pub mod hash;
pub mod limits;
mod network_order;
#[cfg(feature = "user")]
mod pod;
mod reason;
mod service;
mod slot;

pub use backend::{Backend, BackendId, BackendState, Interface, NextHop};
pub use flow::{Flow, FlowKey};
pub use hash::HashKeys;
pub use network_order::{Address, Mac, Port};
pub use reason::Reason;
pub use service::{Counters, Mode, Protocol, Reply, Service, ServiceKey, Settings, Tracking, VirtualAddress};
pub use slot::{Slot, SlotState};
