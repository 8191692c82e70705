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
//! | [`Settings`] | `SETTINGS` | controller | program: hash keys, tunnels, the pool of `full-nat` |
//! | ([`WideKey`], prefix) → [`Wide`] | `WIDE` | controller | program: services of several ports or addresses |
//! | [`FlowKey`] → [`Translation`] | `TRANSLATIONS` | program; the controller only deletes | both: `full-nat` |
//! | [`Address`] by index | `POOL` | controller | program: the balancer's addresses in `full-nat` |
//! | [`FragmentKey`] → [`FragmentWay`] | `FRAGMENTS` | program | program |
//! | [`QuicKey`] → `u32` | `QUIC_SERVERS` | controller | program: backends by the server id in connection ids |
//! | [`Load`] | `LOADS` | program; the controller corrects and adds response times that it measured | both: services that track every flow |
//! | `u64` | `TURNS` | program | program: round robin, by service |
//! | [`Answers`] | `ANSWERS` | program, per CPU | program: ICMP errors sent in this second |
//!
//! Invariant: this crate depends on nothing (aya's `Pod` behind the feature `user`), contains nothing that
//! can fail, and every struct that stands in a map has no implicit padding.

#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]
// `pod` holds the one exception: `unsafe impl Pod`.

mod algorithm;
mod answers;
mod backend;
mod decap;
mod features;
mod flow;
mod fragment;
pub mod hash;
pub mod limits;
pub mod load;
mod network_order;
#[cfg(feature = "user")]
mod pod;
mod quic;
mod reason;
mod service;
mod slot;
mod translation;
mod wide;

pub use algorithm::Algorithm;
pub use answers::{Answers, Owed};
pub use backend::{Backend, BackendId, BackendState, Interface, NextHop};
pub use decap::{DecapReason, DecapSettings};
pub use features::Features;
pub use flow::{Flow, FlowKey, FlowState};
pub use fragment::{FragmentKey, FragmentWay};
pub use hash::HashKeys;
pub use load::Load;
pub use network_order::{Address, Mac, Port};
pub use quic::{IdStart, QuicKey, QuicScheme};
pub use reason::Reason;
pub use service::{
    Counters, FragmentPolicy, Mode, Protocol, Reply, Service, ServiceKey, ServiceSettings, Settings,
    Tracking, VirtualAddress,
};
pub use slot::{Slot, SlotState};
pub use translation::Translation;
pub use wide::{PortRange, Wide, WideKey};
