//! What the datapath must know of the node that it runs on.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nodegate_model::service::IpFamily;
use nodegate_programming::node::NodeFacts;

use super::error::Error;

/// `SO_NETNS_COOKIE`, include/uapi/asm-generic/socket.h; Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Looks at the interfaces of this network namespace.
///
/// # Errors
/// Fails if the system does not list them.
pub fn facts() -> Result<NodeFacts, Error> {
    let interfaces = nix::ifaddrs::getifaddrs().map_err(|error| Error::Node {
        what: "listing the node's addresses",
        source: error.into(),
    })?;
    let addresses = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            address
                .as_sockaddr_in()
                .map(|v4| IpAddr::V4(v4.ip()))
                .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| !address.is_loopback())
        .collect();
    Ok(NodeFacts { addresses })
}

/// The address that this node's own connections to the outside come from: the one that the kernel
/// chooses for the default route. None without a route.
pub fn source(family: IpFamily) -> Option<IpAddr> {
    // Connecting a datagram socket only looks the route up. Nobody has these addresses (RFC 5737,
    // RFC 3849).
    let (any, outside): (IpAddr, IpAddr) = match family {
        IpFamily::V4 => (
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
        ),
        IpFamily::V6 => (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        ),
    };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    socket.connect((outside, 9)).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_loopback()).then_some(source)
}

/// The kernel's name for this network namespace, as BPF programs see it.
///
/// # Errors
/// Fails on kernels before Linux 5.14, which have none.
pub fn netns_cookie() -> Result<u64, Error> {
    let failed = |source| Error::Node {
        what: "asking for the cookie of the network namespace (Linux 5.14 or newer)",
        source,
    };
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).map_err(failed)?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live variables, and `length` says how large the first one is.
    let result = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(failed(io::Error::last_os_error()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sockets_of_one_namespace_have_one_cookie() {
        let first = netns_cookie().unwrap();
        assert_eq!(first, netns_cookie().unwrap());
        assert_ne!(first, 0);
    }
}
