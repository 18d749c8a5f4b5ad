//! cgroup/connect4 and connect6: a process on the node, or in one of its pods, connects.
//!
//! If a Service has the address, the socket connects to the backend instead: there is nothing to
//! translate on the packets. kube-proxy does the same in nat OUTPUT (the node) and PREROUTING (pods),
//! packet by packet.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use gateway_common::{SCTP, TCP, UDP, decide::Verdict, event::Hook};

use crate::socket::{
    ALLOW, Family, cookie, decide_call, peer, refuse, remember_decision, set_peer,
};

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Family::V4, Hook::Connect4)
}

/// Also for IPv4 addresses that are connected to with an IPv6 socket (`::ffff:a.b.c.d`).
#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Family::V6, Hook::Connect6)
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, family: Family, hook: Hook) -> i32 {
    // SAFETY: the kernel hands the program a valid context; the verifier checks each access.
    let protocol = unsafe { (*ctx.sock_addr).protocol } as u8;
    if !matches!(protocol, TCP | UDP | SCTP) {
        return ALLOW;
    }
    let frontend = peer(ctx, family);
    let Some(decision) = decide_call(ctx, hook, &frontend, protocol) else {
        return ALLOW;
    };
    if !matches!(decision.verdict, Verdict::Forward) {
        return refuse(decision.verdict);
    }
    remember_decision(cookie(ctx), &frontend, &decision, protocol);
    set_peer(ctx, family, &decision.address, decision.port);
    ALLOW
}
