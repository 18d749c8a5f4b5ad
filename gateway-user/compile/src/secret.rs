//! What Secrets hold for TLS (`ExtractCertInfo`, `GetCaCert` of istio's pilot/pkg/credentials/kube): under the
//! names of Secrets of type `kubernetes.io/tls`, or under Istio's own.

use k8s_openapi::api::core::v1::Secret;

/// A certificate with its chain, and its key.
pub(crate) fn identity(secret: &Secret) -> Option<(Vec<u8>, Vec<u8>)> {
    let pair = |certificate, key| Some((value(secret, certificate)?, value(secret, key)?));
    pair("cert", "key").or_else(|| pair("tls.crt", "tls.key"))
}

/// The certificates of authorities.
pub(crate) fn authorities(secret: &Secret) -> Option<Vec<u8>> {
    value(secret, "cacert").or_else(|| value(secret, "ca.crt"))
}

/// What stands under a key; none of nothing.
pub(crate) fn value(secret: &Secret, key: &str) -> Option<Vec<u8>> {
    // The API server lets `stringData` win over `data`.
    let text = secret.string_data.as_ref().and_then(|data| data.get(key));
    let bytes = match text {
        Some(text) => text.clone().into_bytes(),
        None => secret.data.as_ref()?.get(key)?.0.clone(),
    };
    (!bytes.is_empty()).then_some(bytes)
}
