//! The chains of a port of TLS.

use nodegate_model::gateway::{
    ChainProtocol, ClientCertificates, ClientIdentities, DownstreamTls, Gateway, TlsChain,
    TlsSource, TlsVersion,
};
use serde_json::{Value, json};

use super::{ExportOptions, http, kind, tcp};

/// The filter that reads the name that a client asks for.
pub(super) fn inspector() -> Value {
    json!([{
        "name": "envoy.filters.listener.tls_inspector",
        "typed_config": {"@type": kind("filters.listener.tls_inspector.v3.TlsInspector")},
    }])
}

/// Envoy's FilterChain (`buildGatewayTCPBasedFilterChains` of istio's pilot/pkg/networking/core/gateway.go).
pub(super) fn chain(
    gateway: &Gateway,
    chain: &TlsChain,
    port: u16,
    options: ExportOptions,
) -> Value {
    let filter = match &chain.protocol {
        ChainProtocol::Https { routes, .. } => {
            https(http(gateway, routes, options.extended_connect))
        }
        ChainProtocol::Tls { route, .. } | ChainProtocol::Passthrough(route) => {
            tcp(gateway, route, port)
        }
    };
    let names = &chain.server_names;
    json!({
        "name": chain.name,
        "filter_chain_match": {
            "server_names": (!names.is_empty()).then_some(names),
            "transport_protocol": "tls",
        },
        "filters": [filter],
        "transport_socket": chain.protocol.tls().map(socket),
        "transport_socket_connect_timeout": "15s",
    })
}

/// What is told of clients' certificates: see `buildGatewayConnectionManager` of istio's gateway.go.
fn https(mut filter: Value) -> Value {
    let config = &mut filter["typed_config"];
    config["forward_client_cert_details"] = json!("SANITIZE_SET");
    config["set_current_client_cert_details"] =
        json!({"subject": true, "cert": true, "uri": true, "dns": true});
    filter
}

/// Envoy's DownstreamTlsContext (`BuildListenerTLSContext` of istio's pilot/pkg/networking/core/listener.go).
fn socket(tls: &DownstreamTls) -> Value {
    let certificates: Vec<_> = tls
        .certificates
        .iter()
        .map(|one| json!({"certificate_chain": source(&one.chain), "private_key": key(&one.key)}))
        .collect();
    let required = matches!(tls.clients, ClientCertificates::Required(_));
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": kind("transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": required,
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": certificates,
                "validation_context": tls.clients.identities().map(validation),
                "tls_params": {
                    "tls_minimum_protocol_version": version(tls.oldest),
                    "tls_maximum_protocol_version": version(tls.newest),
                    "cipher_suites": (!tls.cipher_suites.is_empty()).then_some(&tls.cipher_suites),
                    "ecdh_curves": (!tls.curves.is_empty()).then_some(&tls.curves),
                },
            },
        },
    })
}

fn validation(identities: &ClientIdentities) -> Value {
    let names = identities.subject_alt_names.iter().flat_map(|name| {
        // Which of them it is, only the certificate says.
        ["DNS", "URI", "IP_ADDRESS"]
            .map(|kind| json!({"san_type": kind, "matcher": {"exact": name}}))
    });
    let names: Vec<_> = names.collect();
    let some = |all: &Vec<String>| (!all.is_empty()).then(|| all.clone());
    json!({
        "trusted_ca": source(&identities.authorities),
        "crl": identities.revocations.as_ref().map(source),
        "match_typed_subject_alt_names": (!names.is_empty()).then_some(names),
        "verify_certificate_spki": some(&identities.spki),
        "verify_certificate_hash": some(&identities.hashes),
    })
}

const fn version(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::V12 => "TLSv1_2",
        TlsVersion::V13 => "TLSv1_3",
    }
}

/// Envoy's DataSource. What a Secret holds is written out, for Envoy can't ask for it.
fn source(source: &TlsSource) -> Value {
    match source {
        TlsSource::File(path) => json!({"filename": path}),
        TlsSource::Secret { content, .. } => {
            json!({"inline_string": String::from_utf8_lossy(content)})
        }
        TlsSource::Missing { .. } => Value::Null,
    }
}

/// A key of a Secret is left out, and has to be put in where the placeholder stands.
fn key(of: &TlsSource) -> Value {
    match of {
        TlsSource::Secret { name, .. } => {
            json!({"inline_string": format!("(the key of Secret {name})")})
        }
        TlsSource::File(_) | TlsSource::Missing { .. } => source(of),
    }
}
