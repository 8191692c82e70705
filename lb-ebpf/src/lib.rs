//! The life of a packet, pure: bytes and tables in, a verdict out.
//!
//! | stage | file | does |
//! |---|---|---|
//! | parse | [`link`], [`parse`] | Ethernet and VLAN tags, IPv4, IPv6, TCP, UDP; what else it may be |
//! | neighbour | [`neighbour`] | answers ARP and neighbour solicitations for virtual addresses |
//! | icmp | [`icmp`] | errors about balanced flows, echo, and the errors that the balancer owes |
//! | fragment | [`fragment`] | later fragments follow their first |
//! | service | [`service`] | whose packet it is: a client's, a backend's reply, or nobody's |
//! | flow | [`flow`] | what is remembered of it, where its slot asks for that |
//! | select | [`quic`], [`select`] | one backend |
//! | track | [`track`] | one backend for each new flow, where every flow is tracked |
//! | reset | [`reset`] | ends connections of a backend whose drain is over |
//! | forward | [`forward`] | rewrites by the service's mode, towards the next hop |
//!
//! [`pipeline::process`] calls them in order. Everything a packet needs of the world comes through two traits:
//! [`packet::Packet`], bounds-checked reads and writes, and [`tables::Tables`], the lookups. The kernel's
//! program implements both over its context and its maps (`xdp/`); tests and simulations over plain memory.
//!
//! Other programs, in objects of their own, run elsewhere: on backends [`decap`] takes packets out of tunnels, and for
//! sockets of the balancer's own host [`socket`] turns what they connect to.
//!
//! Invariant: no `unsafe`, no aya, no panic that the BPF verifier could reach.

#![cfg_attr(not(any(test, feature = "host")), no_std)]
#![forbid(unsafe_code)]

pub mod checksum;
pub mod decap;
pub mod flow;
pub mod forward;
pub mod fragment;
pub mod icmp;
pub mod link;
pub mod mss;
pub mod neighbour;
pub mod packet;
pub mod parse;
pub mod pipeline;
pub mod quic;
pub mod reset;
pub mod select;
pub mod service;
pub mod socket;
pub mod steps;
pub mod tables;
pub mod track;
