//! Services as the datapath sees them: frontends and the endpoints behind them.

use std::{fmt, net::IpAddr};

use serde::Serialize;

/// Transport protocol of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// `TCP`, the default.
    Tcp,
    /// `UDP`
    Udp,
    /// `SCTP`
    Sctp,
}

impl Protocol {
    /// IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Lower case, as in kube-proxy's rules and chain hashes.
    pub const fn lowercase(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// kube-proxy's `ServicePortName` without the protocol: prints as `ns/name:port`, or `ns/name`
/// when the port has no name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ServicePortName {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port; empty when it has none.
    pub port: String,
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if !self.port.is_empty() {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}

/// One port of a Service: the unit of kube-proxy's chains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    /// Namespace, Service, port name.
    pub name: ServicePortName,
    /// Transport protocol.
    pub protocol: Protocol,
    /// `spec.ports[].port`: the port on cluster and external IPs.
    pub port: u16,
    /// `spec.ports[].nodePort`.
    pub node_port: Option<u16>,
    /// `spec.clusterIPs`; never `None` or empty strings.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Ready endpoints, sorted, without duplicates.
    pub endpoints: Vec<Endpoint>,
}

/// A pod's address and port behind a Service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Endpoint {
    /// The pod's address.
    pub address: IpAddr,
    /// The target port.
    pub port: u16,
    /// Whether it is on this node.
    pub local: bool,
}
