//! cgroup/getpeername: a process asks whom its socket is connected to. It gets the answer that it
//! expects: the Service's address, not the backend's.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::socket::{ALLOW, Family, show_frontend};

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    show(&ctx, Family::V4)
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    show(&ctx, Family::V6)
}

#[inline(always)]
fn show(ctx: &SockAddrContext, family: Family) -> i32 {
    // SAFETY: the kernel hands the program a valid context; the verifier checks each access.
    let protocol = unsafe { (*ctx.sock_addr).protocol } as u8;
    show_frontend(ctx, family, protocol);
    ALLOW
}
