//! Sends a datagram by a connected socket and two by one that is not, and prints what it is told of the other side.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::Parser;

/// A datagram takes microseconds.
const LIMIT: Duration = Duration::from_secs(5);

/// One line for each answer: how the socket was used, its peer, whom the answer came from, and its text.
#[derive(Parser)]
struct Options {
    /// Whom to send to.
    to: SocketAddr,
}

fn main() -> ExitCode {
    match ask(Options::parse().to) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("datagram_client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ask(to: SocketAddr) -> Result<()> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let connected = open(any)?;
    connected.connect(to)?;
    connected.send(b"hello")?;
    println!("connected {} {}", connected.peer_addr()?, answer(&connected)?);
    let free = open(any)?;
    for _ in 0..2 {
        free.send_to(b"hello", to)?;
        println!("free none {}", answer(&free)?);
    }
    Ok(())
}

fn open(address: IpAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((address, 0))?;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket)
}

fn answer(socket: &UdpSocket) -> Result<String> {
    let mut text = [0; 64];
    let (length, from) = socket.recv_from(&mut text)?;
    Ok(format!("{from} {}", String::from_utf8_lossy(&text[..length])))
}
