//! tcx or tc egress on uplinks and on pods' devices: replies get back the address that the client
//! knows.

use aya_ebpf::{macros::classifier, programs::TcContext};
use gateway_common::{conntrack::Found, decide::Reason, event::Hook, maps::Ports};

use crate::{
    action::{DROP, NEXT},
    headers::{ETHERNET, End, Headers, Unhandled},
    icmp,
    maps::{bucket, count, now, place},
    scratch::{Direction, scratch},
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
    packet.to_client(&mut scratch.ends);
    let place = place(&scratch.ends).ok_or(Unhandled::Foreign)?;
    let bucket = bucket(&place).ok_or(Unhandled::Foreign)?;
    let (ends, record) = (&scratch.ends, &mut scratch.record);
    match bucket.answer(place.tag, ends, packet.stage.state(), now(), record) {
        Found::Known => {}
        Found::Busy => {
            // The client must not see it as the backend has sent it, if it is a known flow's.
            count(Reason::Busy);
            return Ok(DROP);
        }
        Found::Nothing | Found::Others | Found::Stale => return Ok(NEXT),
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
