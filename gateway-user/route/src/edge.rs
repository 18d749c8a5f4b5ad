//! What a gateway at the edge takes from a client's headers before it looks for a route, and what it says
//! itself: clients must not steer routing by headers that are not theirs to set.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE},
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// The certificate that a client has shown, as the proxy before this one says (Envoy:
/// `forward_client_cert_details`). Over plain text there is none, whatever a client says.
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The addresses that a request came through.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `http` or `https`.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The request's id.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The client's address.
pub const X_ENVOY_EXTERNAL_ADDRESS: HeaderName =
    HeaderName::from_static("x-envoy-external-address");

/// Whether a gateway sets this header of each request itself, before it looks for a route.
pub fn is_own(name: &HeaderName) -> bool {
    [
        X_FORWARDED_FOR,
        X_FORWARDED_PROTO,
        X_REQUEST_ID,
        X_ENVOY_EXTERNAL_ADDRESS,
        X_FORWARDED_CLIENT_CERT,
    ]
    .contains(name)
}

/// Whether a header belongs to one connection only, even if `Connection` doesn't name it.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade"
    )
}

/// Removes what belongs to one connection only (RFC 9110, section 7.6.1). Where the body ends is said
/// anew by whatever writes the head to the other side.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // One look at all names is cheaper than looking for each of these.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // These say for which host the message is and where it ends: dropping them would change
            // its meaning.
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
}

/// What a route is called in traces, as one proxy tells another.
pub const X_ENVOY_DECORATOR_OPERATION: HeaderName =
    HeaderName::from_static("x-envoy-decorator-operation");

/// Removes from an answer what belongs to the endpoint's connection, and what is for this proxy alone.
// Envoy: ConnectionManagerImpl::ActiveStream::encodeHeaders, which takes the operation's name from answers to an
// egress, as which Istio sets gateways up.
pub fn leave_endpoint(headers: &mut HeaderMap) {
    // One look at all names is cheaper than looking for each of these.
    let goes = |name: &HeaderName| is_hop_by_hop(name) || *name == X_ENVOY_DECORATOR_OPERATION;
    if headers.keys().any(goes) {
        headers.remove(X_ENVOY_DECORATOR_OPERATION);
        strip_hop_by_hop(headers);
    }
}

/// Removes from an answer what its route must not say for this connection, or is for this proxy alone.
// Envoy: ConnectionManagerUtility::mutateResponseHeaders, after all filters.
pub fn leave_route(headers: &mut HeaderMap, upgrades: bool) {
    headers.remove(X_ENVOY_DECORATOR_OPERATION);
    headers.remove(PROXY_CONNECTION);
    if !upgrades {
        headers.remove(UPGRADE);
    }
}

/// Removes what the router reads of a request after the route has changed it, and keeps to itself.
// Envoy: RetryStateImpl::create, Router::Filter::decodeHeaders.
pub fn leave_router(headers: &mut HeaderMap) {
    for name in [
        "x-envoy-retry-on",
        "x-envoy-retry-grpc-on",
        "x-envoy-max-retries",
        "x-envoy-hedge-on-per-try-timeout",
        "x-envoy-retriable-header-names",
        "x-envoy-retriable-status-codes",
        "x-envoy-upstream-rq-per-try-timeout-ms",
        "x-envoy-upstream-rq-timeout-alt-response",
    ] {
        headers.remove(name);
    }
}

/// Removes from a request what belongs to the client's connection. What stays of it: that the body comes
/// in chunks, that trailers are welcome, and what the connection is to become.
// Envoy: ConnectionManagerUtility::mutateRequestHeaders, sanitizeTEHeader.
pub fn leave_connection(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    // GET and others are sent without a body unless the head says that there is one.
    let chunked = headers.contains_key(TRANSFER_ENCODING);
    let codings = headers.get_all(TE).iter();
    let trailers = codings
        .filter_map(|codings| codings.to_str().ok())
        .flat_map(|codings| codings.split(','))
        .any(|coding| coding.trim() == "trailers");
    strip_hop_by_hop(headers);
    if chunked {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
}

/// Whether proxies of a mesh steer each other by this header: a client is outside of the mesh and must not
/// steer this proxy or the next one.
pub fn is_control(name: &HeaderName) -> bool {
    *name == X_FORWARDED_CLIENT_CERT || name.as_str().starts_with("x-envoy-")
}

/// Removes headers by which proxies of a mesh steer each other; of `x-envoy-…` those alone that Envoy
/// removes, if that is asked for.
pub fn strip_control(headers: &mut HeaderMap, only_envoys: bool) {
    let goes = |name: &&HeaderName| {
        let kind = name.as_str().strip_prefix("x-envoy-");
        is_control(name) && kind.is_none_or(|kind| !only_envoys || is_taken_by_envoy(kind))
    };
    let names: Vec<HeaderName> = headers.keys().filter(goes).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether Envoy takes a header `x-envoy-…` from clients at the edge.
// Envoy: ConnectionManagerUtility::cleanInternalHeaders and mutateRequestHeaders.
fn is_taken_by_envoy(name: &str) -> bool {
    matches!(
        name,
        "attempt-count"
            | "decorator-operation"
            | "downstream-service-cluster"
            | "downstream-service-node"
            | "expected-rq-timeout-ms"
            | "external-address"
            | "force-trace"
            | "hedge-on-per-try-timeout"
            | "internal"
            | "ip-tags"
            | "max-retries"
            | "original-host"
            | "original-path"
            | "original-url"
            | "retriable-header-names"
            | "retriable-status-codes"
            | "retry-grpc-on"
            | "retry-on"
            | "upstream-alt-stat-name"
            | "upstream-rq-per-try-timeout-ms"
            | "upstream-rq-timeout-alt-response"
            | "upstream-rq-timeout-ms"
            | "upstream-stream-duration-ms"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_headers_go() {
        let mut headers = HeaderMap::new();
        for name in [
            "x-envoy-retry-on",
            "x-envoy-original-path",
            "x-forwarded-client-cert",
            "x-mine",
        ] {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        let mut like_envoy = headers.clone();
        strip_control(&mut headers, false);
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("x-mine"));
        like_envoy.insert("x-envoy-peer-metadata", HeaderValue::from_static("1"));
        strip_control(&mut like_envoy, true);
        assert_eq!(like_envoy.len(), 2);
        assert!(like_envoy.contains_key("x-envoy-peer-metadata"));
    }

    #[test]
    fn what_connection_names_goes_but_not_the_framing() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "a.example"),
            ("content-length", "3"),
            ("connection", "close, X-Secret"),
            ("connection", "host, content-length,, bad name"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("x-other", "1"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host", "x-other"]);
    }

    #[test]
    fn the_body_s_form_and_the_upgrade_outlive_the_connection() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, upgrade, x-secret"),
            ("upgrade", "h2c, websocket"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("x-secret", "1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let mut plain = headers.clone();
        leave_connection(&mut headers, Some(&HeaderValue::from_static("websocket")));
        assert_eq!(headers[CONNECTION], "upgrade");
        assert_eq!(headers[UPGRADE], "websocket");
        leave_connection(&mut plain, None);
        let mut left: Vec<_> = plain
            .iter()
            .map(|(name, value)| (name.as_str(), value))
            .collect();
        left.sort_unstable();
        assert_eq!(
            left,
            [
                ("te", &HeaderValue::from_static("trailers")),
                ("transfer-encoding", &HeaderValue::from_static("chunked"))
            ]
        );
    }

    #[test]
    fn what_is_for_this_proxy_alone_goes_no_further() {
        let map = |names: &[&'static str]| {
            let one = |name: &&'static str| {
                (HeaderName::from_static(name), HeaderValue::from_static("1"))
            };
            names.iter().map(one).collect::<HeaderMap>()
        };
        let left = |headers: HeaderMap| {
            let mut names: Vec<_> = headers
                .keys()
                .map(|name| name.as_str().to_owned())
                .collect();
            names.sort_unstable();
            names
        };
        let mut answer = map(&["x-envoy-decorator-operation", "keep-alive", "x-a"]);
        leave_endpoint(&mut answer);
        assert_eq!(left(answer), ["x-a"]);
        let all = [
            "upgrade",
            "proxy-connection",
            "x-envoy-decorator-operation",
            "x-a",
        ];
        for (upgrades, wanted) in [(false, &["x-a"][..]), (true, &["upgrade", "x-a"])] {
            let mut answer = map(&all);
            leave_route(&mut answer, upgrades);
            assert_eq!(left(answer), wanted);
        }
        let mut request = map(&[
            "x-envoy-retry-on",
            "x-envoy-max-retries",
            "x-envoy-internal",
        ]);
        leave_router(&mut request);
        assert_eq!(left(request), ["x-envoy-internal"]);
    }
}
