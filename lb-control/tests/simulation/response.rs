//! Least response time against servers whose service times are simulated: one becomes ten times slower, and recovers.
//!
//! Not promised: that equal servers get equal shares. Of several that answer in about the same time, the one that
//! happened to answer fastest is asked more until its connections show.

use std::{cmp::Reverse, collections::BinaryHeap};

use lb_common::{Algorithm, Mode, ServiceSettings, Tracking};

use crate::{
    random::Random,
    seeds, short_or_long,
    world::{Kind, World},
};

const MICROS: u64 = 1_000_000;
/// Between balancer and server and back.
const ROUND_TRIP: u64 = 100;
/// The server that becomes slow.
const SLOW: u32 = 3;

/// What happens next to a request: to and from the server numbered last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Step {
    Arrive,
    Accept,
    Ask,
    Answer,
    Leave,
}

/// Servers and requests to them.
struct Servers {
    world: World,
    random: Random,
    /// When, which request, what, client's port, server.
    events: BinaryHeap<Reverse<(u64, u64, Step, u32)>>,
    /// Requests a second, and the mean service time of each server, in microseconds.
    rate: f64,
    service: Vec<f64>,
    /// Of a server that does one thing after the other: when it is free. Else it does all at once.
    free_at: Option<Vec<u64>>,
    arrived: u64,
}

impl Servers {
    fn new(seed: u64, count: u32, rate: f64, mean: f64, queues: bool) -> Self {
        let algorithm = Algorithm::LeastResponseTime;
        let settings =
            ServiceSettings { algorithm, ..ServiceSettings::new(Mode::Nat, Tracking::EveryFlow, 5) };
        let world = World::with(seed, count, settings, 1 << 20);
        Self {
            world,
            random: Random::new(!seed),
            events: BinaryHeap::from([Reverse((0, 0, Step::Arrive, 0))]),
            rate,
            service: vec![mean; count as usize + 1],
            free_at: queues.then(|| vec![0; count as usize + 1]),
            arrived: 0,
        }
    }

    /// Runs until so many seconds since the beginning have passed; returns the requests that each server got.
    fn until(&mut self, seconds: f64) -> Vec<u32> {
        let mut got = vec![0; self.service.len()];
        let end = (seconds * MICROS as f64) as u64;
        while let Some(&Reverse((now, request, step, server))) = self.events.peek()
            && now < end
        {
            self.events.pop();
            while self.world.now < 1_000 + (now / MICROS) as u32 {
                self.world.second();
            }
            self.world.datapath().micros.set(now % MICROS);
            let (client, port) = (0x2000_0000 + (request >> 14) as u32, 1_024 + (request & 0x3fff) as u16);
            match step {
                Step::Arrive => {
                    let server = self.world.send(client, port, Kind::Syn);
                    got[server as usize] += 1;
                    self.then(now + ROUND_TRIP, request, Step::Accept, server);
                    self.arrived += 1;
                    let next = now + self.random.exponential(MICROS as f64 / self.rate) as u64;
                    self.then(next, self.arrived, Step::Arrive, 0);
                }
                Step::Accept => {
                    self.world.answer(server, client, port, Kind::Syn);
                    self.then(now + ROUND_TRIP, request, Step::Ask, server);
                }
                Step::Ask => {
                    assert_eq!(self.world.send(client, port, Kind::Data), server);
                    let took = self.random.exponential(self.service[server as usize]) as u64;
                    let done = match &mut self.free_at {
                        Some(free_at) => {
                            let free = &mut free_at[server as usize];
                            *free = now.max(*free) + took;
                            *free
                        }
                        None => now + took,
                    };
                    self.then(done + ROUND_TRIP, request, Step::Answer, server);
                }
                Step::Answer => {
                    self.world.answer(server, client, port, Kind::Data);
                    self.then(now + ROUND_TRIP, request, Step::Leave, server);
                }
                Step::Leave => {
                    assert_eq!(self.world.send(client, port, Kind::Fin), server);
                }
            }
        }
        got
    }

    fn then(&mut self, when: u64, request: u64, step: Step, server: u32) {
        self.events.push(Reverse((when, request, step, server)));
    }
}

/// The share of one server, as a multiple of what it would get of an even distribution.
fn share(got: &[u32], server: u32) -> f64 {
    let total: u32 = got.iter().sum();
    f64::from(got[server as usize]) * (got.len() - 1) as f64 / f64::from(total)
}

/// The servers, requests a second, milliseconds that one takes, and whether a server does one after the other.
const CASES: [(u32, f64, f64, bool); 7] = [
    (16, 2_000.0, 5.0, false),
    (16, 2_000.0, 5.0, true),
    (16, 200.0, 5.0, false),
    (16, 500.0, 100.0, false),
    (4, 1_000.0, 2.0, false),
    (4, 1_000.0, 2.0, true),
    (64, 5_000.0, 2.0, false),
];

/// The table of `docs/algorithms.md`: shares of the slow server, within 2 s of becoming slow and 10 s of recovering.
#[test]
fn a_slow_server_gets_little_and_recovers() {
    println!(
        "| servers | requests/s | service time | queues | max/mean before | slow: 2nd second | 3rd to 10th | recovered: 11th to 20th second |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let seeds = seeds(1, 5);
    for &(servers, rate, millis, queues) in short_or_long(&CASES[..2], &CASES) {
        let mut sums = [0.0; 4];
        for seed in 1..=seeds {
            let mut all = Servers::new(seed, servers, rate, millis * 1_000.0, queues);
            all.until(5.0);
            let before = all.until(15.0);
            let largest = (1..=servers).map(|server| share(&before, server)).fold(0.0, f64::max);
            all.service[SLOW as usize] *= 10.0;
            all.until(16.0);
            let second = all.until(17.0);
            let slow = all.until(25.0);
            all.service[SLOW as usize] /= 10.0;
            all.until(35.0);
            let recovered = all.until(45.0);
            let figures = [largest, share(&second, SLOW), share(&slow, SLOW), share(&recovered, SLOW)];
            sums.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure / seeds as f64);
        }
        let [largest, second, slow, recovered] = sums;
        println!(
            "| {servers} | {rate} | {millis} ms | {} | {largest:.2} | {second:.2} | {slow:.2} | {recovered:.2} |",
            if queues { "yes" } else { "no" }
        );
        assert!(slow <= 0.15, "{slow} of its fair share two seconds after it became slow");
        assert!(recovered >= 0.7, "{recovered} of its fair share ten seconds after it recovered");
    }
}
