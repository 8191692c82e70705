//! The life of a packet, pure: bytes and tables in, a verdict out.
//!
//! | stage | file | does |
//! |---|---|---|
//! | parse | [`parse`] | Ethernet, IPv4, TCP, UDP; what else it may be |
//! | arp | [`arp`] | answers for virtual addresses |
//! | service | [`service`] | whose packet it is: a client's, a backend's reply, or nobody's |
//! | flow | [`flow`] | what is remembered of it, where its slot asks for that |
//! | select | [`select`] | one backend |
//! | forward | [`forward`] | rewrites by the service's mode, towards the next hop |
//!
//! [`pipeline::process`] calls them in order. Everything a packet needs of the world comes through two traits:
//! [`packet::Packet`], bounds-checked reads and writes, and [`tables::Tables`], the lookups. The kernel's
//! program implements both over its context and its maps (`xdp/`); tests and simulations over plain memory.
//!
//! Invariant: no `unsafe`, no aya, no panic that the BPF verifier could reach.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod flow;
pub mod forward;
pub mod packet;
pub mod parse;
pub mod pipeline;
pub mod select;
pub mod service;
pub mod tables;
