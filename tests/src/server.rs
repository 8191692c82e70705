//! `shop_server` in a namespace.

use std::{net::SocketAddr, net::TcpStream, time::Duration};

use anyhow::Result;

use crate::{
    netns::Namespace,
    process::{Process, binary},
    topology::Topology,
};

/// The port on which every test server listens.
pub const PORT: u16 = 8080;
/// The port of its UDP echo.
pub const UDP_PORT: u16 = 8081;

/// Listening takes milliseconds, on a busy machine tenths of a second.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A running server.
pub struct Server {
    process: Process,
}

impl Server {
    /// Starts the server `web<index + 1>` of a topology, listening on every address; done when it accepts.
    pub fn start(topology: &Topology, index: usize) -> Result<Self> {
        Self::start_with(topology, index, &["--name", &name(index)])
    }

    /// Starts one that calls itself by the address that the client reached.
    pub fn start_farm(topology: &Topology, index: usize) -> Result<Self> {
        Self::start_with(topology, index, &[])
    }

    /// Starts one with these options.
    pub fn start_with(topology: &Topology, index: usize, options: &[&str]) -> Result<Self> {
        let namespace: &Namespace = &topology.servers[index];
        let mut command = namespace.command(binary("shop_server")?);
        let any = if topology.is_dual() { "[::]" } else { "0.0.0.0" };
        command.args(["--listen", &format!("{any}:{PORT}")]).args(options);
        for address in topology.echo_addresses() {
            command.arg("--udp").arg(SocketAddr::new(address, UDP_PORT).to_string());
        }
        let log = topology.directory().join(format!("{}.log", name(index)));
        let mut process = Process::start(command, &name(index), &log)?;
        let local = SocketAddr::from(([127, 0, 0, 1], PORT));
        process.ready(START_LIMIT, || Ok(namespace.enter(|| TcpStream::connect(local))??))?;
        Ok(Self { process })
    }

    /// Asks it to close without losing a request, and waits for its end.
    pub fn close(mut self, limit: Duration) -> Result<()> {
        self.begin_closing()?;
        let status = self.process.wait(limit)?;
        anyhow::ensure!(status.success(), "a server ended with {status}");
        Ok(())
    }

    /// Asks it to close without losing a request.
    pub fn begin_closing(&self) -> Result<()> {
        self.process.signal(libc::SIGTERM)
    }

    /// Whether it ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_some())
    }

    /// SIGKILL.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()
    }
}

/// What the server of this index calls itself.
pub fn name(index: usize) -> String {
    format!("web{}", index + 1)
}
