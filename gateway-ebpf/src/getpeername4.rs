//! cgroup/getpeername4: a process asks whom its socket is connected to. It gets the answer that it
//! expects: the Service's address, not the backend's.

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_socket_cookie, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use gateway_common::{mapped, maps::SocketKey};

use crate::maps::SOCKETS;

/// The only value that the kernel accepts from this hook.
const ALLOW: i32 = 1;

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel hands the program a valid context; the verifier checks each access.
    let (address, port) = unsafe { ((*ctx.sock_addr).user_ip4, (*ctx.sock_addr).user_port as u16) };
    let key = SocketKey {
        // SAFETY: the helper accepts the context of this program type.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        address: mapped(address.to_ne_bytes()),
        port: u16::from_be(port),
        reserved: [0; 3],
    };
    // SAFETY: the element stays readable until the program ends (RCU); a racing reuse by the LRU
    // could at worst show another Service's address in an answer that nobody routes by.
    if let Some(origin) = unsafe { SOCKETS.get(&key) } {
        let [.., a, b, c, d] = origin.address;
        // SAFETY: both fields may be written in getpeername4 programs.
        unsafe {
            (*ctx.sock_addr).user_ip4 = u32::from_ne_bytes([a, b, c, d]);
            (*ctx.sock_addr).user_port = u32::from(origin.port.to_be());
        }
    }
    ALLOW
}
