//! nodegate's kernel programs: one file per hook, thin. They parse, call the decision core in
//! `gateway_common::decide`, and rewrite.
//!
//! | program | hook | what it does |
//! |---|---|---|
//! | [`connect4`] | cgroup/connect4 | a process connects: its destination becomes the backend |
//! | [`getpeername4`] | cgroup/getpeername4 | the process still sees the Service's address |
//! | [`ingress`] | tcx or tc ingress of uplinks | packets from outside: DNAT, with conntrack |
//! | [`egress`] | tcx or tc egress of uplinks | their replies: the reverse translation |
#![no_std]
#![no_main]
#![expect(
    clippy::inline_always,
    reason = "BPF passes at most five arguments and no struct by value between functions"
)]

mod connect4;
mod egress;
mod getpeername4;
mod ingress;
mod maps;
mod packet;
mod trace;

/// Panics do not get through the verifier, so this is never reached; the linker wants it.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel reads this section; GPL-compatible, or the helpers used here are refused.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
