//! The request's phases before it is sent: is it proper, where does it go, what does the endpoint
//! see of it.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{CONNECTION, COOKIE, HOST, REFERER, TE, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
    uri::{PathAndQuery, Scheme},
};

use super::{
    Client,
    exchange::Exchange,
    facts::{self, RequestFacts},
    headers::{X_ENVOY_ORIGINAL_HOST, X_ENVOY_ORIGINAL_PATH, X_FORWARDED_FOR, strip_hop_by_hop},
    own::{OwnHeaders, Survey},
    reply::LocalReply,
};
use crate::model::gateway::Forward;
use crate::proxy::{
    config::{HttpListener, Routed},
    parity::{Difference, Parity},
};
use crate::route::{
    Miss, Query, path,
    redirect::{self, Requested},
    timeout,
};

/// Most headers of a request: Envoy's `max_headers_count`.
const MAX_HEADERS: usize = 100;
/// So many headers are too many for `Connection` to name.
const MAX_NAMED: usize = 10;

/// What the request says it is for: the authority of an absolute target, else the `Host` header
/// (RFC 9112, section 3.2.2).
pub(crate) fn authority(parts: &Parts) -> Option<&str> {
    match parts.uri.authority() {
        // In HTTP/1.1 the target of CONNECT is what is to be connected to.
        Some(authority) if parts.method != Method::CONNECT || parts.version == Version::HTTP_2 => {
            let authority = authority.as_str();
            // User information is no part of the host.
            Some(
                authority
                    .rsplit_once('@')
                    .map_or(authority, |(_, host)| host),
            )
        }
        _ => parts.headers.get(HOST)?.to_str().ok(),
    }
}

/// Reads a request as Envoy reads it, in so far as that is wanted.
pub(crate) fn adapt(parts: &mut Parts, parity: Parity) {
    let headers = &mut parts.headers;
    if parity.has(Difference::TwoHosts) && headers.get_all(HOST).iter().count() > 1 {
        // Lines of one name are one list, whatever they say.
        let lines: Vec<&[u8]> = headers
            .get_all(HOST)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        if let Ok(list) = HeaderValue::from_bytes(&lines.join(&b","[..])) {
            headers.insert(HOST, list);
        }
    }
    if parity.has(Difference::Referer)
        && let Some(referer) = headers.get(REFERER)
        && !is_url(referer)
    {
        headers.remove(REFERER);
    }
}

/// Whether it says scheme and host (Envoy: `Utility::Url::initialize`).
fn is_url(value: &HeaderValue) -> bool {
    let uri = Uri::try_from(value.as_bytes());
    uri.is_ok_and(|uri| uri.scheme().is_some() && uri.authority().is_some())
}

/// Refuses what isn't HTTP/1.1 or HTTP/2 for one host.
pub(crate) fn validate(parts: &Parts, survey: Survey) -> Result<(), LocalReply> {
    if parts.version < Version::HTTP_11 {
        return Err(LocalReply::old_version());
    }
    if parts.headers.len() > MAX_HEADERS {
        return Err(LocalReply::too_many_headers());
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(LocalReply::bad_host("duplicate_host_header"));
    }
    if first.is_some_and(|host| host.to_str().is_err()) {
        return Err(LocalReply::bad_host("invalid_host_header"));
    }
    if first.is_none() && authority(parts).is_none() {
        return Err(LocalReply::bad_host("missing_host_header"));
    }
    if parts.version == Version::HTTP_11 {
        validate_http1(parts, first, survey)?;
    }
    if parts.method == Method::CONNECT {
        // No route is one for CONNECT (Envoy: `connect_matcher`, which Istio doesn't set).
        return Err(LocalReply::no_route());
    }
    Ok(())
}

/// What Envoy's HTTP/1.1 parser refuses and hyper's doesn't (Envoy: `BalsaParser`).
fn validate_http1(
    parts: &Parts,
    host: Option<&HeaderValue>,
    survey: Survey,
) -> Result<(), LocalReply> {
    // Whoever frames the body anew must be able to undo every coding (RFC 9112, section 6.1).
    if survey.hop_by_hop
        && let Some(coding) = parts.headers.get(TRANSFER_ENCODING)
        && !coding.as_bytes().eq_ignore_ascii_case(b"chunked")
    {
        return Err(LocalReply::unknown_coding());
    }
    if survey.hop_by_hop && !names_are_harmless(&parts.headers) {
        return Err(LocalReply::malformed("http1.connection_header_rejected"));
    }
    match parts.uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => return Err(LocalReply::wrong_scheme()),
        Some(scheme) if *scheme != Scheme::HTTP => {
            return Err(LocalReply::malformed("http1.invalid_scheme"));
        }
        _ => {}
    }
    let host = host.map_or(&[][..], HeaderValue::as_bytes);
    if !is_known_method(&parts.method) {
        return Err(LocalReply::malformed("http1.codec_error"));
    }
    if !host.iter().all(|&byte| is_of_authority(byte)) {
        return Err(LocalReply::malformed("http.invalid_authority"));
    }
    let target = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    match target.as_bytes() {
        [b'/' | b'?', ..] if target.is_ascii() => Ok(()),
        b"*" if parts.method == Method::OPTIONS => Err(LocalReply::no_path()),
        b"*" => Err(LocalReply::malformed("http1.invalid_url")),
        _ if parts.method == Method::CONNECT => Ok(()),
        _ => Err(LocalReply::malformed("http1.codec_error")),
    }
}

/// Whether `Connection` names no header that says where the request comes from, and not too many.
// Envoy: Http::Utility::sanitizeConnectionHeader.
fn names_are_harmless(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CONNECTION).iter();
    let mut names = lines
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty());
    let says_where = |name: &[u8]| {
        const FORWARDED: [&str; 3] = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
        name.starts_with(b":")
            || FORWARDED
                .iter()
                .any(|forwarded| name.eq_ignore_ascii_case(forwarded.as_bytes()))
    };
    let mut count = 0;
    names.all(|name| {
        count += 1;
        count < MAX_NAMED && !says_where(name)
    })
}

/// Envoy: `BalsaParser`'s `isMethodValid`, without `allow_custom_methods`.
fn is_known_method(method: &Method) -> bool {
    #[rustfmt::skip]
    const KNOWN: [&str; 34] = [
        "ACL", "BIND", "CHECKOUT", "CONNECT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK",
        "M-SEARCH", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "NOTIFY", "OPTIONS",
        "PATCH", "POST", "PROPFIND", "PROPPATCH", "PURGE", "PUT", "REBIND", "REPORT", "SEARCH",
        "SOURCE", "SUBSCRIBE", "TRACE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE",
    ];
    *method == Method::GET || KNOWN.contains(&method.as_str())
}

/// Whether a byte may stand in an authority (RFC 3986, section 3.2).
fn is_of_authority(byte: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let marks = b"-._~%!$&'()*+,;=:@[]";
        let mut at = 0;
        while at < marks.len() {
            table[marks[at] as usize] = true;
            at += 1;
        }
        let mut byte = 0_u8;
        while byte < 128 {
            table[byte as usize] |= byte.is_ascii_alphanumeric();
            byte += 1;
        }
        table
    };
    TABLE[usize::from(byte)]
}

/// What the connection is asked to become, if anything.
// Envoy: Utility::isUpgrade, and `upgrade_configs`, which Istio sets to websocket. An upgrade to
// HTTP/2 is an offer that may be ignored (RFC 9113, section 3.1, has given it up).
pub(crate) fn upgrade(parts: &Parts) -> Result<Option<HeaderValue>, LocalReply> {
    // In HTTP/2 there is no such header: it stands for an extended CONNECT.
    let (Some(upgrade), Version::HTTP_11 | Version::HTTP_2) =
        (parts.headers.get(UPGRADE), parts.version)
    else {
        return Ok(None);
    };
    let asked = parts
        .headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    if !asked || upgrade.as_bytes().eq_ignore_ascii_case(b"h2c") {
        return Ok(None);
    }
    if upgrade.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return Ok(Some(upgrade.clone()));
    }
    Err(LocalReply::no_upgrade())
}

/// Brings path and cookies into the form in which they are matched, logged and passed on.
pub(crate) fn normalize(parts: &mut Parts) -> Result<(), LocalReply> {
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    if let Some(normal) = path::normalize(&parts.uri).map_err(|_| LocalReply::bad_path())? {
        parts.uri = normal;
    }
    Ok(())
}

/// HTTP/2 may send cookies one by one, what reads them may not know that (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let Some(first) = crumbs.next() else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for crumb in crumbs {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if joined.len() > first.len()
        && let Ok(joined) = HeaderValue::from_bytes(&joined)
    {
        headers.insert(COOKIE, joined);
    }
}

/// Finds the route.
pub(crate) fn find(
    http: &std::sync::Arc<HttpListener>,
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<Routed, LocalReply> {
    let query = Query {
        host: authority(parts).unwrap_or_default(),
        path: parts.uri.path(),
        query: parts.uri.query(),
        method: &parts.method,
        scheme: "http",
        headers: &parts.headers,
    };
    match http.table.find(&query) {
        Ok(found) => {
            let routed = http.routed(found);
            exchange.note_decision(|decision| {
                let route = routed.route();
                decision.virtual_host = Some(routed.virtual_host().name.clone());
                decision.route = Some(route.name.clone()).filter(|name| !name.is_empty());
                decision.origin = Some(route.origin.clone());
            });
            Ok(routed)
        }
        Err(miss) => {
            exchange.note_decision(|decision| {
                decision.virtual_host = miss
                    .virtual_host()
                    .map(|index| http.table.virtual_host(index).name.clone());
            });
            Err(match miss {
                Miss::TlsRequired { .. } => {
                    LocalReply::redirect(301, &redirect::https_location(requested(parts)))
                }
                Miss::NoVirtualHost | Miss::NoRoute { .. } => LocalReply::no_route(),
            })
        }
    }
}

/// What redirections need to know of it.
pub(crate) fn requested(parts: &Parts) -> Requested<'_> {
    Requested {
        scheme: "http",
        authority: authority(parts).unwrap_or_default(),
        target: parts.uri.path_and_query().map_or("/", PathAndQuery::as_str),
    }
}

/// What a request is to become.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) routed: &'a Routed,
    pub(crate) forward: &'a Forward,
    /// Place of the destination among the route's.
    pub(crate) destination: usize,
    /// How long it may take, all in all.
    pub(crate) timeout: Option<Duration>,
    /// How long one try may take.
    pub(crate) try_timeout: Option<Duration>,
    pub(crate) upgrade: Option<HeaderValue>,
    /// What is among its headers.
    pub(crate) survey: Survey,
}

/// Makes the request what the endpoint sees, but for what depends on the connection. What a gateway
/// adds comes back by itself if it need not be among the request's headers.
pub(crate) fn prepare(
    parts: &mut Parts,
    plan: &Plan<'_>,
    client: &Client,
    exchange: &mut Exchange,
) -> Result<Option<OwnHeaders>, LocalReply> {
    let path = match (plan.routed.rewrite(), parts.uri.path_and_query()) {
        (Some(rewrite), Some(original)) => Some(
            rewrite
                .apply(original)
                .map_err(|_| LocalReply::rewrite_too_long())?,
        ),
        _ => None,
    };
    // What the server side of hyper left there means nothing to its client side.
    parts.extensions.clear();
    let own = own_headers(parts, plan, client, exchange);
    set_host(parts);
    let destination = Some(plan.destination);
    facts::change_headers(&mut parts.headers, None, plan.routed, destination, exchange);
    rewrite_host(&mut parts.headers, plan);
    set_target(parts, path, exchange);
    exchange.request_changed(parts);
    Ok(own)
}

/// The host that the destination wants, and then the one that the route wants, which keeps what it
/// replaces.
// Envoy: WeightedClusterEntry::finalizeRequestHeaders, RouteEntryImplBase::finalizeHostHeader.
fn rewrite_host(headers: &mut HeaderMap, plan: &Plan<'_>) {
    let destination = &plan.forward.destinations[plan.destination];
    let value = |host: &Option<String>| HeaderValue::from_str(host.as_deref()?).ok();
    if let Some(host) = value(&destination.authority) {
        headers.insert(HOST, host);
    }
    if let Some(host) = value(&plan.forward.authority)
        && let Some(original) = headers.insert(HOST, host)
    {
        headers.insert(X_ENVOY_ORIGINAL_HOST, original);
    }
}

/// Removes and adds the headers that a gateway removes and adds whatever the route says. Those that
/// are added come back if nobody looks at them or changes them on the way to the endpoint.
fn own_headers(
    parts: &mut Parts,
    plan: &Plan<'_>,
    client: &Client,
    exchange: &mut Exchange,
) -> Option<OwnHeaders> {
    let headers = &mut parts.headers;
    let survey = plan.survey;
    if survey.hop_by_hop {
        // GET and others are sent without a body unless the head says that there is one.
        let chunked = headers.contains_key(TRANSFER_ENCODING);
        let trailers = accepts_trailers(headers);
        strip_hop_by_hop(headers);
        if chunked {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    if let Some(protocol) = &plan.upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    if survey.control {
        strip_control(headers, client.worker.options.parity);
    }
    if let Some(timeout) = plan.try_timeout.or(plan.timeout)
        && survey.content
        && timeout::is_grpc(headers)
    {
        timeout::set_grpc(headers, timeout);
    }
    let own = OwnHeaders::new(plan, client);
    let destination = Some(plan.destination);
    let seen =
        survey.own || exchange.request.is_some() || facts::change_request(plan.routed, destination);
    if !seen {
        exchange.note_identity(own.id(), Some(own.client()));
        return Some(own);
    }
    let id = own.id().to_owned();
    own.insert(headers);
    exchange.note_identity(&id, headers.get(X_FORWARDED_FOR));
    None
}

/// Keeps the request for headers that are made from it.
pub(crate) fn keep_facts(
    parts: &Parts,
    routed: &Routed,
    destination: Option<usize>,
    exchange: &mut Exchange,
) {
    if exchange.request.is_none() && facts::need_request(routed, destination) {
        exchange.request = Some(Box::new(RequestFacts::new(parts)));
    }
}

/// Whether the client takes trailers: all that is left of `te`.
// Envoy: ConnectionManagerUtility::sanitizeTEHeader.
fn accepts_trailers(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(TE).iter();
    codings
        .filter_map(|codings| codings.to_str().ok())
        .flat_map(|codings| codings.split(','))
        .any(|coding| coding.trim() == "trailers")
}

/// Makes the `Host` header what an absolute target said.
fn set_host(parts: &mut Parts) {
    if parts.uri.authority().is_some()
        && let Some(host) = authority(parts).and_then(|host| HeaderValue::from_str(host).ok())
    {
        parts.headers.insert(HOST, host);
    }
}

/// Makes the target a path.
fn set_target(parts: &mut Parts, rewritten: Option<PathAndQuery>, exchange: &mut Exchange) {
    if let Some(path) = rewritten {
        exchange.note(|record| record.rewritten_path = Some(path.as_str().to_owned()));
        let original = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        if let Ok(original) = HeaderValue::from_str(original) {
            parts.headers.insert(X_ENVOY_ORIGINAL_PATH, original);
        }
        parts.uri = Uri::from(path);
    } else if parts.uri.authority().is_some() {
        let path = parts.uri.path_and_query().cloned();
        parts.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    }
}

/// Removes headers that would steer us if we believed them: they are for proxies among themselves,
/// and clients are not of them (Envoy: header sanitizing of edge requests).
fn strip_control(headers: &mut HeaderMap, parity: Parity) {
    let only_known = parity.has(Difference::XEnvoyHeaders);
    let is_control = |name: &HeaderName| {
        let name = name.as_str().strip_prefix("x-envoy-");
        name.is_some_and(|name| !only_known || is_sanitized(name))
    };
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_control(name))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether Envoy takes a header `x-envoy-…` from clients at the edge.
// Envoy: ConnectionManagerUtility::cleanInternalHeaders and mutateRequestHeaders.
fn is_sanitized(name: &str) -> bool {
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

    fn parts(target: &str, hosts: &[&str]) -> Parts {
        let mut request = http::Request::get(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn checked(parts: &Parts) -> Result<(), LocalReply> {
        validate(parts, Survey::of(&parts.headers))
    }

    #[test]
    fn absolute_targets_outrank_host() {
        for (target, hosts, wanted) in [
            ("/", &["a.example:80"][..], Some("a.example:80")),
            ("http://b.example:81/", &["a.example"], Some("b.example:81")),
            ("http://me@b.example/", &[], Some("b.example")),
            ("/", &[], None),
        ] {
            assert_eq!(
                authority(&parts(target, hosts)),
                wanted,
                "{target} {hosts:?}"
            );
        }
    }

    #[test]
    fn one_host_is_enough_and_two_are_too_many() {
        assert_eq!(checked(&parts("/", &["a"])), Ok(()));
        assert_eq!(checked(&parts("http://b/", &[])), Ok(()));
        assert!(checked(&parts("/", &[])).is_err());
        assert!(checked(&parts("/", &["a", "a"])).is_err());
        assert!(checked(&parts("/", &["ü"])).is_err());
        let mut old = parts("/", &["a"]);
        old.version = Version::HTTP_10;
        assert_eq!(checked(&old), Err(LocalReply::old_version()));
    }

    #[test]
    fn control_headers_go() {
        let mut headers = HeaderMap::new();
        for name in ["x-envoy-retry-on", "x-envoy-original-path", "x-mine"] {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        let mut like_envoy = headers.clone();
        strip_control(&mut headers, Parity::default());
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("x-mine"));
        like_envoy.insert("x-envoy-peer-metadata", HeaderValue::from_static("1"));
        strip_control(&mut like_envoy, Parity::all());
        assert_eq!(like_envoy.len(), 2);
        assert!(like_envoy.contains_key("x-envoy-peer-metadata"));
    }

    #[test]
    fn what_is_adapted() {
        let mut two = parts("/", &["a", "b"]);
        two.headers
            .insert(REFERER, HeaderValue::from_static("not a url"));
        adapt(&mut two, Parity::all());
        assert_eq!(two.headers[HOST], "a,b");
        assert!(!two.headers.contains_key(REFERER));
        let mut one = parts("/", &["a"]);
        let url = HeaderValue::from_static("https://a.example/x?y");
        one.headers.insert(REFERER, url.clone());
        adapt(&mut one, Parity::all());
        assert_eq!(
            (&one.headers[HOST], &one.headers[REFERER]),
            (&HeaderValue::from_static("a"), &url)
        );
    }

    #[test]
    fn only_websockets_are_handed_over() {
        let ask = |connection: &str, protocol: &str| {
            let mut parts = parts("/", &["a"]);
            for (name, value) in [(CONNECTION, connection), (UPGRADE, protocol)] {
                parts.headers.insert(name, value.parse().unwrap());
            }
            upgrade(&parts).map(|upgrade| upgrade.is_some())
        };
        assert_eq!(ask("keep-alive, Upgrade", "WebSocket"), Ok(true));
        assert_eq!(ask("keep-alive", "websocket"), Ok(false));
        assert_eq!(ask("upgrade", "h2c"), Ok(false));
        assert_eq!(ask("upgrade", "irc"), Err(LocalReply::no_upgrade()));
    }
}
