//! Packets within packets: what the outer headers must say (docs/proof.md lists the RFCs). Pure.

use std::net::IpAddr;

use lb_common::{FlowKey, Mode};

use super::edit::Edited;
use super::read::Ip;
use super::sum::checksum;
use super::world::{Entropy, World, address, ip_addr};

/// Bytes put in front of a packet by a mode on its way to an address.
pub fn overhead(mode: Mode, backend: IpAddr) -> usize {
    let ip = if backend.is_ipv4() { 20 } else { 40 };
    match mode {
        Mode::DsrIpip => ip,
        Mode::DsrGue => ip + 8,
        Mode::Nat | Mode::FullNat | Mode::DsrL2 => 0,
    }
}

/// Wraps what `edited` holds of `ip`; free fields are taken from `out`, if they are as they may be.
pub fn wrap(
    world: &World,
    edited: &mut Edited,
    ip: &Ip,
    mode: Mode,
    backend: IpAddr,
    out: &[u8],
    kept_tags: usize,
) -> Result<Entropy, String> {
    let l3 = 14 + 4 * kept_tags;
    let len = overhead(mode, backend);
    let Some(seen) = out.get(l3..l3 + len) else { return Err("too short for its outer header".to_owned()) };
    let carried = ip.length() + if mode == Mode::DsrGue { 8 } else { 0 };
    let protocol = match (mode, ip.is_v6()) {
        (Mode::DsrGue, _) => 17,
        (_, false) => 4,
        (_, true) => 41,
    };
    let mut outer = vec![0; len];
    let mut entropy = Entropy { source: source(world, seen, backend)?, port: None, label: None };
    match backend {
        IpAddr::V4(to) => {
            outer[0] = 0x45;
            outer[1] = ip.class;
            outer[2..4].copy_from_slice(&(20 + carried as u16).to_be_bytes());
            if ip.dont_fragment {
                outer[6] = 0x40;
            } else {
                outer[4..6].copy_from_slice(&seen[4..6]);
            }
            outer[8] = 64;
            outer[9] = protocol;
            outer[12..16].copy_from_slice(&seen[12..16]);
            outer[16..20].copy_from_slice(&to.octets());
            let sum = checksum(&outer[..20], 10, 0);
            outer[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        IpAddr::V6(to) => {
            outer[0] = 0x60 | ip.class >> 4;
            outer[1] = ip.class << 4 | seen[1] & 15;
            outer[2..4].copy_from_slice(&seen[2..4]);
            entropy.label = Some(u32::from_be_bytes([0, seen[1] & 15, seen[2], seen[3]]));
            outer[4..6].copy_from_slice(&(carried as u16).to_be_bytes());
            outer[6] = protocol;
            outer[7] = 64;
            outer[8..24].copy_from_slice(&seen[8..24]);
            outer[24..40].copy_from_slice(&to.octets());
        }
    }
    if mode == Mode::DsrGue {
        let udp = len - 8;
        let port = u16::from_be_bytes([seen[udp], seen[udp + 1]]);
        if port < 49_152 {
            return Err(format!("outer source port {port} is not an ephemeral one"));
        }
        entropy.port = Some(port);
        outer[udp..udp + 2].copy_from_slice(&seen[udp..udp + 2]);
        outer[udp + 2..udp + 4].copy_from_slice(&world.settings.gue_port.number().to_be_bytes());
        outer[udp + 4..udp + 6].copy_from_slice(&(carried as u16).to_be_bytes());
    }
    edited.shift(0, len);
    let ether_type: [u8; 2] = if backend.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
    edited.bytes.splice(l3..l3, outer);
    edited.bytes[l3 - 2..l3].copy_from_slice(&ether_type);
    Ok(entropy)
}

/// The outer source: in the configured network.
fn source(world: &World, seen: &[u8], backend: IpAddr) -> Result<IpAddr, String> {
    let (source, network, hosts) = if backend.is_ipv4() {
        let source = IpAddr::from([seen[12], seen[13], seen[14], seen[15]]);
        (source, world.settings.tunnel_ipv4, world.settings.tunnel_ipv4_hosts)
    } else {
        let mut octets = [0; 16];
        octets.copy_from_slice(&seen[8..24]);
        (IpAddr::from(octets), world.settings.tunnel_ipv6, world.settings.tunnel_ipv6_hosts)
    };
    let (found, wanted) = (address(source).words(), network.words());
    if found[..3] == wanted[..3] && found[3] & !hosts == wanted[3] & !hosts {
        Ok(source)
    } else {
        Err(format!("outer source {source} is not in the network of {}", ip_addr(network)))
    }
}

/// Whether a flow's packets have the same outer fields as before; remembers them.
pub fn is_steady(world: &mut World, flow: FlowKey, entropy: Entropy) -> bool {
    *world.entropy.entry((flow, entropy.source.is_ipv4())).or_insert(entropy) == entropy
}
