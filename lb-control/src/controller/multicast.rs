//! Interfaces that take every multicast frame, for neighbour solicitations: a network card passes on those groups that
//! the host has joined, and the host knows nothing of virtual addresses.
//!
//! What was set by this program is marked by a directory beside the pins, so that another process takes exactly that
//! back; a bpffs holds nothing but directories and pins.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{datapath::bpf::BpfDatapath, netlink::Netlink};

/// The marks in a pin directory.
#[derive(Clone, Debug)]
pub struct Marks(PathBuf);

impl Marks {
    /// Of this pin directory.
    pub fn new(pin_dir: &Path) -> Self {
        Self(BpfDatapath::marks(pin_dir).join("allmulticast"))
    }

    /// Has an interface take every multicast frame. Returns whether that was news.
    pub async fn listen(&self, netlink: &Netlink, ifindex: u32) -> Result<bool> {
        let set = netlink.link(ifindex).await?.is_some_and(|link| link.all_multicast);
        if set {
            return Ok(false);
        }
        // The mark comes first: what is set without one would stay for ever.
        fs::create_dir_all(self.mark(ifindex)).context("marking an interface in the pin directory")?;
        netlink.set_all_multicast(ifindex, true).await?;
        Ok(true)
    }

    /// Takes it back, if it was done here. Returns whether it was.
    pub async fn release(&self, netlink: &Netlink, ifindex: u32) -> Result<bool> {
        if !self.mark(ifindex).exists() {
            return Ok(false);
        }
        if netlink.snapshot().links.contains_key(&ifindex) {
            netlink.set_all_multicast(ifindex, false).await?;
        }
        fs::remove_dir(self.mark(ifindex)).context("unmarking an interface in the pin directory")?;
        Ok(true)
    }

    /// Takes it back from every interface.
    pub async fn release_all(&self, netlink: &Netlink) -> Result<()> {
        for ifindex in self.marked()? {
            self.release(netlink, ifindex).await?;
        }
        Ok(())
    }

    /// Interfaces that are marked.
    pub fn marked(&self) -> io::Result<Vec<u32>> {
        match fs::read_dir(&self.0) {
            Ok(entries) => entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().parse().ok()))
                .filter_map(Result::transpose)
                .collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn mark(&self, ifindex: u32) -> PathBuf {
        self.0.join(ifindex.to_string())
    }
}
