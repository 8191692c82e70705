//! What many routes cost: reading the file, compiling it, memory, finding one.
//!
//! `cargo bench -p gateway --bench routes [-- ROUTES…]` prints a JSON row for each number of routes. `parse_ms` and
//! `compile_ms` are the best of three, `lookup_ns` the median of rounds over all routes in a scattered order. `rss_kib`
//! is what a process of its own, which has the text alone so far, grows by until it holds the compiled table and has
//! given the document back; `peak_kib` what it grows by meanwhile. A last row has as many `regex:` paths as a host may
//! have: `miss_ns` is what a request costs that none of them takes.

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
    route::paths::REGEX_PATHS_MAX,
    snapshot::Snapshot,
};
use http::request::Parts;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [usize; 4] = [100, 5_000, 20_000, 100_000];
const LOOKUPS: usize = 200_000;
const ROUNDS: usize = 9;
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const BEGIN: &str = "listen: ['127.0.0.1:0']\nlimits: { in_flight: 100 }\nupstreams: { a: { endpoints: ['127.0.0.1:1'] } }\nroutes:\n";
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
    println!("{}", measure_expressions());
}

fn measure(count: usize) -> serde_json::Value {
    let text = configuration(count);
    let before = memory_kib("VmRSS:");
    let snapshot = compiled(&config::parse(&text).expect("a configuration"), None);
    let (rss, peak) = (memory_kib("VmRSS:") - before, memory_kib("VmHWM:") - before);
    let parse = best_of_three(|| config::parse(&text).expect("a configuration"));
    let document = config::parse(&text).expect("a configuration");
    let compile = best_of_three(|| compiled(&document, None));
    let again = best_of_three(|| compiled(&document, Some(&snapshot)));
    serde_json::json!({
        "routes": count,
        "yaml_bytes": text.len(),
        "parse_ms": millis(parse),
        "compile_ms": millis(compile),
        "compile_beside_previous_ms": millis(again),
        "lookup_ns": lookup_ns(&snapshot, count),
        "rss_kib": rss,
        "peak_kib": peak,
    })
}

fn configuration(count: usize) -> String {
    let mut text = String::from(BEGIN);
    for index in 0..count {
        let (name, path) = (index, path(index, "{id}"));
        writeln!(text, "- {{ name: r{name}, host: {}, path: '{path}', methods: [GET], authenticate: [anonymous], upstream: a }}", host(index))
            .expect("room");
    }
    text
}

fn measure_expressions() -> serde_json::Value {
    let mut text = String::from(BEGIN);
    for index in 0..REGEX_PATHS_MAX {
        let path = format!("regex:/api/service-{index}/(?<id>[0-9a-f-]+)");
        writeln!(text, "- {{ name: r{index}, path: '{path}', authenticate: [anonymous], upstream: a }}")
            .expect("room");
    }
    let snapshot = compiled(&config::parse(&text).expect("a configuration"), None);
    let head = http::Request::get("/api/service-none/42").body(()).expect("a request").into_parts().0;
    let requests = vec![head; 1_000];
    let miss = median_ns(&requests, |head| assert!(snapshot.routes.find(head, CLIENT).is_err()));
    serde_json::json!({ "regex_paths": REGEX_PATHS_MAX, "miss_ns": miss })
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
    median_ns(&requests, |head| drop(black_box(snapshot.routes.find(head, CLIENT).expect("a route"))))
}

/// Of one request, the median of rounds over all of them.
fn median_ns(requests: &[Parts], find: impl Fn(&Parts)) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            requests.iter().for_each(&find);
            begun.elapsed().as_nanos() as f64 / requests.len() as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2].round()
}

fn memory_kib(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).expect("a number of kB")
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}
