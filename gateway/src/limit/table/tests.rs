//! One thread, eight threads, a virtual clock and the real one.

use super::*;
use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::Instant;

use proptest::prelude::*;

const SECOND_NS: u64 = 1_000_000_000;
const THREADS: usize = 8;

fn table(per: &str, burst: u32, capacity: usize) -> Table {
    Table::new(Rate::new(per.parse().unwrap(), burst).unwrap(), capacity)
}

fn admits(table: &Table, key: impl AsRef<[u8]>, now_ns: u64) -> bool {
    matches!(table.take(key.as_ref(), now_ns, 1), Verdict::Admit { .. })
}

/// Runs `work` in eight threads at once and adds up what they return.
fn at_once(work: impl Fn(usize) -> usize + Sync) -> usize {
    let (gate, work) = (Barrier::new(THREADS), &work);
    thread::scope(|scope| {
        let spawn = |index| {
            let gate = &gate;
            scope.spawn(move || {
                gate.wait();
                work(index)
            })
        };
        let handles: Vec<_> = (0..THREADS).map(spawn).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).sum()
    })
}

#[test]
fn keys_do_not_share() {
    let table = table("1/s", 2, 100);
    for key in 0_u32..50 {
        let admitted = (0..5).filter(|_| admits(&table, key.to_be_bytes(), SECOND_NS)).count();
        assert_eq!(admitted, 2, "key {key}");
    }
    assert_eq!(table.overflowed(), 0);
}

#[test]
fn a_table_holds_its_capacity_without_overflow() {
    for capacity in [1_000, CAPACITY_DEFAULT] {
        let table = table("1/h", 1, capacity);
        for key in 0..capacity as u64 {
            admits(&table, key.to_be_bytes(), SECOND_NS);
        }
        let overflowed = table.overflowed() as usize;
        assert!(overflowed * 1_000 <= capacity, "{overflowed} of {capacity} keys found no slot");
        assert!((0..capacity as u64).all(|key| !admits(&table, key.to_be_bytes(), SECOND_NS)));
    }
    assert!(table("1/s", 1, CAPACITY_DEFAULT).bytes() < 1_600_000);
}

#[test]
fn a_flood_of_keys_shares_one_bucket_and_evicts_nobody() {
    let table = table("1/h", 3, 64);
    let victims: Vec<u64> = (0..20).collect();
    for key in &victims {
        while admits(&table, key.to_be_bytes(), SECOND_NS) {}
    }
    let flood = 100_000_u64;
    let admitted = (1_000..1_000 + flood).filter(|key| admits(&table, key.to_be_bytes(), SECOND_NS)).count();
    let slots = table.bytes() / 16;
    assert!(admitted <= slots + 3, "{admitted} of {flood} passed, with {slots} slots");
    assert!(table.overflowed() > flood - slots as u64);
    assert!(victims.iter().all(|key| !admits(&table, key.to_be_bytes(), SECOND_NS)), "a victim was evicted");
}

#[test]
fn entries_of_the_past_are_used_again() {
    let table = table("1/s", 1, 64);
    for round in 1..200_u64 {
        let now_ns = round * 2 * SECOND_NS;
        for key in 0..40_u64 {
            assert!(admits(&table, (round * 1_000 + key).to_be_bytes(), now_ns));
        }
    }
    assert_eq!(table.overflowed(), 0);
}

#[test]
fn eight_threads_on_one_key_are_admitted_exactly() {
    let table = table("1000/s", 50, 64);
    // The bucket at one instant, then 200 steps of 10 ms: each earns 10.
    let step = AtomicUsize::new(0);
    let admitted = at_once(|_| {
        let mut admitted = 0;
        loop {
            let now = step.fetch_add(1, Ordering::Relaxed) / 1_000;
            if now > 200 {
                return admitted;
            }
            admitted += usize::from(admits(&table, "one", SECOND_NS + now as u64 * 10_000_000));
        }
    });
    assert_eq!(admitted, 200 * 10 + 50);
}

/// New keys, known keys and slots that change owners, all at once: every key still has one bucket.
#[test]
fn eight_threads_on_many_keys_are_admitted_exactly() {
    let table = table("1/s", 2, 200);
    for round in 1..300_u64 {
        let now_ns = round * 10 * SECOND_NS;
        let admitted = at_once(|_| {
            (0..20).filter(|key| admits(&table, (round * 100 + key % 10).to_be_bytes(), now_ns)).count()
        });
        assert_eq!(admitted, 20, "round {round}");
    }
    assert_eq!(table.overflowed(), 0);
}

#[test]
fn the_real_clock_is_kept_by_eight_threads() {
    // A second's worth of burst: no pause of a busy machine makes the bucket overflow.
    let (count, burst) = (20_000, 20_000);
    let (table, origin) = (table(&format!("{count}/s"), burst, 64), Instant::now());
    let clock_ns = || origin.elapsed().as_nanos() as u64 + 1;
    let (first, last) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
    let admitted = at_once(|_| {
        let (mut admitted, end_ns) = (0, clock_ns() + 2 * SECOND_NS);
        loop {
            let now_ns = clock_ns();
            first.fetch_min(now_ns, Ordering::Relaxed);
            last.fetch_max(now_ns, Ordering::Relaxed);
            admitted += usize::from(admits(&table, "one", now_ns));
            if now_ns >= end_ns {
                return admitted;
            }
        }
    });
    let (first_ns, last_ns) = (first.into_inner(), last.into_inner());
    // The overload lasts until the last instant: what was earned while all threads paused is taken, too.
    let admitted = admitted + (0..burst).take_while(|_| admits(&table, "one", last_ns)).count();
    let elapsed_ns = last_ns - first_ns;
    let promised = (elapsed_ns as u128 * count / u128::from(SECOND_NS)) as usize + burst as usize;
    assert!(admitted.abs_diff(promised) <= 1, "{admitted} admitted, {promised} promised");
}

/// `cargo test -p gateway --release --lib limit -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn cost_of_a_decision() {
    const ROUNDS: usize = 2_000_000;
    let table = table("1000000/s", 1_000_000, CAPACITY_DEFAULT);
    let locked: Vec<Mutex<HashMap<u64, u64>>> = (0..64).map(|_| Mutex::default()).collect();
    let by_lock = |key: u64| {
        let hash = table.seed.hash_one(key.to_be_bytes());
        let mut shard = locked[scale(hash, locked.len())].lock().unwrap();
        let now = table.rate.ticks(SECOND_NS);
        let tat = shard.entry(hash).or_default();
        if let Verdict::Admit { tat: next, .. } = table.rate.decide(*tat, now, 1) {
            *tat = next;
        }
    };
    let by_swap = |key: u64| {
        table.take(&key.to_be_bytes(), SECOND_NS, 1);
    };
    let report = |name: &str, keys: u64, one: &(dyn Fn(u64) + Sync)| {
        let begin = Instant::now();
        at_once(|index| {
            (0..ROUNDS).for_each(|round| one((round * 31 + index) as u64 % keys));
            0
        });
        let ns = begin.elapsed().as_nanos() as usize / (ROUNDS * THREADS);
        println!("{name}, {keys} keys: {ns} ns a decision over all threads");
    };
    for keys in [1, 10_000] {
        report("compare-and-swap", keys, &by_swap);
        report("lock per shard", keys, &by_lock);
    }
}

proptest! {
    /// Whatever the order of keys and times: each key is decided as if it had the rate for itself.
    #[test]
    fn each_key_has_the_rate_for_itself(
        burst in 1_u32..5,
        steps in prop::collection::vec((0_u8..12, 0_u64..400), 1..300),
    ) {
        let table = table("10/s", burst, 400);
        let (mut tats, mut now_ns) = (HashMap::new(), SECOND_NS);
        for (key, gap_ms) in steps {
            now_ns += gap_ms * 1_000_000;
            let tat = tats.entry(key).or_insert(0);
            let expected = table.rate.decide(*tat, table.rate.ticks(now_ns), 1);
            if let Verdict::Admit { tat: next, .. } = expected {
                *tat = next;
            }
            prop_assert_eq!(table.take(&[key], now_ns, 1), expected);
        }
    }
}
