//! What the packet programs work on: memory in a map, since the stack is 512 bytes.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use gateway_common::{
    conntrack::{Ends, Found},
    decide::Flow,
    maps::Record,
};

use crate::{client::Client, packet::Packet, quoted::Quoted};

/// What a packet program works on. The stack is 512 bytes, and addresses are 16.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) packet: Packet,
    /// The packet that an ICMP error quotes.
    pub(crate) quoted: Quoted,
    pub(crate) ends: Ends,
    pub(crate) record: Record,
    pub(crate) found: Found,
    pub(crate) flow: Flow,
    pub(crate) client: Client,
}

/// One for each direction and CPU. Neither is entered twice on one CPU: both run with softirqs off,
/// or within one.
#[btf_map(name = "scratch")]
static SCRATCH: PerCpuArray<Scratch, 2> = PerCpuArray::new();

/// Which scratch.
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    Forward = 0,
    Reverse = 1,
}

/// This CPU's scratch; `None` cannot happen.
#[inline(always)]
pub(crate) fn scratch(direction: Direction) -> Option<&'static mut Scratch> {
    // SAFETY: nothing else on this CPU holds a reference to it, see `SCRATCH`. The fields are
    // integers, or enums and bools of which 0 is a value; what is read of them was written before
    // by the same run.
    SCRATCH
        .get_ptr_mut(direction as u32)
        .map(|scratch| unsafe { &mut *scratch })
}
