//! The interfaces that the program is to run on: attached when they appear, again when they return.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    Bpf,
    engine_thread::{EngineGone, EngineThread},
    host,
    multicast::Marks,
    needs::Needs,
};
use crate::{
    datapath::bpf::{AttachedMode, WantedMode},
    netlink::{AttachedXdp, Netlink, Snapshot},
    status::{AttachMode, InterfaceStatus},
};

/// Before an interface that could not be attached is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What became of each interface.
pub struct Interfaces {
    names: Vec<String>,
    wanted: WantedMode,
    marks: Marks,
    needs: Needs,
    attached: BTreeMap<String, Attached>,
    failed: BTreeMap<String, Failed>,
}

struct Attached {
    ifindex: u32,
    mode: AttachedMode,
    taken_over: bool,
    /// What has been seen to; nothing of a fresh attachment, whatever an earlier controller did.
    prepared: Option<Needs>,
}

struct Failed {
    ifindex: u32,
    error: String,
    again: Instant,
}

impl Interfaces {
    /// None is attached yet, and nothing is needed of any.
    pub fn new(names: Vec<String>, wanted: WantedMode, marks: Marks) -> Self {
        let (attached, failed) = (BTreeMap::new(), BTreeMap::new());
        Self { names, wanted, marks, needs: Needs::default(), attached, failed }
    }

    /// Says what services need of the interfaces that are attached, now and later.
    pub async fn need(&mut self, needs: Needs, netlink: &Netlink) {
        self.needs = needs;
        self.prepare(netlink).await;
    }

    /// Attaches what appeared and lets go of what vanished; a failure is tried again later.
    pub async fn reconcile(
        &mut self,
        snapshot: &Snapshot,
        netlink: &Netlink,
        engine: &EngineThread<Bpf>,
    ) -> Result<(), EngineGone> {
        for name in self.names.clone() {
            let now = snapshot.link_by_name(&name).map(|(ifindex, _)| ifindex);
            if let Some(before) = self.attached.get(&name) {
                if now == Some(before.ifindex) {
                    continue;
                }
                tracing::warn!(interface = %name, ifindex = before.ifindex, "the interface vanished");
                self.let_go(&name, netlink, engine).await?;
            }
            match now {
                Some(ifindex) if self.is_due(&name, ifindex) => {
                    self.attach(&name, ifindex, netlink, engine).await?;
                }
                Some(_) => {}
                None => {
                    self.failed.remove(&name);
                }
            }
        }
        self.prepare(netlink).await;
        Ok(())
    }

    /// Takes off again what was attached since the start, unless it had been taken over.
    pub async fn take_back(
        &mut self,
        netlink: &Netlink,
        engine: &EngineThread<Bpf>,
    ) -> Result<(), EngineGone> {
        let new: Vec<String> =
            self.attached.iter().filter(|(_, one)| !one.taken_over).map(|(name, _)| name.clone()).collect();
        for name in new {
            self.let_go(&name, netlink, engine).await?;
        }
        Ok(())
    }

    /// Lets go of what an earlier controller attached to interfaces that are gone or no longer asked for. Only
    /// once the start has succeeded: until then they may still be needed.
    pub async fn let_go_of_others(
        &self,
        netlink: &Netlink,
        engine: &EngineThread<Bpf>,
    ) -> Result<(), EngineGone> {
        let kept: BTreeSet<u32> = self.attached.values().map(|one| one.ifindex).collect();
        for ifindex in self.marks.marked().unwrap_or_default() {
            if !kept.contains(&ifindex)
                && let Err(error) = self.marks.release(netlink, ifindex).await
            {
                tracing::warn!(ifindex, "cannot set allmulticast off: {error:#}");
            }
        }
        let let_go = move |engine: &mut Bpf| {
            let datapath = engine.datapath_mut();
            let attached = datapath.attached().map(|(ifindex, _)| ifindex);
            let others: Vec<u32> = attached.filter(|ifindex| !kept.contains(ifindex)).collect();
            for ifindex in others {
                tracing::info!(ifindex, "letting go of an interface that is gone or no longer asked for");
                if let Err(error) = datapath.detach(ifindex) {
                    tracing::warn!(ifindex, "cannot let go of its link: {error:#}");
                }
            }
        };
        engine.call(let_go).await
    }

    /// Everything that keeps an interface from being attached.
    pub fn errors(&self) -> impl Iterator<Item = String> {
        self.failed.values().map(|failed| failed.error.clone())
    }

    /// For the API.
    pub fn status(&self, snapshot: &Snapshot) -> Vec<InterfaceStatus> {
        let status = |name: &String| InterfaceStatus {
            name: name.clone(),
            ifindex: snapshot.link_by_name(name).map(|(ifindex, _)| ifindex),
            mode: self.attached.get(name).map(|attached| match attached.mode {
                AttachedMode::Driver => AttachMode::Driver,
                AttachedMode::Generic => AttachMode::Generic,
            }),
            attached: self.attached.contains_key(name),
        };
        self.names.iter().map(status).collect()
    }

    fn is_due(&self, name: &str, ifindex: u32) -> bool {
        self.failed.get(name).is_none_or(|it| it.ifindex != ifindex || it.again <= Instant::now())
    }

    /// Sees to what is needed of the attached interfaces. A failure is told once: packets may come all the same.
    async fn prepare(&mut self, netlink: &Netlink) {
        for (name, one) in &mut self.attached {
            if one.prepared == Some(self.needs) {
                continue;
            }
            one.prepared = Some(self.needs);
            if self.needs.ipv6_forwarding {
                enable_ipv6_forwarding(name);
            }
            let done = if self.needs.all_multicast {
                self.marks.listen(netlink, one.ifindex).await
            } else {
                self.marks.release(netlink, one.ifindex).await
            };
            let on = if self.needs.all_multicast { "on" } else { "off" };
            match done {
                Ok(true) => {
                    tracing::info!(interface = %name, "set allmulticast {on}, for neighbour solicitations");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(interface = %name, "cannot set allmulticast {on}: {error:#}");
                }
            }
        }
    }

    async fn let_go(
        &mut self,
        name: &str,
        netlink: &Netlink,
        engine: &EngineThread<Bpf>,
    ) -> Result<(), EngineGone> {
        let Some(Attached { ifindex, .. }) = self.attached.remove(name) else { return Ok(()) };
        if let Err(error) = self.marks.release(netlink, ifindex).await {
            tracing::warn!(interface = %name, ifindex, "cannot set allmulticast off: {error:#}");
        }
        if let Err(error) = engine.call(move |engine| engine.datapath_mut().detach(ifindex)).await? {
            tracing::warn!(interface = %name, ifindex, "cannot let go of its link: {error:#}");
        }
        Ok(())
    }

    async fn attach(
        &mut self,
        name: &str,
        ifindex: u32,
        netlink: &Netlink,
        engine: &EngineThread<Bpf>,
    ) -> Result<(), EngineGone> {
        match host::enable_forwarding(name) {
            Ok(true) => tracing::info!(
                interface = %name,
                "enabled net.ipv4.conf.{name}.forwarding: the kernel answers for routes only where it may forward"
            ),
            Ok(false) => {}
            Err(error) => tracing::warn!(interface = %name, %error, "cannot enable IPv4 forwarding"),
        }
        match host::loosen_reverse_path_filter(name) {
            Ok(true) => tracing::info!(
                interface = %name,
                "set net.ipv4.conf.{name}.rp_filter to 2 (loose): the strict filter drops replies from virtual addresses"
            ),
            Ok(false) => {}
            Err(error) => tracing::warn!(interface = %name, %error, "cannot loosen reverse path filtering"),
        }
        let other = netlink.xdp(ifindex).await.ok().flatten();
        let (owned, wanted) = (name.to_owned(), self.wanted);
        let attach = move |engine: &mut Bpf| {
            let datapath = engine.datapath_mut();
            let taken_over = datapath.attached().any(|(attached, _)| attached == ifindex);
            datapath.attach(&owned, ifindex, wanted).map(|mode| (mode, taken_over))
        };
        match engine.call(attach).await? {
            Ok((mode, taken_over)) => {
                let in_mode = match mode {
                    AttachedMode::Driver => "in the driver",
                    AttachedMode::Generic => "in the generic hook: slower than in the driver",
                };
                tracing::info!(interface = %name, ifindex, "attached {in_mode}");
                if wanted != WantedMode::Auto && wanted != WantedMode::Only(mode) {
                    tracing::warn!(interface = %name, "keeps its mode: `lb-control unload` before changing it");
                }
                self.failed.remove(name);
                let attached = Attached { ifindex, mode, taken_over, prepared: None };
                self.attached.insert(name.to_owned(), attached);
            }
            Err(error) => {
                let error = explain(name, &error, other);
                if self.failed.get(name).is_none_or(|before| before.error != error) {
                    tracing::error!("{error}");
                }
                let again = Instant::now() + RETRY;
                self.failed.insert(name.to_owned(), Failed { ifindex, error, again });
            }
        }
        Ok(())
    }
}

fn enable_ipv6_forwarding(name: &str) {
    match host::ipv6::enable_forwarding(name) {
        Ok(true) => tracing::info!(
            interface = %name,
            "enabled IPv6 forwarding: the kernel answers for routes only where it may forward; routes by advertisements \
             stay"
        ),
        Ok(false) => {}
        Err(error) => tracing::warn!(interface = %name, %error, "cannot enable IPv6 forwarding"),
    }
}

/// An interface holds one program: where another is there, that is the reason.
fn explain(name: &str, error: &anyhow::Error, other: Option<AttachedXdp>) -> String {
    other.map_or_else(|| format!("{error:#}"), |other| format!("interface {name}: {}", occupied(name, other)))
}

/// What to say of an interface on which another XDP program is.
pub fn occupied(name: &str, AttachedXdp { driver, program_id }: AttachedXdp) -> String {
    let mode = if driver { "driver" } else { "generic" };
    format!(
        "another XDP program is on {name} (id {program_id}, {mode} mode), and an interface runs only one: \
         take it off with the tool that put it there, or with `ip link set dev {name} xdp off`"
    )
}
