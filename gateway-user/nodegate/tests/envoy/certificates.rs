//! Certificates of endpoints that speak TLS, made for one run.

use std::{error::Error, fs, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use sha2::{Digest as _, Sha256};
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

/// `ca.pem`, the certificates of clients and of gateways with their keys (`client.pem`, `client.key`, …), what has
/// been revoked (`crl.pem`), and endpoints to go with them.
#[derive(Clone)]
pub(crate) struct Certificates {
    pub(crate) directory: Arc<TempDir>,
    /// SHA-256 of the client's certificate, in hexadecimal digits.
    pub(crate) client_hash: String,
    /// By kind.
    pub(crate) acceptors: [TlsAcceptor; 3],
}

type Authority = CertifiedIssuer<'static, KeyPair>;

impl Certificates {
    pub(crate) fn new() -> Result<Self, Box<dyn Error + Send + Sync>> {
        let directory = tempfile::tempdir()?;
        let (own, other) = (authority("own")?, authority("other")?);
        let put = |name: &str, text: String| fs::write(directory.path().join(name), text);
        put("ca.pem", own.pem())?;
        let put_both = |name: &str, (certificate, key): &(rcgen::Certificate, KeyPair)| {
            put(&format!("{name}.pem"), certificate.pem())?;
            put(&format!("{name}.key"), key.serialize_pem())
        };
        let client = issue_with(&own, &["client.test"], |params| {
            let name = &mut params.distinguished_name;
            name.push(DnType::OrganizationName, "Tests, \"Inc\"");
            name.push(DnType::CommonName, "client");
            let uri = "spiffe://tests/client".try_into()?;
            params.subject_alt_names.push(SanType::URI(uri));
            Ok(())
        })?;
        put_both("client", &client)?;
        put_both("second", &issue(&own, &["second.test"])?)?;
        put_both("strange", &issue(&other, &["client.test"])?)?;
        let expired = issue_with(&own, &["client.test"], |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
            Ok(())
        })?;
        put_both("expired", &expired)?;
        let revoked = issue_with(&own, &["client.test"], |params| {
            params.serial_number = Some(SerialNumber::from(REVOKED));
            Ok(())
        })?;
        put_both("revoked", &revoked)?;
        put("crl.pem", revocations(&own)?)?;
        put_both("server", &issue(&own, &["simple.test", "mutual.test"])?)?;
        put_both("wild", &issue(&own, &["*.wild.test"])?)?;
        Ok(Self {
            directory: Arc::new(directory),
            client_hash: hash(client.0.der()),
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
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

type Issued = (rcgen::Certificate, KeyPair);

fn issue(authority: &Authority, names: &[&str]) -> Result<Issued, rcgen::Error> {
    issue_with(authority, names, |_| Ok(()))
}

/// Issues a certificate that is special in some way.
fn issue_with(
    authority: &Authority,
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams) -> Result<(), rcgen::Error>,
) -> Result<Issued, rcgen::Error> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    change(&mut params)?;
    let certificate = params.signed_by(&key, authority)?;
    Ok((certificate, key))
}

/// The number of the certificate that has been revoked.
const REVOKED: u64 = 4711;

fn revocations(authority: &Authority) -> Result<String, rcgen::Error> {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2124, 1, 1),
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(REVOKED),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(authority)?.pem()
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn hash(certificate: &[u8]) -> String {
    format!("{:x}", Sha256::digest(certificate))
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
