//! What the socket hooks share: the context's address, and a decision about it.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    },
    programs::SockAddrContext,
};
use gateway_common::{
    Address, UDP, UNSPECIFIED,
    decide::{Decision, Flow, Origin, Reason, Verdict, decide},
    event::Hook,
    mapped,
    maps::{Settings, SocketKey, SocketPeer},
};

use crate::{
    client::Client,
    maps::{SOCKETS, count, settings},
    tables::KernelTables,
    trace,
};

/// Let the call go on.
pub(crate) const ALLOW: i32 = 1;
/// Make the call fail, with the error given to `bpf_set_retval`; else with EPERM.
const DENY: i32 = 0;
/// include/net/tcp_states.h: also of datagram sockets.
const TCP_ESTABLISHED: u32 = 1;
/// include/uapi/asm-generic/errno.h
const ECONNREFUSED: i32 = 111;
/// include/uapi/asm-generic/errno.h
const EHOSTUNREACH: i32 = 113;

/// Whether the kernel has `bpf_set_retval` for these hooks; the loader knows. In `.rodata`, so the verifier
/// knows too.
#[unsafe(no_mangle)]
static SETS_RETVAL: u8 = 1;

/// The family of a hook.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    V4,
    V6,
}

/// An address and a port in host byte order.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: Address,
    pub(crate) port: u16,
}

/// The address that the hook is about: the destination of a call, or the source of a datagram.
#[inline(always)]
pub(crate) fn peer(ctx: &SockAddrContext, family: Family) -> Peer {
    let sock = ctx.sock_addr;
    // SAFETY: the kernel hands the program a valid context; the verifier checks each access.
    let (address, port) = unsafe {
        let address = match family {
            Family::V4 => mapped((*sock).user_ip4.to_ne_bytes()),
            Family::V6 => join([
                (*sock).user_ip6[0],
                (*sock).user_ip6[1],
                (*sock).user_ip6[2],
                (*sock).user_ip6[3],
            ]),
        };
        (address, (*sock).user_port as u16)
    };
    Peer {
        address,
        port: u16::from_be(port),
    }
}

/// Writes another address over the one that the hook is about. Only a hook for IPv6 can take an
/// address of either family: IPv4 as a mapped one.
#[inline(always)]
pub(crate) fn set_peer(ctx: &SockAddrContext, family: Family, address: &Address, port: u16) {
    let sock = ctx.sock_addr;
    let words = split(address);
    // SAFETY: these fields may be written in all hooks that call this; the verifier checks it.
    unsafe {
        match family {
            Family::V4 => (*sock).user_ip4 = words[3],
            Family::V6 => {
                (*sock).user_ip6[0] = words[0];
                (*sock).user_ip6[1] = words[1];
                (*sock).user_ip6[2] = words[2];
                (*sock).user_ip6[3] = words[3];
            }
        }
        (*sock).user_port = u32::from(port.to_be());
    }
}

#[inline(always)]
pub(crate) fn join(words: [u32; 4]) -> Address {
    // SAFETY: both are 16 bytes in which any value is valid.
    unsafe { core::mem::transmute(words) }
}

#[inline(always)]
fn split(address: &Address) -> [u32; 4] {
    // SAFETY: both are 16 bytes in which any value is valid.
    unsafe { core::mem::transmute(*address) }
}

/// The socket's cookie.
#[inline(always)]
pub(crate) fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper accepts the context of this program type.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// The key of one direction of a socket's translation.
#[inline(always)]
pub(crate) fn key(cookie: u64, peer: &Peer, protocol: u8, direction: u8) -> SocketKey {
    SocketKey {
        cookie,
        address: peer.address,
        port: peer.port,
        protocol,
        direction,
        reserved: 0,
    }
}

/// Decides a call, emits an event for the traces, and gives the decision if the call is about a Service.
#[inline(always)]
pub(crate) fn decide_call(
    ctx: &SockAddrContext,
    hook: Hook,
    peer: &Peer,
    protocol: u8,
) -> Option<Decision> {
    let settings = settings()?;
    // SAFETY: the helper accepts the context of this program type.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let on_node = settings.host_netns == netns;
    if !on_node && settings.flags & Settings::FLAG_PODS_BY_PACKET != 0 {
        return None;
    }
    let mut client = UNSPECIFIED;
    client[..8].copy_from_slice(&netns.to_ne_bytes());
    let flow = Flow {
        client,
        destination: peer.address,
        port: peer.port,
        protocol,
        origin: if on_node {
            Origin::NodeSocket
        } else {
            Origin::PodSocket
        },
    };
    let decision = decide(&KernelTables, &flow);
    if matches!(decision.reason, Reason::NoService) {
        return None;
    }
    count(decision.reason);
    if trace::is_on() {
        let client = Client {
            hook,
            netns,
            cookie: cookie(ctx),
            address: UNSPECIFIED,
            port: 0,
            pid: (bpf_get_current_pid_tgid() >> 32) as u32,
            interface: 0,
        };
        trace::emit(&client, &flow, &decision);
    }
    trace::fault(ctx, &decision);
    Some(decision)
}

/// Remembers the reverse of a decision: what the application believes it talks to.
#[inline(always)]
pub(crate) fn remember_decision(cookie: u64, frontend: &Peer, decision: &Decision, protocol: u8) {
    let backend = Peer {
        address: decision.address,
        port: decision.port,
    };
    let (service, id) = (decision.service, decision.backend);
    remember_reverse(cookie, frontend, &backend, service, id, protocol);
}

/// Remembers the reverse of a translation, to the backend with this id.
#[inline(always)]
pub(crate) fn remember_reverse(
    cookie: u64,
    frontend: &Peer,
    backend: &Peer,
    service: u32,
    id: u32,
    protocol: u8,
) {
    let key = key(cookie, backend, protocol, SocketKey::REPLY);
    let value = SocketPeer {
        address: frontend.address,
        port: frontend.port,
        reserved: 0,
        service,
        backend: id,
    };
    // Without the record the socket works all the same; only its owner sees the backend's address.
    let _ = SOCKETS.insert(&key, &value, 0);
}

/// Whether the application is shown this frontend for the backend's datagrams.
#[inline(always)]
pub(crate) fn is_shown(cookie: u64, backend: &Peer, frontend: &Peer) -> bool {
    let key = key(cookie, backend, UDP, SocketKey::REPLY);
    // SAFETY: the element stays readable until the program ends (RCU); should the LRU reuse it meanwhile,
    // it is written once more.
    let shown = unsafe { SOCKETS.get(&key) };
    shown.is_some_and(|shown| shown.address == frontend.address && shown.port == frontend.port)
}

/// Whether the socket is connected.
#[inline(always)]
pub(crate) fn is_connected(ctx: &SockAddrContext) -> bool {
    // SAFETY: the kernel hands the program a valid context; the verifier checks each access.
    unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        !socket.is_null() && (*socket).state == TCP_ESTABLISHED
    }
}

/// The application talks to an endpoint itself, which it may have reached through a Service before.
#[inline(always)]
pub(crate) fn forget_reverse(cookie: u64, endpoint: &Peer) {
    let key = key(cookie, endpoint, UDP, SocketKey::REPLY);
    // SAFETY: only whether it is there is looked at.
    if unsafe { SOCKETS.get(&key) }.is_some() {
        // Gone meanwhile is gone.
        let _ = SOCKETS.remove(&key);
    }
}

/// The result of a hook whose call is not to go on.
#[inline(always)]
pub(crate) fn refuse(verdict: Verdict) -> i32 {
    let error = match verdict {
        Verdict::Pass | Verdict::Forward => return ALLOW,
        Verdict::Reject => ECONNREFUSED,
        // Packets would be dropped, and the call would hang until it times out. The socket can be
        // told at once, and told apart from a refusal.
        Verdict::Drop => EHOSTUNREACH,
    };
    // SAFETY: a static; the compiler must not take the value for the one that stands here.
    if unsafe { (&raw const SETS_RETVAL).read_volatile() } != 0 {
        // SAFETY: the helper only records the error that the system call returns.
        unsafe { bpf_set_retval(-error) };
    }
    DENY
}

/// Puts the frontend's address where the application looks for the address of its peer.
#[inline(always)]
pub(crate) fn show_frontend(ctx: &SockAddrContext, family: Family, protocol: u8) {
    let backend = peer(ctx, family);
    let key = key(cookie(ctx), &backend, protocol, SocketKey::REPLY);
    // SAFETY: the element stays readable until the program ends (RCU); a racing reuse by the LRU
    // could at worst show another Service's address in an answer by which nothing is routed.
    if let Some(frontend) = unsafe { SOCKETS.get(&key) } {
        set_peer(ctx, family, &frontend.address, frontend.port);
    }
}
