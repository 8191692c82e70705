//! IPv6 forwarding. A host that forwards takes itself for a router and no longer learns its own routes from
//! advertisements (RFC 4861) unless told to: who had a default route that way keeps it.

use std::{fs, io, path::Path};

const CONF: &str = "/proc/sys/net/ipv6/conf";

/// Lets the kernel forward IPv6 packets that arrive on an interface: its routing answers refuse to otherwise, and its
/// stack would not send on what the program leaves to it. Returns whether that was news.
pub fn enable_forwarding(interface: &str) -> io::Result<bool> {
    enable(Path::new(CONF), interface)
}

fn enable(conf: &Path, interface: &str) -> io::Result<bool> {
    let own = conf.join(interface);
    let answers = enable_one(&own)?;
    // Since Linux 6.17 the stack forwards by interface; before, for all or for none.
    let by_interface = own.join("force_forwarding");
    if by_interface.exists() {
        return Ok(put(&by_interface, "1")? || answers);
    }
    if is(&conf.join("all/forwarding"), "1")? {
        return Ok(answers);
    }
    for entry in fs::read_dir(conf)? {
        let other = entry?;
        if other.file_name() != "all" {
            keep_advertised_routes(&other.path())?;
        }
    }
    put(&conf.join("all/forwarding"), "1")
}

fn enable_one(own: &Path) -> io::Result<bool> {
    let forwarding = own.join("forwarding");
    if is(&forwarding, "1")? {
        return Ok(false);
    }
    keep_advertised_routes(own)?;
    put(&forwarding, "1")
}

/// 1 takes advertisements unless it forwards, 2 in any case.
fn keep_advertised_routes(own: &Path) -> io::Result<()> {
    let accept = own.join("accept_ra");
    if is(&accept, "1")? {
        put(&accept, "2")?;
    }
    Ok(())
}

fn is(path: &Path, value: &str) -> io::Result<bool> {
    Ok(fs::read_to_string(path)?.trim() == value)
}

/// Returns whether it was another value.
fn put(path: &Path, value: &str) -> io::Result<bool> {
    if is(path, value)? {
        return Ok(false);
    }
    fs::write(path, format!("{value}\n"))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a tree like the kernel's, enables forwarding on eth0 and tells every value.
    fn after(by_interface: bool, all: &str) -> (bool, Vec<String>) {
        let tree = tempfile::tempdir().expect("there is room");
        let write = |name: &str, value: &str| {
            let path = tree.path().join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("it is made");
            fs::write(path, value).expect("it is written");
        };
        for interface in ["all", "eth0", "eth1"] {
            write(&format!("{interface}/forwarding"), "0\n");
            write(&format!("{interface}/accept_ra"), "1\n");
        }
        write("all/forwarding", all);
        if by_interface {
            write("eth0/force_forwarding", "0\n");
        }
        let news = enable(tree.path(), "eth0").expect("every file is there");
        assert!(!enable(tree.path(), "eth0").expect("every file is there"), "the second time is no news");
        let read = |name| fs::read_to_string(tree.path().join(name)).unwrap_or_default().trim().to_owned();
        let names = ["eth0/forwarding", "eth0/accept_ra", "eth0/force_forwarding", "all/forwarding"];
        (news, names.into_iter().chain(["eth1/accept_ra"]).map(read).collect())
    }

    #[test]
    fn forwarding_leaves_advertised_routes_alone() {
        // forwarding, accept_ra and force_forwarding of eth0; forwarding of all; accept_ra of eth1
        for (by_interface, all, expected) in [
            (true, "0\n", ["1", "2", "1", "0", "1"]),
            (false, "0\n", ["1", "2", "", "1", "2"]),
            (false, "1\n", ["1", "2", "", "1", "1"]),
        ] {
            let (news, values) = after(by_interface, all);
            assert!(news);
            assert_eq!(values, expected, "by interface {by_interface}, all {all:?}");
        }
    }
}
