//! Certificates and keys as they are read.

use std::{
    fs,
    path::Path,
    sync::{Arc, OnceLock},
};

use nodegate_model::gateway::TlsSource;
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};

/// Why there is no TLS.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file can't be read.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why it can't be read.
        reason: String,
    },
    /// A Secret doesn't exist, or lacks something.
    #[error("Secret {name} {reason}")]
    Secret {
        /// The Secret.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificates or the key can't be used.
    #[error("{0}")]
    Unusable(String),
    /// A certificate can't be for this host.
    #[error("`{0}` is not a name that a certificate may have")]
    Name(String),
    /// The handshake failed.
    #[error("{0}")]
    Handshake(String),
}

/// Why a text is not what was looked for in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotPem {
    #[error("there is no certificate in PEM in it")]
    NoCertificate,
    #[error("{0}")]
    Unreadable(pem::Error),
}

/// The cryptography of all TLS here.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What stands in a source; none of one that is missing.
pub(super) fn text(source: &TlsSource) -> Result<Vec<u8>, TlsError> {
    match source {
        TlsSource::File(path) => read(path),
        TlsSource::Secret { content, .. } => Ok(content.clone()),
        TlsSource::Missing { name, reason } => Err(TlsError::Secret {
            name: name.clone(),
            reason: (*reason).to_owned(),
        }),
    }
}

/// That a source holds something else than it should.
pub(super) fn bad(source: &TlsSource, reason: &dyn std::fmt::Display) -> TlsError {
    match source {
        TlsSource::File(path) => file(path, reason),
        TlsSource::Secret { name, .. } | TlsSource::Missing { name, .. } => TlsError::Secret {
            name: name.clone(),
            reason: format!("can't be used: {reason}"),
        },
    }
}

pub(super) fn file(path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| file(path, &error))
}

/// All certificates of a text, of which there is at least one.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, NotPem> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(NotPem::NoCertificate),
        Ok(found) => Ok(found),
        Err(error) => Err(NotPem::Unreadable(error)),
    }
}

/// All lists of revocations of a text.
pub(super) fn revocations(
    text: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, NotPem> {
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(text).collect();
    found.map_err(NotPem::Unreadable)
}

pub(super) fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, NotPem> {
    PrivateKeyDer::from_pem_slice(text).map_err(NotPem::Unreadable)
}

/// The authorities of this system, read once.
pub(super) fn system_authorities() -> Result<Arc<RootCertStore>, TlsError> {
    static STORE: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let store = STORE.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in found.errors {
            tracing::warn!(%error, "authorities of this system");
        }
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.certs);
        Arc::new(store)
    });
    if store.is_empty() {
        let message = "this system has no authorities: name some in caCertificates";
        return Err(TlsError::Unusable(message.to_owned()));
    }
    Ok(Arc::clone(store))
}

/// Authorities that certificates may be signed by.
pub(super) fn root_store(
    authorities: &[CertificateDer<'static>],
) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(authorities.iter().cloned());
    if added == 0 {
        let message = "none of the authorities' certificates can be used";
        return Err(TlsError::Unusable(message.to_owned()));
    }
    Ok(Arc::new(store))
}
