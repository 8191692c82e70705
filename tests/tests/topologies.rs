//! Bank and shop keep their promises in every topology, as `cargo xtask demo --check` tells it.

use std::process::Command;

use anyhow::Result;
use tests::{process::binary, requires::requires};

#[test]
fn the_bank_before() -> Result<()> {
    check("before", "bank")
}

#[test]
fn the_shop_before() -> Result<()> {
    check("before", "shop")
}

#[test]
fn the_bank_after() -> Result<()> {
    check("after", "bank")
}

#[test]
fn the_shop_after() -> Result<()> {
    check("after", "shop")
}

#[test]
fn the_bank_hybrid() -> Result<()> {
    check("hybrid", "bank")
}

#[test]
fn the_shop_hybrid() -> Result<()> {
    check("hybrid", "shop")
}

fn check(topology: &str, story: &str) -> Result<()> {
    requires();
    let mut command = Command::new(binary("demo")?);
    let output = command.args(["--topology", topology, "--story", story, "--check"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("Every promise was kept."));
    Ok(())
}
