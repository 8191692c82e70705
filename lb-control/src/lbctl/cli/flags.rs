//! A service in flags, with the help that teaches them.

use std::path::PathBuf;

use clap::Args;

/// A service in flags. What is not given is left to the controller's defaults.
#[derive(Args, Debug, Default)]
pub struct ServiceFlags {
    /// A JSON file as `service get --json` prints it, or - for standard input; flags win over it.
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The virtual address, IPv4 or IPv6, or a network like 203.0.113.0/24 in the dsr modes.
    #[arg(long, value_name = "ADDRESS[/PREFIX]")]
    pub address: Option<String>,
    /// The virtual port; or --ports.
    #[arg(long, conflicts_with = "ports")]
    pub port: Option<u16>,
    /// Several virtual ports, like 8000-8999, or any; packets keep theirs.
    #[arg(long, value_name = "FIRST-LAST|any")]
    pub ports: Option<String>,
    /// tcp (default) or udp.
    #[arg(long)]
    pub protocol: Option<String>,
    /// nat (default), full-nat, dsr-l2, dsr-ipip or dsr-gue.
    ///
    /// nat: the destination is rewritten; the balancer must be on the backends' way to the clients.
    /// full-nat: the source is rewritten too; backends may be anywhere, and may be clients of the service.
    /// dsr-l2: only the MAC is rewritten; the backend has the virtual address and answers clients itself.
    /// dsr-ipip, dsr-gue: likewise, through an IP or a UDP tunnel; backends may be anywhere and of either family.
    #[arg(long, verbatim_doc_comment)]
    pub mode: Option<String>,
    /// How a backend is chosen for a new flow: maglev (default), source-hash, round-robin, random, least-connections,
    /// least-response-time or power-of-two.
    ///
    /// maglev: by the hash of the flow; remembers only what a change of the backends could break.
    /// source-hash: by the hash of the client's network; cannot be changed later.
    /// The others remember every flow: round-robin and random spread flows, least-connections and power-of-two look at
    /// live connections, least-response-time at response times too.
    #[arg(long, verbatim_doc_comment)]
    pub algorithm: Option<String>,
    /// on-change or every-flow: what is remembered; by default what the rest needs.
    #[arg(long, value_name = "WHAT")]
    pub tracking: Option<String>,
    /// With source-hash or --affinity: clients go together that share so many bits of their address.
    #[arg(long, value_name = "BITS")]
    pub client_prefix: Option<u8>,
    /// Keeps a client on its backend until it sent nothing for so long.
    #[arg(long, value_name = "SECONDS")]
    pub affinity: Option<u32>,
    /// Gives a backend that returns, or is added, its whole share only after so long.
    #[arg(long, value_name = "SECONDS")]
    pub slow_start: Option<u32>,
    /// Ignores health while less than this share of the backends is healthy.
    #[arg(long, value_name = "PERCENT")]
    pub panic_threshold: Option<u8>,
    /// Lets the next group of backends join while fewer than this are healthy; 1 by default.
    #[arg(long, value_name = "N")]
    pub min_active: Option<u32>,
    /// UDP only: remembers nothing, every packet goes where the table says.
    #[arg(long)]
    pub connectionless: bool,
    /// Forgets a flow without a packet for so long; 300 for TCP, 60 for UDP by default.
    #[arg(long, value_name = "SECONDS")]
    pub flow_idle: Option<u32>,
    /// drop (default), pass or by-address: what happens to fragments of which no first one was seen.
    ///
    /// drop: they are dropped and counted.
    /// pass: they are left to the host's stack.
    /// by-address: all packets of the service go by addresses alone, fragments too; for the only service of its
    /// protocol at its address.
    #[arg(long, value_name = "POLICY", verbatim_doc_comment)]
    pub fragments: Option<String>,
    /// Leaves ARP and neighbour discovery for the address to others.
    #[arg(long)]
    pub no_arp: bool,
    /// Answers pings to the address.
    #[arg(long)]
    pub echo: bool,
    /// TCP only: SYNs that pass the balancer announce segments of at most so many bytes.
    ///
    /// In nat and full-nat those of both sides; in the dsr modes those of clients only, since the others do not pass.
    #[arg(long, value_name = "BYTES")]
    pub mss: Option<u16>,
    /// UDP only: QUIC connection ids name the backend, by quic-lb, katran-v1 or katran-v2.
    #[arg(long, value_name = "SCHEME")]
    pub quic: Option<String>,
    /// The configuration that quic-lb's connection ids begin with, 0 to 6; 0 by default.
    #[arg(long, value_name = "N", requires = "quic")]
    pub quic_config_id: Option<u8>,
    /// Bytes of quic-lb's server ids, 1 to 8.
    #[arg(long, value_name = "BYTES", requires = "quic")]
    pub quic_server_id_length: Option<u8>,
    /// resteer (default) or keep: what happens to the flows of a backend that fails.
    #[arg(long, value_name = "WHAT")]
    pub on_failure: Option<String>,
    /// A backend, like 10.1.0.2:8080, [2001:db8::2]:8080 or 10.1.0.2,weight=2,server_id=0a1b; may be given many
    /// times. Beside weight and server_id: max_connections=N, priority=N and fallback.
    #[arg(long = "backend", value_name = "ADDRESS[:PORT][,weight=N][,…]")]
    pub backends: Vec<String>,
    /// Checks backends by opening a connection.
    #[arg(long, conflicts_with = "check_http")]
    pub check_tcp: bool,
    /// Checks backends by a GET of this path.
    #[arg(long, value_name = "PATH")]
    pub check_http: Option<String>,
    /// The Host header of an HTTP check.
    #[arg(long, value_name = "HOST", requires = "check_http")]
    pub check_host: Option<String>,
    /// Between the beginnings of two checks; 2000 by default.
    #[arg(long, value_name = "MS")]
    pub check_interval_ms: Option<u32>,
    /// A check without an answer for so long has failed; 1000 by default.
    #[arg(long, value_name = "MS")]
    pub check_timeout_ms: Option<u32>,
    /// Successes in a row that make a backend healthy; 2 by default.
    #[arg(long, value_name = "N")]
    pub check_rise: Option<u32>,
    /// Failures in a row that make it unhealthy; 3 by default.
    #[arg(long, value_name = "N")]
    pub check_fall: Option<u32>,
    /// The port to check, where it is not the backend's own; needed with --ports.
    #[arg(long, value_name = "PORT")]
    pub check_port: Option<u16>,
}

/// What may be said of a backend beside its address. What is not given is left to the controller's defaults.
#[derive(Args, Debug, Default, PartialEq)]
pub struct BackendFlags {
    /// Its share of new flows relative to the others'; 1 by default, 0 takes none.
    #[arg(long)]
    pub weight: Option<u32>,
    /// So many live connections it takes; more go to others. 0: any number. Needs tracking every-flow.
    #[arg(long, value_name = "N")]
    pub max_connections: Option<u32>,
    /// Its group, 0 to 15: the next one joins while too few of those before are healthy.
    #[arg(long, value_name = "N")]
    pub priority: Option<u8>,
    /// Serves only when no other backend is healthy.
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub fallback: Option<bool>,
    /// Its id in QUIC connection ids, in hexadecimal, like 0a1b.
    #[arg(long, value_name = "HEX")]
    pub server_id: Option<String>,
}

impl BackendFlags {
    /// The names of all of them.
    pub const ALL: [&str; 5] = ["weight", "max_connections", "priority", "fallback", "server_id"];

    /// Takes what is written like `weight=2` or `fallback`; whether it is one of them.
    pub fn take(&mut self, text: &str) -> bool {
        let (key, value) = text.split_once('=').unwrap_or((text, "true"));
        match key {
            "weight" => set(&mut self.weight, value),
            "max_connections" => set(&mut self.max_connections, value),
            "priority" => set(&mut self.priority, value),
            "fallback" => set(&mut self.fallback, value),
            "server_id" => set(&mut self.server_id, value),
            _ => false,
        }
    }
}

fn set<T: std::str::FromStr>(field: &mut Option<T>, text: &str) -> bool {
    *field = text.parse().ok();
    field.is_some()
}
