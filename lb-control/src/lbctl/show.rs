//! Answers for people. Pure.

use serde_json::Value;

/// `service list`.
pub fn services(answer: &Value) -> String {
    let rows = items(answer, "services").map(|service| {
        let backends = items(service, "backends");
        let up = backends.clone().filter(|one| one["status"]["state"] == "up").count();
        vec![
            word(&service["name"]),
            place(service),
            word(&service["protocol"]),
            word(&service["mode"]),
            word(&service["algorithm"]),
            format!("{up}/{}", backends.count()),
            word(&service["status"]["counters"]["packets"]),
            yes(&service["status"]["installed"]),
        ]
    });
    table(&["NAME", "ADDRESS", "PROTOCOL", "MODE", "ALGORITHM", "UP", "PACKETS", "INSTALLED"], rows)
}

/// A service.
pub fn service(answer: &Value) -> String {
    let status = &answer["status"];
    let check = match &answer["health_check"] {
        Value::Null => "none".to_owned(),
        check => format!(
            "{} {}every {} ms, timeout {} ms, rise {}, fall {}",
            word(&check["type"]),
            check["path"].as_str().map(|path| format!("{path} ")).unwrap_or_default(),
            check["interval_ms"],
            check["timeout_ms"],
            check["rise"],
            check["fall"]
        ),
    };
    let slots = format!(
        "{}: {} settled, {} moving, {} pinned",
        status["slots"], status["slots_settled"], status["slots_moving"], status["slots_pinned"]
    );
    let mut fields = vec![
        ("name", word(&answer["name"])),
        ("address", format!("{} {}", place(answer), word(&answer["protocol"]))),
        ("mode", word(&answer["mode"])),
        ("algorithm", word(&answer["algorithm"])),
        ("tracking", answer["tracking"].as_str().unwrap_or("none").to_owned()),
        ("flow idle", format!("{} s", answer["flow_idle_seconds"])),
        ("fragments", word(&answer["fragments"])),
        ("answers ARP", yes(&answer["answer_arp"])),
        ("on failure", word(&answer["on_failure"])),
        ("check", check),
        ("generation", format!("{}, {}", answer["generation"], installed(&status["installed"]))),
        ("slots", slots),
    ];
    fields.extend(choice(answer));
    if answer["answer_echo"] == true {
        fields.push(("answers ping", "yes".into()));
    }
    if let Some(mss) = answer["mss"].as_u64() {
        fields.push(("segments", format!("at most {mss} bytes")));
    }
    if answer["quic"].is_object() {
        fields.push(("QUIC ids", quic(&answer["quic"])));
    }
    if let Some(cut) = status["tracked_flows_cut"].as_u64() {
        fields.push(("flows cut", cut.to_string()));
    }
    format!("{}\n{}", list(&fields), backends(answer))
}

/// What differs from the defaults in how backends are chosen.
fn choice(service: &Value) -> Vec<(&'static str, String)> {
    let number = |key: &str, default: u64| service[key].as_u64().filter(|number| *number != default);
    let fields = [
        ("connectionless", (service["connectionless"] == true).then(|| "yes".to_owned())),
        ("client prefix", number("client_prefix", 0).map(|bits| format!("{bits} bits"))),
        ("affinity", number("affinity_seconds", 0).map(|seconds| format!("{seconds} s"))),
        ("slow start", number("slow_start_seconds", 0).map(|seconds| format!("{seconds} s"))),
        ("panic below", number("panic_threshold_percent", 0).map(|percent| format!("{percent} % healthy"))),
        ("least healthy", number("min_active_backends", 1).map(|least| least.to_string())),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn quic(quic: &Value) -> String {
    let scheme = word(&quic["scheme"]);
    match quic["server_id_length"].as_u64() {
        None => scheme,
        Some(length) => format!("{scheme}, config {}, server ids of {length} bytes", quic["config_id"]),
    }
}

/// `backend list`. Columns that only some services need are shown where a backend has something in them.
pub fn backends(answer: &Value) -> String {
    let any = |has: fn(&Value) -> bool| items(answer, "backends").any(has);
    let (ids, groups) = (any(|one| !one["server_id"].is_null()), any(is_grouped));
    let counted = any(|one| connections(one) != "-");
    let row = |backend: &Value| {
        let (status, seen) = (&backend["status"], &backend["status"]["installed"]);
        let cells = [
            (true, place(backend)),
            (ids, word(&backend["server_id"])),
            (true, word(&backend["weight"])),
            (groups, group(backend)),
            (true, word(&status["state"])),
            (true, word(&status["health"])),
            (true, word(&seen["slots"])),
            (true, word(&seen["tracked_flows"])),
            (counted, connections(backend)),
            (true, word(&seen["counters"]["packets"])),
            (true, next_hop(seen)),
        ];
        cells.into_iter().filter_map(|(shown, cell)| shown.then_some(cell)).collect::<Vec<_>>()
    };
    let head = [
        (true, "BACKEND"),
        (ids, "SERVER ID"),
        (true, "WEIGHT"),
        (groups, "GROUP"),
        (true, "STATE"),
        (true, "HEALTH"),
        (true, "SLOTS"),
        (true, "TRACKED"),
        (counted, "CONNECTIONS"),
        (true, "PACKETS"),
        (true, "NEXT HOP"),
    ];
    let head: Vec<_> = head.into_iter().filter_map(|(shown, name)| shown.then_some(name)).collect();
    table(&head, items(answer, "backends").map(row))
}

fn is_grouped(backend: &Value) -> bool {
    backend["fallback"] == true || backend["priority"].as_u64().unwrap_or(0) > 0
}

fn group(backend: &Value) -> String {
    if backend["fallback"] == true { "fallback".into() } else { word(&backend["priority"]) }
}

/// Live connections, and how many there may be.
fn connections(backend: &Value) -> String {
    let live = backend["status"]["installed"]["connections"].as_u64();
    match (live, backend["max_connections"].as_u64().unwrap_or(0)) {
        (None | Some(0), 0) => "-".into(),
        (Some(live), 0) => live.to_string(),
        (live, most) => format!("{} of {most}", live.unwrap_or(0)),
    }
}

/// A backend.
pub fn backend(answer: &Value) -> String {
    let (status, seen) = (&answer["status"], &answer["status"]["installed"]);
    let mut fields = vec![
        ("backend", place(answer)),
        ("weight", word(&answer["weight"])),
        ("state", word(&status["state"])),
        ("health", word(&status["health"])),
        ("generation", word(&answer["generation"])),
        ("next hop", next_hop(seen)),
        ("slots", word(&seen["slots"])),
        ("tracked flows", word(&seen["tracked_flows"])),
        ("packets", word(&seen["counters"]["packets"])),
    ];
    if is_grouped(answer) {
        fields.insert(2, ("group", group(answer)));
    }
    if connections(answer) != "-" {
        fields.push(("connections", connections(answer)));
    }
    if let Some(micros) = seen["response_micros"].as_u64().filter(|micros| *micros > 0) {
        fields.push(("response time", format!("{micros} µs")));
    }
    if !answer["server_id"].is_null() {
        fields.insert(1, ("server id", word(&answer["server_id"])));
    }
    if !status["drain"].is_null() {
        fields.push(("drain", drain(&status["drain"])));
    }
    list(&fields)
}

fn drain(drain: &Value) -> String {
    match drain["ended"].as_str() {
        Some(ended) => format!("done: {ended}"),
        None => drain_progress(drain),
    }
}

/// What a drain that goes on waits for.
pub fn drain_progress(drain: &Value) -> String {
    let live = drain["live_flows"].as_u64().unwrap_or(0);
    let wait = drain["exact_after_seconds"].as_u64().unwrap_or(0);
    match drain["exact"] == true {
        true => format!("{live} flows left"),
        false if wait > 0 => format!("{live} flows seen so far, all are known in {wait} s"),
        false => format!("{live} flows seen so far"),
    }
}

/// The answer to a deletion.
pub fn deleted(answer: &Value) -> String {
    format!(
        "deleted in generation {}: {} remembered flows cut\n",
        answer["generation"], answer["tracked_flows_cut"]
    )
}

/// The answer to an order with `--dry-run`.
pub fn dry_run(answer: &Value) -> String {
    let known = |one: &Value, flows: &str| match one["exact"] == true {
        true => word(&one[flows]),
        false => format!("at least {}", one[flows]),
    };
    let rows = items(answer, "services").map(|service| {
        vec![
            word(&service["name"]),
            format!("{} of {}", service["slots_moved"], service["slots"]),
            known(service, "live_flows"),
            known(service, "flows_cut"),
        ]
    });
    let sum = format!(
        "nothing was changed: the order would move {} slots and cut {} of {} live flows in them\n",
        answer["slots_moved"],
        known(answer, "flows_cut"),
        known(answer, "live_flows")
    );
    let shortages = items(answer, "shortages").map(|shortage| format!("{}\n", word(shortage)));
    let short: String = shortages.collect();
    format!("{sum}{short}{}", table(&["SERVICE", "SLOTS MOVED", "LIVE FLOWS", "CUT"], rows))
}

/// `status`.
pub fn status(answer: &Value) -> String {
    let (backends, flows) = (&answer["backends"], &answer["flow_table"]);
    let generation = format!(
        "{}, {} (installed: {})",
        answer["generation"],
        installed(&answer["installed"]),
        answer["installed_generation"]
    );
    let fields = [
        ("version", word(&answer["version"])),
        ("generation", generation),
        ("last error", answer["last_error"].as_str().unwrap_or("none").to_owned()),
        ("services", word(&answer["services"])),
        (
            "backends",
            format!(
                "{} up, {} standby, {} draining, {} down",
                backends["up"], backends["standby"], backends["draining"], backends["down"]
            ),
        ),
        (
            "flow table",
            format!("{} of {} remembered, {} refused", flows["entries"], flows["capacity"], flows["refused"]),
        ),
    ];
    format!("{}\n{}", list(&fields), interfaces(answer))
}

/// `interfaces`.
pub fn interfaces(answer: &Value) -> String {
    let rows = items(answer, "interfaces").map(|interface| {
        vec![
            word(&interface["name"]),
            word(&interface["ifindex"]),
            word(&interface["mode"]),
            yes(&interface["attached"]),
        ]
    });
    table(&["INTERFACE", "INDEX", "MODE", "ATTACHED"], rows)
}

/// `counters`.
pub fn counters(answer: &Value) -> String {
    let row = |name: String, counters: &Value| {
        let counts =
            ["packets", "bytes", "new_flows", "refused_flows", "overflowed"].map(|key| word(&counters[key]));
        [vec![name], counts.to_vec()].concat()
    };
    let rows = items(answer, "services").flat_map(|service| {
        let backends = items(service, "backends")
            .map(move |backend| row(format!("  {}", place(backend)), &backend["counters"]));
        std::iter::once(row(word(&service["name"]), &service["counters"])).chain(backends)
    });
    table(&["SERVICE", "PACKETS", "BYTES", "NEW FLOWS", "REFUSED", "OVERFLOWED"], rows)
}

/// `reasons`.
pub fn reasons(answer: &Value) -> String {
    let rows = items(answer, "reasons")
        .map(|reason| vec![word(&reason["count"]), word(&reason["name"]), word(&reason["description"])]);
    table(&["PACKETS", "REASON", "MEANING"], rows)
}

/// `decap attach`.
pub fn decap_attached(answer: &Value) -> String {
    format!("attached to {} in mode {}\n", word(&answer["interface"]), word(&answer["mode"]))
}

/// `decap detach`.
pub fn decap_detached(answer: &Value) -> String {
    format!("detached from {}\n", word(&answer["interface"]))
}

/// `decap status`.
pub fn decap_status(answer: &Value) -> String {
    let shown: Vec<String> = items(answer, "interfaces").map(decap_interface).collect();
    if shown.is_empty() { "attached nowhere\n".into() } else { shown.join("\n") }
}

fn decap_interface(interface: &Value) -> String {
    let name = interface["interface"].as_str().unwrap_or("gone");
    let from: Vec<String> = items(interface, "from").map(word).collect();
    let mut fields = vec![
        ("interface", format!("{name} ({})", interface["ifindex"])),
        ("mode", word(&interface["mode"])),
        ("GUE port", word(&interface["gue_port"])),
        ("from", if from.is_empty() { "anybody".into() } else { from.join(", ") }),
    ];
    for reason in items(interface, "reasons") {
        fields.push((reason["name"].as_str().unwrap_or_default(), word(&reason["count"])));
    }
    list(&fields)
}

fn items<'a>(answer: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + Clone + use<'a> {
    answer[key].as_array().map_or(&[][..], Vec::as_slice).iter()
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn yes(value: &Value) -> String {
    if *value == true { "yes" } else { "no" }.into()
}

fn installed(value: &Value) -> &'static str {
    if *value == true { "installed" } else { "not installed yet" }
}

/// An address or network with its port or ports, where it has any.
fn place(value: &Value) -> String {
    let address = word(&value["address"]);
    let ports = if value["ports"].is_null() { &value["port"] } else { &value["ports"] };
    match (ports, address.contains(':')) {
        (Value::Null, _) => address,
        (ports, true) => format!("[{address}]:{}", word(ports)),
        (ports, false) => format!("{address}:{}", word(ports)),
    }
}

fn next_hop(seen: &Value) -> String {
    match &seen["next_hop"] {
        Value::Null => "unresolved".into(),
        hop => format!("{} on {}", word(&hop["mac"]), word(&hop["interface"])),
    }
}

fn list(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = head.iter().map(|text| (*text).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
