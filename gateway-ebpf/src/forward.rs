//! tcx or tc ingress on uplinks and on pods' devices: packets on their way to a Service.
//!
//! The first packet of a flow is decided and recorded under both directions; the others follow the
//! record. kube-proxy does this in nat PREROUTING, with netfilter's conntrack. These hooks run before
//! netfilter, so netfilter sees a flow from the client to the backend.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST, TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use gateway_common::{
    SCTP, UDP,
    decide::{Decision, Masquerade, Origin, Reason, Verdict, decide},
    event::Hook,
    maps::{ACCEPT_MARK, FlowKey, MASQUERADE_MARK, REJECT_MARK, Translation},
};

use crate::{
    icmp,
    maps::{BACKENDS, CONNTRACK, Direction, KernelTables, Scratch, count, now, scratch},
    packet::{ETHERNET, End, Headers, Stage, Unhandled},
    trace,
};

/// Go on to the next program or filter on this hook, and then to the stack.
pub(crate) const NEXT: i32 = TC_ACT_UNSPEC;
/// Throw the packet away.
pub(crate) const DROP: i32 = TC_ACT_SHOT as i32;

/// A UDP flow that was silent for so long is over (net.netfilter.nf_conntrack_udp_timeout_stream is
/// 120 s; a little more, so that netfilter's entry goes first).
const UDP_TIMEOUT: u64 = 180 * 1_000_000_000;

/// A UDP flow that pauses for so long may make way for another one with the same replies.
const DATAGRAM_PAUSE: u64 = 1_000_000_000;

/// From outside, on an uplink.
#[classifier]
pub(crate) fn ingress(ctx: TcContext) -> i32 {
    run(&ctx, Origin::Packet, Hook::Ingress)
}

/// From a pod, on its device on the node.
#[classifier]
pub(crate) fn pod_ingress(ctx: TcContext) -> i32 {
    run(&ctx, Origin::PodPacket, Hook::Pod)
}

#[inline(always)]
fn run(ctx: &TcContext, origin: Origin, hook: Hook) -> i32 {
    match translate(ctx, origin, hook) {
        Ok(action) => action,
        Err(Unhandled::Foreign) => NEXT,
        Err(Unhandled::Unparsed) => {
            count(Reason::Unparsed);
            NEXT
        }
        Err(Unhandled::LostFragment) => {
            count(Reason::LostFragment);
            NEXT
        }
    }
}

#[inline(always)]
fn translate(ctx: &TcContext, origin: Origin, hook: Hook) -> Result<i32, Unhandled> {
    let v6 = Headers::is_v6(ctx)?;
    let scratch = scratch(Direction::Forward).ok_or(Unhandled::Foreign)?;
    let packet = &mut scratch.packet;
    packet.headers.parse(ctx, ETHERNET, v6)?;
    if !packet.headers.is_translatable() {
        return icmp::forward(ctx, scratch);
    }
    packet.parse(ctx)?;
    packet.flow(FlowKey::ORIGINAL, &mut scratch.key);
    if let Some(known) = CONNTRACK.get_ptr_mut(&scratch.key) {
        // SAFETY: elements of an LRU map stay allocated; the verifier checks each access. Two CPUs
        // that handle packets of one flow write the same values but for the clock.
        let known = unsafe { &mut *known };
        if packet.stage != Stage::Opens || still_good(known, packet.headers.protocol) {
            known.last_seen = now();
            known.flags |= packet.stage.flags();
            if packet.stage == Stage::Opens {
                // Netfilter may have forgotten the first packet, or not have liked it.
                mark(ctx, mark_of(known));
            }
            let rewritten = packet.rewrite(ctx, End::Destination, &known.address, known.port);
            return Ok(if rewritten.is_ok() { NEXT } else { DROP });
        }
        forget(scratch, known);
    }
    if scratch.packet.stage != Stage::Opens {
        // Of no flow that began here: the stack, or another translator, knows it or refuses it.
        return Ok(NEXT);
    }
    Ok(new_flow(ctx, scratch, origin, hook))
}

/// Whether a packet that may open a flow belongs to the one that is known (a retransmission, or the
/// next datagram), rather than to a new one from the same port or to a backend that is gone.
#[inline(always)]
fn still_good(known: &Translation, protocol: u8) -> bool {
    if known.flags & Translation::FLAG_CLOSING != 0 {
        return false;
    }
    if protocol == UDP && now().wrapping_sub(known.last_seen) > UDP_TIMEOUT {
        return false;
    }
    // SAFETY: only the daemon writes the map, whole elements at a time.
    match unsafe { BACKENDS.get(known.backend) } {
        // Numbers of backends that went are given to new ones, of the same Service too.
        Some(backend) => {
            backend.service == known.service
                && backend.address == known.address
                && backend.port == known.port
        }
        None => false,
    }
}

/// Forgets a flow, both directions of it.
///
/// Should nobody here take the new one, its other packets must not find the old one: the stack or
/// another translator has it then. And should a SYN be sent again, and to another backend than before
/// because that one is gone, the first backend's late answer must not reach the client as the
/// second's.
#[inline(always)]
fn forget(scratch: &mut Scratch, known: &Translation) {
    let (key, reply) = (&scratch.key, &mut scratch.reply);
    reply.source = known.address;
    reply.destination = key.source;
    reply.source_port = known.port;
    reply.destination_port = key.source_port;
    reply.protocol = key.protocol;
    reply.direction = FlowKey::REPLY;
    reply.reserved = 0;
    // SAFETY: elements of an LRU map stay allocated; a racing reuse reads as another flow.
    let is_its = unsafe { CONNTRACK.get(&*reply) }
        .is_some_and(|back| back.address == key.destination && back.port == key.destination_port);
    // What is gone already needs no removing.
    if is_its {
        let _ = CONNTRACK.remove(&*reply);
    }
    let _ = CONNTRACK.remove(key);
}

/// Makes way for a flow that goes to an endpoint directly, from the same port as one did through a
/// Service: its replies look like the other one's, and must not be translated as those were.
/// Netfilter finds such a clash when it confirms a flow (`__nf_conntrack_confirm`).
#[inline(always)]
fn supersede(scratch: &mut Scratch) {
    let (key, reply) = (&scratch.key, &mut scratch.reply);
    reply.source = key.destination;
    reply.destination = key.source;
    reply.source_port = key.destination_port;
    reply.destination_port = key.source_port;
    reply.protocol = key.protocol;
    reply.direction = FlowKey::REPLY;
    reply.reserved = 0;
    // SAFETY: elements of an LRU map stay allocated; a racing reuse reads as another flow.
    let Some(older) = (unsafe { CONNTRACK.get(&*reply) }) else {
        return;
    };
    // Of datagrams nobody says which is the last. While a flow's are under way, one from the same
    // port to the same endpoint may well be a stray.
    let over = key.protocol != UDP || now().wrapping_sub(older.last_seen) > DATAGRAM_PAUSE;
    if over {
        let _ = CONNTRACK.remove(&*reply);
    }
}

#[inline(always)]
fn new_flow(ctx: &TcContext, scratch: &mut Scratch, origin: Origin, hook: Hook) -> i32 {
    let flow = &mut scratch.flow;
    flow.client = scratch.key.source;
    flow.destination = scratch.key.destination;
    flow.port = scratch.key.destination_port;
    flow.protocol = scratch.key.protocol;
    flow.origin = origin;
    let mut decision = decide(&KernelTables, flow);
    if matches!(decision.reason, Reason::NoService) {
        supersede(scratch);
        return NEXT;
    }
    if matches!(decision.verdict, Verdict::Forward)
        && let Err(reason) = record(scratch, &decision)
    {
        decision.verdict = Verdict::Drop;
        decision.reason = reason;
    }
    count(decision.reason);
    let client = &mut scratch.client;
    client.hook = hook;
    client.netns = 0;
    client.cookie = 0;
    client.address = scratch.key.source;
    client.port = scratch.key.source_port;
    client.pid = 0;
    // SAFETY: the kernel hands the program a valid context.
    client.interface = unsafe { (*ctx.skb.skb).ifindex };
    trace::emit(client, &scratch.flow, &decision);
    trace::fault(ctx, &decision);
    match decision.verdict {
        Verdict::Forward => {
            mark(ctx, mark_of(&scratch.translation));
            let to = &scratch.translation;
            let rewritten = scratch
                .packet
                .rewrite(ctx, End::Destination, &to.address, to.port);
            if rewritten.is_ok() { NEXT } else { DROP }
        }
        Verdict::Pass => NEXT,
        Verdict::Reject => {
            mark(ctx, REJECT_MARK);
            NEXT
        }
        Verdict::Drop => DROP,
    }
}

/// What netfilter is asked to do with a flow. It remembers, so the packets that may open one are
/// enough.
#[inline(always)]
const fn mark_of(flow: &Translation) -> u32 {
    if flow.flags & Translation::FLAG_MASQUERADE != 0 {
        MASQUERADE_MARK
    } else {
        ACCEPT_MARK
    }
}

/// Tells netfilter what is to become of the packet.
#[inline(always)]
fn mark(ctx: &TcContext, mark: u32) {
    // SAFETY: `mark` may be written in classifiers.
    unsafe { (*ctx.skb.skb).mark |= mark };
}

/// Records the flow under both directions, the reply first: a client's packet is never translated
/// before its answer can be.
#[inline(always)]
fn record(scratch: &mut Scratch, decision: &Decision) -> Result<(), Reason> {
    let key = &scratch.key;
    if key.protocol == SCTP && key.destination_port != decision.port {
        // The CRC covers the ports and would have to be computed anew over the whole packet.
        return Err(Reason::Unparsed);
    }
    let reply = &mut scratch.reply;
    reply.source = decision.address;
    reply.destination = key.source;
    reply.source_port = decision.port;
    reply.destination_port = key.source_port;
    reply.protocol = key.protocol;
    reply.direction = FlowKey::REPLY;
    reply.reserved = 0;
    let translation = &mut scratch.translation;
    translation.address = key.destination;
    translation.port = key.destination_port;
    translation.flags = 0;
    translation.service = decision.service;
    translation.backend = decision.backend;
    translation.reserved = 0;
    translation.last_seen = now();
    // Asking first is cheaper than an insertion that fails.
    // SAFETY: elements of an LRU map stay allocated; a racing reuse reads as another flow.
    let how = match unsafe { CONNTRACK.get(&*reply) } {
        Some(older) if may_replace(reply, older, translation) => BPF_ANY,
        Some(_) => return Err(Reason::Clash),
        // Should another CPU be faster, the client's retransmission finds out.
        None => BPF_NOEXIST,
    };
    CONNTRACK
        .insert(&*reply, &*translation, u64::from(how))
        .map_err(|_| Reason::TableFull)?;
    translation.address = decision.address;
    translation.port = decision.port;
    if matches!(decision.masquerade, Masquerade::Yes) {
        translation.flags |= Translation::FLAG_MASQUERADE;
    }
    CONNTRACK
        .insert(key, &*translation, u64::from(BPF_ANY))
        .map_err(|_| Reason::TableFull)
}

/// Whether the client of a flow has reset it. Its server answers nothing to that, so that the record
/// of the replies does not tell.
#[inline(always)]
fn client_has_left(reply: &FlowKey, record: &Translation) -> bool {
    let original = FlowKey {
        source: reply.destination,
        destination: record.address,
        source_port: reply.destination_port,
        destination_port: record.port,
        protocol: reply.protocol,
        direction: FlowKey::ORIGINAL,
        reserved: 0,
    };
    // SAFETY: elements of an LRU map stay allocated; a racing reuse reads as another flow.
    match unsafe { CONNTRACK.get(&original) } {
        Some(original) => original.flags & Translation::FLAG_RESET != 0,
        None => true,
    }
}

/// Whether an older flow with the same reply makes way: unless it is alive and came through another
/// frontend, for then the two replies could not be told apart.
#[inline(always)]
fn may_replace(reply: &FlowKey, older: &Translation, new: &Translation) -> bool {
    let same_frontend = older.address == new.address && older.port == new.port;
    same_frontend
        || older.flags & Translation::FLAG_CLOSING != 0
        || (reply.protocol == UDP && now().wrapping_sub(older.last_seen) > UDP_TIMEOUT)
        || client_has_left(reply, older)
}
