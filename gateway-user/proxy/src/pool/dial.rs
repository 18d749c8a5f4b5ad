//! Opens connections to endpoints, as a cluster's policy wants them.

use std::{io, net::SocketAddr};

use nix::libc::EMFILE;
use nodegate_model::gateway::{ConnectionLimits, Keepalive};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::{net::TcpStream, time};

use super::peer_stream::PeerStream;
use crate::{
    overload::{self, Refusal},
    tls::{ClientTls, Inner, TlsError},
};

/// Why there is no connection to an endpoint.
#[derive(Debug)]
pub(crate) enum ConnectError {
    Io(io::Error),
    Tls(TlsError),
    Timeout,
}

/// Opens a TCP connection.
pub(crate) async fn connect(
    endpoint: SocketAddr,
    limits: &ConnectionLimits,
) -> Result<TcpStream, ConnectError> {
    let stream = time::timeout(limits.connect_timeout, TcpStream::connect(endpoint))
        .await
        .map_err(|_| ConnectError::Timeout)?
        .map_err(ConnectError::Io)?;
    if overload::is_too_many(&stream) {
        Refusal::EndpointDescriptors.note();
        return Err(ConnectError::Io(io::Error::from_raw_os_error(EMFILE)));
    }
    // Nagle's algorithm would hold small messages back. The connection works either way.
    let _ = stream.set_nodelay(true);
    if let Some(keepalive) = &limits.keepalive {
        keep_alive(&stream, keepalive);
    }
    Ok(stream)
}

/// Opens a connection in TLS. Shaking hands is a part of connecting, and both together may not take
/// longer than the policy allows for connecting.
pub(crate) async fn secure(
    endpoint: SocketAddr,
    tls: &ClientTls,
    name: ServerName<'static>,
    inner: Inner,
    limits: &ConnectionLimits,
) -> Result<PeerStream, ConnectError> {
    let connecting = async {
        let stream = connect(endpoint, limits).await?;
        let stream = tls.connect(stream, name, inner).await;
        stream.map_err(ConnectError::Tls)
    };
    let stream = time::timeout(limits.connect_timeout, connecting)
        .await
        .map_err(|_| ConnectError::Timeout)??;
    Ok(PeerStream::Secure(Box::new(stream)))
}

fn keep_alive(stream: &TcpStream, policy: &Keepalive) {
    let mut keepalive = socket2::TcpKeepalive::new();
    if let Some(time) = policy.time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = policy.interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = policy.probes {
        keepalive = keepalive.with_retries(probes);
    }
    // A value that the kernel doesn't take leaves its own in force.
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "TCP keepalive");
    }
}
