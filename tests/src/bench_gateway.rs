//! What a request costs at the gateway, beside nginx, HAProxy, Envoy, Traefik and Caddy: real processes over loopback in a namespace of
//! their own, the proxy on one core, its origin and clients on another. The method is described in
//! `docs/benchmarks.md`, the configurations stand in `examples/bench/`.
//!
//! | module | what |
//! |---|---|
//! | [`row`] | what is measured of which proxy |
//! | [`stage`] | namespace, folder, origin, and a proxy started for one row |
//! | [`clients`] | keys, tokens and the certificate, and what the configurations know of them |
//! | [`load`] | wrk, and the single requests that prove what a row measures |
//! | [`cpu`] | cores, time used on them, memory |
//! | [`report`] | medians, paired ratios, the table, the rows as JSON, and the bars in words |

pub mod clients;
pub mod cpu;
pub mod load;
pub mod report;
pub mod row;
pub mod stage;
