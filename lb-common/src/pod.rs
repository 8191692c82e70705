//! Every `aya::Pod` of the contract, each with its reason.

use crate::{
    Address, Answers, Backend, Counters, Features, Flow, FlowKey, FragmentKey, FragmentWay, Interface, Load,
    QuicKey, Reply, Service, ServiceKey, Settings, Translation, VirtualAddress, Wide, WideKey,
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
    Address = 16, Answers = 16, Backend = 64, Counters = 40, Features = 4, Flow = 16, FlowKey = 40, FragmentKey = 40,
    FragmentWay = 56, Interface = 16, Load = 16, QuicKey = 16, Reply = 36, Service = 28, ServiceKey = 20, Settings = 72,
    Translation = 64, VirtualAddress = 16, Wide = 52, WideKey = 20,
}
