//! Plants bugs one by one and has the differential test find them: a test that finds nothing proves nothing.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context, Result, bail};

use crate::step::{describe, step};
use crate::workspace;

/// Patches of tests/mutants, each one bug.
const PATCHES: &str = "tests/mutants";

/// Builds and runs every mutant on the host, for at most so many packets each.
pub fn run(packets: u64) -> Result<()> {
    let tree = workspace::root().join("target/mutants/tree");
    let mut patches: Vec<PathBuf> = fs::read_dir(workspace::root().join(PATCHES))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    patches.retain(|path| path.extension() == Some(OsStr::new("patch")));
    patches.sort();
    let mut missed = Vec::new();
    for patch in &patches {
        let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        restore(&tree)?;
        apply(&tree, patch)?;
        let found = step(&name, || search(&tree, packets))?;
        match found {
            Some(found) => println!("  {found}"),
            None => missed.push(name),
        }
    }
    restore(&tree)?;
    if !missed.is_empty() {
        bail!("not found within {packets} packets: {}", missed.join(", "));
    }
    println!("all {} were found", patches.len());
    Ok(())
}

/// Makes `tree` a copy of the sources; what is the same keeps its time, so that cargo builds it once.
fn restore(tree: &Path) -> Result<()> {
    let root = workspace::root();
    let mut list = Command::new("git");
    list.current_dir(&root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = list.output().with_context(|| describe(&list))?;
    let files: HashSet<&str> =
        std::str::from_utf8(&output.stdout)?.split('\0').filter(|file| !file.is_empty()).collect();
    for file in &files {
        let (from, to) = (root.join(file), tree.join(file));
        let Ok(content) = fs::read(&from) else { continue };
        if fs::read(&to).ok().as_ref() != Some(&content) {
            fs::create_dir_all(to.parent().context("a file has a folder")?)?;
            fs::write(&to, content)?;
        }
    }
    let tools = tree.join(".tools");
    if !tools.exists() {
        std::os::unix::fs::symlink(workspace::tools(), tools)?;
    }
    Ok(())
}

fn apply(tree: &Path, patch: &Path) -> Result<()> {
    let mut command = Command::new("patch");
    command.current_dir(tree).args(["-p1", "--no-backup-if-mismatch", "--quiet", "--input"]).arg(patch);
    let output = command.output().with_context(|| describe(&command))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        bail!("{} does not fit the sources any more: {said}", patch.display());
    }
    Ok(())
}

/// What found the bug, and when; nothing if nothing did.
fn search(tree: &Path, packets: u64) -> Result<Option<String>> {
    let target = workspace::root().join("target/mutants/target");
    let mut build = workspace::cargo();
    build.current_dir(tree).env("CARGO_TARGET_DIR", &target);
    build.args(["build", "--quiet", "-p", "tests", "--bin", "diff"]);
    if !build.status()?.success() {
        bail!("the mutant does not build: {}", describe(&build));
    }
    let mut diff = Command::new(target.join("debug/diff"));
    diff.current_dir(tree).args(["--host", "--packets", &packets.to_string()]);
    let output = diff.output().with_context(|| describe(&diff))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines().skip_while(|line| *line != "a difference:").skip(1);
    match (output.status.success(), lines.next(), lines.next()) {
        (true, ..) => Ok(None),
        (false, Some(at), Some(wrong)) => Ok(Some(format!("{at}: {}", wrong.trim()))),
        // A panic finds it too, but an error of the program itself is none.
        _ => bail!(
            "{} ended without a difference: {}",
            describe(&diff),
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}
