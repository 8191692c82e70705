//! Debian's packages: which are missing, and how they are installed without starting a daemon.

use std::process::Command;

use anyhow::{Result, bail};

use crate::host::{self, Elevation};
use crate::step;

/// Installs with all that a stranger's machine may need: no questions, no daemon started, fresh lists
/// only when the old ones do not do.
///
/// A policy of the administrator's own is left as it is; one that a killed run left behind is ours.
const INSTALL: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ] || grep -q 'written by cargo xtask setup' "$policy"; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\n# written by cargo xtask setup, which removes it\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
install() {
    apt-get -o DPkg::Lock::Timeout=300 -qy install --no-install-recommends "$@"
}
if ! apt-cache show --no-all-versions "$@" >/dev/null 2>&1; then
    apt-get -o DPkg::Lock::Timeout=300 -q update || echo "some package lists could not be fetched"
    install "$@"
elif ! install "$@"; then
    apt-get -o DPkg::Lock::Timeout=300 -q update || echo "some package lists could not be fetched"
    install "$@"
fi
"#;

/// Whether this system has Debian's package tools.
pub fn available() -> bool {
    host::succeeds(Command::new("dpkg-query").arg("--version"))
        && host::succeeds(Command::new("apt-get").arg("--version"))
}

/// Those of the packages that are not installed.
pub fn missing(packages: &[&str]) -> Vec<String> {
    let installed = |package: &str| {
        Command::new("dpkg-query")
            .args(["--show", "--showformat", "${db:Status-Abbrev}", package])
            .output()
            .is_ok_and(|output| output.stdout.starts_with(b"ii"))
    };
    packages.iter().filter(|package| !installed(package)).map(|package| (*package).to_owned()).collect()
}

/// Whether apt could install the package, as far as its lists say.
pub fn known(package: &str) -> bool {
    host::succeeds(Command::new("apt-cache").args(["show", "--no-all-versions", package]))
}

/// Installs what is missing of the packages; where that needs rights we lack, says what to run.
pub fn install(purpose: &str, packages: &[&str]) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() { Ok(()) } else { run_install(purpose, &missing) }
}

/// The same, replacing what is there by the newest that the lists know.
pub fn install_newest(purpose: &str, packages: &[&str]) -> Result<()> {
    run_install(purpose, &packages.iter().map(|package| (*package).to_owned()).collect::<Vec<_>>())
}

fn run_install(purpose: &str, missing: &[String]) -> Result<()> {
    let elevation = Elevation::of_this_process();
    if elevation == Elevation::None {
        bail!(
            "installing packages needs root, and there is no sudo. As root, run\n  \
             apt-get update && apt-get install --no-install-recommends {}\nand then this command again",
            missing.join(" ")
        );
    }
    let mut command = elevation.command("sh");
    command.args(["-c", INSTALL, "setup"]).args(missing);
    step::quiet(&format!("{purpose}: install {}", missing.join(" ")), "packages", &mut command).map_err(
        |error| {
            error.context(format!(
                "the packages could not be installed. As root, run\n  \
             apt-get update && apt-get install --no-install-recommends {}\nand then this command again",
                missing.join(" ")
            ))
        },
    )
}

/// Fetches apt's lists anew, for a package that they do not know.
pub fn refresh() {
    let elevation = Elevation::of_this_process();
    if elevation == Elevation::None {
        return;
    }
    let mut update = elevation.command("apt-get");
    update.args(["-o", "DPkg::Lock::Timeout=300", "-q", "update"]);
    // One broken third-party list fails the whole update, and says nothing about the packages sought.
    if let Err(error) = step::quiet("fetch the package lists", "apt-update", &mut update) {
        println!("  going on with the lists that are there ({error})");
    }
}
