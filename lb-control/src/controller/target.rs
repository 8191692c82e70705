//! What should be installed, out of orders, health, ways and addresses. Pure.

use std::net::IpAddr;

use lb_common::{Address, Port, Settings, limits::LOCALS};

use crate::{
    config::{Packets, Tunnel},
    desired::target_service,
    model::{Desired, Network, address},
    netlink::Snapshot,
    next_hops::Resolved,
    target::Target,
};

/// The target at `now_unix` seconds.
pub fn target(
    desired: &Desired,
    packets: &Packets,
    resolved: &Resolved,
    snapshot: &Snapshot,
    now_unix: u64,
) -> Target {
    let next_hop = |address: IpAddr| resolved.ways.get(&address).and_then(|way| way.ok());
    Target {
        services: desired
            .services
            .values()
            .map(|service| target_service(service, now_unix, next_hop))
            .collect(),
        interfaces: resolved.interfaces.clone(),
        locals: locals(snapshot),
        program: program(packets),
        pool: packets.full_nat.addresses.iter().copied().map(address::to_map).collect(),
    }
}

fn program(packets: &Packets) -> Settings {
    let Tunnel { source_ipv4, source_ipv6, gue_port } = packets.tunnel;
    let (pool, ports) = (&packets.full_nat.addresses, packets.full_nat.ports);
    let ipv6 = pool.iter().filter(|address| address.is_ipv6()).count();
    Settings {
        tunnel_ipv4: address::to_map(source_ipv4.address),
        tunnel_ipv6: address::to_map(source_ipv6.address),
        tunnel_ipv4_hosts: host_bits(source_ipv4),
        tunnel_ipv6_hosts: host_bits(source_ipv6),
        gue_port: Port::new(gue_port),
        pool_first_port: ports.first,
        // Port 0 is none: they are 65,535 at most.
        pool_ports: ports.last - ports.first + 1,
        pool_ipv4: (pool.len() - ipv6) as u8,
        pool_ipv6: ipv6 as u8,
        answers_per_second: packets.icmp_errors_per_second,
        ..Settings::default()
    }
}

/// The host bits among the last 32 of an address, as a native word over the packet's bytes.
fn host_bits(network: Network) -> u32 {
    let hosts = u32::from(128 - network.mapped_bits()).min(32);
    u32::MAX.checked_shr(32 - hosts).unwrap_or(0).to_be()
}

/// The host's own addresses that a backend could answer to, which is reached by others than link-local ones; no more
/// than the map takes.
fn locals(snapshot: &Snapshot) -> Vec<Address> {
    let mut addresses: Vec<IpAddr> = snapshot.addresses.iter().map(|(_, address)| *address).collect();
    addresses.retain(|address| match address {
        IpAddr::V4(v4) => !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    });
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.len() > LOCALS as usize {
        tracing::warn!(
            "the host has {} addresses; only {LOCALS} of them are known to the program",
            addresses.len()
        );
        addresses.truncate(LOCALS as usize);
    }
    addresses.into_iter().map(address::to_map).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_told_once_and_without_those_of_one_link() {
        let mut snapshot = Snapshot::default();
        let addresses = [
            (1, "127.0.0.1"),
            (1, "::1"),
            (3, "10.0.0.1"),
            (3, "fe80::1"),
            (3, "2001:db8::1"),
            (4, "10.0.0.1"),
        ];
        for (interface, address) in addresses {
            snapshot.addresses.insert((interface, address.parse().expect("an address")));
        }
        let packets = Packets::default();
        let target = target(&Desired::default(), &packets, &Resolved::default(), &snapshot, 0);
        let locals: Vec<String> =
            target.locals.iter().map(|local| address::from_map(*local).to_string()).collect();
        assert_eq!(locals, ["10.0.0.1", "2001:db8::1"]);
        assert!(target.pool.is_empty());
    }

    #[test]
    fn settings_have_the_forms_of_the_maps() {
        let mut packets = Packets::default();
        let found = program(&packets);
        assert_eq!(found.tunnel_ipv4, Address::from_ipv4([172, 16, 0, 0]));
        assert_eq!(found.tunnel_ipv4_hosts.to_ne_bytes(), [0, 0, 255, 255]);
        assert_eq!(address::from_map(found.tunnel_ipv6).to_string(), "100::");
        assert_eq!(found.tunnel_ipv6_hosts, u32::MAX);
        assert_eq!((found.gue_port.number(), found.answers_per_second), (6_080, 1_000));
        assert_eq!((found.pool_first_port, found.pool_ports), (1_024, 64_512));
        assert_eq!((found.pool_ipv4, found.pool_ipv6), (0, 0));

        let network = |text: &str| text.parse().expect("a network");
        packets.tunnel.source_ipv4 = network("10.9.8.7");
        packets.tunnel.source_ipv6 = network("2001:db8::a00/120");
        packets.full_nat.addresses =
            ["10.0.0.8", "10.0.0.9", "2001:db8::9"].map(|text| text.parse().expect("an address")).to_vec();
        packets.full_nat.ports = crate::model::Ports::ANY;
        let found = program(&packets);
        assert_eq!(found.tunnel_ipv4_hosts, 0);
        assert_eq!(found.tunnel_ipv6_hosts.to_ne_bytes(), [0, 0, 0, 255]);
        assert_eq!((found.pool_first_port, found.pool_ports), (1, 65_535));
        assert_eq!((found.pool_ipv4, found.pool_ipv6), (2, 1));
    }
}
