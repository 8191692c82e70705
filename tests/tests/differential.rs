//! The bounded differential test: a fixed seed, so that every run sees the same packets.

use anyhow::Result;
use tests::oracle::{
    report::conclude,
    run::{Plan, both, host},
};
use tests::requires::requires;

const SEED: u64 = 1;

fn plan(packets: u64) -> Plan {
    Plan { seed: SEED, first_scene: 0, packets, per_scene: 2_000, until: None, every_reason: false }
}

#[test]
fn the_host_build_agrees_with_the_oracle() -> Result<()> {
    println!("{}", conclude(host(&plan(300_000))?)?.text());
    Ok(())
}

#[test]
fn both_builds_agree_with_the_oracle_and_each_other() -> Result<()> {
    requires();
    println!("{}", conclude(both(&Plan { every_reason: true, ..plan(60_000) })?)?.text());
    Ok(())
}
