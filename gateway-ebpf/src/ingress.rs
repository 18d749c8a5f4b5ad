//! tcx or tc ingress on an uplink: packets from outside.
//!
//! The first packet of a connection is decided and recorded under both directions; the others
//! follow the record. kube-proxy does this in nat PREROUTING, with netfilter's conntrack. This hook
//! runs before netfilter, so netfilter sees a connection from the client to the backend.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::bpf_ktime_get_ns,
    macros::classifier,
    programs::TcContext,
};
use gateway_common::{
    TCP,
    decide::{Decision, Flow, Origin, Reason, Verdict, decide},
    event::Hook,
    maps::{FlowKey, MASQUERADE_MARK, Translation},
};

use crate::{
    maps::{BACKENDS, CONNTRACK, KernelTables, count},
    packet::{End, Packet, Unhandled},
    trace::{self, Client},
};

/// Go on to the next program or filter on this hook, and then to the stack.
const NEXT: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT as i32;

#[classifier]
pub(crate) fn ingress(ctx: TcContext) -> i32 {
    let packet = match Packet::parse(&ctx) {
        Ok(packet) => packet,
        Err(Unhandled::Foreign) => return NEXT,
        Err(Unhandled::Unparsed) => {
            count(Reason::Unparsed);
            return NEXT;
        }
    };
    let key = packet.flow(FlowKey::ORIGINAL);
    if let Some(known) = CONNTRACK.get_ptr_mut(&key) {
        // SAFETY: elements of an LRU map stay allocated; the verifier checks each access. Two CPUs
        // that handle packets of one flow write the same values but for the clock.
        let known = unsafe { &mut *known };
        if !packet.opens() || still_good(known) {
            // SAFETY: the helper only reads the clock.
            known.last_seen = unsafe { bpf_ktime_get_ns() };
            if packet.closes() {
                known.flags |= Translation::FLAG_CLOSING;
            }
            return match packet.rewrite(&ctx, End::Destination, known) {
                Ok(()) => NEXT,
                Err(_) => DROP,
            };
        }
    }
    if !packet.opens() {
        // Of no flow that began here: the stack, or another translator, knows it or refuses it.
        return NEXT;
    }
    new_flow(&ctx, &packet, &key)
}

/// Whether a SYN on a known flow belongs to it (a retransmission), rather than being a new
/// connection from the same port or one to a backend that is gone.
#[inline(always)]
fn still_good(known: &Translation) -> bool {
    known.flags & Translation::FLAG_CLOSING == 0
        // SAFETY: only whether it exists matters.
        && unsafe { BACKENDS.get(known.backend) }.is_some()
}

#[inline(always)]
fn new_flow(ctx: &TcContext, packet: &Packet, key: &FlowKey) -> i32 {
    let flow = Flow {
        destination: key.destination,
        port: key.destination_port,
        protocol: TCP,
        origin: Origin::Packet,
    };
    let mut decision = decide(&KernelTables, &flow);
    if matches!(decision.reason, Reason::NoService) {
        return NEXT;
    }
    if matches!(decision.verdict, Verdict::Forward) {
        if let Err(reason) = record(key, &decision) {
            decision.verdict = Verdict::Drop;
            decision.reason = reason;
        }
    }
    count(decision.reason);
    let client = Client {
        hook: Hook::Ingress,
        netns: 0,
        address: key.source,
        port: key.source_port,
        pid: 0,
        // SAFETY: the kernel hands the program a valid context.
        interface: unsafe { (*ctx.skb.skb).ifindex },
    };
    trace::emit(&client, &flow, &decision);
    match decision.verdict {
        Verdict::Forward => {
            if decision.masquerade {
                // KUBE-MARK-MASQ. Netfilter remembers the flow, so its first packet is enough.
                // SAFETY: `mark` may be written in classifiers.
                unsafe { (*ctx.skb.skb).mark |= MASQUERADE_MARK };
            }
            match packet.rewrite(ctx, End::Destination, &original(&decision)) {
                Ok(()) => NEXT,
                Err(_) => DROP,
            }
        }
        // The node owns the address and has no listener on the port: its stack refuses.
        Verdict::Pass | Verdict::Reject => NEXT,
        Verdict::Drop => DROP,
    }
}

/// The translation of the client's packets.
#[inline(always)]
fn original(decision: &Decision) -> Translation {
    Translation {
        address: decision.address,
        port: decision.port,
        flags: 0,
        service: decision.service,
        backend: decision.backend,
        reserved: 0,
        // SAFETY: the helper only reads the clock.
        last_seen: unsafe { bpf_ktime_get_ns() },
    }
}

/// Records the flow under both directions, the reply first: a client's packet is never translated
/// before its answer can be.
#[inline(always)]
fn record(key: &FlowKey, decision: &Decision) -> Result<(), Reason> {
    let mut translation = original(decision);
    let reply_key = FlowKey {
        source: decision.address,
        destination: key.source,
        source_port: decision.port,
        destination_port: key.source_port,
        protocol: TCP,
        direction: FlowKey::REPLY,
        reserved: 0,
    };
    let reply = Translation {
        address: key.destination,
        port: key.destination_port,
        ..translation
    };
    if CONNTRACK
        .insert(&reply_key, &reply, u64::from(BPF_NOEXIST))
        .is_err()
    {
        replace(&reply_key, &reply)?;
    }
    translation.flags = 0;
    CONNTRACK
        .insert(key, &translation, u64::from(BPF_ANY))
        .map_err(|_| Reason::TableFull)
}

/// Takes the place of an older flow with the same reply, unless that one is alive and came through
/// another frontend: then the two replies could not be told apart.
#[inline(always)]
fn replace(key: &FlowKey, reply: &Translation) -> Result<(), Reason> {
    // SAFETY: elements of an LRU map stay allocated; a racing reuse reads as another flow.
    if let Some(older) = unsafe { CONNTRACK.get(key) } {
        let same_frontend = older.address == reply.address && older.port == reply.port;
        if !same_frontend && older.flags & Translation::FLAG_CLOSING == 0 {
            return Err(Reason::Clash);
        }
    }
    CONNTRACK
        .insert(key, reply, u64::from(BPF_ANY))
        .map_err(|_| Reason::TableFull)
}
