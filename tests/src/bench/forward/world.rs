//! Client, balancer and servers, each in a namespace, and the rules of the systems that are measured beside.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use lb_common::Mode;

use super::{BACKENDS, FLOW_IDLE_SECONDS, System, Way, backend, foreign_vip};
use crate::{
    bench::row::Family,
    netns::{Namespace, cable, run},
};

/// The interface by which packets come to the balancer.
pub const IN: &str = "in0";
/// The one by which they leave.
pub const OUT: &str = "out0";
/// The client's.
pub const CLIENT: &str = "client0";
/// The servers'.
pub const SINK: &str = "sink0";
/// Address of [`IN`].
pub const BALANCER_MAC: [u8; 6] = [2, 0, 0, 0, 9, 1];
/// Next hop of every backend.
pub const NEXT_HOP_MAC: [u8; 6] = [2, 0, 0, 0, 9, 2];
/// Address of [`OUT`].
pub const OUT_MAC: [u8; 6] = [2, 0, 0, 0, 9, 3];

/// Sizes of connection tracking that are the host's as a whole: room for 1 Mi flows, two to a bucket of the hash.
const CONNTRACK: [(&str, &str); 2] = [("nf_conntrack_max", "4194304"), ("nf_conntrack_buckets", "2097152")];

/// The namespaces. While it lives, the host's connection tracking is as large as these rows need.
pub struct World {
    /// Where packets are made.
    pub client: Namespace,
    /// Where they are sent on.
    pub balancer: Namespace,
    /// Where they are counted.
    pub servers: Namespace,
    conntrack_before: Vec<(&'static str, String)>,
}

impl World {
    /// Creates them.
    pub fn create() -> Result<Self> {
        let [client, balancer, servers] = ["client", "balancer", "servers"].map(Namespace::create);
        let (client, balancer, servers) = (client?, balancer?, servers?);
        balancer.sysctl("ipv6/conf/default/disable_ipv6", "0")?;
        for conf in ["all", "default"] {
            balancer.sysctl(&format!("ipv4/conf/{conf}/rp_filter"), "0")?;
        }
        cable((&client, CLIENT), (&balancer, IN))?;
        cable((&balancer, OUT), (&servers, SINK))?;
        let [of_balancer, of_out, of_next_hop] = [BALANCER_MAC, OUT_MAC, NEXT_HOP_MAC].map(mac);
        balancer.ip(&format!(
            "link set {IN} address {of_balancer}\n\
             link set {OUT} address {of_out}\n\
             addr add 10.8.0.1/24 dev {OUT}\n\
             neigh add 10.8.0.2 lladdr {of_next_hop} nud permanent dev {OUT}\n\
             route add 10.9.0.0/16 via 10.8.0.2\n\
             addr add 2001:db8:8::1/64 dev {OUT} nodad\n\
             neigh add 2001:db8:8::2 lladdr {of_next_hop} nud permanent dev {OUT}\n\
             route add 2001:db8:9::/48 via 2001:db8:8::2\n\
             addr add 10.7.0.1/24 dev {IN}\n\
             neigh add 10.7.0.2 lladdr 02:00:00:00:09:09 nud permanent dev {IN}\n\
             route add 198.18.0.0/15 via 10.7.0.2\n\
             addr add 2001:db8:7::1/64 dev {IN} nodad\n\
             neigh add 2001:db8:7::2 lladdr 02:00:00:00:09:09 nud permanent dev {IN}\n\
             route add 2001:db8:c::/48 via 2001:db8:7::2"
        ))?;
        balancer.sysctl("ipv4/ip_forward", "1")?;
        balancer.sysctl("ipv6/conf/all/forwarding", "1")?;
        let mut conntrack_before = Vec::new();
        for (name, value) in CONNTRACK {
            let path = conntrack_path(name);
            if let Ok(before) = fs::read_to_string(&path) {
                fs::write(&path, value).with_context(|| path.clone())?;
                conntrack_before.push((name, before));
            }
        }
        for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            balancer.sysctl(&format!("netfilter/{timeout}"), &FLOW_IDLE_SECONDS.to_string())?;
        }
        Ok(Self { client, balancer, servers, conntrack_before })
    }

    /// Gives the balancer's namespace the rules of a system, for one family.
    pub fn install(&self, system: System, family: Family) -> Result<()> {
        match system {
            System::Nftables => self.feed("nft", &["-f", "-"], &nftables(family)),
            System::Ipvs => {
                let device = "lo";
                self.balancer.ip(&format!("addr add {} dev {device}", foreign_vip(family).ip()))?;
                self.feed("ipvsadm", &["-R"], &ipvs(family))
            }
            System::Relay | System::Kernel | System::Portcullis(_) => Ok(()),
        }
    }

    /// Takes them away, with every connection that was tracked.
    pub fn remove(&self, system: System, family: Family) -> Result<()> {
        match system {
            System::Nftables => {
                run(self.balancer.command("nft").args(["flush", "ruleset"]))?;
                for name in ["ipv4", "ipv6"] {
                    run(self.balancer.command("conntrack").args(["-F", "-f", name]))?;
                }
                Ok(())
            }
            System::Ipvs => {
                run(self.balancer.command("ipvsadm").arg("-C"))?;
                self.balancer.ip(&format!("addr del {} dev lo", foreign_vip(family).ip()))
            }
            System::Relay | System::Kernel | System::Portcullis(_) => Ok(()),
        }
    }

    fn feed(&self, program: &str, arguments: &[&str], text: &str) -> Result<()> {
        let mut command = self.balancer.command(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        child.stdin.take().context("stdin")?.write_all(text.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for (name, before) in &self.conntrack_before {
            let _ = fs::write(conntrack_path(name), before.trim());
        }
    }
}

/// Whether the kernel has IPVS, as far as it can be loaded, and its tool is there.
pub fn has_ipvs() -> bool {
    let _ = Command::new("modprobe").arg("ip_vs").stderr(Stdio::null()).status();
    Path::new("/proc/net/ip_vs").exists() && crate::requires::is_installed("ipvsadm")
}

fn conntrack_path(name: &str) -> String {
    format!("/proc/sys/net/netfilter/{name}")
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// A hundred backends, chosen by a hash of the client's address and port when a connection begins.
fn nftables(family: Family) -> String {
    let name = if family == Family::V4 { "ip" } else { "ip6" };
    let vip = foreign_vip(family);
    let servers: Vec<_> = (0..BACKENDS)
        .map(|index| format!("{index} : {}", backend(Way::Mode(Mode::Nat), family, index).ip()))
        .collect();
    let port = backend(Way::Mode(Mode::Nat), family, 0).port();
    format!(
        "table {name} bench {{\n\
         chain arrive {{\n\
         type nat hook prerouting priority dstnat; policy accept;\n\
         {name} daddr {} udp dport {} dnat to jhash {name} saddr . udp sport mod {BACKENDS} map {{ {} }}:{port}\n\
         }}\n}}\n",
        vip.ip(),
        vip.port(),
        servers.join(", ")
    )
}

/// The same by IPVS, whose `mh` is Maglev hashing.
fn ipvs(family: Family) -> String {
    let vip = foreign_vip(family);
    let mut text = format!("-A -u {vip} -s mh\n");
    for index in 0..BACKENDS {
        let _ = writeln!(text, "-a -u {vip} -r {} -m", backend(Way::Mode(Mode::Nat), family, index));
    }
    text
}
