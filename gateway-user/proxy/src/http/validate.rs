//! The request's first phase: is it proper, and what does it want.

use http::{
    HeaderMap, HeaderValue, Method, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, REFERER, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
    uri::{PathAndQuery, Scheme},
};
use nodegate_route::{headers::join_lines, path};

use super::{authority::authority, reply::LocalReply, survey::Survey};
use crate::{
    http1::{Framing, MAX_CONNECTION_OPTIONS, MAX_REQUEST_HEADERS},
    parity::{Difference, Parity},
};

/// Makes the request what Envoy would have read, as far as the options want that.
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

/// Refuses what isn't a request in HTTP/1.1 or HTTP/2 for one host; or in HTTP/1.0, where that is accepted.
pub(crate) fn validate(
    parts: &Parts,
    survey: Survey,
    accept_http10: bool,
) -> Result<(), LocalReply> {
    let is_old = match parts.version {
        Version::HTTP_10 => !accept_http10,
        version => version < Version::HTTP_10,
    };
    if is_old {
        return Err(LocalReply::old_version());
    }
    if parts.headers.len() > MAX_REQUEST_HEADERS {
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
    // RFC 9113, section 8.3.1.
    let target = parts
        .uri
        .authority()
        .filter(|_| parts.version == Version::HTTP_2);
    if target.is_some_and(|host| host.as_str().contains('@')) {
        return Err(LocalReply::bad_host("http.invalid_authority"));
    }
    if parts.version == Version::HTTP_2 && parts.method != Method::CONNECT {
        let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        if target == "*" && parts.method == Method::OPTIONS {
            return Err(LocalReply::no_path());
        }
        if !target.starts_with('/') {
            return Err(LocalReply::malformed("http2.invalid_path"));
        }
    }
    // Some name is there twice. HTTP/1.1, in which it is passed on, has one length (RFC 9112, section 6.3).
    let is_repeated = parts.headers.len() != parts.headers.keys_len();
    if is_repeated
        && parts
            .headers
            .get_all(CONTENT_LENGTH)
            .iter()
            .nth(1)
            .is_some()
    {
        return Err(LocalReply::malformed("http.repeated_content_length"));
    }
    if parts.version < Version::HTTP_2 {
        validate_http1(parts, first, survey)?;
    }
    Ok(())
}

/// What Envoy's HTTP/1.1 parser refuses and hyper's doesn't (Envoy: `BalsaParser`).
fn validate_http1(
    parts: &Parts,
    host: Option<&HeaderValue>,
    survey: Survey,
) -> Result<(), LocalReply> {
    // The body is framed anew for the endpoint, so that every coding must be undone (RFC 9112, section
    // 6.1).
    if survey.hop_by_hop && Framing::of(&parts.headers).coding.is_unknown() {
        return Err(LocalReply::unknown_coding());
    }
    // A tunnel has no body to be coded (Envoy: `ConnectionImpl::onHeadersCompleteImpl`).
    if parts.method == Method::CONNECT && parts.headers.contains_key(TRANSFER_ENCODING) {
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
    if parts.method == Method::CONNECT && !names_a_port(&parts.uri) {
        return Err(LocalReply::malformed("http1.invalid_url"));
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

/// Whether a target is a host and its port, and nothing else (RFC 9110, section 9.3.6; Envoy:
/// `Utility::Url::initializeForConnect`).
fn names_a_port(target: &Uri) -> bool {
    let is_bare = target.scheme().is_none() && target.path_and_query().is_none();
    let authority = target.authority().filter(|_| is_bare);
    authority.is_some_and(|host| host.port_u16().is_some() && !host.host().is_empty())
}

/// Whether `Connection` names not too many headers, and none that says where the request comes from.
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
        count < MAX_CONNECTION_OPTIONS && !says_where(name)
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

/// What a client wants to speak instead of HTTP/1.1.
fn wanted_protocol(headers: &HeaderMap) -> Option<&HeaderValue> {
    let upgrade = headers.get(UPGRADE)?;
    let options = headers.get_all(CONNECTION).iter();
    let options = options.filter_map(|value| value.to_str().ok());
    let is_asked = options
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    (is_asked && !upgrade.as_bytes().eq_ignore_ascii_case(b"h2c")).then_some(upgrade)
}

/// Whether a client may go on with what is no HTTP before it knows whether the connection is something else.
pub(crate) fn asks_to_switch(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::CONNECT || wanted_protocol(headers).is_some()
}

/// What the connection is asked to become, if anything.
// Envoy: Utility::isUpgrade, and `upgrade_configs`, which Istio sets to websocket. An upgrade to
// HTTP/2 is an offer that may be ignored (RFC 9113, section 3.1, has given it up).
pub(crate) fn upgrade(parts: &Parts) -> Result<Option<HeaderValue>, LocalReply> {
    // In HTTP/2 there is no such header: it stands for an extended CONNECT.
    let (Some(upgrade), Version::HTTP_11 | Version::HTTP_2) =
        (wanted_protocol(&parts.headers), parts.version)
    else {
        return Ok(None);
    };
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
    join_lines(&mut parts.headers);
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
        validate(parts, Survey::of(&parts.headers), false)
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
        assert_eq!(validate(&old, Survey::of(&old.headers), true), Ok(()));
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
