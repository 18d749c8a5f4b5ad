//! The servers of a Gateway: a port, its hosts, and how TLS is spoken there.

use serde::{Deserialize, Serialize};

use super::{
    GatewaySpec, Opaque,
    words::{ServerProtocol, ServerTlsMode, TlsVersion, UnknownWord, Word as _},
};

/// `Gateway.spec.servers[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Server {
    /// The port.
    pub port: Port,
    /// The address to listen on.
    pub bind: Option<String>,
    /// `host`, `namespace/host`, `./host` or `*/host`.
    pub hosts: Vec<String>,
    /// How TLS is terminated, or passed on.
    pub tls: Option<ServerTls>,
    /// Where to send what nothing else wants.
    pub default_endpoint: Option<Opaque>,
    /// Name of the server.
    pub name: Option<String>,
}

/// `Gateway.spec.servers[].port`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// A port of the *Service* in front of the gateway pods.
    pub number: i64,
    /// `HTTP`, `HTTP2`, `GRPC`, `HTTPS`, `TLS`, `TCP`, …
    pub protocol: String,
    /// Name of the port.
    pub name: String,
    /// Deprecated, and without effect in Istio too.
    pub target_port: Option<i64>,
}

/// `Gateway.spec.servers[].tls`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerTls {
    /// Whether requests in the clear are sent to `https`.
    pub https_redirect: bool,
    /// `SIMPLE`, `MUTUAL`, …; empty: `PASSTHROUGH`.
    pub mode: String,
    /// File of the certificate and its chain, in PEM.
    pub server_certificate: String,
    /// File of the key, in PEM.
    pub private_key: String,
    /// File of the clients' authorities, in PEM.
    pub ca_certificates: String,
    /// File of the authorities' revocations, in PEM.
    pub ca_crl: String,
    /// Secret with all of them, in the namespace of the gateway pods.
    pub credential_name: String,
    /// Several of those, such as one with an RSA and one with an ECDSA certificate; at most two.
    pub credential_names: Vec<String>,
    /// Several certificates in files; at most two.
    pub tls_certificates: Vec<ServerCertificate>,
    /// Secret of the clients' authorities, where they are in one of their own.
    pub ca_cert_credential_name: String,
    /// Names of which a client's certificate must have one; empty: any name will do.
    pub subject_alt_names: Vec<String>,
    /// SHA-256 of the public keys (SPKI) that clients may have, in Base64.
    pub verify_certificate_spki: Vec<String>,
    /// SHA-256 of the certificates that clients may have, in hexadecimal digits.
    pub verify_certificate_hash: Vec<String>,
    /// The oldest version; empty: TLS 1.2.
    pub min_protocol_version: String,
    /// The newest version; empty: TLS 1.3.
    pub max_protocol_version: String,
    /// Ciphers of TLS 1.2, as OpenSSL names them; empty: all that are safe.
    pub cipher_suites: Vec<String>,
    /// Groups of the key exchange, such as `X25519`; empty: all that are safe.
    pub ecdh_curves: Vec<String>,
    /// Whether any certificate of a client will do.
    pub insecure_skip_verify: Option<bool>,
}

/// `Gateway.spec.servers[].tls.tlsCertificates[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerCertificate {
    /// File of the certificate and its chain, in PEM.
    pub server_certificate: String,
    /// File of the key, in PEM.
    pub private_key: String,
    /// Without effect here: the clients' authorities are the server's.
    pub ca_certificates: String,
}

// === impl ServerTls ===

impl GatewaySpec {
    /// Whether one of its servers passes connections on as they are.
    pub fn serves_tcp(&self) -> bool {
        let mut servers = self.servers.iter();
        servers.any(|server| server.port.protocol() == Ok(ServerProtocol::Tcp))
    }
}

impl ServerTls {
    /// Which side shows a certificate, and whether TLS ends here.
    ///
    /// # Errors
    ///
    /// If it is none of the words.
    pub fn mode(&self) -> Result<ServerTlsMode, UnknownWord> {
        ServerTlsMode::read(&self.mode)
    }

    /// The Secrets with certificates, by name.
    pub fn credentials(&self) -> impl Iterator<Item = &str> {
        // istiod takes the list only where the single name is not given
        // (`BuildListenerTLSContext` of istio's pilot/pkg/networking/core/listener.go).
        let several = self
            .credential_name
            .is_empty()
            .then_some(&self.credential_names);
        let several = several.into_iter().flatten().map(String::as_str);
        let all = [self.credential_name.as_str()].into_iter().chain(several);
        all.filter(|name| !name.is_empty())
    }

    /// The files of certificates and their keys.
    pub fn certificate_files(&self) -> Vec<(&str, &str)> {
        if !self.tls_certificates.is_empty() {
            let pairs = self.tls_certificates.iter();
            return pairs
                .map(|pair| (pair.server_certificate.as_str(), pair.private_key.as_str()))
                .collect();
        }
        let pair = (self.server_certificate.as_str(), self.private_key.as_str());
        if pair == ("", "") {
            Vec::new()
        } else {
            vec![pair]
        }
    }

    /// The oldest and the newest version that are allowed.
    ///
    /// # Errors
    ///
    /// If either is none of the words.
    pub fn versions(&self) -> Result<[TlsVersion; 2], UnknownWord> {
        Ok([
            TlsVersion::read(&self.min_protocol_version)?,
            TlsVersion::read(&self.max_protocol_version)?,
        ])
    }
}

// === impl ServerTlsMode ===

impl ServerTlsMode {
    /// Whether TLS ends at the gateway.
    pub fn ends_here(self) -> bool {
        !matches!(self, Self::Passthrough | Self::AutoPassthrough)
    }
}
