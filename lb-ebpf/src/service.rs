//! Whose packet it is.

use lb_common::{Address, Features, FlowKey, Port, Protocol, Reply, Service, ServiceKey};

use crate::{parse::Transport, tables::Tables};

/// The owner of a packet's tuple.
pub enum Owner<'t> {
    /// A client's packet for a service.
    Client(&'t Service),
    /// A backend's reply, to be sent on in the name of its service.
    Backend(&'t Reply),
    /// A backend's reply to an address of the pool (`full-nat`).
    Translated,
    /// A backend's answer to the balancer itself.
    Local,
    /// Nobody's.
    Nobody,
}

/// Looks the destination up as a service and as a port of the pool, then the source as a backend.
#[inline(always)]
pub fn owner<'t, T: Tables>(tables: &'t T, transport: &Transport) -> Owner<'t> {
    let tuple = &transport.tuple;
    if let Some(service) = service_of(tables, tuple, transport.protocol()) {
        return Owner::Client(service);
    }
    if tables.features().contains(Features::FULL_NAT) && is_for_pool(tables, tuple) {
        return Owner::Translated;
    }
    match reply_of(tables, tuple) {
        None => Owner::Nobody,
        Some(_) if tables.is_local(&tuple.vip) => Owner::Local,
        Some(reply) => Owner::Backend(reply),
    }
}

/// Whether a packet is for a port of the pool that is in use. Others should not pay for the look: first the port.
#[inline(always)]
fn is_for_pool<T: Tables>(tables: &T, tuple: &FlowKey) -> bool {
    let Some(settings) = tables.settings() else { return false };
    let offset = tuple.vip_port.number().wrapping_sub(settings.pool_first_port);
    offset < settings.pool_ports && tables.translation(tuple).is_some()
}

/// The service that a client's packet is for.
#[inline(always)]
pub fn service_of<'t, T: Tables>(tables: &'t T, tuple: &FlowKey, protocol: Protocol) -> Option<&'t Service> {
    let mut key = ServiceKey { address: tuple.vip, port: tuple.vip_port, protocol: tuple.protocol, width: 0 };
    if let Some(service) = tables.service(&key) {
        return Some(service);
    }
    if !tables.features().contains(Features::WIDE) {
        return None;
    }
    let wide = tables.wide(protocol, &tuple.vip)?;
    key.port = Port::new(wide.first_port(tuple.vip_port.number())?);
    // Word by word: a copy of the whole becomes a call.
    let [a, b, c, d] = wide.network.words();
    key.address = Address::from_words([a, b, c, d]);
    key.width = wide.width;
    tables.service(&key)
}

/// The `nat` backend that sent a packet.
#[inline(always)]
pub fn reply_of<'t, T: Tables>(tables: &'t T, tuple: &FlowKey) -> Option<&'t Reply> {
    let exact =
        ServiceKey { address: tuple.client, port: tuple.client_port, protocol: tuple.protocol, width: 0 };
    if let Some(reply) = tables.reply(&exact) {
        return Some(reply);
    }
    if !tables.features().contains(Features::WIDE) {
        return None;
    }
    let any = ServiceKey { port: Port::new(0), ..exact };
    let port = tuple.client_port.number();
    tables.reply(&any).filter(|reply| reply.ports.first <= port && port <= reply.ports.last)
}
