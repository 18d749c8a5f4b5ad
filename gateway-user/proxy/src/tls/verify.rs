//! Whether an endpoint's certificate is one that the policy accepts.

use std::sync::Arc;

use nodegate_model::gateway::UpstreamTls;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use webpki::EndEntityCert;

use super::material::{TlsError, root_store, system_authorities};

/// Accepts certificates that an authority has issued for the right name.
// Envoy: DefaultCertValidator. Unlike rustls' own verifier it may take any name.
#[derive(Debug)]
pub(crate) struct Verifier {
    /// None: any certificate will do.
    roots: Option<Arc<RootCertStore>>,
    /// The certificates of the roots, unless they are those of the system.
    authorities: Vec<CertificateDer<'static>>,
    /// Whether the certificate must have the name that the endpoint was asked for.
    asked: bool,
    /// Names of which the certificate must have one; empty: any name will do.
    names: Vec<String>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(crate) fn new(
        policy: &UpstreamTls,
        authorities: Option<Vec<CertificateDer<'static>>>,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let mut kept = Vec::new();
        let roots = match authorities {
            _ if policy.insecure_skip_verify => None,
            None => Some(system_authorities()?),
            Some(authorities) => {
                let store = root_store(&authorities)?;
                kept = authorities;
                Some(store)
            }
        };
        Ok(Self {
            roots,
            authorities: kept,
            asked: policy.verify_host,
            names: policy.subject_alt_names.clone(),
            algorithms: provider.signature_verification_algorithms,
        })
    }

    /// Whether the certificate is itself one of the authorities: a self-signed one, which its owner has
    /// named as the authority. Webpki refuses an authority as an endpoint's certificate, but only after it
    /// has checked everything else.
    fn is_authority(&self, error: &Error, certificate: &CertificateDer<'_>) -> bool {
        let Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error else {
            return false;
        };
        let cause = cause.downcast_ref::<webpki::Error>();
        matches!(cause, Some(webpki::Error::CaUsedAsEndEntity))
            && self.authorities.iter().any(|known| known == certificate)
    }
}

/// Whether a certificate has one of the names.
// Envoy: DefaultCertValidator::matchSubjectAltName. `*` stands for one label of a DNS name.
pub(super) fn has_name(certificate: &CertificateDer<'_>, names: &[String]) -> Result<bool, Error> {
    let parsed = EndEntityCert::try_from(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let uris: Vec<&str> = parsed.valid_uri_names().collect();
    Ok(names.iter().any(|name| {
        uris.contains(&name.as_str())
            || ServerName::try_from(name.as_str())
                .is_ok_and(|name| parsed.verify_is_valid_for_subject_name(&name).is_ok())
    }))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &self.roots else {
            return Ok(ServerCertVerified::assertion());
        };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let chain = verify_server_cert_signed_by_trust_anchor(
            &parsed,
            roots,
            intermediates,
            now,
            self.algorithms.all,
        );
        match chain {
            Err(error) if self.is_authority(&error, end_entity) => {}
            other => other?,
        }
        if self.asked {
            verify_server_name(&parsed, server_name)?;
        }
        if !self.names.is_empty() && !has_name(end_entity, &self.names)? {
            let message = format!(
                "the certificate has none of the names {}",
                self.names.join(", ")
            );
            return Err(Error::General(message));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
