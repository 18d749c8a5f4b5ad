//! What a packet program has the kernel do with its packet (`TC_ACT_…` in include/uapi/linux/pkt_cls.h).

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};

/// Go on to the next program or filter on this hook, and then to the stack.
pub(crate) const NEXT: i32 = TC_ACT_UNSPEC;
/// Throw the packet away.
pub(crate) const DROP: i32 = TC_ACT_SHOT as i32;
