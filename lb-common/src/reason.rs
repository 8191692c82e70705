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
    ErrorForwarded = 2, "error_forwarded", "An ICMP error about a balanced flow, sent to the backend that owns the flow.";
    ErrorReplied = 3, "error_replied", "An ICMP error about a client's packets to a backend, sent to the client.";
    ArpAnswered = 4, "arp_answered", "An ARP request for a virtual address, answered.";
    NeighbourAnswered = 5, "neighbour_answered", "An IPv6 neighbour solicitation for a virtual address, answered.";
    EchoAnswered = 6, "echo_answered", "An ICMP echo request to a virtual address, answered.";
    TooBigAnswered = 7, "too_big_answered", "Larger than the way to the backend takes: the client was told the size.";
    TimeExceededAnswered = 8, "time_exceeded_answered", "The time to live ended here: the client was told.";
    NotIp = 9, "not_ip", "Neither IP nor a question for the neighbour of a virtual address: left to the stack.";
    NotOurs = 10, "not_ours", "Belongs to no service: left to the stack.";
    LocalReply = 11, "local_reply", "A backend's answer to the balancer itself, such as a health check's: left to the stack.";
    ResolvingNextHop = 12, "resolving_next_hop", "Rewritten and left to the stack, which resolves the neighbour.";
    LeftToFragment = 13, "left_to_fragment", "Larger than the egress interface takes: rewritten and left to the stack, which fragments it.";
    ReplyLeft = 14, "reply_left", "A reply that is too large or whose time to live ends: left to the stack, which tells the backend.";
    FragmentPassed = 15, "fragment_passed", "A fragment of an unknown packet: left to the stack, as the service says.";
    FragmentUnknown = 16, "fragment_unknown", "A fragment of which no first fragment was seen, for a virtual address.";
    ExtensionUnsupported = 17, "extension_unsupported", "IPv6 extension headers that hide the ports, for a virtual address.";
    Malformed = 18, "malformed", "Headers that contradict themselves or the length of the packet.";
    IcmpUnrelated = 19, "icmp_unrelated", "An ICMP error for a virtual address about no balanced flow.";
    AnswerLimited = 20, "answer_limited", "It deserved an ICMP error, but more were sent this second than the limit allows.";
    TtlExpired = 21, "ttl_expired", "The time to live would end here, and no error may be sent about it.";
    ExceedsMtu = 22, "exceeds_mtu", "Larger than the egress interface takes, and no error may be sent about it.";
    NoBackend = 23, "no_backend", "The service has no backend that could serve the flow.";
    NextHopUnresolved = 24, "next_hop_unresolved", "No neighbour is known on the way to the backend.";
    NoRoute = 25, "no_route", "The kernel's tables have no way to the destination.";
    OwnClient = 26, "own_client", "A backend that is its own client, in a mode that shows it its own address.";
    PortsExhausted = 27, "ports_exhausted", "The pool has no free port for another flow to this backend.";
    TranslationsFull = 28, "translations_full", "The table of translated flows has no room for another.";
    TableInconsistent = 29, "table_inconsistent", "A slot or an interface that the entry names does not exist: a defect, or a foreign writer.";
    BackendsFull = 30, "backends_full", "Every backend that was tried has as many connections as it may.";
    ConnectionReset = 31, "connection_reset", "A connection of a backend whose drain is over: the sender was sent a reset.";
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
