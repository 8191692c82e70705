//! QUIC servers whose connection ids name them, as `quic_server` in namespaces, and clients that trust them.
//!
//! Invariant: how ids are written is said here once more, from the drafts, and not taken from the balancer's code.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::rand;
use clap::ValueEnum;
use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, ServerConfig,
    rustls::{
        RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

use crate::{
    netns::{Namespace, run},
    process::{Process, binary},
};

/// What a server's log says once it can be reached.
pub const LISTENING: &str = "listening";

/// In the certificate.
const HOST: &str = "quic.test";

/// Binding takes milliseconds, on a busy machine tenths of a second.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How connection ids name their server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Scheme {
    /// draft-ietf-quic-load-balancers, in the clear: 3 bits of configuration, 5 of length, the server, a nonce.
    QuicLb,
    /// `01`, 16 bits of server, the rest of eight octets random.
    KatranV1,
    /// `10`, 6 random bits, 24 bits of server, four random octets.
    KatranV2,
}

/// Issues the connection ids of one server.
#[derive(Clone, Debug)]
pub struct Ids {
    scheme: Scheme,
    config: u8,
    server: Vec<u8>,
}

/// Octets of nonce in an id of QUIC-LB; the draft asks for four.
const NONCE_LEN: usize = 7;
const KATRAN_LEN: usize = 8;

impl Ids {
    /// `config` is 0 to 6, `server` one to eight octets: both of QUIC-LB. Katran's layouts have a server of two and of
    /// three octets.
    pub fn new(scheme: Scheme, config: u8, server: Vec<u8>) -> Result<Self> {
        let lengths = match scheme {
            Scheme::QuicLb => 1..=8,
            Scheme::KatranV1 => 2..=2,
            Scheme::KatranV2 => 3..=3,
        };
        ensure!(lengths.contains(&server.len()), "{scheme:?} has no server ids of {} octets", server.len());
        ensure!(config <= 6, "configurations are 0 to 6");
        Ok(Self { scheme, config, server })
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; 20];
        let id = &mut id[..self.cid_len()];
        rand::fill(id).expect("the system gives random bytes");
        match (self.scheme, &self.server[..]) {
            (Scheme::QuicLb, server) => {
                id[0] = self.config << 5 | (server.len() + NONCE_LEN) as u8;
                id[1..=server.len()].copy_from_slice(server);
            }
            (Scheme::KatranV1, server) => {
                id[0] = 0x40 | server[0] >> 2;
                id[1] = server[0] << 6 | server[1] >> 2;
                id[2] = server[1] << 6 | id[2] & 0x3f;
            }
            (Scheme::KatranV2, server) => {
                id[0] = 0x80 | id[0] & 0x3f;
                id[1..4].copy_from_slice(server);
            }
        }
        ConnectionId::new(id)
    }

    fn cid_len(&self) -> usize {
        match self.scheme {
            Scheme::QuicLb => 1 + self.server.len() + NONCE_LEN,
            Scheme::KatranV1 | Scheme::KatranV2 => KATRAN_LEN,
        }
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A certificate that signs itself, with its key, as PEM files.
pub struct Certificate {
    directory: PathBuf,
}

impl Certificate {
    /// Makes one.
    pub fn make(directory: &Path) -> Result<Self> {
        let certificate = Self::open(directory);
        let mut openssl = Command::new("openssl");
        openssl.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '));
        openssl.args(["-subj", "/CN=quic", "-addext", &format!("subjectAltName=DNS:{HOST}")]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        run(openssl.arg("-keyout").arg(certificate.key()).arg("-out").arg(certificate.chain()))?;
        Ok(certificate)
    }

    /// One that was made before.
    pub fn open(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf() }
    }

    /// A server that shows it.
    pub fn server(&self) -> Result<ServerConfig> {
        let key = PrivateKeyDer::from_pem_file(self.key())?;
        Ok(ServerConfig::with_single_cert(vec![CertificateDer::from_pem_file(self.chain())?], key)?)
    }

    /// A client that trusts nobody else.
    pub fn client(&self) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.chain())?)?;
        Ok(ClientConfig::with_root_certificates(Arc::new(roots))?)
    }

    /// Whom it names.
    pub fn host(&self) -> &'static str {
        HOST
    }

    fn key(&self) -> PathBuf {
        self.directory.join("key.pem")
    }

    fn chain(&self) -> PathBuf {
        self.directory.join("certificate.pem")
    }
}

/// A running `quic_server`; killed when dropped.
pub struct QuicServer {
    _process: Process,
}

impl QuicServer {
    /// Starts it in a namespace, with the certificate and a log in `directory`; done when it listens.
    pub fn start(
        namespace: &Namespace,
        directory: &Path,
        name: &str,
        listen: SocketAddr,
        ids: &Ids,
    ) -> Result<Self> {
        let mut command = namespace.command(binary("quic_server")?);
        let scheme = ids.scheme.to_possible_value().context("a scheme has a name")?;
        command.args(["--name", name, "--listen", &listen.to_string(), "--scheme", scheme.get_name()]);
        command.args(["--config-id", &ids.config.to_string(), "--server-id", &hexadecimal(&ids.server)]);
        command.arg("--certificate").arg(directory);
        let log = directory.join(format!("quic-{name}.log"));
        let mut process = Process::start(command, name, &log)?;
        process.ready(START_LIMIT, || {
            ensure!(fs::read_to_string(&log)?.contains(LISTENING), "its log does not say so");
            Ok(())
        })?;
        Ok(Self { _process: process })
    }
}

/// Two digits for each octet.
pub fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The octets of two digits each.
pub fn octets(text: &str) -> Result<Vec<u8>> {
    ensure!(text.len().is_multiple_of(2) && text.is_ascii(), "two digits for each octet");
    let octet = |at: usize| Ok(u8::from_str_radix(&text[at..at + 2], 16)?);
    (0..text.len()).step_by(2).map(octet).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_their_server() {
        for (scheme, server, fixed, expected) in [
            (Scheme::QuicLb, "0a1b", vec![0xff, 0xff, 0xff], vec![0x49, 0x0a, 0x1b]),
            (Scheme::KatranV1, "2345", vec![0xff, 0xff, 0xc0], vec![0x48, 0xd1, 0x40]),
            (Scheme::KatranV2, "123456", vec![0xc0, 0xff, 0xff, 0xff], vec![0x80, 0x12, 0x34, 0x56]),
        ] {
            let mut ids = Ids::new(scheme, 2, octets(server).unwrap()).unwrap();
            let (one, other) = (ids.generate_cid(), ids.generate_cid());
            assert_eq!(one.len(), ids.cid_len());
            assert_ne!(one, other, "{scheme:?}: ids are issued once");
            for id in [one, other] {
                let start: Vec<u8> = id.iter().zip(&fixed).map(|(octet, mask)| octet & mask).collect();
                assert_eq!(start, expected, "{scheme:?}");
            }
        }
    }
}
