//! cgroup/sendmsg and recvmsg: datagrams of sockets that are not connected.
//!
//! A socket's datagrams to one frontend stay with one backend for as long as that is one of the
//! Service's, as netfilter's conntrack would keep them. What comes back shows the address that was asked:
//! of several that lead to one backend, the one that was asked last.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use gateway_common::{
    UDP,
    decide::{Reason, Verdict},
    event::Hook,
    maps::{Backend, SocketKey, SocketPeer},
};

use crate::{
    maps::{BACKENDS, SOCKETS, count},
    socket::{
        ALLOW, Family, Peer, cookie, decide_call, forget_reverse, is_connected, is_shown, key,
        peer, refuse, remember_decision, remember_reverse, set_peer, show_frontend,
    },
};

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    send(&ctx, Family::V4, Hook::Sendmsg4)
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    send(&ctx, Family::V6, Hook::Sendmsg6)
}

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(ctx: SockAddrContext) -> i32 {
    show_frontend(&ctx, Family::V4, UDP);
    ALLOW
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(ctx: SockAddrContext) -> i32 {
    show_frontend(&ctx, Family::V6, UDP);
    ALLOW
}

#[inline(always)]
fn send(ctx: &SockAddrContext, family: Family, hook: Hook) -> i32 {
    let frontend = peer(ctx, family);
    let cookie = cookie(ctx);
    let key = key(cookie, &frontend, UDP, SocketKey::ORIGINAL);
    // SAFETY: the element stays readable until the program ends (RCU); should the LRU reuse it
    // meanwhile, the check of the backend's Service below fails or the datagram is lost, as
    // datagrams may be.
    if let Some(pinned) = unsafe { SOCKETS.get(&key) } {
        // SAFETY: only the daemon writes the map, whole elements at a time.
        let backend = unsafe { BACKENDS.get(pinned.backend) };
        // Numbers of backends that went are given to new ones, of the same Service too.
        let same = |backend: &Backend| {
            backend.service == pinned.service
                && backend.address == pinned.address
                && backend.port == pinned.port
        };
        if backend.is_some_and(same) {
            count(Reason::Pinned);
            let backend = Peer {
                address: pinned.address,
                port: pinned.port,
            };
            // The socket may have asked the backend by another address meanwhile.
            if !is_shown(cookie, &backend, &frontend) {
                let (service, id) = (pinned.service, pinned.backend);
                remember_reverse(cookie, &frontend, &backend, service, id, UDP);
            }
            set_peer(ctx, family, &pinned.address, pinned.port);
            return ALLOW;
        }
    }
    let Some(decision) = decide_call(ctx, hook, &frontend, UDP) else {
        // For IPv4 on a connected IPv6 socket the kernel calls with the address that it is connected to,
        // which is the backend's (`udpv6_sendmsg` in net/ipv6/udp.c).
        if !is_connected(ctx) {
            forget_reverse(cookie, &frontend);
        }
        return ALLOW;
    };
    if !matches!(decision.verdict, Verdict::Forward) {
        return refuse(decision.verdict);
    }
    let pinned = SocketPeer {
        address: decision.address,
        port: decision.port,
        reserved: 0,
        service: decision.service,
        backend: decision.backend,
    };
    // Without the record the next datagram is decided anew.
    let _ = SOCKETS.insert(&key, &pinned, 0);
    remember_decision(cookie, &frontend, &decision, UDP);
    set_peer(ctx, family, &decision.address, decision.port);
    ALLOW
}
