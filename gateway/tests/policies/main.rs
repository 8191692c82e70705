//! How services are called, with services that are not ours: what is repeated, which time runs out, who is refused.

mod balance;
mod breakers;
mod retries;
mod stage;
mod timeouts;
