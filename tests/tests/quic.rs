//! Clients of QUIC that change their address and port, and stay with their servers: because connection ids name them,
//! and only then.
//!
//! One socket has a connection to each server, which no hash of addresses and ports can keep apart. But in `full-nat`,
//! where an address and port of a client have one translation, to one server: there each connection has a socket.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use quinn::{Connection, Endpoint, EndpointConfig, TokioRuntime};
use serde_json::{Value, json};
use tests::{
    control::service,
    dual::Family::{self, V4, V6},
    netns::Namespace,
    quic::{Certificate, Ids, QuicServer, Scheme, hexadecimal},
    server::name,
    stage::Stage,
};
use tokio::time::timeout;

const PORT: u16 = 4433;
const SERVERS: usize = 3;
const CONFIG: u8 = 2;
/// By chance so many stay with their servers three times with a probability of 3^-24.
const SOCKETS: usize = 8;
/// Each meets one of the servers by chance: that one is left out has a probability of 3 · (2/3)^60.
const ATTEMPTS: usize = 60;
/// For handshakes and answers: they take milliseconds.
const LIMIT: Duration = Duration::from_secs(10);
/// After which a connection without an answer is lost: several retransmissions.
const LOST_LIMIT: Duration = Duration::from_secs(2);
/// The client's second addresses.
const MOVED: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 10, 0, 3)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x10, 0, 0, 0, 0, 3))];

#[test]
fn clients_stay_by_quic_lb_ids_in_nat() -> Result<()> {
    stays(Stage::dual_routed(SERVERS)?, "nat", Scheme::QuicLb)
}

#[test]
fn clients_stay_by_ids_of_katran_v1_in_full_nat() -> Result<()> {
    stays(Stage::dual_routed(SERVERS)?, "full-nat", Scheme::KatranV1)
}

#[test]
fn clients_stay_by_ids_of_katran_v2_in_dsr_l2() -> Result<()> {
    stays(Stage::dual_segment(SERVERS)?, "dsr-l2", Scheme::KatranV2)
}

/// The same servers and clients, and a service that does not know about ids.
#[test]
fn clients_are_lost_without_ids() -> Result<()> {
    let quic = Quic::start(Stage::dual_routed(SERVERS)?, Scheme::QuicLb)?;
    for family in [V4, V6] {
        quic.create("nat", family, false)?;
        run(async {
            let mut client = quic.client(family)?;
            client.meet(2).await?;
            // Nothing is wrong with the network: the newest connection is at the address that it was opened from.
            let (newest, server) = client.connections.last().context("a connection")?;
            ensure!(ask(newest, LIMIT).await?.server == *server, "another server answered");
            client.rebind(None)?;
            let (first, second) = (&client.connections[0].0, &client.connections[1].0);
            let answers = tokio::join!(ask(first, LOST_LIMIT), ask(second, LOST_LIMIT));
            ensure!(answers.0.is_err() || answers.1.is_err(), "servers were told apart by one address");
            Ok(())
        })?;
    }
    Ok(())
}

/// Connections go on from another port, from another address, and from the first address again.
fn stays(stage: Stage, mode: &str, scheme: Scheme) -> Result<()> {
    let quic = Quic::start(stage, scheme)?;
    for family in [V4, V6] {
        quic.create(mode, family, true)?;
        run(async {
            let mut clients = Vec::new();
            let (sockets, servers) = if mode == "full-nat" { (SOCKETS, 1) } else { (1, SERVERS) };
            for _ in 0..sockets {
                let mut client = quic.client(family)?;
                client.meet(servers).await?;
                clients.push(client);
            }
            for address in [None, Some(MOVED[family as usize]), None] {
                for client in &clients {
                    let local = client.rebind(address)?;
                    // In full-nat servers see an address of the balancer.
                    let is_seen = |at: SocketAddr| {
                        mode == "full-nat"
                            || at.port() == local.port() && address.is_none_or(|ip| ip == at.ip())
                    };
                    for (connection, server) in &client.connections {
                        let what = || format!("{mode} {family:?}, from {local}: the connection to {server}");
                        let answer = ask(connection, LIMIT).await.with_context(what)?;
                        ensure!(answer.server == *server, "{}: {} answered", what(), answer.server);
                        ensure!(is_seen(answer.client), "{}: it sees {}", what(), answer.client);
                    }
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn run(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Servers in all namespaces of a stage.
struct Quic {
    _servers: Vec<QuicServer>,
    certificate: Certificate,
    scheme: Scheme,
    stage: Stage,
}

impl Quic {
    fn start(stage: Stage, scheme: Scheme) -> Result<Self> {
        let topology = &stage.topology;
        let certificate = Certificate::make(topology.directory())?;
        let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        let servers = topology.servers.iter().enumerate().map(|(index, namespace)| {
            let ids = Ids::new(scheme, CONFIG, server_id(scheme, index))?;
            QuicServer::start(namespace, topology.directory(), &name(index), listen, &ids)
        });
        let servers = servers.collect::<Result<_>>()?;
        let [v4, v6] = MOVED;
        topology.client.ip(&format!("addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad"))?;
        Ok(Self { _servers: servers, certificate, scheme, stage })
    }

    /// The service of a family, which routes by ids or does not.
    fn create(&self, mode: &str, family: Family, by_id: bool) -> Result<()> {
        let backends = self.stage.topology.servers_at(family, PORT);
        let mut body = service(&format!("h3-{family:?}").to_lowercase(), PORT, mode, &backends);
        body["address"] = json!(family.vip());
        body["protocol"] = json!("udp");
        if by_id {
            body["quic"] = match self.scheme {
                Scheme::QuicLb => {
                    let length = server_id(self.scheme, 0).len();
                    json!({ "scheme": "quic-lb", "config_id": CONFIG, "server_id_length": length })
                }
                Scheme::KatranV1 => json!({ "scheme": "katran-v1" }),
                Scheme::KatranV2 => json!({ "scheme": "katran-v2" }),
            };
            let backends = body["backends"].as_array_mut().context("backends")?;
            for (index, backend) in backends.iter_mut().enumerate() {
                let id = server_id(self.scheme, index);
                backend["server_id"] = Value::String(hexadecimal(&id));
            }
        }
        self.stage.control.create(&body)
    }

    /// A client of one socket; within a runtime.
    fn client(&self, family: Family) -> Result<Client<'_>> {
        let namespace = &self.stage.topology.client;
        let (config, socket) = (EndpointConfig::default(), bind(namespace, family, None)?);
        let mut endpoint = Endpoint::new(config, None, socket, Arc::new(TokioRuntime))?;
        endpoint.set_default_client_config(self.certificate.client()?);
        let host = self.certificate.host();
        Ok(Client { endpoint, namespace, family, host, connections: Vec::new() })
    }
}

/// Every octet counts.
fn server_id(scheme: Scheme, index: usize) -> Vec<u8> {
    let last = 0x41 + index as u8;
    match scheme {
        Scheme::QuicLb => vec![0xc0, 0x0a, 0x1b, last],
        Scheme::KatranV1 => vec![0xc3, last],
        Scheme::KatranV2 => vec![0xc3, 0xa5, last],
    }
}

/// Connections from one socket, each with the server that it met first.
struct Client<'q> {
    endpoint: Endpoint,
    namespace: &'q Namespace,
    family: Family,
    host: &'static str,
    connections: Vec<(Connection, String)>,
}

impl Client<'_> {
    /// One connection to each of so many servers; for each attempt the socket is another, so that the hash is.
    async fn meet(&mut self, servers: usize) -> Result<()> {
        let vip = SocketAddr::new(self.family.vip(), PORT);
        for _ in 0..ATTEMPTS {
            let connection = timeout(LIMIT, self.endpoint.connect(vip, self.host)?).await??;
            let server = ask(&connection, LIMIT).await?.server;
            match self.connections.iter().any(|(_, known)| *known == server) {
                true => connection.close(0_u8.into(), b"another one is open"),
                false => self.connections.push((connection, server)),
            }
            if self.connections.len() == servers {
                return Ok(());
            }
            self.rebind(None)?;
        }
        bail!("of {servers} servers {} were met", self.connections.len())
    }

    /// Goes on from another port, and from this address if one is given.
    fn rebind(&self, address: Option<IpAddr>) -> Result<SocketAddr> {
        let before = self.endpoint.local_addr()?;
        self.endpoint.rebind(bind(self.namespace, self.family, address)?)?;
        let now = self.endpoint.local_addr()?;
        ensure!(now.port() != before.port(), "the port is still {before}");
        Ok(now)
    }
}

fn bind(namespace: &Namespace, family: Family, address: Option<IpAddr>) -> Result<UdpSocket> {
    let any: IpAddr = match family {
        V4 => Ipv4Addr::UNSPECIFIED.into(),
        V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    Ok(namespace.enter(|| UdpSocket::bind((address.unwrap_or(any), 0)))??)
}

/// Who answered, and where it sees the client.
struct Answer {
    server: String,
    client: SocketAddr,
}

async fn ask(connection: &Connection, limit: Duration) -> Result<Answer> {
    let exchange = async {
        let (mut question, mut answer) = connection.open_bi().await?;
        question.write_all(b"who?").await?;
        question.finish()?;
        let answer = String::from_utf8(answer.read_to_end(1_024).await?)?;
        let (server, client) = answer.split_once(' ').context("name and address")?;
        Ok(Answer { server: server.to_owned(), client: client.parse()? })
    };
    timeout(limit, exchange).await.context("no answer in time")?
}
