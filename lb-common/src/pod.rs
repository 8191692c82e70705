//! Every `aya::Pod` of the contract, each with its reason.

use crate::{
    Address, Backend, Counters, Flow, FlowKey, Interface, Reply, Service, ServiceKey, Settings,
    VirtualAddress,
};

macro_rules! pods {
    ($($type:ty = $size:literal),* $(,)?) => {
        $(
            const _: () = assert!(size_of::<$type>() == $size);
            // SAFETY: `repr(C)`, integers only, valid for every bit pattern, and the asserted size is the sum
            // of the fields: no implicit padding.
            unsafe impl aya::Pod for $type {}
        )*
    };
}

pods! {
    Address = 16, Backend = 64, Counters = 32, Flow = 16, FlowKey = 40, Interface = 16, Reply = 32,
    Service = 16, ServiceKey = 20, Settings = 16, VirtualAddress = 8,
}
