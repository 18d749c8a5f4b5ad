//! TLS to endpoints: which certificate is shown to them, for which name they are asked, and which
//! certificates of theirs are accepted.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use nodegate_model::gateway::{TlsCredentials, TlsMode, UpstreamTls};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    material::{TlsError, certificates, file, private_key, provider, read},
    reload::Reloading,
    verify::Verifier,
};

/// The protocol inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Inner {
    Http1,
    Http2,
    Tcp,
}

/// How the endpoints of a cluster are spoken to. Shared by all workers.
#[derive(Debug)]
pub(crate) struct ClientTls {
    policy: UpstreamTls,
    loaded: Reloading<Loaded>,
}

/// Certificates and keys, ready for use. The three differ in ALPN.
#[derive(Debug)]
struct Loaded {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    tcp: Arc<ClientConfig>,
}

impl ClientTls {
    /// Goes on from the state of the same policy, if there was one.
    pub(crate) fn new(policy: &UpstreamTls, previous: Option<&Arc<Self>>) -> Arc<Self> {
        match previous {
            Some(previous) if previous.policy == *policy => Arc::clone(previous),
            _ => Arc::new(Self {
                policy: policy.clone(),
                loaded: Reloading::new(files(policy)),
            }),
        }
    }

    /// The name that the endpoint is asked for: that of the policy, else the host of the request, else the
    /// address.
    // Envoy: Filter::decodeHeaders with `auto_sni`, which asks for no name where the host is an
    // address.
    pub(crate) fn name(
        &self,
        host: Option<&str>,
        endpoint: SocketAddr,
    ) -> Result<ServerName<'static>, TlsError> {
        let name = self
            .policy
            .sni
            .as_deref()
            .or_else(|| host.map(without_port));
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(ServerName::from(endpoint.ip()));
        };
        let literal = name.trim_start_matches('[').trim_end_matches(']');
        ServerName::try_from(literal.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))
    }

    /// Shakes hands.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        name: ServerName<'static>,
        inner: Inner,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let loaded = self.loaded()?;
        let config = match inner {
            Inner::Http1 => &loaded.http1,
            Inner::Http2 => &loaded.http2,
            Inner::Tcp => &loaded.tcp,
        };
        TlsConnector::from(Arc::clone(config))
            .connect(name, stream)
            .await
            .map_err(|error| TlsError::Handshake(reason(&error).unwrap_or(error.to_string())))
    }

    /// Certificates and keys as they are now.
    fn loaded(&self) -> Result<Arc<Loaded>, TlsError> {
        self.loaded
            .get("certificates for endpoints", || Loaded::of(&self.policy))
    }
}

/// The files that are read for a policy.
fn files(policy: &UpstreamTls) -> Vec<PathBuf> {
    let TlsCredentials::Files {
        identity,
        authorities,
    } = &policy.credentials
    else {
        return Vec::new();
    };
    let identity = identity
        .iter()
        .flat_map(|(certificate, key)| [certificate, key]);
    identity.chain(authorities).cloned().collect()
}

impl Loaded {
    fn of(policy: &UpstreamTls) -> Result<Self, TlsError> {
        let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
        let material = Material::of(policy)?;
        let provider = provider();
        let verifier = Verifier::new(policy, material.authorities, &provider)?;
        // TLS 1.2 and 1.3, as Envoy's clients.
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match material.identity {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(unusable)?,
            None => builder.with_no_client_auth(),
        };
        let with = |protocols: &[&str]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols
                .iter()
                .map(|name| name.as_bytes().into())
                .collect();
            Arc::new(config)
        };
        // In the mesh: the names of the `alpn` filter of istio's proxy. Otherwise: what Envoy's connection
        // pools fall back to where Istio sets none (Envoy: `wrapTransportSocketOptions`).
        Ok(match policy.mode {
            TlsMode::IstioMutual => Self {
                http1: with(&["istio-http/1.1", "istio", "http/1.1"]),
                http2: with(&["istio-h2", "istio", "h2"]),
                tcp: with(&["istio"]),
            },
            TlsMode::Simple | TlsMode::Mutual => Self {
                http1: with(&["http/1.1"]),
                http2: with(&["h2"]),
                tcp: with(&[]),
            },
        })
    }
}

/// Certificates and keys as they are read.
struct Material {
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// None: the authorities of the system.
    authorities: Option<Vec<CertificateDer<'static>>>,
}

impl Material {
    fn of(policy: &UpstreamTls) -> Result<Self, TlsError> {
        match &policy.credentials {
            TlsCredentials::Files {
                identity,
                authorities,
            } => {
                let identity = match identity {
                    Some((certificate, key)) => {
                        let key_text = read(key)?;
                        let key = private_key(&key_text).map_err(|reason| file(key, &reason))?;
                        Some((from_file(certificate)?, key))
                    }
                    None => None,
                };
                let authorities = match authorities {
                    Some(path) if !policy.insecure_skip_verify => Some(from_file(path)?),
                    _ => None,
                };
                Ok(Self {
                    identity,
                    authorities,
                })
            }
            TlsCredentials::Secret { name, content } => {
                let error = |reason: &str| TlsError::Secret {
                    name: name.clone(),
                    reason: reason.to_owned(),
                };
                if let Some((_, reason)) = policy.lacks() {
                    return Err(error(reason));
                }
                let content = content.as_ref();
                let identity = match content.and_then(|content| content.identity.as_ref()) {
                    Some((chain, key)) => {
                        let chain = certificates(chain)
                            .map_err(|_| error("has a tls.crt that is no certificate in PEM"))?;
                        let key = private_key(key)
                            .map_err(|_| error("has a tls.key that is no key in PEM"))?;
                        Some((chain, key))
                    }
                    None => None,
                };
                let authorities = match content.and_then(|content| content.authorities.as_ref()) {
                    Some(text) => Some(
                        certificates(text)
                            .map_err(|_| error("has a ca.crt that is no certificate in PEM"))?,
                    ),
                    None => None,
                };
                Ok(Self {
                    identity,
                    authorities,
                })
            }
        }
    }
}

fn from_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates(&read(path)?).map_err(|reason| file(path, &reason))
}

/// The reason that TLS gives for a broken connection, if it is TLS that has broken it.
pub(crate) fn reason(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(error.to_string())
}

fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        // A colon inside brackets belongs to the address.
        Some(colon) if host.rfind(']').is_none_or(|bracket| bracket < colon) => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_for_without_ports() {
        let named = |sni: Option<&str>, host: Option<&str>| {
            let policy = UpstreamTls {
                mode: TlsMode::Simple,
                sni: sni.map(Into::into),
                verify_host: true,
                subject_alt_names: Vec::new(),
                credentials: TlsCredentials::of_workload(),
                insecure_skip_verify: false,
            };
            let name = ClientTls::new(&policy, None).name(host, "192.0.2.1:443".parse().unwrap());
            name.map(|name| name.to_str().into_owned())
        };
        for (sni, host, wanted) in [
            (None, Some("a.example:8443"), "a.example"),
            (Some("b.example"), Some("a.example"), "b.example"),
            (None, Some("[2001:db8::1]:443"), "2001:db8::1"),
            (None, Some("198.51.100.1"), "198.51.100.1"),
            (
                Some("outbound_.80_._.web.example"),
                None,
                "outbound_.80_._.web.example",
            ),
            (None, None, "192.0.2.1"),
        ] {
            assert_eq!(named(sni, host).unwrap(), wanted);
        }
        assert!(named(None, Some("-.example")).is_err());
    }
}
