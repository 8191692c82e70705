//! What `full-nat` remembers of a flow: both of its directions, each under the tuple that arrives.

use crate::{Address, BackendId, Flow, FlowKey, FlowState, Port};

/// One direction of a translated flow: what its packets' source and destination become. The direction from the
/// client stands under the client's tuple, the one from the backend under (backend, balancer's address).
///
/// `flow` is read and written as the two words of a [`Flow`]; the rest never changes while the entry stands.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Translation {
    /// Whose flow it is, and when this direction's last packet was seen.
    pub flow: Flow,
    /// The new source.
    pub source: Address,
    /// The new destination.
    pub destination: Address,
    /// The new source port.
    pub source_port: Port,
    /// The new destination port.
    pub destination_port: Port,
    /// The number of the service.
    pub service: u32,
    /// TCP: as [`crate::Service::mss`], when the flow began.
    pub mss: u16,
    /// 1 in the client's direction of a flow that went past a backend which takes no more connections; else 0.
    pub overflowed: u16,
    /// Zero.
    pub reserved: [u16; 2],
}

impl Translation {
    /// The tuple under which the other direction stands: packets that answer those which this one sends.
    #[inline(always)]
    pub const fn opposite_key(&self, protocol: u8) -> FlowKey {
        FlowKey {
            client: self.destination,
            vip: self.source,
            client_port: self.destination_port,
            vip_port: self.source_port,
            protocol,
            reserved: [0, 0, 0],
        }
    }

    /// The other direction of the flow that arrives as `key`.
    #[inline(always)]
    pub const fn opposite(
        &self,
        key: &FlowKey,
        backend: BackendId,
        tag: u32,
        now: u32,
        state: FlowState,
    ) -> Self {
        Self {
            flow: Flow::new(backend, tag, now, state),
            source: key.vip,
            destination: key.client,
            source_port: key.vip_port,
            destination_port: key.client_port,
            ..*self
        }
    }
}

const _: () = assert!(size_of::<Translation>() == 64);
