//! For which host a request is.

use http::{Method, Version, header::HOST, request::Parts};

/// The host that a request is for: the authority of an absolute target, else the `Host` header (RFC
/// 9112, section 3.2.2).
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
}
