//! How the controller bears many services: how long an order takes until the first packet goes as it says, and how long
//! a start takes. The method is described in `docs/benchmarks.md`.
//!
//! | module | what |
//! |---|---|
//! | [`world`] | so many services and backends, in the store of a controller that is started |
//! | [`probe`] | a client whose datagrams tell which backend the table names, and orders on a connection that is kept |
//! | [`row`] | one thing that is measured, and its quantiles |
//!
//! Invariant: an order counts as effective when a datagram that was sent after it reached another backend; what the
//! controller says of itself is shown beside it and never used.

pub mod probe;
pub mod row;
pub mod world;
