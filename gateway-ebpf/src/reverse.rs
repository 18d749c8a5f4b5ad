//! tcx or tc egress on uplinks and on pods' devices: replies get back the address that the client
//! knows.

use aya_ebpf::{macros::classifier, programs::TcContext};
use gateway_common::{
    UDP,
    conntrack::{Found, Kind, Record, Shared},
    decide::{Origin, Reason, is_frontend},
    event::Hook,
    maps::Ports,
};

use crate::{
    action::{DROP, NEXT},
    headers::{ETHERNET, End, Headers, Unhandled},
    icmp,
    maps::{bucket, count, place, tick},
    scratch::{Direction, Scratch, scratch},
    tables::KernelTables,
    trace,
};

#[classifier]
pub(crate) fn egress(ctx: TcContext) -> i32 {
    match translate(&ctx) {
        Ok(action) => action,
        Err(Unhandled::Foreign | Unhandled::Unparsed) => NEXT,
        Err(Unhandled::LostFragment) => {
            count(Reason::LostFragment);
            NEXT
        }
    }
}

#[inline(always)]
fn translate(ctx: &TcContext) -> Result<i32, Unhandled> {
    let v6 = Headers::is_v6(ctx)?;
    let scratch = scratch(Direction::Reverse).ok_or(Unhandled::Foreign)?;
    let packet = &mut scratch.packet;
    packet.headers.parse(ctx, ETHERNET, v6)?;
    if !packet.headers.is_translatable() {
        return icmp::reverse(ctx, scratch);
    }
    packet.parse(ctx)?;
    if packet.said.kind == Kind::Accepts {
        packet.read_scale(ctx);
    }
    packet.to_client(&mut scratch.ends);
    let place = place(&scratch.ends).ok_or(Unhandled::Foreign)?;
    let bucket = bucket(&place).ok_or(Unhandled::Foreign)?;
    let (ends, record) = (&scratch.ends, &mut scratch.record);
    let now = tick();
    match bucket.answer(place.tag, ends, &packet.said, now, record) {
        Found::Known if record.flags & Record::FLAG_OURS != 0 => return Ok(NEXT),
        Found::Known => {}
        Found::Busy => {
            // The client must not see it as the backend has sent it, if it is a known flow's.
            count(Reason::Busy);
            return Ok(DROP);
        }
        Found::Nothing | Found::Others | Found::Stale | Found::Asks => {
            if packet.headers.protocol == UDP && packet.said.kind == Kind::Opens {
                note_ours(scratch, bucket, place.tag, now);
            }
            return Ok(NEXT);
        }
    }
    let ports = Ports {
        source: record.frontend_port,
        destination: record.client_port,
    };
    let rewritten = packet.rewrite(ctx, End::Source, &record.frontend, &ports);
    if rewritten.is_ok() {
        return Ok(NEXT);
    }
    if packet.is_fragmented_sctp() {
        count(Reason::FragmentedSctp);
        trace::dropped(ctx, scratch, Hook::Egress, Reason::FragmentedSctp);
    }
    // Half-written headers would reach the client as another flow's.
    Ok(DROP)
}

/// A datagram that began here. Where it comes from a Service's address and port, its answers look like a
/// client's datagrams; netfilter would know them by its own entry.
#[inline(always)]
fn note_ours(scratch: &mut Scratch, bucket: Shared, tag: u8, now: u32) {
    let (flow, ends) = (&mut scratch.flow, &scratch.ends);
    flow.client = ends.client;
    flow.destination = ends.peer;
    flow.port = ends.peer_port;
    flow.protocol = ends.protocol;
    flow.origin = Origin::Packet;
    if !is_frontend(&KernelTables, flow) {
        return;
    }
    let record = &mut scratch.record;
    record.client = ends.client;
    record.frontend = ends.peer;
    record.backend = ends.peer;
    record.client_port = ends.client_port;
    record.frontend_port = ends.peer_port;
    record.backend_port = ends.peer_port;
    record.source_port = ends.client_port;
    record.protocol = ends.protocol;
    record.flags = Record::FLAG_OURS;
    record.service = 0;
    record.backend_id = 0;
    record.begin(&scratch.packet.said, now);
    // We have spoken, and who answers is the client.
    record.backend_state = Record::SPOKE;
    record.back.seen = now;
    // Where there is no place, answers are taken for a client's, as they were before.
    let _ = bucket.open(tag, record, now);
}
