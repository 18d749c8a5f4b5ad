//! The client of a flow, as a hook sees it.

use aya_ebpf::programs::TcContext;
use gateway_common::{Address, event::Hook};

/// What a hook knows about the client, beyond the [`Flow`](gateway_common::decide::Flow).
#[derive(Clone, Copy)]
pub(crate) struct Client {
    pub(crate) hook: Hook,
    pub(crate) netns: u64,
    pub(crate) cookie: u64,
    pub(crate) address: Address,
    pub(crate) port: u16,
    pub(crate) pid: u32,
    pub(crate) interface: u32,
}

impl Client {
    /// A client whose packets come in on a device.
    #[inline(always)]
    pub(crate) fn outside(&mut self, ctx: &TcContext, hook: Hook, address: &Address, port: u16) {
        self.hook = hook;
        self.netns = 0;
        self.cookie = 0;
        self.address = *address;
        self.port = port;
        self.pid = 0;
        // SAFETY: the kernel hands the program a valid context.
        self.interface = unsafe { (*ctx.skb.skb).ifindex };
    }
}
