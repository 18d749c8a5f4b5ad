//! tcx or tc egress on an uplink: replies to clients outside get back the address that the client
//! knows.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::bpf_ktime_get_ns,
    macros::classifier,
    programs::TcContext,
};
use gateway_common::maps::{FlowKey, Translation};

use crate::{
    maps::CONNTRACK,
    packet::{End, Packet},
};

#[classifier]
pub(crate) fn egress(ctx: TcContext) -> i32 {
    let Ok(packet) = Packet::parse(&ctx) else {
        return TC_ACT_UNSPEC;
    };
    let key = packet.flow(FlowKey::REPLY);
    let Some(known) = CONNTRACK.get_ptr_mut(&key) else {
        return TC_ACT_UNSPEC;
    };
    // SAFETY: elements of an LRU map stay allocated; the verifier checks each access. Two CPUs that
    // handle packets of one flow write the same values but for the clock.
    let known = unsafe { &mut *known };
    // SAFETY: the helper only reads the clock.
    known.last_seen = unsafe { bpf_ktime_get_ns() };
    if packet.closes() {
        known.flags |= Translation::FLAG_CLOSING;
    }
    match packet.rewrite(&ctx, End::Source, known) {
        Ok(()) => TC_ACT_UNSPEC,
        // Half-written headers would reach the client as another connection's.
        Err(_) => TC_ACT_SHOT as i32,
    }
}
