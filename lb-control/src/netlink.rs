//! The kernel's networking state over rtnetlink: dumps once, then events, as a watch channel of immutable
//! snapshots; and the two questions that need an answer of their own, a route and a neighbour.
//!
//! When the kernel dropped events because its buffer overran, everything is dumped again.

mod snapshot;

use std::{
    net::IpAddr,
    os::fd::{AsRawFd as _, RawFd},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use futures_util::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use rtnetlink::{
    Error, Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder, new_connection, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        neighbour::{NeighbourFlags, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteType, RouteVia},
    },
    sys::{AsyncSocket as _, SocketAddr},
};
use tokio::sync::watch;

pub use snapshot::{AttachedXdp, Certainty, Link, Neighbour, Snapshot};

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// Before a failed connection or dump is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Events of a burst are published together after this long.
const BURST: Duration = Duration::from_millis(5);

/// Room for events that wait: 8 MiB are about 20,000 changed routes.
const EVENTS_BYTES: libc::c_int = 8 << 20;
/// The kernel answers in microseconds; a question is given up after this.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

type Events = BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>;

/// The way to the kernel's networking state; clones share its connections.
#[derive(Clone)]
pub struct Netlink {
    handle: watch::Receiver<Handle>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

/// The kernel's way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The interface that it leaves through.
    pub ifindex: u32,
    /// The neighbour it is handed to: the gateway, or the destination itself where that is on the link.
    pub neighbour: IpAddr,
}

/// The kernel's answer about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAnswer {
    /// There is a way.
    Via(Route),
    /// The address is the host's own.
    Local,
    /// There is none: no route, or one that refuses.
    Unreachable,
}

impl Netlink {
    /// Connects, dumps everything once and goes on listening in a task of its own.
    pub async fn start() -> anyhow::Result<Self> {
        let (handle, events) = connect().context("cannot open a netlink socket")?;
        let snapshot = dump(&handle, 0).await.context("cannot read interfaces, addresses and neighbours")?;
        let (handle_sender, handle_receiver) = watch::channel(handle);
        let (sender, receiver) = watch::channel(Arc::new(snapshot));
        tokio::spawn(follow(events, handle_sender, sender));
        Ok(Self { handle: handle_receiver, snapshot: receiver })
    }

    /// The snapshots.
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// How the kernel would send to `destination` now.
    pub async fn route(&self, destination: IpAddr) -> Result<RouteAnswer, Error> {
        let (builder, bits) = match destination {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        let mut question = RouteMessageBuilder::<IpAddr>::new().build();
        question.header = Default::default();
        question.attributes.clear();
        question.header.address_family = builder;
        question.header.destination_prefix_length = bits;
        question.attributes.push(RouteAttribute::Destination(RouteAddress::from(destination)));
        let mut answers = self.handle().route().get(question).execute().boxed();
        match within(answers.try_next()).await {
            Ok(Some(answer)) => Ok(route_answer(destination, answer.header.kind, &answer.attributes)),
            Ok(None) => Ok(RouteAnswer::Unreachable),
            // Whatever the reason (no route, a blackhole, a prohibition): packets will not get there.
            Err(Error::NetlinkError(_)) => Ok(RouteAnswer::Unreachable),
            Err(error) => Err(error),
        }
    }

    /// Has the kernel ask for a neighbour's Ethernet address, or confirm the one that it knows.
    ///
    /// Never for a permanent entry: the kernel would take its permanence away.
    pub async fn ask_neighbour(&self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        let request = self.handle().neighbours().add(ifindex, address);
        within(request.flags(NeighbourFlags::Use).state(NeighbourState::None).replace().execute()).await
    }

    /// Has an interface take every multicast frame, or only those of groups that the host joined.
    pub async fn set_all_multicast(&self, ifindex: u32, on: bool) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(ifindex).allmulticast(on).build();
        within(self.handle().link().set(message).execute()).await
    }

    /// The XDP program on an interface, read anew: attaching one raises no event.
    pub async fn xdp(&self, ifindex: u32) -> Result<Option<AttachedXdp>, Error> {
        Ok(self.link(ifindex).await?.and_then(|link| link.xdp))
    }

    /// An interface, read anew: what was changed a moment ago is not in the snapshot yet.
    pub async fn link(&self, ifindex: u32) -> Result<Option<Link>, Error> {
        let mut links = self.handle().link().get().match_index(ifindex).execute().boxed();
        let mut read = Snapshot::default();
        while let Some(link) = within(links.try_next()).await? {
            read.apply(&RouteNetlinkMessage::NewLink(link));
        }
        Ok(read.links.remove(&ifindex))
    }

    fn handle(&self) -> Handle {
        self.handle.borrow().clone()
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER_WITHIN, answer).await.unwrap_or(Err(Error::RequestFailed))
}

fn route_answer(destination: IpAddr, kind: RouteType, attributes: &[RouteAttribute]) -> RouteAnswer {
    match kind {
        RouteType::Unicast => {}
        RouteType::Local => return RouteAnswer::Local,
        _ => return RouteAnswer::Unreachable,
    }
    let (mut interface, mut neighbour) = (None, destination);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => neighbour = IpAddr::V4(*gateway),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => neighbour = IpAddr::V6(*gateway),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => neighbour = IpAddr::V6(*gateway),
            _ => {}
        }
    }
    match interface {
        Some(ifindex) => RouteAnswer::Via(Route { ifindex, neighbour }),
        None => RouteAnswer::Unreachable,
    }
}

/// Questions have a socket of their own: a flood of events on it would lose answers.
fn connect() -> std::io::Result<(Handle, Events)> {
    let (mut connection, _no_questions, events) = new_multicast_connection(&GROUPS)?;
    enlarge_buffer(connection.socket_mut().socket_mut().as_raw_fd());
    tokio::spawn(connection);
    let (connection, handle, _no_events) = new_connection()?;
    tokio::spawn(connection);
    Ok((handle, events.map(|(message, _from): (_, SocketAddr)| message).boxed()))
}

/// Best effort: with a small buffer everything is read anew more often.
fn enlarge_buffer(socket: RawFd) {
    let size = EVENTS_BYTES;
    // SAFETY: the socket is open, and the option's value is an int.
    unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// Everything, asked for after the subscription: an event that comes meanwhile is applied on top. One dump
/// after the other, because a socket has one at a time.
async fn dump(handle: &Handle, routes_version: u64) -> Result<Snapshot, Error> {
    let mut snapshot = Snapshot { routes_version, ..Snapshot::default() };
    take_in(&mut snapshot, handle.link().get().execute().map_ok(RouteNetlinkMessage::NewLink)).await?;
    take_in(&mut snapshot, handle.address().get().execute().map_ok(RouteNetlinkMessage::NewAddress)).await?;
    take_in(&mut snapshot, handle.neighbours().get().execute().map_ok(RouteNetlinkMessage::NewNeighbour))
        .await?;
    snapshot.routes_version += 1;
    Ok(snapshot)
}

async fn take_in(
    snapshot: &mut Snapshot,
    dump: impl Stream<Item = Result<RouteNetlinkMessage, Error>>,
) -> Result<(), Error> {
    let mut dump = pin!(dump);
    while let Some(message) = dump.try_next().await? {
        snapshot.apply(&message);
    }
    Ok(())
}

/// Publishes snapshots until the last reader is gone.
async fn follow(mut events: Events, handle: watch::Sender<Handle>, published: watch::Sender<Arc<Snapshot>>) {
    let mut state = Snapshot::clone(&published.borrow());
    loop {
        let first = tokio::select! {
            event = events.next() => event,
            () = published.closed() => return,
        };
        let Some(first) = first else {
            tracing::warn!("the netlink connection ended; connecting again");
            (state, events) = reconnect(&handle, state.routes_version).await;
            published.send_replace(Arc::new(state.clone()));
            continue;
        };
        let mut burst = vec![first];
        tokio::time::sleep(BURST).await;
        while let Some(Some(event)) = futures_util::FutureExt::now_or_never(events.next()) {
            burst.push(event);
        }
        let mut changed = false;
        for event in burst {
            match event.payload {
                NetlinkPayload::InnerMessage(message) => changed |= state.apply(&message),
                NetlinkPayload::Overrun(_) => {
                    tracing::warn!("the kernel dropped networking events; reading everything anew");
                    let current = handle.borrow().clone();
                    match dump(&current, state.routes_version).await {
                        Ok(read) => state = read,
                        Err(error) => {
                            tracing::warn!(%error, "reading failed; connecting again");
                            (state, events) = reconnect(&handle, state.routes_version).await;
                        }
                    }
                    changed = true;
                }
                _ => {}
            }
        }
        if changed {
            published.send_replace(Arc::new(state.clone()));
        }
    }
}

async fn reconnect(handle: &watch::Sender<Handle>, routes_version: u64) -> (Snapshot, Events) {
    loop {
        tokio::time::sleep(RETRY).await;
        let (fresh, events) = match connect() {
            Ok(connected) => connected,
            Err(error) => {
                tracing::warn!(%error, "cannot open a netlink socket");
                continue;
            }
        };
        match dump(&fresh, routes_version).await {
            Ok(snapshot) => {
                handle.send_replace(fresh);
                return (snapshot, events);
            }
            Err(error) => tracing::warn!(%error, "cannot read the networking state"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_names_its_neighbour() {
        let destination = IpAddr::from([10, 0, 0, 2]);
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet([10, 1, 0, 1].into()));
        let oif = RouteAttribute::Oif(3);
        let via = |neighbour: [u8; 4]| RouteAnswer::Via(Route { ifindex: 3, neighbour: neighbour.into() });
        let link_local = std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        let by_link_local = RouteAnswer::Via(Route { ifindex: 3, neighbour: link_local.into() });
        let (gateway6, via6) = (
            RouteAttribute::Gateway(RouteAddress::Inet6(link_local)),
            RouteAttribute::Via(RouteVia::Inet6(link_local)),
        );
        for (kind, attributes, expected) in [
            (RouteType::Unicast, vec![oif.clone()], via([10, 0, 0, 2])),
            (RouteType::Unicast, vec![oif.clone(), gateway.clone()], via([10, 1, 0, 1])),
            (RouteType::Unicast, vec![oif.clone(), gateway6], by_link_local),
            (RouteType::Unicast, vec![oif.clone(), via6], by_link_local),
            (RouteType::Unicast, vec![gateway], RouteAnswer::Unreachable),
            (RouteType::Local, vec![oif.clone()], RouteAnswer::Local),
            (RouteType::BlackHole, vec![oif], RouteAnswer::Unreachable),
        ] {
            assert_eq!(route_answer(destination, kind, &attributes), expected, "{kind:?} {attributes:?}");
        }
    }
}
