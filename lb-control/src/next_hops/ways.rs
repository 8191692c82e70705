//! What is known of the way to each backend, what to ask next, and what follows. Pure; time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use lb_common::{Interface, Mac, NextHop};

use super::indexes::Indexes;
use crate::netlink::{Certainty, Route, RouteAnswer, Snapshot};

/// An unconfirmed neighbour is asked again this often; the kernel takes 5 s to probe one.
const STALE_EVERY: Duration = Duration::from_secs(10);
/// A neighbour that does not answer is asked again after 1 s, then 2 s, up to this.
const FAILED_EVERY_MAX: Duration = Duration::from_secs(30);
/// A route is not asked for more often than this: a routing daemon may change thousands in a second.
const ROUTE_EVERY: Duration = Duration::from_millis(200);

/// Something that only the kernel can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// How it would send to an address.
    Route(IpAddr),
    /// The Ethernet address of a neighbour; the answer comes as a change of the neighbour table.
    Neighbour(Route),
}

/// Why there is no next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// The kernel has not been asked yet.
    NotAsked,
    /// No route leads there.
    NoRoute,
    /// It is the balancer's own address.
    OwnAddress,
    /// The route's interface is down or gone.
    InterfaceDown,
    /// The route's interface is not an Ethernet interface.
    NotEthernet,
    /// Every interface index is taken.
    TooManyInterfaces,
    /// The neighbour is being asked for its Ethernet address.
    Asking,
    /// The neighbour does not answer.
    NoAnswer,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAsked => "not resolved yet",
            Self::NoRoute => "no route leads there",
            Self::OwnAddress => "it is an address of the balancer itself",
            Self::InterfaceDown => "the interface that leads there is down",
            Self::NotEthernet => "the interface that leads there is not Ethernet",
            Self::TooManyInterfaces => "too many interfaces are in use",
            Self::Asking => "its neighbour is being asked for",
            Self::NoAnswer => "its neighbour does not answer",
        })
    }
}

/// The ways as they are known now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    /// By backend address.
    pub ways: BTreeMap<IpAddr, Result<NextHop, Unresolved>>,
    /// By index in `INTERFACES`: the attached ones and those that a way leads through.
    pub interfaces: Vec<(u16, Interface)>,
}

/// What is known and asked.
#[derive(Debug, Default)]
pub struct NextHops {
    attached: BTreeSet<String>,
    ways: BTreeMap<IpAddr, Way>,
    neighbours: BTreeMap<Route, Asked>,
    /// Last known Ethernet addresses: kept until the kernel says that the neighbour failed.
    macs: BTreeMap<Route, Mac>,
    /// Ways found installed at the start, by interface: used until the kernel knows better.
    adopted: BTreeMap<IpAddr, (u32, Mac)>,
    indexes: Indexes,
}

#[derive(Debug, Default)]
struct Way {
    answer: Option<RouteAnswer>,
    answered_version: u64,
    ask_from: Duration,
}

/// When a neighbour may be asked again.
#[derive(Debug, Default)]
struct Asked {
    from: Duration,
    failures: u32,
}

impl NextHops {
    /// `attached` are the names of the interfaces that run the program: each has an index whenever it exists.
    pub fn new(attached: impl IntoIterator<Item = String>) -> Self {
        Self { attached: attached.into_iter().collect(), ..Self::default() }
    }

    /// Takes over what an earlier controller installed, so that no index changes its interface and no way
    /// is forgotten before the kernel was asked.
    pub fn adopt(&mut self, interfaces: &[(u16, Interface)], ways: &[(IpAddr, NextHop)]) {
        for (index, interface) in interfaces {
            self.indexes.adopt(*index, interface.ifindex);
        }
        for (address, next_hop) in ways {
            if let Some((_, interface)) = interfaces.iter().find(|(index, _)| *index == next_hop.interface) {
                self.adopted.insert(*address, (interface.ifindex, next_hop.mac));
            }
        }
    }

    /// Sets the addresses to keep a way to.
    pub fn want(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.ways.retain(|address, _| addresses.contains(address));
        for address in addresses {
            self.ways.entry(*address).or_default();
        }
        let used: BTreeSet<Route> = self.ways.values().filter_map(Way::route).collect();
        self.neighbours.retain(|route, _| used.contains(route));
        self.macs.retain(|route, _| used.contains(route));
    }

    /// What to ask now.
    pub fn questions(&mut self, snapshot: &Snapshot, now: Duration) -> Vec<Question> {
        let mut questions = Vec::new();
        for (address, way) in &mut self.ways {
            let stale = way.answer.is_none() || way.answered_version != snapshot.routes_version;
            if stale && now >= way.ask_from {
                way.ask_from = now + ROUTE_EVERY;
                questions.push(Question::Route(*address));
            }
        }
        let routes: BTreeSet<Route> = self.ways.values().filter_map(Way::route).collect();
        for route in routes {
            if snapshot.links.get(&route.ifindex).is_some_and(|link| link.up && link.running)
                && self.neighbours.entry(route).or_default().due(certainty(snapshot, route), now)
            {
                questions.push(Question::Neighbour(route));
            }
        }
        questions
    }

    /// Takes in the kernel's answer to [`Question::Route`].
    pub fn answer(&mut self, address: IpAddr, routes_version: u64, answer: RouteAnswer) {
        let Some(way) = self.ways.get_mut(&address) else { return };
        way.answer = Some(answer);
        way.answered_version = routes_version;
        if let (Some(route), Some((ifindex, mac))) = (way.route(), self.adopted.remove(&address))
            && route.ifindex == ifindex
        {
            self.macs.entry(route).or_insert(mac);
        }
    }

    /// The ways and interfaces that follow from what is known.
    pub fn resolved(&mut self, snapshot: &Snapshot) -> Resolved {
        self.learn(snapshot);
        let attached = self.attached.iter().filter_map(|name| snapshot.link_by_name(name));
        let mut used: BTreeSet<u32> = attached.map(|(ifindex, _)| ifindex).collect();
        used.extend(self.ways.values().filter_map(Way::route).map(|route| route.ifindex));
        used.retain(|ifindex| snapshot.links.get(ifindex).is_some_and(|link| link.mac.is_some()));
        self.indexes.keep_only(&used);
        let interfaces = used.iter().filter_map(|ifindex| {
            let link = &snapshot.links[ifindex];
            let interface = Interface { mac: link.mac?.word(), ifindex: *ifindex, mtu: link.mtu };
            Some((self.indexes.index(*ifindex)?, interface))
        });
        let mut interfaces: Vec<_> = interfaces.collect();
        interfaces.sort_unstable_by_key(|(index, _)| *index);
        let ways = self.ways.iter().map(|(address, way)| (*address, self.way(snapshot, way))).collect();
        Resolved { ways, interfaces }
    }

    fn learn(&mut self, snapshot: &Snapshot) {
        for route in self.ways.values().filter_map(Way::route) {
            match snapshot.neighbours.get(&(route.ifindex, route.neighbour)) {
                Some(entry) if entry.certainty == Certainty::Failed => {
                    self.macs.remove(&route);
                }
                Some(entry) => {
                    if let Some(mac) = entry.mac {
                        self.macs.insert(route, mac);
                    }
                }
                None => {}
            }
        }
    }

    fn way(&self, snapshot: &Snapshot, way: &Way) -> Result<NextHop, Unresolved> {
        let route = match way.answer.ok_or(Unresolved::NotAsked)? {
            RouteAnswer::Via(route) => route,
            RouteAnswer::Local => return Err(Unresolved::OwnAddress),
            RouteAnswer::Unreachable => return Err(Unresolved::NoRoute),
        };
        let link = snapshot.links.get(&route.ifindex).filter(|link| link.up && link.running);
        let link = link.ok_or(Unresolved::InterfaceDown)?;
        link.mac.ok_or(Unresolved::NotEthernet)?;
        let interface = self.indexes.known(route.ifindex).ok_or(Unresolved::TooManyInterfaces)?;
        match self.macs.get(&route) {
            Some(mac) => Ok(NextHop { mac: *mac, interface }),
            None if certainty(snapshot, route) == Some(Certainty::Failed) => Err(Unresolved::NoAnswer),
            // Asked again after a failure: it has not answered until it does.
            None if self.neighbours.get(&route).is_some_and(|asked| asked.failures > 1) => {
                Err(Unresolved::NoAnswer)
            }
            None => Err(Unresolved::Asking),
        }
    }
}

fn certainty(snapshot: &Snapshot, route: Route) -> Option<Certainty> {
    snapshot.neighbours.get(&(route.ifindex, route.neighbour)).map(|entry| entry.certainty)
}

impl Way {
    fn route(&self) -> Option<Route> {
        match self.answer? {
            RouteAnswer::Via(route) => Some(route),
            RouteAnswer::Local | RouteAnswer::Unreachable => None,
        }
    }
}

impl Asked {
    fn due(&mut self, certainty: Option<Certainty>, now: Duration) -> bool {
        match certainty {
            Some(Certainty::Fixed | Certainty::Confirmed) => {
                *self = Self { from: now, failures: 0 };
                false
            }
            // The kernel is asking already.
            Some(Certainty::Asking) => false,
            _ if now < self.from => false,
            Some(Certainty::Stale) => {
                self.from = now + STALE_EVERY;
                true
            }
            Some(Certainty::Failed) | None => {
                let pause = Duration::from_secs(1 << self.failures.min(5));
                self.from = now + pause.min(FAILED_EVERY_MAX);
                self.failures += 1;
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Link, Neighbour};

    const BACKEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const MAC: Mac = Mac::new([2, 0, 0, 0, 0, 9]);
    const ROUTE: Route = Route { ifindex: 7, neighbour: BACKEND };

    fn link(name: &str) -> Link {
        let mac = Some(Mac::new([2, 0, 0, 0, 0, 1]));
        Link { name: name.into(), mac, mtu: 1500, up: true, running: true, all_multicast: false, xdp: None }
    }

    fn world() -> (NextHops, Snapshot) {
        let mut snapshot = Snapshot { routes_version: 1, ..Snapshot::default() };
        snapshot.links.insert(3, link("front"));
        snapshot.links.insert(7, link("back"));
        let mut next_hops = NextHops::new(["front".to_owned()]);
        next_hops.want(&BTreeSet::from([BACKEND]));
        (next_hops, snapshot)
    }

    fn set(snapshot: &mut Snapshot, mac: Option<Mac>, certainty: Certainty) {
        snapshot.neighbours.insert((7, BACKEND), Neighbour { mac, certainty });
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_way_is_asked_for_learnt_kept_and_lost() {
        let (mut next_hops, mut snapshot) = world();
        assert_eq!(next_hops.questions(&snapshot, seconds(1)), [Question::Route(BACKEND)]);
        assert_eq!(next_hops.resolved(&snapshot).ways[&BACKEND], Err(Unresolved::NotAsked));
        next_hops.answer(BACKEND, 1, RouteAnswer::Via(ROUTE));
        assert_eq!(next_hops.questions(&snapshot, seconds(1)), [Question::Neighbour(ROUTE)]);
        set(&mut snapshot, None, Certainty::Asking);
        assert_eq!(next_hops.questions(&snapshot, seconds(9)), []);
        assert_eq!(next_hops.resolved(&snapshot).ways[&BACKEND], Err(Unresolved::Asking));

        set(&mut snapshot, Some(MAC), Certainty::Confirmed);
        let resolved = next_hops.resolved(&snapshot);
        let way = NextHop { mac: MAC, interface: 1 };
        assert_eq!(resolved.ways[&BACKEND], Ok(way));
        let numbers: Vec<_> = resolved.interfaces.iter().map(|(index, one)| (*index, one.ifindex)).collect();
        assert_eq!(numbers, [(0, 3), (1, 7)]);

        // Collected by the kernel: the way stays, and is asked for again.
        snapshot.neighbours.clear();
        assert_eq!(next_hops.questions(&snapshot, seconds(20)), [Question::Neighbour(ROUTE)]);
        assert_eq!(next_hops.resolved(&snapshot).ways[&BACKEND], Ok(way));
        set(&mut snapshot, None, Certainty::Failed);
        assert_eq!(next_hops.resolved(&snapshot).ways[&BACKEND], Err(Unresolved::NoAnswer));
    }

    #[test]
    fn questions_keep_to_their_schedule() {
        let (mut next_hops, mut snapshot) = world();
        next_hops.questions(&snapshot, seconds(0));
        next_hops.answer(BACKEND, 1, RouteAnswer::Via(ROUTE));
        set(&mut snapshot, None, Certainty::Failed);
        let asked = |next_hops: &mut NextHops, snapshot: &Snapshot, until: u64| -> Vec<u64> {
            (0..until).filter(|&at| !next_hops.questions(snapshot, seconds(at)).is_empty()).collect()
        };
        assert_eq!(asked(&mut next_hops, &snapshot, 100), [0, 1, 3, 7, 15, 31, 61, 91]);
        set(&mut snapshot, Some(MAC), Certainty::Confirmed);
        assert!(asked(&mut next_hops, &snapshot, 100).is_empty());
        set(&mut snapshot, Some(MAC), Certainty::Stale);
        let (mut fresh, _) = world();
        fresh.questions(&snapshot, seconds(0));
        fresh.answer(BACKEND, 1, RouteAnswer::Via(ROUTE));
        assert_eq!(asked(&mut fresh, &snapshot, 25), [0, 10, 20]);
        snapshot.routes_version = 2;
        assert_eq!(fresh.questions(&snapshot, seconds(26)), [Question::Route(BACKEND)]);
    }

    #[test]
    fn what_cannot_be_a_next_hop_says_why() {
        for (answer, change, expected) in [
            (RouteAnswer::Local, None, Unresolved::OwnAddress),
            (RouteAnswer::Unreachable, None, Unresolved::NoRoute),
            (RouteAnswer::Via(ROUTE), Some(Link { up: false, ..link("back") }), Unresolved::InterfaceDown),
            (RouteAnswer::Via(ROUTE), Some(Link { mac: None, ..link("back") }), Unresolved::NotEthernet),
        ] {
            let (mut next_hops, mut snapshot) = world();
            set(&mut snapshot, Some(MAC), Certainty::Confirmed);
            if let Some(link) = change {
                snapshot.links.insert(7, link);
            }
            next_hops.answer(BACKEND, 1, answer);
            assert_eq!(next_hops.resolved(&snapshot).ways[&BACKEND], Err(expected));
        }
    }

    #[test]
    fn an_ipv6_backend_is_reached_by_a_link_local_gateway() {
        let (backend, gateway) = ("2001:db8::2", "fe80::1");
        let [backend, gateway]: [IpAddr; 2] =
            [backend, gateway].map(|text| text.parse().expect("an address"));
        let (mut next_hops, mut snapshot) = world();
        next_hops.want(&BTreeSet::from([backend]));
        let route = Route { ifindex: 7, neighbour: gateway };
        next_hops.answer(backend, 1, RouteAnswer::Via(route));
        assert_eq!(next_hops.questions(&snapshot, seconds(1)), [Question::Neighbour(route)]);
        // The same link-local address is another neighbour on another interface.
        let neighbour = |mac| Neighbour { mac: Some(mac), certainty: Certainty::Confirmed };
        snapshot.neighbours.insert((3, gateway), neighbour(Mac::new([2, 0, 0, 0, 0, 3])));
        assert_eq!(next_hops.resolved(&snapshot).ways[&backend], Err(Unresolved::Asking));
        snapshot.neighbours.insert((7, gateway), neighbour(MAC));
        assert_eq!(next_hops.resolved(&snapshot).ways[&backend], Ok(NextHop { mac: MAC, interface: 1 }));
    }

    #[test]
    fn an_interface_that_returns_gets_another_index() {
        let (mut next_hops, mut snapshot) = world();
        next_hops.answer(BACKEND, 1, RouteAnswer::Via(ROUTE));
        let index = |resolved: Resolved, ifindex: u32| {
            resolved.interfaces.iter().find(|(_, one)| one.ifindex == ifindex).map(|(index, _)| *index)
        };
        assert_eq!(index(next_hops.resolved(&snapshot), 7), Some(1));
        let back = snapshot.links.remove(&7).expect("it is there");
        assert_eq!(index(next_hops.resolved(&snapshot), 7), None);
        snapshot.links.insert(8, back);
        next_hops.answer(BACKEND, 2, RouteAnswer::Via(Route { ifindex: 8, ..ROUTE }));
        assert_eq!(index(next_hops.resolved(&snapshot), 8), Some(2));
    }

    #[test]
    fn an_adopted_way_serves_until_the_kernel_knows_better() {
        let (_, snapshot) = world();
        let mut next_hops = NextHops::new(["front".to_owned()]);
        let installed = [
            (4, Interface { mac: 1, ifindex: 3, mtu: 1500 }),
            (9, Interface { mac: 1, ifindex: 7, mtu: 1500 }),
        ];
        let way = NextHop { mac: MAC, interface: 9 };
        next_hops.adopt(&installed, &[(BACKEND, way)]);
        next_hops.want(&BTreeSet::from([BACKEND]));
        next_hops.answer(BACKEND, 1, RouteAnswer::Via(ROUTE));
        let resolved = next_hops.resolved(&snapshot);
        assert_eq!(resolved.ways[&BACKEND], Ok(way));
        assert_eq!(resolved.interfaces.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [4, 9]);
    }
}
