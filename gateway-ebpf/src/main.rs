//! nodegate's kernel programs: one file per job, thin. They parse, call the decision core in
//! `gateway_common::decide`, and rewrite.
//!
//! | file | hooks | what it does |
//! |---|---|---|
//! | [`connect`] | cgroup/connect4, connect6 | a process connects: its destination becomes the backend |
//! | [`datagram`] | cgroup/sendmsg4, sendmsg6, recvmsg4, recvmsg6 | the same for sockets that are not connected |
//! | [`connected`] | sockops, while there is a trace | tells from which port a process connects |
//! | [`peername`] | cgroup/getpeername4, getpeername6 | the process still sees the Service's address |
//! | [`forward`] | tcx or tc ingress of uplinks and pods' devices | DNAT of packets, with conntrack |
//! | [`reverse`] | tcx or tc egress of the same devices | their replies: the reverse translation |
//!
//! and what they share, each using only what stands below it:
//!
//! | file | what it holds |
//! |---|---|
//! | [`icmp`] | errors about translated flows |
//! | [`socket`] | the socket hooks' context, and a decision about it |
//! | [`trace`] | events about decisions |
//! | [`scratch`] | the memory in which a packet is worked on |
//! | [`packet`], [`quoted`] | a packet of a flow, and one that an ICMP error quotes |
//! | [`headers`] | Ethernet and IP headers, addresses and checksums |
//! | [`client`] | the client of a flow, for events |
//! | [`tables`] | the maps as the decision core sees them |
//! | [`maps`], [`action`] | the maps; what becomes of a packet |
#![no_std]
#![no_main]
#![expect(
    clippy::inline_always,
    reason = "BPF passes at most five arguments and no struct by value between functions"
)]

mod action;
mod client;
mod connect;
mod connected;
mod datagram;
mod forward;
mod headers;
mod icmp;
mod maps;
mod packet;
mod peername;
mod quoted;
mod reverse;
mod scratch;
mod socket;
mod tables;
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
