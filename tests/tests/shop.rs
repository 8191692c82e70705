//! The story of the shop keeps its promises, as `cargo xtask demo --check` tells it.

use std::process::Command;

use anyhow::Result;
use tests::{process::binary, requires::requires};

#[test]
fn the_shop_keeps_its_promises() -> Result<()> {
    requires();
    let output = Command::new(binary("shop")?).arg("--check").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("Every promise was kept."));
    Ok(())
}
