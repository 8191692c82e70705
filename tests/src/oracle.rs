//! A differential test of the packet path: random packets through the shipped code, each judged by an oracle that shares
//! none of it. docs/proof.md states the rules that the oracle holds it to.
//!
//! | module | what |
//! |---|---|
//! | [`read`] | what a frame is, by etherparse |
//! | [`world`], [`memory`], [`choose`] | configuration and memory; which backend |
//! | [`judge`], [`forward`], [`full_nat`], [`tunnel`], [`segment`], [`connection`] | what may become of a packet |
//! | [`error`], [`answer`] | ICMP: what is sent on, and what the balancer itself says |
//! | [`edit`], [`sum`] | byte by byte, checksums in full |
//! | [`outcome`] | the comparison |
//! | [`order`], [`scene`], [`random`] | configurations from a seed, installed and unsettled |
//! | [`draft`], [`drafts`], [`craft`], [`quic`], [`spoil`] | packets from a seed |
//! | [`host`], [`kernel`], [`clock`], [`run`] | the lanes and the loop |
//! | [`tally`], [`report`], [`pcap`] | what is counted, and what is left of a difference |
//!
//! Invariant: of the packet path nothing but plain data of `lb-common` and its flow hash is used to judge.

pub mod answer;
pub mod choose;
pub mod clock;
pub mod connection;
pub mod craft;
pub mod draft;
pub mod drafts;
pub mod edit;
pub mod error;
pub mod forward;
pub mod full_nat;
pub mod host;
pub mod judge;
pub mod kernel;
pub mod memory;
pub mod order;
pub mod outcome;
pub mod pcap;
pub mod quic;
pub mod random;
pub mod read;
pub mod report;
pub mod run;
pub mod scene;
pub mod segment;
pub mod spoil;
pub mod sum;
pub mod tally;
pub mod tunnel;
pub mod world;
