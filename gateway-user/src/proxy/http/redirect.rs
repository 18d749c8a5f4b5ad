//! Sending clients elsewhere.

use http::{HeaderValue, StatusCode, header::LOCATION, request::Parts};

use super::{reply::LocalReply, request};
use crate::model::gateway::Redirect;

/// What this listener speaks. It knows no TLS.
const SCHEME: &str = "http";

/// Follows a route's redirect.
// Envoy: RouteEntryImplBase::newUri, processRequestHost.
pub(super) fn reply(redirect: &Redirect, parts: &Parts) -> LocalReply {
    let scheme = redirect.scheme.as_deref().unwrap_or(SCHEME);
    let port = redirect
        .port
        .map_or_else(String::new, |port| format!(":{port}"));
    let host = redirect.authority.as_deref().unwrap_or_else(|| {
        let host = request::authority(parts).unwrap_or_default();
        own_host(host, scheme, !port.is_empty())
    });
    let original = parts
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let location = match &redirect.path {
        None => format!("{scheme}://{host}{port}{original}"),
        Some(path) => {
            let query = parts.uri.query().filter(|_| !path.contains('?'));
            let query = query.map_or_else(String::new, |query| format!("?{query}"));
            format!("{scheme}://{host}{port}{path}{query}")
        }
    };
    to(redirect.status, &location)
}

/// Sends a client to the same place over TLS. The port stays, as in Envoy, whatever listens there.
// Envoy: ConnectionManagerUtility / SslRedirectRoute::newUri, createSslRedirectPath.
pub(super) fn to_https(parts: &Parts) -> LocalReply {
    let host = request::authority(parts).unwrap_or_default();
    let path = parts
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    to(301, &format!("https://{host}{path}"))
}

fn to(status: u16, location: &str) -> LocalReply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::MOVED_PERMANENTLY);
    let reply = LocalReply::new(status, "direct_response");
    match HeaderValue::from_str(location) {
        Ok(location) => reply.with_header(LOCATION, location),
        Err(_) => reply,
    }
}

/// The request's own host, without its port if there is a new one, or if the port only said what the
/// old scheme says anyway.
fn own_host<'a>(host: &'a str, scheme: &str, new_port: bool) -> &'a str {
    // The last colon of [::1] is no port's.
    let Some((name, port)) = host
        .rsplit_once(':')
        .filter(|(_, port)| !port.ends_with(']'))
    else {
        return host;
    };
    if new_port || (scheme != SCHEME && port == "80") {
        return name;
    }
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(redirect: &Redirect, host: &str, target: &str) -> String {
        let request = http::Request::get(target).header("host", host);
        let parts = request.body(()).unwrap().into_parts().0;
        let reply = reply(redirect, &parts);
        let wanted = to(redirect.status, "x").with_header(LOCATION, HeaderValue::from_static("x"));
        assert_ne!(reply, wanted);
        format!("{reply:?}")
            .split("\"location\", \"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap()
            .to_owned()
    }

    #[test]
    fn what_is_not_given_stays() {
        let none = Redirect {
            status: 301,
            scheme: None,
            authority: None,
            port: None,
            path: None,
        };
        let redirect = |change: fn(&mut Redirect)| {
            let mut redirect = none.clone();
            change(&mut redirect);
            redirect
        };
        for (redirect, host, target, wanted) in [
            (
                redirect(|it| it.authority = Some("b.example".into())),
                "a.example:30001",
                "/x?y=1",
                "http://b.example/x?y=1",
            ),
            (
                redirect(|it| it.path = Some("/new".into())),
                "a.example:30001",
                "/x?y=1",
                "http://a.example:30001/new?y=1",
            ),
            (
                redirect(|it| it.path = Some("/new?z".into())),
                "a.example",
                "/x?y=1",
                "http://a.example/new?z",
            ),
            (
                redirect(|it| it.scheme = Some("https".into())),
                "a.example:80",
                "/",
                "https://a.example/",
            ),
            (
                redirect(|it| it.port = Some(8443)),
                "[::1]:80",
                "/",
                "http://[::1]:8443/",
            ),
            (
                redirect(|it| it.port = Some(8443)),
                "[::1]",
                "/",
                "http://[::1]:8443/",
            ),
        ] {
            assert_eq!(location(&redirect, host, target), wanted);
        }
    }
}
