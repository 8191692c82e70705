//! A QUIC server that answers every stream with its name and the address that it sees the client at.
//!
//! Its connection ids name it, as [`tests::quic`] says.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::Parser;
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, TokioRuntime};
use tests::quic::{Certificate, Ids, LISTENING, Scheme, octets};

/// Bytes of a question, at most.
const QUESTION_LIMIT: usize = 1_024;

#[derive(Parser)]
struct Options {
    /// Its name.
    #[arg(long)]
    name: String,
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// How its connection ids name it.
    #[arg(long)]
    scheme: Scheme,
    /// The configuration in ids of QUIC-LB.
    #[arg(long, default_value_t = 0)]
    config_id: u8,
    /// The server in its ids, in hexadecimal.
    #[arg(long)]
    server_id: String,
    /// The directory with its certificate.
    #[arg(long)]
    certificate: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let ids = Ids::new(options.scheme, options.config_id, octets(&options.server_id)?)?;
    let mut config = EndpointConfig::default();
    config.cid_generator(move || Box::new(ids.clone()));
    let socket = std::net::UdpSocket::bind(options.listen)?;
    let server = Certificate::open(&options.certificate).server()?;
    let endpoint = Endpoint::new(config, Some(server), socket, std::sync::Arc::new(TokioRuntime))?;
    println!("{LISTENING}");
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(logged(incoming, options.name.clone()));
    }
    Ok(())
}

async fn logged(incoming: Incoming, name: String) {
    let from = incoming.remote_address();
    if let Err(error) = serve(incoming, &name).await {
        println!("{from}: {error:#}");
    }
}

/// Until the client closes the connection, or is silent for too long: which is told as an error.
async fn serve(incoming: Incoming, name: &str) -> Result<()> {
    let connection: Connection = incoming.await?;
    loop {
        let (mut answer, mut question) = connection.accept_bi().await?;
        question.read_to_end(QUESTION_LIMIT).await?;
        let client = connection.remote_address();
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        answer.write_all(format!("{name} {client}").as_bytes()).await?;
        answer.finish()?;
    }
}
