//! The origins: real servers, some that answer by themselves, some that hand on to a recorder. Each listens on
//! `127.0.0.1` as its configuration in `tests/peers` says.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
};

use anyhow::Result;

use super::{recorder, stage::Stage};
use crate::process::Process;

/// A server behind the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// nginx, to a recorder.
    Nginx,
    /// Apache, to a recorder.
    Apache,
    /// HAProxy, to a recorder.
    Haproxy,
    /// Varnish, to a recorder.
    Varnish,
    /// lighttpd, to a recorder.
    Lighttpd,
    /// Node's http module.
    Node,
    /// gunicorn with a WSGI service.
    Gunicorn,
    /// A recorder itself.
    Hyper,
}

impl Origin {
    /// All of them, in the order of their ports.
    pub const ALL: [Self; 8] = [
        Self::Nginx,
        Self::Apache,
        Self::Haproxy,
        Self::Varnish,
        Self::Lighttpd,
        Self::Node,
        Self::Gunicorn,
        Self::Hyper,
    ];

    /// Its name in files and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Apache => "apache",
            Self::Haproxy => "haproxy",
            Self::Varnish => "varnish",
            Self::Lighttpd => "lighttpd",
            Self::Node => "node",
            Self::Gunicorn => "gunicorn",
            Self::Hyper => "hyper",
        }
    }

    /// Where it listens.
    pub fn address(self) -> SocketAddr {
        self.at(9001)
    }

    /// Where the gateway in front of it listens.
    pub fn gateway(self) -> SocketAddr {
        self.at(8001)
    }

    /// The recorder behind it.
    fn recorder(self) -> Option<SocketAddr> {
        match self {
            Self::Node | Self::Gunicorn => None,
            Self::Hyper => Some(self.address()),
            Self::Nginx | Self::Apache | Self::Haproxy | Self::Varnish | Self::Lighttpd => {
                Some(self.at(9101))
            }
        }
    }

    /// The file with what it saw.
    pub fn seen(self, stage: &Stage) -> PathBuf {
        stage.file(&format!("{}.seen", self.name()))
    }

    fn at(self, first: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, first + self as u16).into()
    }

    fn command(self, stage: &Stage) -> Option<Command> {
        let (folder, seen) = (stage.folder(), self.seen(stage));
        let mut command = stage.namespace.command(match self {
            Self::Nginx => "nginx".into(),
            Self::Apache => "apache2".into(),
            Self::Haproxy => "haproxy".into(),
            Self::Varnish => "varnishd".into(),
            Self::Lighttpd => "lighttpd".into(),
            Self::Node => "node".into(),
            Self::Gunicorn => stage.venv.join("bin/gunicorn"),
            Self::Hyper => return None,
        });
        command.current_dir(folder);
        match self {
            Self::Nginx => {
                command.arg("-p").arg(folder).args(["-e", "stderr", "-c"]).arg(stage.file("nginx.conf"))
            }
            Self::Apache => command
                .arg("-d")
                .arg(folder)
                .arg("-f")
                .arg(stage.file("apache.conf"))
                .args(["-D", "FOREGROUND"]),
            Self::Haproxy => command.args(["-db", "-f", "haproxy.cfg"]),
            Self::Varnish => command
                .args(["-F", "-a", &self.address().to_string(), "-n"])
                .arg(stage.file("varnish"))
                .arg("-f")
                .arg(stage.file("varnish.vcl")),
            Self::Lighttpd => command.args(["-D", "-f", "lighttpd.conf"]),
            Self::Node => command.arg("origin.js").arg(self.address().port().to_string()).arg(seen),
            Self::Gunicorn => command
                .env("SEEN", seen)
                .args(["--bind", &self.address().to_string(), "--worker-class", "gthread"])
                .args(["--threads", "4", "--keep-alive", "600", "origin:application"]),
            Self::Hyper => return None,
        };
        Some(command)
    }
}

/// Starts them all; done when each accepts.
pub fn start(stage: &Stage) -> Result<Vec<Process>> {
    let recorders =
        Origin::ALL.into_iter().filter_map(|origin| Some((origin.recorder()?, origin.seen(stage)))).collect();
    recorder::start(&stage.namespace, recorders)?;
    let mut processes = Vec::new();
    for origin in Origin::ALL {
        if let Some(command) = origin.command(stage) {
            processes.push(stage.start(command, origin.name(), origin.address())?);
        }
    }
    Ok(processes)
}
