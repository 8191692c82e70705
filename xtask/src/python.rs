//! Programs from PyPI, in an environment of their own in `.tools/venv`, at the versions of `xtask/python`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::host;
use crate::packages;
use crate::step;
use crate::workspace;

/// A list of pinned packages in `xtask/python`.
#[derive(Clone, Copy)]
pub enum List {
    /// Clients and servers that the gateway is held against.
    Conformance,
    /// Proxies that it is measured beside.
    Proxies,
}

impl List {
    const fn name(self) -> &'static str {
        match self {
            List::Conformance => "conformance",
            List::Proxies => "proxies",
        }
    }
}

/// The environment, with the packages of the list. Nothing is fetched where the list was installed before.
pub fn ensure(list: List) -> Result<PathBuf> {
    let venv = workspace::tools().join("venv");
    let pip = venv.join("bin/pip");
    if !host::succeeds(Command::new(&pip).arg("--version")) {
        packages::install("Python's environments", &["python3-venv"])?;
        let mut make = Command::new("python3");
        make.args(["-m", "venv", "--clear"]).arg(&venv);
        step::quiet("an environment for Python in .tools/venv", "venv", &mut make)?;
    }
    let file = workspace::root().join(format!("xtask/python/{}.txt", list.name()));
    let wanted = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let done = venv.join(format!("{}.txt", list.name()));
    if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(venv);
    }
    let mut install = Command::new(&pip);
    install.args(["install", "--no-deps", "--only-binary", ":all:", "--requirement"]).arg(&file);
    step::quiet(&format!("Python's packages of {}", list.name()), "pip", &mut install)?;
    fs::write(&done, wanted).with_context(|| done.display().to_string())?;
    Ok(venv)
}
