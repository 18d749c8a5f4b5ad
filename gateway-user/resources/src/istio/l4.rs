//! Routes for connections: of TCP, and of TLS that is passed through.

use serde::{Deserialize, Serialize};

use super::{Opaque, RouteDestination};

/// `VirtualService.spec.tcp[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRoute {
    /// Conditions, of which one must be met; empty: none.
    #[serde(rename = "match")]
    pub matches: Vec<L4Match>,
    /// Where to, by weight.
    pub route: Vec<RouteDestination>,
}

/// `VirtualService.spec.tcp[].match[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct L4Match {
    /// The port of the Gateway's server; 0: any.
    pub port: i64,
    /// The gateways for which this counts; empty: those of the VirtualService.
    pub gateways: Vec<String>,
    /// Without effect on a gateway.
    pub destination_subnets: Option<Opaque>,
    /// Without effect on a gateway.
    pub source_subnet: Option<Opaque>,
    /// Without effect on a gateway.
    pub source_labels: Option<Opaque>,
    /// Without effect on a gateway.
    pub source_namespace: Option<Opaque>,
}

/// `VirtualService.spec.tls[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsRoute {
    /// Conditions, of which one must be met; at least one.
    #[serde(rename = "match")]
    pub matches: Vec<TlsMatch>,
    /// Where to, by weight.
    pub route: Vec<RouteDestination>,
}

/// `VirtualService.spec.tls[].match[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsMatch {
    /// The names that clients may ask for (SNI): `web.example.com`, `*.example.com`.
    pub sni_hosts: Vec<String>,
    /// The port of the Gateway's server; 0: any.
    pub port: i64,
    /// The gateways for which this counts; empty: those of the VirtualService.
    pub gateways: Vec<String>,
    /// Without effect on a gateway.
    pub destination_subnets: Option<Opaque>,
    /// Without effect on a gateway.
    pub source_labels: Option<Opaque>,
    /// Without effect on a gateway.
    pub source_namespace: Option<Opaque>,
}

// === impl TcpRoute ===

impl TcpRoute {
    /// Whether every connection that comes this far is for this route.
    pub fn takes_all(&self) -> bool {
        let any = L4Match::default();
        self.matches.is_empty() || self.matches.contains(&any)
    }
}
