//! Whose packet it is.

use lb_common::{FlowKey, Reply, Service, ServiceKey};

use crate::tables::Tables;

/// The owner of a packet's tuple.
pub enum Owner<'t> {
    /// A client's packet for a service.
    Client(&'t Service),
    /// A backend's reply, to be sent on in the name of its service.
    Backend(&'t Reply),
    /// A backend's answer to the balancer itself.
    Local,
    /// Nobody's.
    Nobody,
}

/// Looks the destination up as a service, then the source as a backend.
#[inline(always)]
pub fn owner<'t, T: Tables>(tables: &'t T, tuple: &FlowKey) -> Owner<'t> {
    let destination =
        ServiceKey { address: tuple.vip, port: tuple.vip_port, protocol: tuple.protocol, reserved: 0 };
    if let Some(service) = tables.service(&destination) {
        return Owner::Client(service);
    }
    let source =
        ServiceKey { address: tuple.client, port: tuple.client_port, protocol: tuple.protocol, reserved: 0 };
    match tables.reply(&source) {
        None => Owner::Nobody,
        Some(_) if tables.is_local(&tuple.vip) => Owner::Local,
        Some(reply) => Owner::Backend(reply),
    }
}
