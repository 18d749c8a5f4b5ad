//! cgroup/connect4: a process on the node, or in one of its pods, connects to an IPv4 address.
//!
//! If a Service has that address, the socket connects to the backend instead: there is nothing to
//! translate on the packets. kube-proxy does the same in nat OUTPUT (the node) and PREROUTING
//! (pods), packet by packet.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use gateway_common::{
    TCP, UNSPECIFIED,
    decide::{Decision, Flow, Origin, Reason, Verdict, decide},
    event::Hook,
    mapped,
    maps::{SocketKey, SocketOrigin},
};

use crate::{
    maps::{KernelTables, SOCKETS, count, settings},
    trace::{self, Client},
};

/// Let the call go on.
const ALLOW: i32 = 1;
/// Make the call fail, with the error given to `bpf_set_retval`.
const DENY: i32 = 0;
/// `ECONNREFUSED`, include/uapi/asm-generic/errno.h.
const ECONNREFUSED: i32 = 111;

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel hands the program a valid context; the verifier checks each access.
    let (address, port, protocol) = unsafe {
        let sock: &bpf_sock_addr = &*ctx.sock_addr;
        (sock.user_ip4, sock.user_port as u16, sock.protocol)
    };
    if protocol != u32::from(TCP) {
        return ALLOW;
    }
    // SAFETY: the helper accepts the context of this program type.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let on_node = settings().is_some_and(|settings| settings.host_netns == netns);
    let flow = Flow {
        destination: mapped(address.to_ne_bytes()),
        port: u16::from_be(port),
        protocol: TCP,
        origin: if on_node {
            Origin::NodeSocket
        } else {
            Origin::PodSocket
        },
    };
    let decision = decide(&KernelTables, &flow);
    if matches!(decision.reason, Reason::NoService) {
        return ALLOW;
    }
    count(decision.reason);
    let client = Client {
        hook: Hook::Connect4,
        netns,
        address: UNSPECIFIED,
        port: 0,
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        interface: 0,
    };
    trace::emit(&client, &flow, &decision);
    match decision.verdict {
        Verdict::Forward => {
            redirect(&ctx, &flow, &decision);
            ALLOW
        }
        Verdict::Pass => ALLOW,
        Verdict::Reject | Verdict::Drop => {
            // SAFETY: the helper only records the error that the system call returns.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            DENY
        }
    }
}

/// Writes the backend over the destination, and remembers what the process asked for.
#[inline(always)]
fn redirect(ctx: &SockAddrContext, flow: &Flow, decision: &Decision) {
    let key = SocketKey {
        // SAFETY: the helper accepts the context of this program type.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        address: decision.address,
        port: decision.port,
        reserved: [0; 3],
    };
    let origin = SocketOrigin {
        address: flow.destination,
        port: flow.port,
        reserved: 0,
        service: decision.service,
    };
    // Without the record the connection works all the same; only getpeername() would tell.
    let _ = SOCKETS.insert(&key, &origin, 0);
    let [.., a, b, c, d] = decision.address;
    // SAFETY: both fields may be written in connect4 programs; the verifier checks each access.
    unsafe {
        (*ctx.sock_addr).user_ip4 = u32::from_ne_bytes([a, b, c, d]);
        (*ctx.sock_addr).user_port = u32::from(decision.port.to_be());
    }
}
