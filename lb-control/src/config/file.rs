//! The configuration file. Pure: from text to checked settings, or to a line, a field and a rule.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::{Path, PathBuf},
};

use lb_common::limits::{TABLE_SLOTS_MAX, TABLE_SLOTS_MIN};
use serde::Deserialize;
use toml::Spanned;

use super::{
    AttachMode, Capacities, LocalClients, LogLevel,
    packets::{Packets, WrittenFullNat, WrittenTunnel},
};
use crate::model::{
    Census, Desired, FieldError, Refusal, Service, ServiceSpec, address::place, check_full_nat,
    check_together,
};

/// Longest interface name: the kernel's `IFNAMSIZ` without the terminating zero.
const NAME_LENGTH_MAX: usize = 15;
const FLOWS: std::ops::RangeInclusive<u32> = 1_024..=64 << 20;
/// One service's smallest table, and what the slots' region allocator can address.
const SLOTS: std::ops::RangeInclusive<u32> = TABLE_SLOTS_MIN..=TABLE_SLOTS_MAX << 8;

/// A checked file.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "each field is documented in examples/lb-control.toml")]
pub struct File {
    pub interfaces: Vec<String>,
    pub mode: AttachMode,
    pub log_level: LogLevel,
    pub state_dir: Option<PathBuf>,
    pub runtime_dir: Option<PathBuf>,
    pub pin_dir: Option<PathBuf>,
    pub listen_tcp: Option<SocketAddr>,
    pub token_file: Option<PathBuf>,
    pub capacities: Capacities,
    pub packets: Packets,
    pub local_clients: LocalClients,
    pub services: Vec<Service>,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    interfaces: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    mode: AttachMode,
    #[serde(default)]
    log_level: LogLevel,
    state_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    pin_dir: Option<PathBuf>,
    #[serde(default)]
    api: Api,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    tunnel: WrittenTunnel,
    #[serde(default)]
    full_nat: WrittenFullNat,
    icmp_errors_per_second: Option<Spanned<u32>>,
    #[serde(default)]
    local_clients: Switch,
    local_clients_cgroup: Option<PathBuf>,
    #[serde(default)]
    services: Vec<Spanned<ServiceSpec>>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Switch {
    #[default]
    Off,
    On,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Api {
    listen_tcp: Option<Spanned<SocketAddr>>,
    token_file: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    flows: Option<Spanned<u32>>,
    slots: Option<Spanned<u32>>,
}

/// Everything that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(Vec<Fault>);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    line: usize,
    what: String,
}

impl Invalid {
    /// As text, one fault a line, each beginning with `FILE:LINE:`.
    pub fn in_file(&self, path: &Path) -> String {
        let faults: Vec<String> = self.0.iter().map(|fault| format!("{}:{fault}", path.display())).collect();
        faults.join("\n")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

impl File {
    /// Parses and checks.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let written = Written::read(text).map_err(|fault| Invalid(vec![fault]))?;
        let mut faults = Faults { text, found: Vec::new() };
        faults.settings(&written);
        let icmp_errors = written.icmp_errors_per_second.as_ref();
        let packets = Packets::checked(&written.tunnel, &written.full_nat, icmp_errors, &mut faults);
        let services = faults.services(&written.services, &packets.full_nat.addresses);
        if !faults.found.is_empty() {
            return Err(Invalid(faults.found));
        }
        let defaults = Capacities::default();
        Ok(Self {
            interfaces: written.interfaces.map(Spanned::into_inner).unwrap_or_default(),
            mode: written.mode,
            log_level: written.log_level,
            state_dir: written.state_dir,
            runtime_dir: written.runtime_dir,
            pin_dir: written.pin_dir,
            listen_tcp: written.api.listen_tcp.map(Spanned::into_inner),
            token_file: written.api.token_file,
            capacities: Capacities {
                flows: written.limits.flows.map_or(defaults.flows, Spanned::into_inner),
                slots: written.limits.slots.map_or(defaults.slots, Spanned::into_inner),
            },
            packets,
            local_clients: match written.local_clients {
                Switch::Off => LocalClients::Off,
                Switch::On => LocalClients::On(written.local_clients_cgroup),
            },
            services,
        })
    }
}

impl Written {
    fn read(text: &str) -> Result<Self, Fault> {
        let fault = |path: String, error: &toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start);
            let message = error.message().trim_end();
            let what = if path == "." { message.to_owned() } else { format!("{path}: {message}") };
            Fault { line: line(text, at), what }
        };
        let parsed = toml::Deserializer::parse(text).map_err(|error| fault(".".into(), &error))?;
        serde_path_to_error::deserialize(parsed)
            .map_err(|error| fault(readable(&error.path().to_string()), error.inner()))
    }
}

/// A path without the marks that spans leave in it.
fn readable(path: &str) -> String {
    path.split('.').filter(|part| !part.contains("serde_spanned")).collect::<Vec<_>>().join(".")
}

fn line(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// What is wrong with a list of interfaces: the index and the rule.
pub(super) fn interface_rule(names: &[String]) -> Option<(usize, &'static str)> {
    names.iter().enumerate().find_map(|(index, name)| {
        let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
        let rule = if name.is_empty() || name.len() > NAME_LENGTH_MAX || !name.bytes().all(allowed) {
            "is no interface name: 1 to 15 printable characters without / and :"
        } else if names[..index].contains(name) {
            "is given twice"
        } else {
            return None;
        };
        Some((index, rule))
    })
}

/// What is wrong so far.
pub(super) struct Faults<'a> {
    text: &'a str,
    found: Vec<Fault>,
}

impl Faults<'_> {
    /// Notes that the field whose text begins at `at` breaks a rule.
    pub(super) fn add(&mut self, at: usize, field: &str, rule: &str) {
        self.found.push(Fault { line: line(self.text, at), what: format!("{field}: {rule}") });
    }

    fn settings(&mut self, written: &Written) {
        if let Some(names) = &written.interfaces
            && let Some((index, rule)) = interface_rule(names.get_ref())
        {
            self.add(names.span().start, &format!("interfaces[{index}]"), rule);
        }
        if let Some(listen) = &written.api.listen_tcp
            && written.api.token_file.is_none()
        {
            let rule = "needs token_file, the bearer tokens that it accepts";
            self.add(listen.span().start, "api.listen_tcp", rule);
        }
        for (field, value, range) in
            [("limits.flows", &written.limits.flows, FLOWS), ("limits.slots", &written.limits.slots, SLOTS)]
        {
            if let Some(value) = value
                && !range.contains(value.get_ref())
            {
                let rule = format!("must be {} to {}", range.start(), range.end());
                self.add(value.span().start, field, &rule);
            }
        }
    }

    fn services(&mut self, specs: &[Spanned<ServiceSpec>], full_nat: &[IpAddr]) -> Vec<Service> {
        let (mut desired, mut census) = (Desired::default(), Census::default());
        let mut services = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            match Service::new(spec.get_ref()) {
                Ok(service) => {
                    let before = desired.services.insert(service.name.clone(), service.clone());
                    if before.is_some() {
                        let at = self.place(&spec.span(), "name");
                        self.add(at, &format!("services[{index}].name"), "is the name of another service");
                    } else {
                        let changed = std::slice::from_ref(&service.name);
                        census.follow(&desired);
                        let checked = check_together(&census, &Desired::default(), &desired, changed)
                            .and_then(|()| check_full_nat(&desired, changed, full_nat));
                        if let Err(refusal) = checked {
                            self.refusal(index, spec, refusal);
                        }
                    }
                    services.push(service);
                }
                Err(errors) => self.errors(index, spec, errors),
            }
        }
        services
    }

    fn refusal(&mut self, index: usize, spec: &Spanned<ServiceSpec>, refusal: Refusal) {
        match refusal {
            Refusal::Invalid(errors) => self.errors(index, spec, errors),
            Refusal::Backends(errors) => {
                for error in errors {
                    let at = self.place(&spec.span(), "backends");
                    let field = format!("services[{index}].backends");
                    self.add(at, &field, &format!("{}: {}", place(&error.backend), error.rule));
                }
            }
            other => {
                let at = self.place(&spec.span(), "address");
                self.add(at, &format!("services[{index}]"), &other.to_string());
            }
        }
    }

    fn errors(&mut self, index: usize, spec: &Spanned<ServiceSpec>, errors: Vec<FieldError>) {
        for FieldError { field, rule } in errors {
            let at = self.place(&spec.span(), &field);
            self.add(at, &format!("services[{index}].{field}"), &rule);
        }
    }

    /// Where a field of the table that begins in `span` stands, as near as its text tells.
    fn place(&self, span: &Range<usize>, field: &str) -> usize {
        let key = field.rsplit('.').next().unwrap_or(field);
        let key = key.split('[').next().unwrap_or(key);
        let rest = &self.text[span.start..];
        // Tables under `[services.…]` and `[[services.…]]` still belong to the service.
        let end = rest[1.min(rest.len())..].find("\n[[services]]").map_or(rest.len(), |at| at + 1);
        let mut at = span.start;
        for text in rest[..end].split_inclusive('\n') {
            if text.trim_start().strip_prefix(key).is_some_and(|after| after.trim_start().starts_with('=')) {
                return at;
            }
            at += text.len();
        }
        span.start
    }
}

#[cfg(test)]
mod tests;
