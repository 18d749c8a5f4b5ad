//! Whether a client's certificate is one that the server accepts.

use std::{collections::HashSet, sync::Arc};

use nodegate_model::gateway::ClientIdentities;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::EndEntityCert;

use super::{
    peer::{fingerprint, pin},
    verify::has_name,
};

/// Accepts certificates that an authority has issued, with one of some names, keys and fingerprints.
// Envoy: DefaultCertValidator::verifyCertificate.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    chains: Arc<dyn ClientCertVerifier>,
    /// Of which a certificate must have one; empty: any will do.
    names: Vec<String>,
    /// A certificate must have one of these keys, or be one of these; both empty: any will do.
    spki: HashSet<String>,
    hashes: HashSet<String>,
}

// === impl ClientVerifier ===

impl ClientVerifier {
    pub(super) fn new(chains: Arc<dyn ClientCertVerifier>, identities: &ClientIdentities) -> Self {
        Self {
            chains,
            names: identities.subject_alt_names.clone(),
            spki: identities.spki.iter().cloned().collect(),
            hashes: identities.hashes.iter().cloned().collect(),
        }
    }

    fn is_known(&self, certificate: &CertificateDer<'_>) -> Result<bool, Error> {
        if self.spki.is_empty() && self.hashes.is_empty() {
            return Ok(true);
        }
        if self.hashes.contains(&fingerprint(certificate)) {
            return Ok(true);
        }
        let parsed = EndEntityCert::try_from(certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let key = parsed.subject_public_key_info();
        Ok(self.spki.contains(&pin(&key)))
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chains.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chains.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chains
            .verify_client_cert(end_entity, intermediates, now)?;
        let refused = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        if !self.names.is_empty() && !has_name(end_entity, &self.names)? {
            return Err(refused);
        }
        if !self.is_known(end_entity)? {
            return Err(refused);
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
