//! TLS of a Gateway's server (`validateTLSOptions` and `validateServer` of istio's pkg/config/validation).
//!
//! A server whose settings cannot be kept to is left out: in no case is it served in the clear, or with
//! something else than its author wants.

use super::Findings;
use crate::istio::{
    Server, ServerTls,
    words::{ServerProtocol, ServerTlsMode, TlsVersion},
};

/// Why a server is left out.
pub(super) struct NotServed {
    pub(super) field: &'static str,
    pub(super) message: String,
    pub(super) fix: &'static str,
}

/// Ciphers of TLS 1.2 that can be spoken, as OpenSSL names them.
const CIPHER_SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// Groups of the key exchange that can be spoken.
const CURVES: [&str; 3] = ["X25519", "P-256", "P-384"];

const CIPHER_CHOICE: Choice = Choice {
    field: "tls.cipherSuites",
    what: "cipher",
    known: &CIPHER_SUITES,
    fix: "names of OpenSSL, such as ECDHE-ECDSA-AES128-GCM-SHA256",
};

const CURVE_CHOICE: Choice = Choice {
    field: "tls.ecdhCurves",
    what: "curve",
    known: &CURVES,
    fix: "X25519, P-256 or P-384",
};

/// Whether the server can be served with what is said of TLS.
pub(super) fn check(
    server: &Server,
    path: &str,
    findings: &mut Findings<'_>,
) -> Result<(), NotServed> {
    let Ok(protocol) = server.port.protocol() else {
        return Ok(());
    };
    let in_the_clear = matches!(protocol, ServerProtocol::Http | ServerProtocol::Tcp);
    let Some(tls) = &server.tls else {
        if in_the_clear {
            return Ok(());
        }
        let protocol = server.port.protocol.to_ascii_uppercase();
        return not_served(
            "tls",
            format!("missing, and {protocol} needs it"),
            "say in `tls.mode` and `tls.credentialName` how TLS is spoken",
        );
    };
    if in_the_clear {
        return clear(tls, protocol, path, findings);
    }
    if tls.https_redirect {
        let message = "has no effect on a port of TLS, in Istio neither; ignored";
        findings.warning(format!("{path}.httpsRedirect"), message, "remove it");
    }
    match tls.mode() {
        Err(error) => not_served(
            "tls.mode",
            error.to_string(),
            "one of SIMPLE, MUTUAL, OPTIONAL_MUTUAL, ISTIO_MUTUAL, PASSTHROUGH",
        ),
        Ok(ServerTlsMode::AutoPassthrough) => not_served(
            "tls.mode",
            "AUTO_PASSTHROUGH, the way between the networks of a mesh, is not supported by this version"
                .into(),
            "PASSTHROUGH, with `tls` routes of a VirtualService",
        ),
        Ok(ServerTlsMode::Passthrough) => {
            passthrough(tls, path, findings);
            Ok(())
        }
        Ok(mode) => terminated(tls, mode, path, findings),
    }
}

/// Where no TLS is spoken there is nothing to set but a redirection.
fn clear(
    tls: &ServerTls,
    protocol: ServerProtocol,
    path: &str,
    findings: &mut Findings<'_>,
) -> Result<(), NotServed> {
    let redirect = ServerTls {
        https_redirect: tls.https_redirect,
        ..ServerTls::default()
    };
    if *tls == redirect && protocol == ServerProtocol::Http {
        return Ok(());
    }
    if tls.mode().is_ok_and(ServerTlsMode::ends_here) {
        return not_served(
            "tls",
            "TLS is asked for on a port in the clear".into(),
            "protocol HTTPS, or TLS for what is no HTTP",
        );
    }
    findings.ignored(path, true);
    Ok(())
}

fn passthrough(tls: &ServerTls, path: &str, findings: &mut Findings<'_>) {
    for (field, given) in [
        ("serverCertificate", &tls.server_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
        ("credentialName", &tls.credential_name),
    ] {
        if !given.is_empty() {
            let message = "not used: TLS is passed on as it is (PASSTHROUGH)";
            let fix = "mode SIMPLE, or remove it";
            findings.warning(format!("{path}.{field}"), message, fix);
        }
    }
}

fn terminated(
    tls: &ServerTls,
    mode: ServerTlsMode,
    path: &str,
    findings: &mut Findings<'_>,
) -> Result<(), NotServed> {
    certificates(tls, mode)?;
    versions(tls, path, findings)?;
    CIPHER_CHOICE.check(&tls.cipher_suites, path, findings)?;
    CURVE_CHOICE.check(&tls.ecdh_curves, path, findings)?;
    if tls.insecure_skip_verify.unwrap_or_default() {
        let message = "not supported by this version: certificates of clients are verified";
        findings.warning(format!("{path}.insecureSkipVerify"), message, "remove it");
    }
    if mode == ServerTlsMode::Simple {
        for (field, given) in [
            ("subjectAltNames", &tls.subject_alt_names),
            ("verifyCertificateSpki", &tls.verify_certificate_spki),
            ("verifyCertificateHash", &tls.verify_certificate_hash),
        ] {
            if !given.is_empty() {
                let message = "without effect: SIMPLE asks clients for no certificate";
                findings.warning(
                    format!("{path}.{field}"),
                    message,
                    "mode MUTUAL, or remove it",
                );
            }
        }
    }
    for hash in &tls.verify_certificate_hash {
        let digits: Vec<_> = hash.chars().filter(|digit| *digit != ':').collect();
        if digits.len() != 64 || !digits.iter().all(char::is_ascii_hexdigit) {
            return not_served(
                "tls.verifyCertificateHash",
                format!("`{hash}` is no SHA-256"),
                "64 hexadecimal digits: `openssl x509 -noout -fingerprint -sha256`",
            );
        }
    }
    Ok(())
}

/// Whether it is said where certificates come from.
fn certificates(tls: &ServerTls, mode: ServerTlsMode) -> Result<(), NotServed> {
    let in_secrets = tls.credentials().next().is_some();
    let pairs = tls.certificate_files();
    if mode == ServerTlsMode::IstioMutual {
        if in_secrets || !pairs.is_empty() || !tls.ca_certificates.is_empty() {
            return not_served(
                "tls.mode",
                "ISTIO_MUTUAL has the mesh's own certificates, and takes no others".into(),
                "MUTUAL, or remove them",
            );
        }
        return Ok(());
    }
    if tls.credential_names.len() > 2 || tls.tls_certificates.len() > 2 {
        return not_served(
            "tls.credentialNames",
            "more than two certificates".into(),
            "one with RSA and one with ECDSA",
        );
    }
    if in_secrets {
        return Ok(());
    }
    let complete = |(certificate, key): &(&str, &str)| !certificate.is_empty() && !key.is_empty();
    if pairs.is_empty() || !pairs.iter().all(complete) {
        return not_served(
            "tls.credentialName",
            "there is no certificate".into(),
            "name a Secret with tls.crt and tls.key, or give serverCertificate and privateKey",
        );
    }
    let wants_authorities = matches!(mode, ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
    let has_authorities =
        !tls.ca_certificates.is_empty() || !tls.ca_cert_credential_name.is_empty();
    if wants_authorities && !has_authorities {
        return not_served(
            "tls.caCertificates",
            "missing: who may sign clients' certificates?".into(),
            "the file of their authorities",
        );
    }
    Ok(())
}

fn versions(tls: &ServerTls, path: &str, findings: &mut Findings<'_>) -> Result<(), NotServed> {
    let broken = |version| matches!(version, TlsVersion::V10 | TlsVersion::V11);
    let [oldest, newest] = match tls.versions() {
        Ok(versions) => versions,
        Err(error) => {
            let fix = "TLSV1_2 or TLSV1_3";
            return not_served("tls.minProtocolVersion", error.to_string(), fix);
        }
    };
    if broken(newest) {
        return not_served(
            "tls.maxProtocolVersion",
            "TLS 1.0 and 1.1 are not spoken: they are broken (RFC 8996)".into(),
            "TLSV1_2 or TLSV1_3",
        );
    }
    if (oldest, newest) == (TlsVersion::V13, TlsVersion::V12) {
        return not_served(
            "tls.minProtocolVersion",
            "newer than maxProtocolVersion".into(),
            "TLSV1_2, or leave maxProtocolVersion out",
        );
    }
    if broken(oldest) {
        findings.warning(
            format!("{path}.minProtocolVersion"),
            "TLS 1.0 and 1.1 are not spoken: they are broken (RFC 8996); it is TLS 1.2",
            "TLSV1_2",
        );
    }
    Ok(())
}

/// Names of which some can be spoken.
struct Choice {
    field: &'static str,
    what: &'static str,
    known: &'static [&'static str],
    fix: &'static str,
}

impl Choice {
    fn check(
        &self,
        given: &[String],
        path: &str,
        findings: &mut Findings<'_>,
    ) -> Result<(), NotServed> {
        let is_known = |name: &String| self.known.contains(&name.as_str());
        if !given.is_empty() && !given.iter().any(is_known) {
            let message = format!("no {} of these is spoken", self.what);
            return not_served(self.field, message, self.fix);
        }
        let field = self.field.trim_start_matches("tls.");
        for (index, name) in given.iter().enumerate() {
            if !is_known(name) {
                let message = format!("`{name}` is not spoken; this {} is left out", self.what);
                findings.warning(format!("{path}.{field}[{index}]"), message, self.fix);
            }
        }
        Ok(())
    }
}

fn not_served(field: &'static str, message: String, fix: &'static str) -> Result<(), NotServed> {
    Err(NotServed {
        field,
        message,
        fix,
    })
}
