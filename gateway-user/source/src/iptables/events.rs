//! nf_tables tells of changes.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::Weak,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
            setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
};

/// `NFNLGRP_NFTABLES`, include/uapi/linux/netfilter/nfnetlink.h; netlink(7) counts from 1.
const NFTABLES: u32 = 1 << (7 - 1);

/// One transaction makes as many messages as it has rules.
const BURST: Duration = Duration::from_millis(20);

/// How soon after the watcher's end the thread ends.
const LISTEN: Duration = Duration::from_secs(1);

/// Starts a thread that calls `changed` whenever a table of this network namespace changes, for as long
/// as `alive` is and that gives true.
pub(super) fn listen(
    changed: impl Fn() -> bool + Send + 'static,
    alive: Weak<()>,
) -> io::Result<()> {
    let events = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(events.as_raw_fd(), &NetlinkAddr::new(0, NFTABLES))?;
    let patience = TimeVal::new(LISTEN.as_secs().cast_signed(), 0);
    setsockopt(&events, ReceiveTimeout, &patience)?;
    thread::Builder::new()
        .name("rule-events".into())
        .spawn(move || {
            while alive.strong_count() > 0 {
                match next(&events, MsgFlags::empty()) {
                    Ok(()) => {}
                    Err(Errno::EAGAIN | Errno::EINTR) => continue,
                    Err(error) => {
                        tracing::warn!(%error, "nf_tables' changes are noticed late from now on");
                        return;
                    }
                }
                thread::sleep(BURST);
                while next(&events, MsgFlags::MSG_DONTWAIT).is_ok() {}
                if !changed() {
                    return;
                }
            }
        })
        .map(drop)
}

/// Waits for a message; what it says does not matter, nor whether there were too many of them.
fn next(events: &OwnedFd, flags: MsgFlags) -> Result<(), Errno> {
    let mut message = [0; 8192];
    match recv(events.as_raw_fd(), &mut message, flags) {
        Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
        Err(error) => Err(error),
    }
}
