//! Whether the gateway keeps to the protocols: foreign clients and servers, and bytes that nobody should send.
//! `cargo xtask conformance gateway` installs what it needs and runs it; `docs/conformance.md` says what each part
//! proves.
//!
//! | module | what |
//! |---|---|
//! | [`stage`] | a namespace with nothing but loopback, a folder, and gateways in it |
//! | [`smuggling`] | eight real origins see what we logged, or nothing: [`corpus`] is sent, [`origin`] and [`recorder`] receive, [`seen`] is compared |
//! | [`protocols`] | scripts of foreign clients and servers: HTTP/2 frames, WebSockets, curl |
//! | [`endurance`] | slow clients, and configuration after configuration under load |
//! | [`report`] | cases and failures, counted by class |

pub mod corpus;
pub mod endurance;
pub mod origin;
pub mod protocols;
pub mod recorder;
pub mod report;
pub mod seen;
pub mod smuggling;
pub mod stage;
