//! Ports on which clients speak TLS.

use std::{fmt, path::PathBuf};

use serde::Serialize;

use super::{HttpRoutes, TcpRoute};

/// What becomes of connections by the name that clients ask for (SNI, RFC 6066). A connection that no chain is
/// for is closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TlsListener {
    /// Envoy's filter chains. Each name occurs in one of them.
    pub chains: Vec<TlsChain>,
}

/// Envoy's FilterChain: what is done with the connections that ask for some names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsChain {
    /// `https.443.https.web.shop`, as Istio names the routes of a server; no two chains of a listener have the
    /// same.
    pub name: String,
    /// Lower case: exact names, or `*.suffix`; empty: every name, and connections that ask for none.
    pub server_names: Vec<String>,
    /// What is spoken.
    pub protocol: ChainProtocol,
}

/// What is spoken over the connections of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChainProtocol {
    /// TLS ends here, and HTTP is inside.
    Https {
        /// How TLS is spoken.
        tls: Box<DownstreamTls>,
        /// What requests are matched against.
        routes: HttpRoutes,
    },
    /// TLS ends here, and what is inside goes to a cluster.
    Tls {
        /// How TLS is spoken.
        tls: Box<DownstreamTls>,
        /// Where to.
        route: TcpRoute,
    },
    /// TLS goes on to a cluster as it is.
    Passthrough(TcpRoute),
}

/// How TLS is spoken with clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DownstreamTls {
    /// The gateway's certificates, with different kinds of keys. Not empty.
    pub certificates: Vec<ServerCertificate>,
    /// What is asked of clients.
    pub clients: ClientCertificates,
    /// The oldest version that is spoken.
    pub oldest: TlsVersion,
    /// The newest version that is spoken.
    pub newest: TlsVersion,
    /// Ciphers of TLS 1.2 as OpenSSL names them; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cipher_suites: Vec<String>,
    /// Groups of the key exchange, such as `X25519`; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<String>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246)
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3 (RFC 8446)
    #[serde(rename = "1.3")]
    V13,
}

/// Where something in PEM is.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TlsSource {
    /// In a file, which may change at any time.
    File(PathBuf),
    /// In a Secret of the gateway's namespace.
    Secret {
        /// Its name.
        name: String,
        /// What it holds. Not written out or printed: it may be a key.
        #[serde(skip)]
        content: Vec<u8>,
    },
    /// Nowhere.
    Missing {
        /// Which Secret was looked at.
        name: String,
        /// What is wrong with it, such as `is not in the gateway's namespace`.
        reason: &'static str,
    },
}

/// A certificate of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerCertificate {
    /// The certificate, and those between it and its authority.
    pub chain: TlsSource,
    /// Its key.
    pub key: TlsSource,
    /// What its authority says of it (OCSP, RFC 6960), in DER.
    #[serde(skip)]
    pub staple: Option<Vec<u8>>,
}

/// What clients have to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// Nothing.
    Unasked,
    /// A certificate, if they have one.
    Optional(ClientIdentities),
    /// A certificate.
    Required(ClientIdentities),
}

/// Which certificates of clients are good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientIdentities {
    /// Those who may have signed them.
    pub authorities: TlsSource,
    /// What they have taken back; none: nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocations: Option<TlsSource>,
    /// Names of which a certificate must have one; empty: any name will do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
    /// SHA-256 of public keys (SPKI) in Base64, of which it must have one; empty: any will do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spki: Vec<String>,
    /// SHA-256 of certificates, lower case without colons, of which it must be one; empty: any will do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hashes: Vec<String>,
}

// === impl ChainProtocol ===

impl ChainProtocol {
    /// How TLS is spoken; none where it goes on as it is.
    pub fn tls(&self) -> Option<&DownstreamTls> {
        match self {
            Self::Https { tls, .. } | Self::Tls { tls, .. } => Some(tls),
            Self::Passthrough(_) => None,
        }
    }

    /// The routes of requests; none where it is no HTTP, or none that can be read here.
    pub fn http(&self) -> Option<&HttpRoutes> {
        match self {
            Self::Https { routes, .. } => Some(routes),
            Self::Tls { .. } | Self::Passthrough(_) => None,
        }
    }
}

// === impl DownstreamTls ===

impl DownstreamTls {
    /// A Secret that no connection can be made without, and what is wrong with it; none if all are there.
    pub fn lacks(&self) -> Option<(&str, &'static str)> {
        let own = self
            .certificates
            .iter()
            .flat_map(|certificate| [&certificate.chain, &certificate.key]);
        let clients = self.clients.identities().into_iter();
        let clients = clients.flat_map(|identities| {
            [&identities.authorities]
                .into_iter()
                .chain(&identities.revocations)
        });
        own.chain(clients).find_map(|source| match source {
            TlsSource::Missing { name, reason } => Some((name.as_str(), *reason)),
            TlsSource::File(_) | TlsSource::Secret { .. } => None,
        })
    }
}

// === impl ClientCertificates ===

impl ClientCertificates {
    /// Which are good; none if none is asked for.
    pub fn identities(&self) -> Option<&ClientIdentities> {
        match self {
            Self::Unasked => None,
            Self::Optional(identities) | Self::Required(identities) => Some(identities),
        }
    }
}

// === impl TlsSource ===

impl fmt::Debug for TlsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Secret { name, .. } => f.debug_tuple("Secret").field(name).finish(),
            Self::Missing { name, reason } => {
                f.debug_tuple("Missing").field(name).field(reason).finish()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_printed() {
        let source = TlsSource::Secret {
            name: "web".into(),
            content: b"-----BEGIN PRIVATE KEY".to_vec(),
        };
        assert!(!format!("{source:?}").contains("KEY"));
    }
}
