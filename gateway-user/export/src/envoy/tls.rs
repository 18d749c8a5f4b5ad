//! TLS to endpoints.

use std::path::Path;

use nodegate_model::gateway::{TlsCredentials, TlsMode, TlsSecret, UpstreamTls};
use serde_json::{Value, json};

use super::kind;

/// Envoy's TransportSocket (`buildUpstreamClusterTLSContext` of istio's
/// `pilot/pkg/networking/core/cluster_tls.go`). Where certificates are in files, these are named; what
/// a Secret holds is written out, for Envoy can't ask for it. Its key is left out, and has to be put in
/// where the placeholder stands.
pub(super) fn socket(tls: &UpstreamTls, http2: bool) -> Value {
    let alpn: &[&str] = match (tls.mode, http2) {
        (TlsMode::IstioMutual, true) => &["istio-h2", "istio", "h2"],
        (TlsMode::IstioMutual, false) => &["istio-http/1.1", "istio", "http/1.1"],
        (_, true) => &["h2"],
        (_, false) => &[],
    };
    let sources = TlsSources::of(&tls.credentials);
    let names = tls.subject_alt_names.iter().flat_map(|name| {
        // Which of them it is, only the certificate says.
        ["DNS", "URI", "IP_ADDRESS"]
            .map(|kind| json!({"san_type": kind, "matcher": {"exact": name}}))
    });
    let names: Vec<_> = names.collect();
    let validation = (!tls.insecure_skip_verify).then(|| {
        json!({
            "trusted_ca": sources.authorities,
            "match_typed_subject_alt_names": (!names.is_empty()).then_some(names),
        })
    });
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": kind("transport_sockets.tls.v3.UpstreamTlsContext"),
            "sni": tls.sni,
            "common_tls_context": {
                "alpn_protocols": (!alpn.is_empty()).then_some(alpn),
                "tls_certificates": sources.identity.map(|identity| json!([identity])),
                "validation_context": validation,
            },
        },
    })
}

/// What is taken from the request's host, if anything is.
pub(super) fn from_the_host(tls: &UpstreamTls) -> Option<Value> {
    (tls.sni.is_none() || tls.verify_host).then(|| {
        json!({
            "auto_sni": tls.sni.is_none(),
            "auto_san_validation": tls.verify_host,
        })
    })
}

/// Envoy's DataSources.
struct TlsSources {
    /// A TlsCertificate.
    identity: Option<Value>,
    authorities: Value,
}

impl TlsSources {
    fn of(credentials: &TlsCredentials) -> Self {
        match credentials {
            TlsCredentials::Files {
                identity,
                authorities,
            } => Self {
                identity: identity.as_ref().map(|(chain, key)| {
                    json!({"certificate_chain": file(chain), "private_key": file(key)})
                }),
                authorities: file(match authorities {
                    Some(path) => path,
                    // Where Debian, Alpine and Istio's own images have them.
                    None => Path::new("/etc/ssl/certs/ca-certificates.crt"),
                }),
            },
            TlsCredentials::Secret { name, content } => {
                let TlsSecret {
                    identity,
                    authorities,
                } = content.clone().unwrap_or_default();
                Self {
                    identity: identity.map(|(chain, _)| {
                        let key = format!("(the key of Secret {name})");
                        json!({
                            "certificate_chain": text(&chain),
                            "private_key": {"inline_string": key},
                        })
                    }),
                    authorities: authorities.map_or(Value::Null, |text_of| text(&text_of)),
                }
            }
        }
    }
}

fn file(path: &Path) -> Value {
    json!({"filename": path})
}

fn text(bytes: &[u8]) -> Value {
    json!({"inline_string": String::from_utf8_lossy(bytes)})
}
