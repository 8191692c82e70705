//! What many routes cost: reading the file, compiling it, memory, finding one.
//!
//! `cargo bench -p gateway --bench routes [ROUTES…]` prints a JSON row for each number of routes. `parse_ms` and
//! `compile_ms` are the best of three, `lookup_ns` the median of rounds over all routes in a scattered order, and
//! `rss_kib` what the process grew by while it kept the compiled table alone, in a process of its own.

use std::{
    fmt::Write as _,
    fs,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use gateway::{
    compile::{self, Context},
    config,
    snapshot::Snapshot,
};
use http::request::Parts;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [usize; 4] = [100, 5_000, 20_000, 100_000];
const LOOKUPS: usize = 200_000;
const ROUNDS: usize = 9;
/// Says to the process that it is one that measures a single size.
const ONE: &str = "GATEWAY_BENCH_ROUTES";

fn main() {
    if let Ok(count) = std::env::var(ONE) {
        println!("{}", measure(count.parse().expect("a number of routes")));
        return;
    }
    // cargo says `--bench`.
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let program = std::env::current_exe().expect("this program");
    for count in if asked.is_empty() { SIZES.to_vec() } else { asked } {
        let status = Command::new(&program).env(ONE, count.to_string()).status().expect("a process");
        assert!(status.success(), "{count} routes cannot be measured");
    }
}

fn measure(count: usize) -> serde_json::Value {
    let text = configuration(count);
    let parse = best_of_three(|| config::parse(&text).expect("a configuration"));
    let document = config::parse(&text).expect("a configuration");
    let compile = best_of_three(|| compiled(&document, None));
    let before = rss_kib();
    let snapshot = compiled(&document, None);
    let rss = rss_kib().saturating_sub(before);
    let again = best_of_three(|| compiled(&document, Some(&snapshot)));
    serde_json::json!({
        "routes": count,
        "yaml_bytes": text.len(),
        "parse_ms": millis(parse),
        "compile_ms": millis(compile),
        "compile_beside_previous_ms": millis(again),
        "lookup_ns": lookup_ns(&snapshot, count),
        "rss_kib": rss,
    })
}

fn configuration(count: usize) -> String {
    let mut text = String::from(
        "listen: ['127.0.0.1:0']\nlimits: { in_flight: 100 }\nupstreams: { a: { endpoints: ['127.0.0.1:1'] } }\nroutes:\n",
    );
    for index in 0..count {
        let (name, path) = (index, path(index, "{id}"));
        writeln!(text, "- {{ name: r{name}, host: {}, path: '{path}', methods: [GET], authenticate: [anonymous], upstream: a }}", host(index))
            .expect("room");
    }
    text
}

/// A hundred routes to a host, so that both hosts and paths grow.
fn host(index: usize) -> String {
    format!("h{}.example", index / 100)
}

fn path(index: usize, id: &str) -> String {
    format!("/api/v1/service-{}/items/{id}", index % 100)
}

fn compiled(document: &config::Document, previous: Option<&Snapshot>) -> Snapshot {
    let context = Context { directory: Path::new("."), previous };
    compile::compile(document, context).unwrap_or_else(|findings| panic!("{findings}")).0
}

fn best_of_three<T>(mut work: impl FnMut() -> T) -> Duration {
    let one = |_| {
        let begun = Instant::now();
        let made = black_box(work());
        let taken = begun.elapsed();
        drop(made);
        taken
    };
    (0..3).map(one).min().unwrap_or_default()
}

fn lookup_ns(snapshot: &Snapshot, count: usize) -> f64 {
    // Coprime to every size: all routes, in an order that no cache foresees.
    let requests: Vec<Parts> = (0..LOOKUPS.min(count * 100))
        .map(|turn| turn.wrapping_mul(7_919) % count)
        .map(|index| {
            let request = http::Request::get(path(index, "42")).header("host", host(index)).body(());
            request.expect("a request").into_parts().0
        })
        .collect();
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            for head in &requests {
                black_box(snapshot.routes.find(head, client).expect("a route"));
            }
            begun.elapsed().as_nanos() as f64 / requests.len() as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2].round()
}

fn rss_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}
