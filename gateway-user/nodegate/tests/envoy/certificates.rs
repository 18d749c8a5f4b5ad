//! Certificates of endpoints that speak TLS, made for one run.

use std::{error::Error, fs, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

/// Names of the endpoints' certificate: also one for an address.
const NAMES: [&str; 3] = ["tls.test", "*.tls.test", "127.0.0.1"];

/// What an endpoint's TLS is like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Plain,
    /// Wants a certificate of the client.
    Mutual,
    /// Has a certificate of another authority.
    Strange,
}

/// `ca.pem`, `client.pem` and `client.key`, and endpoints to go with them.
#[derive(Clone)]
pub(crate) struct Certificates {
    pub(crate) directory: Arc<TempDir>,
    /// By kind.
    pub(crate) acceptors: [TlsAcceptor; 3],
}

type Authority = CertifiedIssuer<'static, KeyPair>;

impl Certificates {
    pub(crate) fn new() -> Result<Self, Box<dyn Error + Send + Sync>> {
        let directory = tempfile::tempdir()?;
        let (own, other) = (authority("own")?, authority("other")?);
        let (client, key) = issue(&own, &["client.test"])?;
        for (name, text) in [
            ("ca.pem", own.pem()),
            ("client.pem", client.pem()),
            ("client.key", key.serialize_pem()),
        ] {
            fs::write(directory.path().join(name), text)?;
        }
        Ok(Self {
            directory: Arc::new(directory),
            acceptors: [
                acceptor(&own, None)?,
                acceptor(&own, Some(&own))?,
                acceptor(&other, None)?,
            ],
        })
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.directory.fmt(f)
    }
}

fn authority(name: &str) -> Result<Authority, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    // Who issues and who is issued to must not have the same name: that would be self-signed.
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn issue(
    authority: &Authority,
    names: &[&str],
) -> Result<(rcgen::Certificate, KeyPair), rcgen::Error> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(names)?.signed_by(&key, authority)?;
    Ok((certificate, key))
}

fn acceptor(
    authority: &Authority,
    clients: Option<&Authority>,
) -> Result<TlsAcceptor, Box<dyn Error + Send + Sync>> {
    let (certificate, key) = issue(authority, &NAMES)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.der().clone())?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build()?)
        }
        None => builder.with_no_client_auth(),
    };
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = builder.with_single_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
