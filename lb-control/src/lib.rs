//! Portcullis' controller: takes orders over REST, checks backends, plans and applies changes to the maps.
//!
//! An order's life: `api` → `model` (validate) → `desired` (generation) → `plan` (pure) → `engine` → `datapath`.
//! Health travels the same road: a change of health is a new desired state.

pub mod api;
pub mod config;
pub mod controller;
pub mod datapath;
pub mod desired;
pub mod effective;
pub mod engine;
pub mod health;
pub mod lbctl;
pub mod maglev;
pub mod metrics;
pub mod model;
pub mod netlink;
pub mod next_hops;
pub mod plan;
pub mod regions;
pub mod rotation;
pub mod settle;
pub mod status;
pub mod store;
pub mod target;
