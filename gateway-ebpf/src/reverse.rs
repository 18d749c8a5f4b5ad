//! tcx or tc egress on uplinks and on pods' devices: replies get back the address that the client
//! knows.

use aya_ebpf::{macros::classifier, programs::TcContext};
use gateway_common::{decide::Reason, maps::FlowKey};

use crate::{
    forward::{DROP, NEXT},
    icmp,
    maps::{CONNTRACK, Direction, count, now, scratch},
    packet::{ETHERNET, End, Headers, Unhandled},
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
    packet.flow(FlowKey::REPLY, &mut scratch.key);
    let Some(known) = CONNTRACK.get_ptr_mut(&scratch.key) else {
        return Ok(NEXT);
    };
    // SAFETY: elements of an LRU map stay allocated; the verifier checks each access. Two CPUs that
    // handle packets of one flow write the same values but for the clock.
    let known = unsafe { &mut *known };
    known.last_seen = now();
    known.flags |= packet.stage.flags();
    Ok(
        match packet.rewrite(ctx, End::Source, &known.address, known.port) {
            Ok(()) => NEXT,
            // Half-written headers would reach the client as another flow's.
            Err(_) => DROP,
        },
    )
}
