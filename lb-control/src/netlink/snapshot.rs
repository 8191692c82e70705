//! What the kernel says of its interfaces, addresses and neighbours, and how one message changes it. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::Mac;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp, XdpAttached},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};

/// Interfaces, local addresses and neighbours at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// By the kernel's number.
    pub links: BTreeMap<u32, Link>,
    /// (interface, address) of the host itself.
    pub addresses: BTreeSet<(u32, IpAddr)>,
    /// By (interface, address).
    pub neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    /// Grows whenever a route may lead elsewhere: answers about routes from an earlier version are stale.
    pub routes_version: u64,
}

/// An interface.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its Ethernet address; `None` where it is not an Ethernet interface.
    pub mac: Option<Mac>,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// With a carrier.
    pub running: bool,
    /// Told by somebody to take every multicast frame.
    pub all_multicast: bool,
    /// The XDP program on it.
    pub xdp: Option<AttachedXdp>,
}

/// The XDP program on an interface, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachedXdp {
    /// Whether the driver runs it, before the socket buffer is built.
    pub driver: bool,
    /// The program's id; zero where the kernel names several.
    pub program_id: u32,
}

/// A neighbour's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its Ethernet address, once known.
    pub mac: Option<Mac>,
    /// How sure the kernel is of it.
    pub certainty: Certainty,
}

/// How sure the kernel is of a neighbour's Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Configured by hand: never asked for.
    Fixed,
    /// Confirmed lately.
    Confirmed,
    /// Known, but not confirmed for a while.
    Stale,
    /// Being asked for.
    Asking,
    /// Did not answer.
    Failed,
}

impl Snapshot {
    /// The interface of a name, with its number.
    pub fn link_by_name(&self, name: &str) -> Option<(u32, &Link)> {
        self.links.iter().find(|(_, link)| link.name == name).map(|(index, link)| (*index, link))
    }

    /// Takes in one message; returns whether anything changed.
    pub fn apply(&mut self, message: &RouteNetlinkMessage) -> bool {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.new_link(link),
            RouteNetlinkMessage::DelLink(link) => self.del_link(link),
            RouteNetlinkMessage::NewAddress(address) => {
                let added = local_address(address).is_some_and(|local| self.addresses.insert(local));
                self.routes_changed_if(added)
            }
            RouteNetlinkMessage::DelAddress(address) => {
                let removed = local_address(address).is_some_and(|local| self.addresses.remove(&local));
                self.routes_changed_if(removed)
            }
            RouteNetlinkMessage::NewNeighbour(entry) => match neighbour(entry) {
                Some((key, value)) => self.neighbours.insert(key, value) != Some(value),
                None => false,
            },
            RouteNetlinkMessage::DelNeighbour(entry) => {
                neighbour(entry).is_some_and(|(key, _)| self.neighbours.remove(&key).is_some())
            }
            RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_)
            | RouteNetlinkMessage::NewRule(_)
            | RouteNetlinkMessage::DelRule(_) => self.routes_changed_if(true),
            _ => false,
        }
    }

    fn new_link(&mut self, message: &LinkMessage) -> bool {
        let Some(link) = link(message) else { return false };
        let index = message.header.index;
        let before = self.links.get(&index);
        if before == Some(&link) {
            return false;
        }
        let routes = before.is_none_or(|before| (before.up, before.running) != (link.up, link.running));
        self.links.insert(index, link);
        self.routes_changed_if(routes);
        true
    }

    fn del_link(&mut self, message: &LinkMessage) -> bool {
        // A bridge port that leaves its bridge is announced by a deletion in the bridge's family.
        if message.header.interface_family != AddressFamily::Unspec {
            return false;
        }
        let index = message.header.index;
        let removed = self.links.remove(&index).is_some();
        self.addresses.retain(|(interface, _)| *interface != index);
        self.neighbours.retain(|(interface, _), _| *interface != index);
        self.routes_changed_if(removed)
    }

    fn routes_changed_if(&mut self, changed: bool) -> bool {
        self.routes_version += u64::from(changed);
        changed
    }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    Some(Mac::new(bytes.try_into().ok()?))
}

fn link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut link = Link {
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::Running),
        all_multicast: message.header.flags.contains(LinkFlags::Allmulti),
        xdp: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) if ethernet => link.mac = mac(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Xdp(attributes) => link.xdp = xdp(attributes),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn xdp(attributes: &[LinkXdp]) -> Option<AttachedXdp> {
    let (mut attached, mut program_id) = (None, 0);
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(mode) => attached = Some(*mode),
            LinkXdp::ProgId(id) => program_id = *id,
            _ => {}
        }
    }
    match attached? {
        XdpAttached::None => None,
        mode => Some(AttachedXdp { driver: mode != XdpAttached::SocketBuffer, program_id }),
    }
}

fn local_address(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    let mut peer = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point interface `Address` is the peer's and `Local` the host's own.
            AddressAttribute::Local(address) => return Some((message.header.index, *address)),
            AddressAttribute::Address(address) => peer = Some(*address),
            _ => {}
        }
    }
    peer.map(|address| (message.header.index, address))
}

fn neighbour(message: &NeighbourMessage) -> Option<((u32, IpAddr), Neighbour)> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let certainty = match message.header.state {
        NeighbourState::Permanent | NeighbourState::Noarp => Certainty::Fixed,
        NeighbourState::Reachable => Certainty::Confirmed,
        NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => Certainty::Stale,
        NeighbourState::Failed => Certainty::Failed,
        _ => Certainty::Asking,
    };
    let (mut address, mut hardware) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => hardware = mac(bytes),
            _ => {}
        }
    }
    Some(((message.header.ifindex, address?), Neighbour { mac: hardware, certainty }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link_message(index: u32, flags: LinkFlags, family: AddressFamily) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        message.header.interface_family = family;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.attributes = vec![
            LinkAttribute::IfName("eth0".into()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::Mtu(1500),
        ];
        message
    }

    fn neighbour_message(state: NeighbourState, bytes: Option<[u8; 6]>) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 3;
        message.header.state = state;
        message
            .attributes
            .push(NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 2].into())));
        if let Some(bytes) = bytes {
            message.attributes.push(NeighbourAttribute::LinkLayerAddress(bytes.to_vec()));
        }
        message
    }

    #[test]
    fn a_link_comes_changes_and_goes_with_all_that_hangs_on_it() {
        let mut snapshot = Snapshot::default();
        let up = LinkFlags::Up | LinkFlags::Running;
        let new = RouteNetlinkMessage::NewLink(link_message(3, up, AddressFamily::Unspec));
        assert!(snapshot.apply(&new));
        assert!(!snapshot.apply(&new), "the same message changes nothing");
        assert_eq!(snapshot.link_by_name("eth0").map(|(index, link)| (index, link.mtu)), Some((3, 1500)));
        let before = snapshot.routes_version;
        let down = link_message(3, LinkFlags::Allmulti, AddressFamily::Unspec);
        assert!(snapshot.apply(&RouteNetlinkMessage::NewLink(down)));
        assert!(snapshot.links[&3].all_multicast);
        assert!(snapshot.routes_version > before, "routes of a link that goes down are gone");

        let entry = neighbour_message(NeighbourState::Reachable, Some([2, 0, 0, 0, 0, 9]));
        assert!(snapshot.apply(&RouteNetlinkMessage::NewNeighbour(entry)));
        let leaves_bridge = link_message(3, up, AddressFamily::Bridge);
        assert!(!snapshot.apply(&RouteNetlinkMessage::DelLink(leaves_bridge)));
        assert!(snapshot.links.contains_key(&3));
        let gone = link_message(3, up, AddressFamily::Unspec);
        assert!(snapshot.apply(&RouteNetlinkMessage::DelLink(gone)));
        assert!(snapshot.links.is_empty() && snapshot.neighbours.is_empty());
    }

    #[test]
    fn neighbour_states_become_certainties() {
        let mac = Some([2, 0, 0, 0, 0, 9]);
        for (state, bytes, certainty) in [
            (NeighbourState::Permanent, mac, Certainty::Fixed),
            (NeighbourState::Noarp, mac, Certainty::Fixed),
            (NeighbourState::Reachable, mac, Certainty::Confirmed),
            (NeighbourState::Delay, mac, Certainty::Stale),
            (NeighbourState::Incomplete, None, Certainty::Asking),
            (NeighbourState::Failed, None, Certainty::Failed),
        ] {
            let mut snapshot = Snapshot::default();
            snapshot.apply(&RouteNetlinkMessage::NewNeighbour(neighbour_message(state, bytes)));
            let entry = snapshot.neighbours[&(3, IpAddr::from([10, 0, 0, 2]))];
            assert_eq!(entry, Neighbour { mac: bytes.map(Mac::new), certainty }, "{state:?}");
        }
    }

    #[test]
    fn an_attached_program_tells_its_mode() {
        let attributes = [LinkXdp::Attached(XdpAttached::SocketBuffer), LinkXdp::ProgId(7)];
        assert_eq!(xdp(&attributes), Some(AttachedXdp { driver: false, program_id: 7 }));
        assert_eq!(xdp(&[LinkXdp::Attached(XdpAttached::None)]), None);
    }
}
