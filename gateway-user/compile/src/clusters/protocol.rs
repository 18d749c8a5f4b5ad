//! Which protocol endpoints speak.

use k8s_openapi::api::core::v1::ServicePort;

/// Whether the endpoints of a Service's port speak HTTP/2.
pub(super) fn of_port(port: &ServicePort) -> bool {
    speaks_http2(port.app_protocol.as_deref(), port.name.as_deref())
}

/// Whether a port's `appProtocol`, or else its name, is up to the first hyphen of a protocol over HTTP/2
/// (`ConvertProtocol` of istio's pkg/config/kube; `Instance.IsHTTP2` of its pkg/config/protocol).
pub(super) fn speaks_http2(app_protocol: Option<&str>, name: Option<&str>) -> bool {
    // As a name it is none that a port could have.
    if app_protocol == Some("kubernetes.io/h2c") {
        return true;
    }
    let protocol = app_protocol.or(name).unwrap_or_default();
    let first = protocol.split('-').next().unwrap_or_default();
    ["http2", "grpc"]
        .iter()
        .any(|http2| first.eq_ignore_ascii_case(http2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_is_known_by_protocol_or_name() {
        for (app_protocol, name, wanted) in [
            (None, Some("http"), false),
            (None, Some("http2"), true),
            (None, Some("http2-web"), true),
            (None, Some("http2web"), false),
            (None, Some("grpc-web-x"), true),
            (Some("kubernetes.io/h2c"), Some("http"), true),
            (Some("http"), Some("grpc"), false),
            (Some("grpc-web"), None, true),
            (Some("HTTP2-x"), Some("http"), true),
            (None, None, false),
        ] {
            assert_eq!(
                speaks_http2(app_protocol, name),
                wanted,
                "{app_protocol:?} {name:?}"
            );
        }
    }
}
