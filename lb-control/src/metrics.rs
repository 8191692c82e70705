//! Prometheus' text format (0.0.4) over what is desired and observed. Pure.
//!
//! Labels are bounded by what is configured and by closed lists: no address of a client ever becomes one.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write},
};

use lb_common::BackendState;

use crate::{
    desired::active,
    effective::{BOUNDS, Histogram},
    model::{Desired, address::place},
    status::{AttachMode, BackendStatus, CounterValues, Observed},
};

/// All metrics; `answers` of the API by their outcome.
pub fn render(
    desired: &Desired,
    observed: &Observed,
    answers: &BTreeMap<&'static str, u64>,
    now_unix: u64,
) -> String {
    let mut out = Text(String::new());
    out.family("generation", "gauge", "Generation of the desired state.");
    out.sample("generation", &[], desired.generation);
    out.family("installed_generation", "gauge", "Generation that is wholly installed.");
    out.sample("installed_generation", &[], observed.installed_generation);
    out.family("services", "gauge", "Services that are desired.");
    out.sample("services", &[], desired.services.len());
    out.family("api_answers_total", "counter", "Answers of the API by their outcome.");
    for (outcome, count) in answers {
        out.sample("api_answers_total", &[("outcome", outcome)], count);
    }
    totals(&mut out, observed);
    flow_table(&mut out, observed);
    translation_table(&mut out, observed);
    out.family("interface_attached", "gauge", "1 where the program runs on the interface.");
    for interface in &observed.interfaces {
        let mode = match interface.mode {
            Some(AttachMode::Driver) => "driver",
            Some(AttachMode::Generic) => "generic",
            None => "none",
        };
        let labels = [("interface", interface.name.as_str()), ("mode", mode)];
        out.sample("interface_attached", &labels, u8::from(interface.attached));
    }
    out.family("packets_total", "counter", "Packets by the reason for which they left the program.");
    for reason in &observed.reasons {
        out.sample("packets_total", &[("reason", reason.name)], reason.count);
    }
    services(&mut out, observed);
    backends(&mut out, desired, observed, now_unix);
    out.0
}

/// How long orders took until packets went by them.
pub fn effective(seen: &Histogram) -> String {
    let mut out = Text(String::new());
    let name = "order_effective_seconds";
    out.family(name, "histogram", "From an order's arrival to the last write of the tables for it.");
    let mut within = 0;
    for (bound, count) in BOUNDS.iter().zip(seen.buckets) {
        within += count;
        out.sample(&format!("{name}_bucket"), &[("le", &bound.to_string())], within);
    }
    out.sample(&format!("{name}_bucket"), &[("le", "+Inf")], seen.count);
    out.sample(&format!("{name}_sum"), &[], seen.sum.as_secs_f64());
    out.sample(&format!("{name}_count"), &[], seen.count);
    let help = "Orders that were accepted while too many others waited, and not timed.";
    out.family("orders_not_timed_total", "counter", help);
    out.sample("orders_not_timed_total", &[], seen.left_out);
    out.0
}

/// How many response times of checks were dropped.
pub fn samples(dropped: u64) -> String {
    let mut out = Text(String::new());
    let help = "Response times of checks that were dropped, because too many waited for the engine.";
    out.family("response_samples_dropped_total", "counter", help);
    out.sample("response_samples_dropped_total", &[], dropped);
    out.0
}

fn flow_table(out: &mut Text, observed: &Observed) {
    let table = observed.flow_table;
    out.family("flow_table_capacity", "gauge", "Flows that can be remembered.");
    out.sample("flow_table_capacity", &[], table.capacity);
    out.family("flow_table_entries", "gauge", "Flows that are remembered.");
    out.sample("flow_table_entries", &[], table.entries);
    let help = "Clients' networks whose backend is remembered, among the entries.";
    out.family("flow_table_affinities", "gauge", help);
    out.sample("flow_table_affinities", &[], table.affinities);
    out.family("flow_table_refused_total", "counter", "Flows that the full table refused to remember.");
    out.sample("flow_table_refused_total", &[], table.refused);
}

fn translation_table(out: &mut Text, observed: &Observed) {
    let table = observed.translation_table;
    out.family("translation_table_capacity", "gauge", "Directions of full-nat flows that there is room for.");
    out.sample("translation_table_capacity", &[], table.capacity);
    out.family("translation_table_entries", "gauge", "Directions of full-nat flows, two for each flow.");
    out.sample("translation_table_entries", &[], table.entries);
}

fn totals(out: &mut Text, observed: &Observed) {
    let totals = observed.totals;
    out.family("slots_moved_total", "counter", "Slots that got another owner since the controller started.");
    out.sample("slots_moved_total", &[], totals.slots_moved);
    let help = "Flows that orders cut since the controller started, as far as they were known.";
    out.family("flows_cut_total", "counter", help);
    out.sample("flows_cut_total", &[], totals.flows_cut);
    let help = "How often a backend's live connections were corrected since the controller started.";
    out.family("connection_corrections_total", "counter", help);
    out.sample("connection_corrections_total", &[], totals.corrections);
}

const COUNTERS: [Counter; 5] = [
    ("packets_total", "Packets from clients that were sent on.", |counters| counters.packets),
    ("bytes_total", "Bytes of packets that were sent on, from the IP header on.", |counters| counters.bytes),
    ("new_flows_total", "TCP SYNs, or UDP flows remembered anew.", |counters| counters.new_flows),
    ("refused_flows_total", "Flows that the full table refused to remember.", |counters| {
        counters.refused_flows
    }),
    (
        "overflowed_total",
        "New flows that went past a backend with as many connections as it may have.",
        |counters| counters.overflowed,
    ),
];
type Counter = (&'static str, &'static str, fn(&CounterValues) -> u64);

fn services(out: &mut Text, observed: &Observed) {
    for (name, help, value) in COUNTERS {
        let name = format!("service_{name}");
        out.family(&name, "counter", help);
        for (service, seen) in &observed.services {
            out.sample(&name, &[("service", service)], value(&seen.counters));
        }
    }
    out.family("service_slots", "gauge", "Slots of the service's table by state.");
    for (service, seen) in &observed.services {
        for (state, count) in [("settled", seen.settled), ("moving", seen.moving), ("pinned", seen.pinned)] {
            out.sample("service_slots", &[("service", service), ("state", state)], count);
        }
    }
    out.family("service_flows_pinned", "gauge", "Remembered flows that pinned slots wait for.");
    for (service, seen) in &observed.services {
        out.sample("service_flows_pinned", &[("service", service)], seen.flows_pinned);
    }
}

type Gauge = (&'static str, &'static str, fn(&BackendStatus) -> f64);
const GAUGES: [Gauge; 3] = [
    ("tracked_flows", "Remembered and translated flows of the backend.", |seen| seen.tracked_flows as f64),
    ("connections", "Live connections, where every flow is tracked or translated.", |seen| {
        seen.connections as f64
    }),
    ("response_seconds", "Smoothed response time with least-response-time; 0: not known.", |seen| {
        f64::from(seen.response_micros) / 1e6
    }),
];

fn backends(out: &mut Text, desired: &Desired, observed: &Observed, now_unix: u64) {
    for (name, help, value) in COUNTERS {
        let name = format!("backend_{name}");
        out.family(&name, "counter", help);
        for (service, seen) in &observed.services {
            for (at, backend) in &seen.backends {
                let labels = [("service", service.as_str()), ("backend", &place(at))];
                out.sample(&name, &labels, value(&backend.counters));
            }
        }
    }
    for (name, help, value) in GAUGES {
        let name = format!("backend_{name}");
        out.family(&name, "gauge", help);
        for (service, seen) in &observed.services {
            for (at, backend) in &seen.backends {
                let labels = [("service", service.as_str()), ("backend", &place(at))];
                out.sample(&name, &labels, value(backend));
            }
        }
    }
    let help = "What is sent to the backend: 0 nothing, 1 all, 2 old flows only, 3 resets.";
    out.family("backend_state", "gauge", help);
    for service in desired.services.values() {
        for (at, active) in service.backends.keys().zip(active(service, now_unix)) {
            let state = match active.state {
                BackendState::Down => 0,
                BackendState::Up => 1,
                BackendState::Draining => 2,
                BackendState::Cut => 3,
            };
            let labels = [("service", service.name.as_str()), ("backend", &place(at))];
            out.sample("backend_state", &labels, state);
        }
    }
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP portcullis_{name} {help}\n# TYPE portcullis_{name} {kind}");
    }

    /// Label values are names, addresses and words of closed lists: nothing in them needs escaping but
    /// what an interface may be called.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(key, value)| {
                let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                format!("{key}=\"{value}\"")
            })
            .collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "portcullis_{name}{labels} {value}");
    }
}
