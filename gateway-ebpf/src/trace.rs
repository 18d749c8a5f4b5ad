//! Events about decisions, for the traces; and messages about faults, for the daemon's log.

use aya_ebpf::{EbpfContext, helpers::bpf_ktime_get_ns, programs::TcContext};
use aya_log_ebpf::error;
use gateway_common::{
    decide::{Decision, Flow, Masquerade, Origin, Reason, Verdict},
    event::{Event, Hook},
};

use crate::{
    client::Client,
    maps::{EVENTS, TRACE_FILTER, TRACE_SERVICES, lose_event, settings},
    scratch::Scratch,
};

/// Emits an event about a packet of the flow in `scratch.record` that is dropped, if there is a trace.
#[inline(always)]
pub(crate) fn dropped(ctx: &TcContext, scratch: &mut Scratch, hook: Hook, reason: Reason) {
    if !is_on() {
        return;
    }
    let (record, flow) = (&scratch.record, &mut scratch.flow);
    flow.client = record.client;
    flow.destination = record.frontend;
    flow.port = record.frontend_port;
    flow.protocol = record.protocol;
    flow.origin = Origin::Packet;
    let decision = Decision {
        verdict: Verdict::Drop,
        reason,
        masquerade: Masquerade::No,
        service: record.service,
        flags: 0,
        backend: record.backend_id,
        address: record.backend,
        port: record.backend_port,
    };
    scratch
        .client
        .outside(ctx, hook, &record.client, record.client_port);
    emit(&scratch.client, flow, &decision);
}

/// Emits an event about the decision if it passes the traces' filter. A full ring loses the event, never the packet.
#[inline(always)]
pub(crate) fn emit(client: &Client, flow: &Flow, decision: &Decision) {
    let Some(mut event) = EVENTS.reserve(0) else {
        lose_event();
        return;
    };
    let written = event.write(Event {
        time: clock(),
        netns: client.netns,
        cookie: client.cookie,
        source: client.address,
        destination: flow.destination,
        backend_address: decision.address,
        source_port: client.port,
        destination_port: flow.port,
        backend_port: decision.port,
        protocol: flow.protocol,
        hook: client.hook as u8,
        verdict: decision.verdict as u8,
        reason: decision.reason as u8,
        masquerade: decision.masquerade as u8,
        reserved: 0,
        flags: decision.flags,
        service: decision.service,
        backend: decision.backend,
        pid: client.pid,
        interface: client.interface,
    });
    if is_wanted(written) {
        event.submit(0);
    } else {
        event.discard(0);
    }
}

/// Whether there is a trace.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    settings().is_some_and(|settings| settings.trace != 0)
}

/// Whether an event passes the traces' filter. Not inlined, so that it has a stack frame of its own: its
/// callers' frames have no room for it.
#[inline(never)]
pub(crate) fn is_wanted(event: &Event) -> bool {
    // SAFETY: only the daemon writes the map, whole elements at a time.
    let of_service = unsafe { TRACE_SERVICES.get(event.service) }.is_some();
    TRACE_FILTER
        .get(0)
        .is_some_and(|filter| filter.matches(event, of_service))
}

/// `CLOCK_MONOTONIC`, nanoseconds.
#[inline(always)]
pub(crate) fn clock() -> u64 {
    // SAFETY: the helper only reads the clock.
    unsafe { bpf_ktime_get_ns() }
}

/// Logs what must not happen.
#[inline(always)]
pub(crate) fn fault(ctx: &impl EbpfContext, decision: &Decision) {
    if matches!(decision.reason, Reason::TableGap) {
        error!(
            ctx,
            "service {}: a slot or backend is missing in the maps; the connection was dropped",
            decision.service
        );
    }
}
