//! Why a packet left the pipeline the way it did: one closed list, a counter each.

macro_rules! reasons {
    ($($variant:ident = $number:literal, $name:literal, $text:literal;)*) => {
        /// Every way out of the packet path. The number is the index into `REASON_COUNTERS`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        pub enum Reason { $(#[doc = $text] $variant = $number,)* }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in metrics and in the API.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What an operator reads about it.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    Forwarded = 0, "forwarded", "Sent towards a backend.";
    Replied = 1, "replied", "A backend's reply, sent towards the client with the service for its source.";
    ArpAnswered = 2, "arp_answered", "An ARP request for a virtual address, answered.";
    NotIp = 3, "not_ip", "Neither IPv4 nor ARP for a virtual address: left to the stack.";
    NotOurs = 4, "not_ours", "Belongs to no service: left to the stack.";
    LocalReply = 5, "local_reply", "A backend's answer to the balancer itself, such as a health check's: left to the stack.";
    ResolvingNextHop = 6, "resolving_next_hop", "Rewritten and left to the stack, which resolves the neighbour.";
    Fragment = 7, "fragment", "A fragment for a virtual address, which carries no ports to go by.";
    OptionsUnsupported = 8, "options_unsupported", "An IPv4 header with options for a virtual address.";
    Malformed = 9, "malformed", "Headers that contradict themselves or the length of the packet.";
    TtlExpired = 10, "ttl_expired", "The time to live would end here.";
    ExceedsMtu = 11, "exceeds_mtu", "Larger than the egress interface takes.";
    NoBackend = 12, "no_backend", "The service has no backend that could serve the flow.";
    NextHopUnresolved = 13, "next_hop_unresolved", "No neighbour is known on the way to the backend.";
    NoRoute = 14, "no_route", "The kernel's tables have no way to the destination.";
    TableInconsistent = 15, "table_inconsistent", "A slot or an interface that the entry names does not exist: a defect, or a foreign writer.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_names_unique() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(Reason::ALL.iter().filter(|other| other.name() == reason.name()).count(), 1);
        }
    }
}
