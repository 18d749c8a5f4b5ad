//! What endpoints are told of a client's certificate: `x-forwarded-client-cert`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use webpki::EndEntityCert;
use x509_parser::{
    der_parser::asn1_rs::{Any, Oid},
    prelude::{FromDer as _, X509Certificate, X509Name},
};

/// SHA-256 (FIPS 180-4) in hexadecimal digits, lower case.
pub(super) fn fingerprint(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// SHA-256 in Base64 with padding (RFC 4648, section 4).
pub(super) fn pin(bytes: &[u8]) -> String {
    STANDARD.encode(Sha256::digest(bytes))
}

/// The header's value for a client with this certificate, at a server whose certificate has these URIs.
// Envoy: ConnectionManagerUtility::mutateXfccRequestHeader with SANITIZE_SET and the details that Istio sets:
// certificate, subject, URIs, DNS names (`buildGatewayConnectionManager` of istio's gateway.go).
pub(super) fn forwarded(certificate: &CertificateDer<'_>, own: &[String]) -> Option<HeaderValue> {
    let mut parts: Vec<_> = own.iter().map(|uri| format!("By={uri}")).collect();
    parts.push(format!("Hash={}", fingerprint(certificate)));
    parts.push(format!("Cert=\"{}\"", url_encoded(certificate)));
    parts.push(format!("Subject=\"{}\"", subject(certificate)));
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    let uris: Vec<_> = parsed.valid_uri_names().collect();
    if uris.is_empty() {
        parts.push("URI=".to_owned());
    }
    parts.extend(uris.iter().map(|uri| format!("URI={uri}")));
    parts.extend(parsed.valid_dns_names().map(|name| format!("DNS={name}")));
    HeaderValue::from_str(&parts.join(";")).ok()
}

/// The certificate in PEM, as part of a URL.
// Envoy: ConnectionInfoImplBase::urlEncodedPemEncodedPeerCertificate.
fn url_encoded(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem.replace('\n', "%0A")
        .replace(' ', "%20")
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D")
}

/// The subject, the last part first (RFC 2253); empty if it can't be read.
// Envoy: Utility::getSubjectFromCertificate, which lets OpenSSL print it (XN_FLAG_RFC2253).
fn subject(certificate: &[u8]) -> String {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return String::new();
    };
    name(parsed.subject())
}

fn name(name: &X509Name<'_>) -> String {
    let sets = name.iter_rdn().map(|set| {
        let parts = set
            .iter()
            .map(|part| format!("{}={}", key(part.attr_type()), escaped(part.attr_value())));
        parts.collect::<Vec<_>>().join("+")
    });
    let mut sets: Vec<_> = sets.collect();
    sets.reverse();
    sets.join(",")
}

/// OpenSSL's short name of a part, or its number.
fn key(oid: &Oid<'_>) -> String {
    let number = oid.to_id_string();
    let short = match &*number {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.42" => "GN",
        "1.2.840.113549.1.9.1" => "emailAddress",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        _ => return number,
    };
    short.to_owned()
}

/// A value with everything escaped that means something, in this form or in the header (RFC 2253, section 2.4).
fn escaped(value: &Any<'_>) -> String {
    let bytes = value.data;
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        let at_end = index == 0 || index + 1 == bytes.len();
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b'#' if index == 0 => text.push_str("\\#"),
            b' ' if at_end => text.push_str("\\ "),
            0x20..=0x7e => text.push(char::from(*byte)),
            _ => {
                text.push('\\');
                text.push_str(&format_byte(*byte));
            }
        }
    }
    text
}

/// Two digits, upper case.
fn format_byte(byte: u8) -> String {
    format!("{byte:02X}")
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn the_header_says_what_envoy_says() {
        let found = certificate(|params| {
            let name = &mut params.distinguished_name;
            name.push(DnType::OrganizationName, "Shop, Inc");
            name.push(DnType::CommonName, "client \"one\"");
            let uri = "spiffe://shop/client".try_into().unwrap();
            params.subject_alt_names.push(SanType::URI(uri));
        });
        let header = forwarded(&found, &["spiffe://shop/gateway".to_owned()]).unwrap();
        let header = header.to_str().unwrap();
        let parts: Vec<_> = header.split(';').collect();
        assert_eq!(parts[0], "By=spiffe://shop/gateway");
        assert_eq!(parts[1], format!("Hash={}", fingerprint(&found)));
        assert!(parts[2].starts_with("Cert=\"-----BEGIN%20CERTIFICATE-----%0AMII"));
        assert!(parts[2].ends_with("-----END%20CERTIFICATE-----%0A\""));
        assert_eq!(
            parts[3..],
            [
                "Subject=\"CN=client \\\"one\\\",O=Shop\\, Inc\"",
                "URI=spiffe://shop/client",
                "DNS=a.example",
            ]
        );
    }

    #[test]
    fn what_a_subject_says_does_not_end_the_header() {
        let found = certificate(|params| {
            let evil = "x\";URI=spiffe://shop/admin\r\nhost: evil";
            params.distinguished_name.push(DnType::CommonName, evil);
        });
        let header = forwarded(&found, &[]).unwrap();
        let header = header.to_str().unwrap();
        let subject = "Subject=\"CN=x\\\"\\;URI=spiffe://shop/admin\\0D\\0Ahost: evil\"";
        assert!(
            header.ends_with(&format!("{subject};URI=;DNS=a.example")),
            "{header}"
        );
    }
}
