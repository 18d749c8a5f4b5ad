//! Listening sockets: one per worker, all bound before any is used.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted, per worker; the kernel caps it at
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Why a port can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens on it.
    #[error(
        "port {port} is taken by another process: stop it (`ss -ltnp 'sport = :{port}'` names it) \
         or move the Gateway's server to another targetPort"
    )]
    Taken {
        /// The port.
        port: u16,
    },
    /// It is privileged, and this process is not.
    #[error(
        "port {port} is privileged: give the container CAP_NET_BIND_SERVICE, lower \
         net.ipv4.ip_unprivileged_port_start, or let the Service's targetPort be 1024 or above"
    )]
    Privileged {
        /// The port.
        port: u16,
    },
    /// Anything else.
    #[error("port {port} can't be listened on: {source}")]
    Other {
        /// The port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
}

impl BindError {
    fn new(port: u16, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::AddrInUse => Self::Taken { port },
            ErrorKind::PermissionDenied => Self::Privileged { port },
            _ => Self::Other { port, source },
        }
    }

    /// The port that can't be listened on.
    pub const fn port(&self) -> u16 {
        match self {
            Self::Taken { port } | Self::Privileged { port } | Self::Other { port, .. } => *port,
        }
    }
}

/// Binds `count` sockets to a port and listens on each; the kernel spreads connections over them.
///
/// Without an address: on all addresses of both families, or of IPv4 where the kernel has no IPv6.
///
/// # Errors
///
/// If the port can't be listened on.
pub(crate) fn listen(
    address: Option<IpAddr>,
    port: u16,
    count: usize,
) -> Result<Vec<TcpListener>, BindError> {
    let address = match address {
        Some(address) => address,
        None if has_ipv6() => Ipv6Addr::UNSPECIFIED.into(),
        None => Ipv4Addr::UNSPECIFIED.into(),
    };
    let address = SocketAddr::new(address, port);
    // With SO_REUSEPORT alone, a second proxy of the same user would silently get half of the
    // connections. A socket without it finds out.
    socket(address, false)
        .and_then(|probe| probe.bind(&address.into()))
        .map_err(|source| BindError::new(port, source))?;
    (0..count)
        .map(|_| {
            let socket = socket(address, true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
        .collect::<io::Result<_>>()
        .map_err(|source| BindError::new(port, source))
}

/// A socket that is ready to be bound.
fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    // A restart must not wait for the last run's connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    Ok(socket)
}

/// Whether this network namespace can bind IPv6 at all (`ipv6.disable`, `disable_ipv6`).
fn has_ipv6() -> bool {
    socket(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0), false)
        .and_then(|probe| probe.bind(&SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0).into()))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

    #[test]
    fn taken_ports_are_named() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = listen(LOOPBACK, port, 2).unwrap_err();
        assert!(matches!(error, BindError::Taken { .. }));
        assert!(error.to_string().contains(&format!("port {port} is taken")));
    }

    #[test]
    fn another_proxy_s_port_is_taken_too() {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let held = listen(LOOPBACK, port, 2).unwrap();
        assert_eq!(held.len(), 2);
        assert_eq!(listen(LOOPBACK, port, 2).unwrap_err().port(), port);
        drop(held);
        assert_eq!(listen(LOOPBACK, port, 1).unwrap().len(), 1);
    }
}
