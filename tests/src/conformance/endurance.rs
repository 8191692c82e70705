//! What goes on while clients are served: slow clients, and configuration after configuration.

use std::{
    fs,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{protocols, report::Report, stage::Stage};
use crate::{bench_gateway::cpu::resident_kib, process::Process};

/// What must be installed.
pub const PROGRAMS: [&str; 5] = ["curl", "openssl", "python", "wrk", "slowhttptest"];
const URL: &str = "http://127.0.0.1:8020/a";
/// slowhttptest's ways of being slow, and how long it tries each.
const SLOW: [(&str, &str); 3] = [("slow heads", "-H"), ("slow bodies", "-B"), ("slow readers", "-X")];
const SLOW_SECONDS: &str = "10";
const RELOADS_PER_SECOND: u32 = 10;
/// Allocators settle after the first reloads; what grows afterwards is lost.
const SETTLED_AFTER: f64 = 0.3;
/// A configuration and its tables take a few KiB: a leak of each would be six times this after 600.
const GROWTH_KIB_MAX: u64 = 4 << 10;

/// 400 slow clients of each kind, while others ask: all of them are served.
pub fn slow(stage: &Stage) -> Result<Report> {
    let _gateway = protocols::start(stage)?;
    let mut report = Report::default();
    for (class, way) in SLOW {
        let mut attack = stage.namespace.command("slowhttptest");
        attack.current_dir(stage.folder()).args([
            "-c",
            "400",
            "-r",
            "200",
            "-i",
            "1",
            "-l",
            SLOW_SECONDS,
            way,
        ]);
        attack.args(["-u", URL, "-p", "5"]);
        let attack = thread::spawn(move || attack.output());
        while !attack.is_finished() {
            let output =
                stage.namespace.command("curl").args(["-sS", "--fail", "--max-time", "5", URL]).output()?;
            match output.status.success() {
                true => report.pass(class),
                false => report.fail(class, String::from_utf8_lossy(&output.stderr)),
            }
            thread::sleep(Duration::from_millis(50));
        }
        let output = attack.join().expect("it returns errors").context("slowhttptest")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(text.contains("service available"), "slowhttptest said {text}");
        let available =
            text.lines().filter(|line| line.contains("service available")).all(|line| line.contains("YES"));
        match available {
            true => report.pass(class),
            false => report.fail(class, "slowhttptest found the service not available"),
        }
    }
    Ok(report)
}

/// Ten configurations a second under load: no request fails, the last one counts, and memory does not grow.
pub fn reload_storm(stage: &Stage, seconds: u32) -> Result<Report> {
    let gateway = protocols::start(stage)?;
    let first = fs::read_to_string(stage.file("gateway.yaml"))?;
    let mut load = stage.namespace.command("wrk");
    // A little longer than the storm.
    load.args(["-t1", "-c32", "--timeout", "10s", "-d", &format!("{}s", seconds + 2), URL]);
    let load = thread::spawn(move || load.output());

    let reloads = seconds * RELOADS_PER_SECOND;
    let mut settled_kib = 0;
    for number in 1..=reloads {
        let begun = Instant::now();
        let header = format!(
            "    response: {{ headers: {{ set: {{ x-generation: \"{number}\" }} }} }}\n    upstream: recorder"
        );
        fs::write(stage.file("gateway.yaml"), first.replace("    upstream: recorder", &header))?;
        gateway.signal(libc::SIGHUP)?;
        if number == (f64::from(reloads) * SETTLED_AFTER) as u32 {
            settled_kib = resident_kib(&[gateway.id()])?;
        }
        thread::sleep((Duration::from_secs(1) / RELOADS_PER_SECOND).saturating_sub(begun.elapsed()));
    }
    let output = load.join().expect("it returns errors").context("wrk")?;
    let grown_kib = resident_kib(&[gateway.id()])?.saturating_sub(settled_kib);
    let mut report = Report::default();
    let mut note = |class: &str, outcome: Result<()>| match outcome {
        Ok(()) => report.pass(class),
        Err(error) => report.fail(class, format!("{error:#}")),
    };
    note("requests", no_failure(&output));
    note("last configuration", last_counts(stage, &gateway, reloads));
    let flat = grown_kib <= GROWTH_KIB_MAX;
    println!("  {reloads} reloads; memory grew by {grown_kib} KiB from {settled_kib} KiB");
    note(
        "memory",
        if flat { Ok(()) } else { Err(anyhow::anyhow!("{grown_kib} KiB more after {reloads} reloads")) },
    );
    Ok(report)
}

/// wrk has lines for what failed only if something did.
fn no_failure(output: &Output) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stdout);
    let requests =
        text.lines().find(|line| line.contains(" requests in ")).context("wrk did not end well")?;
    println!("  {}", requests.trim());
    ensure!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    Ok(())
}

fn last_counts(stage: &Stage, gateway: &Process, reloads: u32) -> Result<()> {
    let output = stage.namespace.command("curl").args(["-sS", "--head", URL]).output()?;
    let head = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = format!("x-generation: {reloads}");
    ensure!(head.contains(&expected), "the answer has not {expected}: {head}; {}", gateway.log_tail());
    Ok(())
}
