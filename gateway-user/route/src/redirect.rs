//! Where a redirection leads: the `location` header.

use nodegate_model::gateway::{PrefixChange, Redirect};

/// What a redirection needs to know of a request.
#[derive(Clone, Copy, Debug)]
pub struct Requested<'a> {
    /// `http` or `https`, as in `x-forwarded-proto`.
    pub scheme: &'a str,
    /// `Host`, with the port if the client named one.
    pub authority: &'a str,
    /// Path and query.
    pub target: &'a str,
}

/// The `location` of a route's redirection.
// Envoy: Http::Utility::newUri.
pub fn location(redirect: &Redirect, requested: Requested<'_>) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(requested.scheme);
    let authority = match &redirect.authority {
        Some(authority) => authority,
        None => kept_host(requested, scheme, redirect.port.is_some()),
    };
    let port = redirect.port.map(|port| format!(":{port}"));
    let port = port.as_deref().unwrap_or_default();
    let query = requested.target.split_once('?').map(|(_, query)| query);
    if let (None, Some(change)) = (&redirect.path, &redirect.prefix) {
        let path = changed(requested.target, change);
        return format!("{scheme}://{authority}{port}{path}");
    }
    // What is no path would be a part of the host.
    let slash = match &redirect.path {
        Some(path) if !path.starts_with('/') => "/",
        _ => "",
    };
    match (&redirect.path, query) {
        // Its own query counts; without one that of the request stays.
        (Some(path), Some(query)) if !path.contains('?') => {
            format!("{scheme}://{authority}{port}{slash}{path}?{query}")
        }
        (Some(path), _) => format!("{scheme}://{authority}{port}{slash}{path}"),
        (None, _) => format!("{scheme}://{authority}{port}{}", requested.target),
    }
}

/// The target with another beginning of its path. What would be no path gets a slash in front.
// Envoy: RouteEntryImplBase::newUri, with `prefix_rewrite`.
fn changed(target: &str, change: &PrefixChange) -> String {
    let end = target.find('?').unwrap_or(target.len());
    let (path, query) = target.split_at(end);
    let length = change.length.unwrap_or(path.len());
    let rest = path.get(length..).unwrap_or_default();
    let slash = if change.replacement.starts_with('/') {
        ""
    } else {
        "/"
    };
    format!("{slash}{}{rest}{query}", change.replacement)
}

/// The `location` of an answer that is given directly, if its status is one that goes with it: what was
/// asked for.
// Envoy: Filter::decodeHeaders of the router, with DirectResponseEntry::newUri.
pub fn own_location(status: u16, requested: Requested<'_>) -> Option<String> {
    let Requested {
        scheme,
        authority,
        target,
    } = requested;
    matches!(status, 201 | 300..400).then(|| format!("{scheme}://{authority}{target}"))
}

/// The `location` for a request that should have come over TLS: the port stays, if there is one.
// Envoy: Http::Utility::createSslRedirectPath.
pub fn https_location(requested: Requested<'_>) -> String {
    format!("https://{}{}", requested.authority, requested.target)
}

/// The host of the request. Its port stays unless there is a new one, or unless it is the default of
/// a scheme that changes.
// Envoy: processRequestHost.
fn kept_host<'a>(requested: Requested<'a>, new_scheme: &str, new_port: bool) -> &'a str {
    let authority = requested.authority;
    let end = if authority.starts_with('[') {
        authority.rfind("]:").map(|bracket| bracket + 1)
    } else {
        authority.rfind(':')
    };
    let Some(end) = end else {
        return authority;
    };
    let (host, port) = authority.split_at(end);
    let default = matches!(
        (requested.scheme, port),
        ("http", ":80") | ("https", ":443")
    );
    if new_port || (default && new_scheme != requested.scheme) {
        host
    } else {
        authority
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect() -> Redirect {
        Redirect {
            status: 301,
            scheme: None,
            authority: None,
            port: None,
            path: None,
            prefix: None,
        }
    }

    fn from<'a>(authority: &'a str, target: &'a str) -> Requested<'a> {
        Requested {
            scheme: "http",
            authority,
            target,
        }
    }

    #[test]
    fn the_beginning_of_a_path_may_be_another() {
        for (length, replacement, target, expected) in [
            (Some(5), "/", "/foo/bar?q=1", "/bar?q=1"),
            (Some(4), "/", "/foo/bar", "//bar"),
            (Some(4), "/new", "/foo", "/new"),
            (Some(4), "new", "/foo/bar", "/new/bar"),
            (None, "/new", "/foo/bar?q", "/new?q"),
        ] {
            let redirect = Redirect {
                prefix: Some(PrefixChange {
                    length,
                    replacement: replacement.into(),
                }),
                ..redirect()
            };
            let location = location(&redirect, from("a.io", target));
            assert_eq!(location, format!("http://a.io{expected}"));
        }
    }

    #[test]
    fn what_is_not_said_stays() {
        let path = Redirect {
            path: Some("/new".into()),
            ..redirect()
        };
        assert_eq!(
            location(&path, from("a.x:31373", "/old")),
            "http://a.x:31373/new"
        );
        assert_eq!(
            location(&path, from("a.x", "/old?q=1")),
            "http://a.x/new?q=1"
        );
        let relative = Redirect {
            path: Some("new".into()),
            ..redirect()
        };
        assert_eq!(
            location(&relative, from("a.x", "/old?q=1")),
            "http://a.x/new?q=1"
        );
        let query = Redirect {
            path: Some("/new?n".into()),
            ..redirect()
        };
        assert_eq!(
            location(&query, from("a.x", "/old?q=1")),
            "http://a.x/new?n"
        );
        let host = Redirect {
            authority: Some("b.x".into()),
            ..redirect()
        };
        assert_eq!(location(&host, from("a.x:81", "/o?q")), "http://b.x/o?q");
    }

    #[test]
    fn ports_go_with_their_scheme() {
        let https = Redirect {
            scheme: Some("https".into()),
            ..redirect()
        };
        for (authority, wanted) in [
            ("a.x", "https://a.x/"),
            ("a.x:80", "https://a.x/"),
            ("a.x:81", "https://a.x:81/"),
            ("[::1]:80", "https://[::1]/"),
            ("[::1]", "https://[::1]/"),
        ] {
            assert_eq!(location(&https, from(authority, "/")), wanted);
        }
        let port = Redirect {
            port: Some(8443),
            ..https
        };
        assert_eq!(location(&port, from("a.x:81", "/")), "https://a.x:8443/");
        assert_eq!(location(&redirect(), from("a.x:80", "/")), "http://a.x:80/");
    }

    #[test]
    fn to_https_with_the_port() {
        assert_eq!(
            https_location(from("a.x:30080", "/p?q")),
            "https://a.x:30080/p?q"
        );
    }
}
