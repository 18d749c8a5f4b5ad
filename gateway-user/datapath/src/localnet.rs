//! The kernel's permission to send packets of 127.0.0.1 to endpoints.
//!
//! A socket that is bound to 127.0.0.1 and connects to a node port there is sent to an endpoint: netfilter
//! gives its packets the node's address (see [`netfilter`](super::netfilter)), after they have been routed.
//! The kernel routes them if `route_localnet` says so, as kube-proxy sets it too
//! (Documentation/networking/ip-sysctl.rst).

use std::{fs, io};

const SETTING: &str = "/proc/sys/net/ipv4/conf/all/route_localnet";

/// Allows it. Says whether it was not allowed before.
pub(crate) fn allow() -> io::Result<bool> {
    if fs::read_to_string(SETTING)?.trim() != "0" {
        return Ok(false);
    }
    fs::write(SETTING, "1")?;
    Ok(true)
}

/// Takes the permission back.
pub(crate) fn forbid() -> io::Result<()> {
    fs::write(SETTING, "0")
}
