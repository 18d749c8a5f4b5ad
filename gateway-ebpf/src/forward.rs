//! tcx or tc ingress on uplinks and on pods' devices: packets on their way to a Service.
//!
//! The first packet of a flow is decided and recorded; the others, and the answers, follow the record.
//! kube-proxy does this in nat PREROUTING, with netfilter's conntrack. These hooks run before netfilter,
//! so netfilter sees a flow from the client to the backend.

use aya_ebpf::{macros::classifier, programs::TcContext};
use gateway_common::{
    UDP,
    conntrack::{Collides, Found, Kind, Opened, Record, Shared, State},
    decide::{Decision, Masquerade, Origin, Reason, Verdict, decide_packet},
    event::Hook,
    maps::{ACCEPT_MARK, MASQUERADE_MARK, Ports, REJECT_MARK, Settings},
};

use crate::{
    action::{DROP, NEXT},
    headers::{ETHERNET, End, Headers, Unhandled},
    icmp,
    maps::{BACKENDS, bucket, count, place, settings, tick},
    scratch::{Direction, Scratch, scratch},
    tables::KernelTables,
    trace,
};

/// include/uapi/linux/if_packet.h
const PACKET_OTHERHOST: u32 = 3;
/// The number in a VLAN tag (include/linux/if_vlan.h).
const VLAN: u32 = 0x0fff;

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
    if !is_received(ctx) {
        return Ok(NEXT);
    }
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
    let opens = matches!(packet.said.kind, Kind::Opens);
    let now = tick();
    let (ends, record) = (&scratch.ends, &mut scratch.record);
    let found = bucket.follow(place.tag, ends, &packet.said, now, record);
    if found == Found::Busy {
        // It may be of a flow that is known. Its sender sends it again.
        count(Reason::Busy);
        return Ok(DROP);
    }
    let known = found == Found::Known;
    if known && record.flags & Record::FLAG_OURS != 0 {
        // It answers who asked from here.
        return Ok(NEXT);
    }
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

/// Whether the stack will take the packet on this device: it is for the device's own address, and for no
/// VLAN's device above it. Others leave nothing here.
#[inline(always)]
fn is_received(ctx: &TcContext) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel hands the program a valid context; the verifier checks each access.
    let (kind, tagged, tag) = unsafe { ((*skb).pkt_type, (*skb).vlan_present, (*skb).vlan_tci) };
    // VLAN 0 has a priority only (IEEE 802.1Q §9.6).
    if tagged != 0 && tag & VLAN != 0 {
        return false;
    }
    kind != PACKET_OTHERHOST
        || settings().is_some_and(|settings| settings.flags & Settings::FLAG_ANY_FRAMES != 0)
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
    now: u32,
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

/// Whether the flow's backend is still one of its Service's. It does not matter to a connection that has
/// been answered, nor to what is for no Service.
#[inline(always)]
fn is_still_served(record: &Record) -> bool {
    if !record.is_of_service() || record.protocol != UDP && record.state() != State::Opening {
        return true;
    }
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
    let mut decision = decide_packet(&KernelTables, flow);
    let forwards = matches!(decision.verdict, Verdict::Forward);
    let direct = matches!(decision.reason, Reason::NoService);
    if table.found == Found::Asks {
        let past_services = !scratch.record.is_of_service();
        if forwards || direct && past_services {
            // Whoever may come in may ask. The connection's own backend answers.
            return Ok(());
        }
        if direct {
            return Err(NEXT);
        }
    }
    let mut collides = Collides::No;
    if direct {
        if table.found == Found::Nothing {
            return Err(NEXT);
        }
        let (ends, copy) = (&scratch.ends, &mut scratch.record);
        collides = table.bucket.collides(table.tag, ends, table.now, copy);
        decision.address = ends.peer;
        decision.port = ends.peer_port;
    }
    if table.found == Found::Stale && !forwards && collides == Collides::No {
        let (ends, copy) = (&scratch.ends, &mut scratch.record);
        table.bucket.forget(table.tag, ends, copy);
    }
    if direct && collides == Collides::No {
        return Err(NEXT);
    }
    if collides == Collides::Busy {
        count(Reason::Busy);
        return Err(DROP);
    }
    if (direct || forwards)
        && let Err(reason) = record(ctx, scratch, &decision, table)
    {
        decision.verdict = Verdict::Drop;
        decision.reason = reason;
    } else if direct {
        return Ok(());
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

/// What netfilter is asked to do with a flow. It remembers, so the packets that may open one are
/// enough.
#[inline(always)]
const fn mark_of(flow: &Record) -> u32 {
    if flow.flags & Record::FLAG_MASQUERADE != 0 {
        MASQUERADE_MARK | ACCEPT_MARK
    } else if flow.flags & Record::FLAG_DIRECT != 0 {
        0
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
fn record(
    ctx: &TcContext,
    scratch: &mut Scratch,
    decision: &Decision,
    table: &Table,
) -> Result<(), Reason> {
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
    record.flags = if decision.service == 0 {
        Record::FLAG_DIRECT
    } else if matches!(decision.masquerade, Masquerade::Yes) {
        Record::FLAG_MASQUERADE
    } else {
        0
    };
    record.service = decision.service;
    record.backend_id = decision.backend;
    scratch.packet.read_scale(ctx);
    record.begin(&scratch.packet.said, table.now);
    match table.bucket.open(table.tag, record, table.now) {
        Opened::Recorded => Ok(()),
        Opened::Displaced => {
            count(Reason::TableFull);
            Ok(())
        }
        Opened::Full => Err(Reason::TableFull),
        Opened::Clash => Err(Reason::Clash),
        // The client sends it again.
        Opened::Busy => Err(Reason::Busy),
    }
}
