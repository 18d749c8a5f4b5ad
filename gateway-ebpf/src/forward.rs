//! tcx or tc ingress on uplinks and on pods' devices: packets on their way to a Service.
//!
//! The first packet of a flow is decided and recorded; the others, and the answers, follow the record.
//! kube-proxy does this in nat PREROUTING, with netfilter's conntrack. These hooks run before netfilter,
//! so netfilter sees a flow from the client to the backend.

use aya_ebpf::{macros::classifier, programs::TcContext};
use gateway_common::{
    conntrack::{Found, Opened, Record, Shared},
    decide::{Decision, Masquerade, Origin, Reason, Verdict, decide},
    event::Hook,
    maps::{ACCEPT_MARK, MASQUERADE_MARK, Ports, REJECT_MARK},
};

use crate::{
    action::{DROP, NEXT},
    headers::{ETHERNET, End, Headers, Unhandled},
    icmp,
    maps::{BACKENDS, bucket, count, now, place},
    packet::Stage,
    scratch::{Direction, Scratch, scratch},
    tables::KernelTables,
    trace,
};

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
    packet.from_client(&mut scratch.ends);
    let place = place(&scratch.ends).ok_or(Unhandled::Foreign)?;
    let bucket = bucket(&place).ok_or(Unhandled::Foreign)?;
    let opens = packet.stage == Stage::Opens;
    let what = (opens, packet.stage.state());
    let now = now();
    let (ends, record) = (&scratch.ends, &mut scratch.record);
    let found = bucket.follow(place.tag, ends, what, now, record);
    if found == Found::Busy {
        // It may be of a flow that is known. Its sender sends it again.
        count(Reason::Busy);
        return Ok(DROP);
    }
    let known = found == Found::Known;
    if !opens && !known {
        // Of no flow that began here: the stack, or another translator, knows it or refuses it.
        return Ok(NEXT);
    }
    if opens && !(known && is_still_served(record)) {
        let found = if known { Found::Stale } else { found };
        let table = Table {
            bucket,
            tag: place.tag,
            found: forgotten(&mut scratch.found, found),
            now,
        };
        if let Err(action) = new_flow(ctx, scratch, origin, hook, &table) {
            return Ok(action);
        }
    }
    if opens {
        // Also of a flow that is known: netfilter may have forgotten the first packet, or not have
        // liked it.
        mark(ctx, mark_of(&scratch.record));
    }
    Ok(send(ctx, scratch, hook))
}

/// The same, of which the verifier knows nothing after it has been in memory: it would follow all that
/// comes once for each value.
#[inline(always)]
fn forgotten(memory: &mut Found, found: Found) -> Found {
    let memory = &raw mut *memory;
    // SAFETY: it is what has been written.
    unsafe {
        memory.write_volatile(found);
        memory.read_volatile()
    }
}

/// Where a new flow is to be recorded.
struct Table {
    bucket: Shared,
    tag: u8,
    found: Found,
    now: u64,
}

/// Sends a client's packet to its backend.
#[inline(always)]
fn send(ctx: &TcContext, scratch: &mut Scratch, hook: Hook) -> i32 {
    let (packet, record) = (&scratch.packet, &scratch.record);
    let ports = Ports {
        source: record.source_port,
        destination: record.backend_port,
    };
    let rewritten = packet.rewrite(ctx, End::Destination, &record.backend, &ports);
    if rewritten.is_ok() {
        return NEXT;
    }
    if packet.is_fragmented_sctp() {
        count(Reason::FragmentedSctp);
        trace::dropped(ctx, scratch, hook, Reason::FragmentedSctp);
    }
    DROP
}

/// Whether the flow's backend is still one of its Service's.
#[inline(always)]
fn is_still_served(record: &Record) -> bool {
    // SAFETY: only the daemon writes the map, whole elements at a time.
    match unsafe { BACKENDS.get(record.backend_id) } {
        // Numbers of backends that went are given to new ones, of the same Service too.
        Some(backend) => {
            backend.service == record.service
                && backend.address == record.backend
                && backend.port == record.backend_port
        }
        None => false,
    }
}

/// Decides and records a new flow. If it is not to be sent to a backend, gives what is to be done with
/// the packet.
#[inline(always)]
fn new_flow(
    ctx: &TcContext,
    scratch: &mut Scratch,
    origin: Origin,
    hook: Hook,
    table: &Table,
) -> Result<(), i32> {
    let (flow, ends) = (&mut scratch.flow, &scratch.ends);
    flow.client = ends.client;
    flow.destination = ends.peer;
    flow.port = ends.peer_port;
    flow.protocol = ends.protocol;
    flow.origin = origin;
    let mut decision = decide(&KernelTables, flow);
    if table.found == Found::Stale && !matches!(decision.verdict, Verdict::Forward) {
        table.bucket.forget(table.tag, ends, &mut scratch.record);
    }
    if matches!(decision.reason, Reason::NoService) {
        return Err(pass(scratch, table));
    }
    if matches!(decision.verdict, Verdict::Forward)
        && let Err(reason) = record(scratch, &decision, table)
    {
        decision.verdict = Verdict::Drop;
        decision.reason = reason;
    }
    count(decision.reason);
    if trace::is_on() {
        let (address, port) = (&scratch.ends.client, scratch.ends.client_port);
        scratch.client.outside(ctx, hook, address, port);
        trace::emit(&scratch.client, &scratch.flow, &decision);
    }
    trace::fault(ctx, &decision);
    match decision.verdict {
        Verdict::Forward => Ok(()),
        Verdict::Pass => Err(NEXT),
        Verdict::Reject => {
            mark(ctx, REJECT_MARK);
            Err(NEXT)
        }
        Verdict::Drop => Err(DROP),
    }
}

/// Lets a packet pass that is for no Service.
#[inline(always)]
fn pass(scratch: &mut Scratch, table: &Table) -> i32 {
    let (ends, copy) = (&scratch.ends, &mut scratch.record);
    if table.found == Found::Nothing || table.bucket.supersede(table.tag, ends, table.now, copy) {
        return NEXT;
    }
    count(Reason::Clash);
    DROP
}

/// What netfilter is asked to do with a flow. It remembers, so the packets that may open one are
/// enough.
#[inline(always)]
const fn mark_of(flow: &Record) -> u32 {
    if flow.flags & Record::FLAG_MASQUERADE != 0 {
        MASQUERADE_MARK | ACCEPT_MARK
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

/// Records the flow.
#[inline(always)]
fn record(scratch: &mut Scratch, decision: &Decision, table: &Table) -> Result<(), Reason> {
    let (ends, record) = (&scratch.ends, &mut scratch.record);
    if ends.peer_port != decision.port && scratch.packet.is_fragmented_sctp() {
        return Err(Reason::FragmentedSctp);
    }
    record.client = ends.client;
    record.frontend = ends.peer;
    record.backend = decision.address;
    record.client_port = ends.client_port;
    record.frontend_port = ends.peer_port;
    record.backend_port = decision.port;
    record.source_port = ends.client_port;
    record.protocol = ends.protocol;
    record.flags = if matches!(decision.masquerade, Masquerade::Yes) {
        Record::FLAG_MASQUERADE
    } else {
        0
    };
    record.client_state = 0;
    record.backend_state = 0;
    record.service = decision.service;
    record.backend_id = decision.backend;
    record.reserved = 0;
    record.client_seen = table.now;
    record.backend_seen = 0;
    match table.bucket.open(table.tag, record, table.now) {
        Opened::Recorded => Ok(()),
        Opened::Displaced => {
            count(Reason::TableFull);
            Ok(())
        }
        Opened::Clash => Err(Reason::Clash),
        // The client sends it again.
        Opened::Busy => Err(Reason::Busy),
    }
}
