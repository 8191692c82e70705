//! The programs of the balancer's own sockets: no logic, only the shell around [`lb_ebpf::socket`].
//!
//! On the host this is an empty program, like the one in `xdp/`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod maps;

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{helpers::generated::bpf_set_retval, macros::cgroup_sock_addr, programs::SockAddrContext};
    use lb_ebpf::socket::{Reach, Turn, meant, turn};

    use crate::maps::{KernelTables, Socket};

    /// What the kernel goes on after.
    const PROCEED: i32 = 1;
    const REFUSE: i32 = 0;
    const ECONNREFUSED: i32 = 111;

    /// An IPv4 socket connects.
    #[cgroup_sock_addr(connect4)]
    pub fn portcullis_connect4(ctx: SockAddrContext) -> i32 {
        out(&Socket::ipv4(&ctx), Reach::Ipv4)
    }

    /// An IPv6 socket connects, to whatever family.
    #[cgroup_sock_addr(connect6)]
    pub fn portcullis_connect6(ctx: SockAddrContext) -> i32 {
        out(&Socket::ipv6(&ctx), Reach::Both)
    }

    /// An IPv4 datagram has an address of its own.
    #[cgroup_sock_addr(sendmsg4)]
    pub fn portcullis_sendmsg4(ctx: SockAddrContext) -> i32 {
        out(&Socket::ipv4(&ctx), Reach::Ipv4)
    }

    /// An IPv6 datagram has an address of its own.
    #[cgroup_sock_addr(sendmsg6)]
    pub fn portcullis_sendmsg6(ctx: SockAddrContext) -> i32 {
        out(&Socket::ipv6(&ctx), Reach::Ipv6)
    }

    /// An IPv4 socket is told where a datagram came from.
    #[cgroup_sock_addr(recvmsg4)]
    pub fn portcullis_recvmsg4(ctx: SockAddrContext) -> i32 {
        back(&Socket::ipv4(&ctx))
    }

    /// An IPv6 socket is told where a datagram came from.
    #[cgroup_sock_addr(recvmsg6)]
    pub fn portcullis_recvmsg6(ctx: SockAddrContext) -> i32 {
        back(&Socket::ipv6(&ctx))
    }

    /// An IPv4 socket asks for its peer.
    #[cgroup_sock_addr(getpeername4)]
    pub fn portcullis_getpeername4(ctx: SockAddrContext) -> i32 {
        back(&Socket::ipv4(&ctx))
    }

    /// An IPv6 socket asks for its peer.
    #[cgroup_sock_addr(getpeername6)]
    pub fn portcullis_getpeername6(ctx: SockAddrContext) -> i32 {
        back(&Socket::ipv6(&ctx))
    }

    #[inline(always)]
    fn out(socket: &Socket, reach: Reach) -> i32 {
        let Some(protocol) = socket.protocol() else { return PROCEED };
        match turn(&KernelTables::new(socket), protocol, &socket.peer(), reach) {
            Turn::Stay => PROCEED,
            Turn::To(backend) => {
                socket.set_peer(&backend);
                PROCEED
            }
            Turn::Nobody => {
                // SAFETY: a plain helper call.
                unsafe { bpf_set_retval(-ECONNREFUSED) };
                REFUSE
            }
        }
    }

    #[inline(always)]
    fn back(socket: &Socket) -> i32 {
        let Some(protocol) = socket.protocol() else { return PROCEED };
        if let Some(service) = meant(&KernelTables::new(socket), protocol, &socket.peer()) {
            socket.set_peer(&service);
        }
        PROCEED
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo) -> ! {
        // The verifier refuses the loop, so no reachable panic loads.
        loop {}
    }
}
