//! Services of every kind: what they need of the program and of the tables, and in which order.

use anyhow::{Result, ensure};
use lb_common::{
    Address, BackendId, BackendState, Counters, Features, Flow, FlowKey, FragmentPolicy, HashKeys, Load,
    Mode, Port, PortRange, QuicKey, QuicScheme, Settings, Translation, WideKey,
};
use lb_control::{
    datapath::{Capacity, Change, Contents, Datapath, memory::MemoryDatapath},
    engine::Engine,
    plan::{Shortage, plan},
    target::{Target, TargetService},
};

use super::shape::{CAPACITY, engine, key, kinds, nothing_installed, service, target};

const POOL: Address = Address::from_ipv4([10, 0, 9, 1]);

fn ipv6(last: u8) -> Address {
    Address::from_words([0x2001, 0xdb8, 0, last as u32].map(u32::to_be))
}

/// Every port from `first` to `last` of 10.0.0.1, each to the same of the backends.
fn range(first: u16, last: u16, backends: std::ops::Range<u32>) -> TargetService {
    let mut service = service(first, backends);
    service.key.width = 129;
    service.last_port = last;
    for backend in &mut service.backends {
        backend.port = Port::default();
    }
    service
}

fn quic(port: u16, backends: std::ops::Range<u32>) -> TargetService {
    let mut service = service(port, backends);
    service.key.protocol = 17;
    service.settings.quic = QuicScheme::QuicLb;
    service.settings.quic_server_id_len = 2;
    for (id, backend) in (1..).zip(&mut service.backends) {
        backend.server_id = Some(id);
    }
    service
}

fn in_mode(mode: Mode, mut service: TargetService) -> TargetService {
    service.settings.mode = mode;
    service
}

fn over_ipv6(mut service: TargetService) -> TargetService {
    service.key.address = ipv6(1);
    service
}

fn with_pool(services: Vec<TargetService>) -> Target {
    Target {
        program: Settings { pool_ipv4: 1, pool_first_port: 1_024, pool_ports: 1_000, ..Settings::default() },
        pool: vec![POOL],
        ..target(services)
    }
}

/// A target with something of everything.
pub fn of_every_kind() -> Target {
    let mut wanted = with_pool(vec![
        service(80, 1..4),
        over_ipv6(service(80, 10..12)),
        range(100, 199, 20..22),
        range(200, 300, 22..24),
        quic(443, 30..33),
        in_mode(Mode::FullNat, service(81, 40..43)),
        in_mode(Mode::DsrGue, service(82, 50..53)),
    ]);
    wanted.pool.push(ipv6(9));
    wanted.program.pool_ipv6 = 1;
    wanted
}

#[test]
fn services_of_every_kind_come_and_go_in_order() {
    let plain = || target(vec![service(80, 1..4)]);
    let and = |service: TargetService| target(vec![self::service(80, 1..4), service]);
    let edit = |mut target: Target, change: &dyn Fn(&mut TargetService)| {
        change(target.services.last_mut().expect("there is one"));
        target
    };
    let new = ["backend", "reply", "slots", "service", "vip"];
    let cases: Vec<(&str, Target, Target, Vec<&str>)> = vec![
        ("IPv6", plain(), and(over_ipv6(service(80, 9..10))), [&["features"], &new[..]].concat()),
        (
            "a tunnel",
            plain(),
            and(in_mode(Mode::DsrIpip, service(81, 9..10))),
            vec!["features", "backend", "slots", "service", "vip"],
        ),
        (
            "a largest segment",
            plain(),
            edit(plain(), &|service| service.settings.mss = 1_400),
            vec!["features", "reply", "service"],
        ),
        (
            "a range of ports",
            plain(),
            and(range(100, 200, 9..10)),
            vec!["features", "backend", "reply", "slots", "service", "wide", "vip"],
        ),
        ("a longer range", and(range(100, 200, 9..10)), and(range(100, 300, 9..10)), vec!["reply", "wide"]),
        ("the range goes", and(range(100, 200, 9..10)), plain(), vec!["-wide", "-service", "down", "vip"]),
        (
            "one range of two goes",
            target(vec![range(100, 200, 1..2), range(201, 300, 2..3)]),
            target(vec![range(201, 300, 2..3)]),
            vec!["wide", "-service", "down", "vip"],
        ),
        (
            "QUIC",
            plain(),
            and(quic(443, 9..11)),
            vec!["features", "backend", "reply", "quic", "slots", "service", "vip"],
        ),
        ("a QUIC server goes", and(quic(443, 9..11)), and(quic(443, 9..10)), vec!["-quic", "slots", "down"]),
        (
            "QUIC servers exchange their ids",
            and(quic(443, 9..11)),
            edit(and(quic(443, 9..11)), &|service| {
                service.backends[0].server_id = Some(2);
                service.backends[1].server_id = Some(1);
            }),
            vec!["quic"],
        ),
        ("QUIC goes", and(quic(443, 9..11)), plain(), vec!["-service", "-quic", "down", "vip"]),
        ("a pool", plain(), with_pool(vec![service(80, 1..4)]), vec!["pool", "settings", "vip"]),
        ("the pool goes", with_pool(vec![service(80, 1..4)]), plain(), vec!["settings", "pool", "-vip"]),
        (
            "fragments and echo",
            plain(),
            edit(plain(), &|service| (service.fragments, service.answer_echo) = (FragmentPolicy::Pass, true)),
            vec!["vip"],
        ),
    ];
    for (name, before, after, expected) in cases {
        let mut installed = nothing_installed();
        plan(&mut installed, &before, 100);
        let planned = plan(&mut installed, &after, 200);
        assert_eq!(planned.shortages, [], "{name}");
        assert_eq!(kinds(&planned.changes), expected, "{name}");
        assert_eq!(kinds(&plan(&mut installed, &after, 201).changes), [""; 0], "{name}: planned twice");
    }
}

#[test]
fn the_program_is_asked_for_more_and_never_for_less() {
    let mut installed = nothing_installed();
    let steps = [
        (target(vec![service(80, 1..4)]), None),
        (target(vec![over_ipv6(service(80, 1..4))]), Some(Features::IPV6)),
        (target(vec![service(80, 1..4)]), None),
        (target(vec![quic(443, 1..4)]), Some(Features::IPV6 | Features::QUIC)),
        (with_pool(vec![in_mode(Mode::FullNat, service(80, 1..4)), over_ipv6(service(81, 5..6))]), {
            Some(Features::IPV6 | Features::QUIC | Features::FULL_NAT)
        }),
        (of_every_kind(), {
            let known = Features::IPV6 | Features::QUIC | Features::FULL_NAT;
            Some(known | Features::TUNNEL | Features::WIDE)
        }),
    ];
    for (now, (step, expected)) in (100..).zip(steps) {
        let planned = plan(&mut installed, &step, now);
        let enabled = planned.changes.iter().enumerate().find_map(|(at, change)| match change {
            Change::Enable(features) => Some((at, *features)),
            _ => None,
        });
        assert_eq!(enabled, expected.map(|features| (0, features)), "second {now}");
    }
}

/// Memory under a program that does nothing more.
struct Stubborn(MemoryDatapath);

impl Datapath for Stubborn {
    fn apply(&mut self, change: &Change) -> Result<()> {
        ensure!(!matches!(change, Change::Enable(_)), "the kernel refuses");
        self.0.apply(change)
    }
    fn contents(&self) -> Result<Contents> {
        self.0.contents()
    }
    fn flows(&self) -> Result<Vec<(FlowKey, Flow)>> {
        self.0.flows()
    }
    fn translations(&self) -> Result<Vec<(FlowKey, Translation)>> {
        self.0.translations()
    }
    fn service_counters(&self, id: u32) -> Result<Counters> {
        self.0.service_counters(id)
    }
    fn backend_counters(&self, id: BackendId) -> Result<Counters> {
        self.0.backend_counters(id)
    }
    fn backend_load(&self, id: BackendId) -> Load {
        self.0.backend_load(id)
    }
    fn adjust_connections(&self, id: BackendId, addend: i64) {
        self.0.adjust_connections(id, addend);
    }
    fn put_response(&self, id: BackendId, response: u64) {
        self.0.put_response(id, response);
    }
    fn reason_counters(&self) -> Result<Vec<u64>> {
        self.0.reason_counters()
    }
    fn hash_keys(&self) -> HashKeys {
        self.0.hash_keys()
    }
    fn capacity(&self) -> Capacity {
        self.0.capacity()
    }
}

#[test]
fn a_program_that_cannot_be_had_keeps_nothing_else_back() {
    let mut memory = MemoryDatapath::new(CAPACITY, HashKeys([3, 5]));
    memory.features = Features::NONE;
    let mut engine = Engine::adopt(Stubborn(memory)).expect("nothing overlaps");
    let mut wanted = target(vec![over_ipv6(service(81, 9..10)), service(80, 1..4)]);
    for now in [100, 101] {
        let refused = engine.apply(&wanted, now).expect_err("it is asked for again");
        assert_eq!(format!("{refused:#}"), "applying Enable(Features(1)): the kernel refuses");
        assert_eq!(engine.installed().services.len(), 2);
        assert_eq!(engine.installed().features, Features::NONE);
    }
    wanted.services[1].backends[0].state = BackendState::Down;
    engine.apply(&wanted, 102).expect_err("it is asked for again");
    let down = engine.installed().services[&key(80)].backends
        [&(wanted.services[1].backends[0].address, Port::new(8_080))];
    assert!(!engine.installed().serves(down), "a failed backend is left all the same");
}

/// Replies come to the pool as soon as the service is there: its address answers first.
#[test]
fn the_pool_answers_before_the_service_that_uses_it() {
    let planned =
        plan(&mut nothing_installed(), &with_pool(vec![in_mode(Mode::FullNat, service(80, 1..4))]), 100);
    let at = |wanted: &dyn Fn(&Change) -> bool| planned.changes.iter().position(wanted);
    let pool_answers = at(&|change| match change {
        Change::PutVirtualAddress(POOL, entry) => entry.answer_arp == 1 && entry.services == 0,
        _ => false,
    });
    let service = at(&|change| matches!(change, Change::PutService(..)));
    let counted = at(&|change| matches!(change, Change::PutSettings(..)));
    let filled = at(&|change| matches!(change, Change::PutPool(0, POOL)));
    assert!(filled.is_some() && filled < counted && counted < pool_answers && pool_answers < service);
    assert!(!kinds(&planned.changes).contains(&"reply"), "translations know their replies");
}

#[test]
fn entries_say_what_was_asked_for() {
    let mut installed = nothing_installed();
    let mut by_address = quic(53, 60..62);
    by_address.settings.by_address = true;
    by_address.fragments = FragmentPolicy::ByAddress;
    let mut wanted = of_every_kind();
    wanted.services.push(by_address.into());
    plan(&mut installed, &wanted, 100);

    let (wide, address) = (WideKey::new(6, key(0).address), key(0).address);
    let entry = installed.wide[&(wide, 128)];
    let used: Vec<PortRange> = entry.ranges.into_iter().filter(|range| range.last != 0).collect();
    assert_eq!(used, [PortRange { first: 100, last: 199 }, PortRange { first: 200, last: 300 }]);
    assert_eq!(entry.service_key(250), Some(wanted.services[3].key));

    let reply = installed.replies.values().find(|reply| reply.ports.last == 199).expect("of the range");
    assert_eq!((reply.vip, reply.port, reply.ports.first), (address, Port::default(), 100));

    let entry = installed.virtual_addresses[&address];
    // All but the IPv6 one.
    assert_eq!((entry.services, entry.answer_arp), (wanted.services.len() as u32 - 1, 1));
    assert_eq!(entry.fragments, [FragmentPolicy::Drop.byte(), FragmentPolicy::ByAddress.byte()]);
    assert_eq!(entry.by_address, [Port::default(), Port::new(53)]);

    let number = installed.services[&wanted.services[4].key].entry.id;
    let server = QuicKey { service: number, server: 2, ..QuicKey::default() };
    let id = installed.quic_servers[&server];
    assert_eq!(installed.backends[&id].address, wanted.services[4].backends[1].address);

    assert_eq!(
        installed.pool.iter().map(|(&index, &at)| (index, at)).collect::<Vec<_>>(),
        [(0, POOL), (16, ipv6(9))]
    );
}

#[test]
fn hash_keys_stay_those_of_the_maps() {
    let mut engine = engine();
    let keys = engine.installed().settings.hash_keys;
    engine.apply(&of_every_kind(), 100).expect("applies");
    assert_eq!(engine.datapath().settings.hash_keys, keys);
    assert_eq!(engine.datapath().settings.pool_ports, 1_000);
}

#[test]
fn a_network_has_room_for_so_many_ranges() {
    let ranges = |number: u16| (1..=number).map(|at| range(at * 100, at * 100 + 9, 1..2)).collect();
    assert_eq!(plan(&mut nothing_installed(), &target(ranges(8)), 100).shortages, []);
    let left_out = range(900, 909, 1..2).key;
    let planned = plan(&mut nothing_installed(), &target(ranges(9)), 100);
    assert_eq!(planned.shortages, [Shortage::Ranges { address: left_out }]);
}

/// A prefix of addresses is found by its bits, and answers for none of them.
#[test]
fn a_prefix_is_routed_here_and_not_asked_for() {
    let mut installed = nothing_installed();
    let mut prefix = range(1, 65_535, 1..4);
    (prefix.key.address, prefix.key.width) = (Address::from_ipv4([10, 8, 0, 0]), 96 + 16 + 1);
    prefix.settings.mode = Mode::DsrL2;
    let key = prefix.key;
    plan(&mut installed, &target(vec![prefix]), 100);
    assert_eq!(installed.wide[&(WideKey::new(6, key.address), 96 + 16)].service_key(80), Some(key));
    assert!(installed.virtual_addresses.is_empty());
}
