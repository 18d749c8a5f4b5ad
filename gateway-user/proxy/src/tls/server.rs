//! TLS of a server of a Gateway: the certificate that it shows, and what it asks of clients.

use std::{path::PathBuf, sync::Arc};

use nodegate_model::gateway::{
    ClientCertificates, DownstreamTls, ServerCertificate, TlsSource, TlsVersion,
};
use rustls::{
    NamedGroup, ServerConfig, SignatureScheme, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring::Ticketer},
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use super::{
    client_certificate::ClientVerifier,
    material::{TlsError, bad, certificates, private_key, provider, revocations, root_store, text},
    reload::Reloading,
};

/// What is inside TLS, for clients that ask (`ALPNHttp` of istio's pilot/pkg/networking/util).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How TLS is spoken with the clients of a chain. Shared by all workers, and with it the keys of session
/// tickets, which are other ones in each chain: nobody resumes at one host what began at another.
#[derive(Debug)]
pub(crate) struct ServerTls {
    policy: DownstreamTls,
    loaded: Reloading<Loaded>,
}

/// Ready for use. The two differ in ALPN.
#[derive(Debug)]
struct Loaded {
    asked: Arc<ServerConfig>,
    unasked: Arc<ServerConfig>,
    /// URIs of the certificate itself.
    uris: Arc<[String]>,
}

/// What a handshake is made with.
pub(super) struct Handshake {
    pub(super) config: Arc<ServerConfig>,
    /// URIs of the server's certificate.
    pub(super) uris: Arc<[String]>,
}

// === impl ServerTls ===

impl ServerTls {
    /// Goes on from the state of the same policy, if there was one.
    pub(crate) fn new(policy: &DownstreamTls, previous: Option<&Arc<Self>>) -> Arc<Self> {
        match previous {
            Some(previous) if previous.policy == *policy => Arc::clone(previous),
            _ => Arc::new(Self {
                policy: policy.clone(),
                loaded: Reloading::new(files(policy)),
            }),
        }
    }

    /// What to shake hands with a client with that offers these protocols.
    // Envoy lets a client go on without ALPN that offers nothing we speak (SSL_TLSEXT_ERR_NOACK); rustls
    // would end its connection.
    pub(super) fn handshake<'p>(
        &self,
        mut offered: impl Iterator<Item = &'p [u8]>,
    ) -> Result<Handshake, TlsError> {
        let loaded = self
            .loaded
            .get("certificates for clients", || Loaded::of(&self.policy))?;
        let config = if offered.any(|protocol| PROTOCOLS.contains(&protocol)) {
            &loaded.asked
        } else {
            &loaded.unasked
        };
        Ok(Handshake {
            config: Arc::clone(config),
            uris: Arc::clone(&loaded.uris),
        })
    }
}

/// The files that are read for a policy.
fn files(policy: &DownstreamTls) -> Vec<PathBuf> {
    let own = policy
        .certificates
        .iter()
        .flat_map(|certificate| [&certificate.chain, &certificate.key]);
    let clients = policy.clients.identities().into_iter();
    let clients = clients.flat_map(|identities| {
        let revocations = identities.revocations.iter();
        [&identities.authorities].into_iter().chain(revocations)
    });
    let files = own.chain(clients).filter_map(|source| match source {
        TlsSource::File(path) => Some(path.clone()),
        TlsSource::Secret { .. } | TlsSource::Missing { .. } => None,
    });
    files.collect()
}

// === impl Loaded ===

impl Loaded {
    fn of(policy: &DownstreamTls) -> Result<Self, TlsError> {
        let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
        let provider = Arc::new(chosen(policy));
        let certificates = Certificates::of(&policy.certificates, &provider)?;
        let uris = certificates.uris();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions(policy))
            .map_err(unusable)?;
        let builder = match verifier(policy, &provider)? {
            Some(verifier) => builder.with_client_cert_verifier(Arc::new(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut unasked = builder.with_cert_resolver(Arc::new(certificates));
        unasked.ticketer = Ticketer::new().map_err(unusable)?;
        // What a client repeats without a handshake can be replayed: no early data (RFC 8446, section 8).
        unasked.max_early_data_size = 0;
        let mut asked = unasked.clone();
        asked.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
        Ok(Self {
            asked: Arc::new(asked),
            unasked: Arc::new(unasked),
            uris,
        })
    }
}

/// The cryptography that the policy leaves.
fn chosen(policy: &DownstreamTls) -> CryptoProvider {
    let mut provider = CryptoProvider::clone(&provider());
    let ciphers = &policy.cipher_suites;
    if !ciphers.is_empty() {
        // Those of TLS 1.3 can't be chosen, as with Envoy.
        provider.cipher_suites.retain(|suite| {
            let name = format!("{:?}", suite.suite());
            suite.tls13().is_some() || ciphers.iter().any(|cipher| is_cipher(cipher, &name))
        });
    }
    let curves = &policy.curves;
    if !curves.is_empty() {
        let is_chosen =
            |group: NamedGroup| curves.iter().any(|curve| curve_of(curve) == Some(group));
        provider.kx_groups.retain(|group| is_chosen(group.name()));
    }
    provider
}

/// Whether OpenSSL's name of a cipher, `ECDHE-RSA-AES128-GCM-SHA256`, means the one that is registered as
/// `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`.
fn is_cipher(openssl: &str, registered: &str) -> bool {
    let plain = |name: &str| name.replace(['-', '_'], "");
    let registered = registered
        .trim_start_matches("TLS_")
        .replace("_WITH_", "_")
        .replace("CHACHA20_POLY1305_SHA256", "CHACHA20_POLY1305");
    plain(openssl) == plain(&registered)
}

fn curve_of(name: &str) -> Option<NamedGroup> {
    match name {
        "X25519" => Some(NamedGroup::X25519),
        "P-256" => Some(NamedGroup::secp256r1),
        "P-384" => Some(NamedGroup::secp384r1),
        _ => None,
    }
}

fn versions(policy: &DownstreamTls) -> Vec<&'static SupportedProtocolVersion> {
    let all = [(TlsVersion::V13, &TLS13), (TlsVersion::V12, &TLS12)];
    let spoken = all
        .into_iter()
        .filter(|(version, _)| (policy.oldest..=policy.newest).contains(version));
    spoken.map(|(_, version)| version).collect()
}

/// What looks at clients' certificates; none if none is asked for.
fn verifier(
    policy: &DownstreamTls,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<ClientVerifier>, TlsError> {
    let Some(identities) = policy.clients.identities() else {
        return Ok(None);
    };
    let source = &identities.authorities;
    let authorities = certificates(&text(source)?).map_err(|reason| bad(source, &reason))?;
    let roots = root_store(&authorities).map_err(|reason| bad(source, &reason))?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    if let Some(source) = &identities.revocations {
        // Every certificate of the chain must be in a list that is still valid, as with OpenSSL's
        // X509_V_FLAG_CRL_CHECK_ALL, which Envoy sets.
        let lists = revocations(&text(source)?).map_err(|reason| bad(source, &reason))?;
        builder = builder.with_crls(lists).enforce_revocation_expiration();
    }
    if matches!(policy.clients, ClientCertificates::Optional(_)) {
        builder = builder.allow_unauthenticated();
    }
    let chains = builder
        .build()
        .map_err(|reason| bad(identities.revocations.as_ref().unwrap_or(source), &reason))?;
    Ok(Some(ClientVerifier::new(chains, identities)))
}

/// The certificates of a server, one for each kind of key.
#[derive(Debug)]
struct Certificates {
    /// Not empty.
    all: Vec<Arc<CertifiedKey>>,
}

// === impl Certificates ===

impl Certificates {
    fn of(given: &[ServerCertificate], provider: &CryptoProvider) -> Result<Self, TlsError> {
        let all: Result<Vec<_>, _> = given.iter().map(|one| certified(one, provider)).collect();
        Ok(Self { all: all? })
    }

    fn uris(&self) -> Arc<[String]> {
        let first = self.all.first().and_then(|key| key.cert.first());
        first.map_or_else(|| [].into(), uris)
    }
}

/// The URIs of a certificate's subject.
fn uris(certificate: &CertificateDer<'static>) -> Arc<[String]> {
    let parsed = webpki::EndEntityCert::try_from(certificate);
    parsed.map_or_else(
        |_| [].into(),
        |parsed| parsed.valid_uri_names().map(ToOwned::to_owned).collect(),
    )
}

fn certified(
    given: &ServerCertificate,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates(&text(&given.chain)?).map_err(|reason| bad(&given.chain, &reason))?;
    let key = private_key(&text(&given.key)?).map_err(|reason| bad(&given.key, &reason))?;
    // Says also whether the key is that of the certificate.
    let mut certified =
        CertifiedKey::from_der(chain, key, provider).map_err(|reason| bad(&given.key, &reason))?;
    certified.ocsp.clone_from(&given.staple);
    Ok(Arc::new(certified))
}

impl ResolvesServerCert for Certificates {
    /// The first certificate with whose key the client can do something, else the first.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offered: &[SignatureScheme] = hello.signature_schemes();
        let mut all = self.all.iter();
        let fitting = all.find(|certified| certified.key.choose_scheme(offered).is_some());
        fitting.or(self.all.first()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cipher_has_its_name_of_openssl() {
        let all = provider().cipher_suites.clone();
        for name in [
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-RSA-CHACHA20-POLY1305",
        ] {
            let meant = all.iter().filter(|suite| {
                suite.tls13().is_none() && is_cipher(name, &format!("{:?}", suite.suite()))
            });
            assert_eq!(meant.count(), 1, "{name}");
        }
    }
}
