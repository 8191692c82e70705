//! Whether the gateway keeps to the protocols: foreign clients and servers, and bytes that nobody should send.
//! `cargo xtask conformance gateway` installs what it needs and runs it; `docs/conformance.md` says what each part
//! proves.
//!
//! | module | what |
//! |---|---|
//! | [`stage`] | a namespace with nothing but loopback, a folder, and gateways in it |
//! | [`smuggling`] | eight real origins see what we logged, or nothing: [`corpus`] is sent, [`origin`] and [`recorder`] receive, [`seen`] is compared |
//! | [`report`] | cases and failures, counted by class |

pub mod corpus;
pub mod origin;
pub mod recorder;
pub mod report;
pub mod seen;
pub mod smuggling;
pub mod stage;
