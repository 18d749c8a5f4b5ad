//! sockops: the address and port that a process connects from.
//!
//! When `connect()` is decided, the socket has no source yet; when its SYN goes out, it has. With
//! that, a trace can tell which request came over which decision. The daemon attaches this
//! program only while there is a trace.

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_SOCK_OPS_TCP_CONNECT_CB,
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    macros::sock_ops,
    programs::SockOpsContext,
};
use gateway_common::{
    Address, TCP, UNSPECIFIED,
    decide::{Masquerade, Reason, Verdict},
    event::{Event, Hook},
    is_v4, mapped,
    maps::SocketKey,
};

use crate::{
    maps::{EVENTS, SOCKETS, lose_event},
    socket::{Peer, join, key},
    trace::{clock, is_on, is_wanted},
};

/// include/linux/socket.h
const AF_INET: u32 = 2;

#[sock_ops]
pub(crate) fn connected(ctx: SockOpsContext) -> u32 {
    // The kernel may patch the result's use; 1 is what does nothing everywhere.
    if ctx.op() == BPF_SOCK_OPS_TCP_CONNECT_CB {
        report(&ctx);
    }
    1
}

#[inline(always)]
fn report(ctx: &SockOpsContext) {
    if !is_on() {
        return;
    }
    // SAFETY: the helper accepts the context of this program type.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let (local, remote) = ends(ctx);
    let socket = key(cookie, &remote, TCP, SocketKey::REPLY);
    // SAFETY: the element stays readable until the program ends (RCU); a racing reuse by the LRU
    // could at worst show another Service's address in a trace.
    let Some(frontend) = (unsafe { SOCKETS.get(&socket) }) else {
        // Of no Service.
        return;
    };
    let Some(mut event) = EVENTS.reserve(0) else {
        lose_event();
        return;
    };
    let written = event.write(Event {
        time: clock(),
        // SAFETY: the helper accepts the context of this program type (Linux 5.14).
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        cookie,
        source: local.address,
        destination: frontend.address,
        backend_address: remote.address,
        source_port: local.port,
        destination_port: frontend.port,
        backend_port: remote.port,
        protocol: TCP,
        hook: Hook::Connected as u8,
        verdict: Verdict::Forward as u8,
        reason: Reason::Chosen as u8,
        masquerade: Masquerade::No as u8,
        reserved: 0,
        flags: 0,
        service: frontend.service,
        backend: frontend.backend,
        pid: 0,
        interface: 0,
    });
    if is_wanted(written) {
        event.submit(0);
    } else {
        event.discard(0);
    }
}

/// Where the socket connects from, and to.
#[inline(always)]
fn ends(ctx: &SockOpsContext) -> (Peer, Peer) {
    let v4 = |address: u32| mapped(address.to_ne_bytes());
    let (local, remote): (Address, Address) = if ctx.family() == AF_INET {
        (v4(ctx.local_ip4()), v4(ctx.remote_ip4()))
    } else {
        let ops = ctx.ops;
        // SAFETY: the kernel hands the program a valid context; the verifier checks each access, and
        // takes only whole words.
        let (local, remote) = unsafe {
            let (local, remote) = (&raw const (*ops).local_ip6, &raw const (*ops).remote_ip6);
            (
                join([(*local)[0], (*local)[1], (*local)[2], (*local)[3]]),
                join([(*remote)[0], (*remote)[1], (*remote)[2], (*remote)[3]]),
            )
        };
        // An IPv6 socket that connects to an IPv4 address: its own is written down later.
        if local == UNSPECIFIED && is_v4(&remote) {
            (v4(ctx.local_ip4()), remote)
        } else {
            (local, remote)
        }
    };
    (
        Peer {
            address: local,
            port: ctx.local_port() as u16,
        },
        Peer {
            address: remote,
            // In network byte order, as a 32-bit number (include/uapi/linux/bpf.h).
            port: u32::from_be(ctx.remote_port()) as u16,
        },
    )
}
