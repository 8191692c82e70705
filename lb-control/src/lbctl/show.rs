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
            format!("{up}/{}", backends.count()),
            word(&service["status"]["counters"]["packets"]),
            yes(&service["status"]["installed"]),
        ]
    });
    table(&["NAME", "ADDRESS", "PROTOCOL", "MODE", "UP", "PACKETS", "INSTALLED"], rows)
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
        ("flow idle", format!("{} s", answer["flow_idle_seconds"])),
        ("fragments", word(&answer["fragments"])),
        ("answers ARP", yes(&answer["answer_arp"])),
        ("on failure", word(&answer["on_failure"])),
        ("check", check),
        ("generation", format!("{}, {}", answer["generation"], installed(&status["installed"]))),
        ("slots", slots),
    ];
    if answer["connectionless"] == true {
        fields.push(("connectionless", "yes".into()));
    }
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

fn quic(quic: &Value) -> String {
    let scheme = word(&quic["scheme"]);
    match quic["server_id_length"].as_u64() {
        None => scheme,
        Some(length) => format!("{scheme}, config {}, server ids of {length} bytes", quic["config_id"]),
    }
}

/// `backend list`.
pub fn backends(answer: &Value) -> String {
    let any_id = items(answer, "backends").any(|backend| !backend["server_id"].is_null());
    let rows = items(answer, "backends").map(|backend| {
        let status = &backend["status"];
        let seen = &status["installed"];
        let mut row = vec![
            place(backend),
            word(&backend["weight"]),
            word(&status["state"]),
            word(&status["health"]),
            word(&seen["slots"]),
            word(&seen["tracked_flows"]),
            word(&seen["counters"]["packets"]),
            next_hop(seen),
        ];
        if any_id {
            row.insert(1, word(&backend["server_id"]));
        }
        row
    });
    let mut head = vec!["BACKEND", "WEIGHT", "STATE", "HEALTH", "SLOTS", "TRACKED", "PACKETS", "NEXT HOP"];
    if any_id {
        head.insert(1, "SERVER ID");
    }
    table(&head, rows)
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
    if !answer["server_id"].is_null() {
        fields.insert(1, ("server id", word(&answer["server_id"])));
    }
    if !status["drain"].is_null() {
        fields.push(("drain", drain(&status["drain"])));
    }
    list(&fields)
}

fn drain(drain: &Value) -> String {
    let left = drain["tracked_flows"].as_u64().unwrap_or(0);
    match (drain["tracked_flows_cut"].as_u64(), drain["done"] == true) {
        (Some(0), _) => "done: 0 left".into(),
        (Some(cut), _) => format!("done: {cut} cut"),
        (None, true) if left == 0 => "done: 0 left".into(),
        (None, true) => "done: the deadline has passed".into(),
        (None, false) => format!("{left} flows left, {} slots unsettled", drain["slots_unsettled"]),
    }
}

/// The answer to a deletion.
pub fn deleted(answer: &Value) -> String {
    format!(
        "deleted in generation {}: {} remembered flows cut\n",
        answer["generation"], answer["tracked_flows_cut"]
    )
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
            format!("{} up, {} draining, {} down", backends["up"], backends["draining"], backends["down"]),
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
        let counts = ["packets", "bytes", "new_flows", "refused_flows"].map(|key| word(&counters[key]));
        [vec![name], counts.to_vec()].concat()
    };
    let rows = items(answer, "services").flat_map(|service| {
        let backends = items(service, "backends")
            .map(move |backend| row(format!("  {}", place(backend)), &backend["counters"]));
        std::iter::once(row(word(&service["name"]), &service["counters"])).chain(backends)
    });
    table(&["SERVICE", "PACKETS", "BYTES", "NEW FLOWS", "REFUSED"], rows)
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
