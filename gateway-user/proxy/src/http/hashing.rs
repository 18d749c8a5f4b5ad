//! The keys of consistent hashing: what of a request its endpoint depends on.

use std::fmt::Write as _;

use http::{HeaderValue, header::COOKIE, request::Parts};
use nodegate_model::gateway::{Balancing, HashKey};

use super::client::Client;
use crate::cluster::{ClusterState, key_hash};

/// The hash of a request, and the cookie that gives the client the same one next time.
// Envoy: HashPolicyImpl::generateHash; Utility::makeSetCookieValue.
pub(crate) fn hash(
    cluster: &ClusterState,
    parts: &Parts,
    client: &Client,
) -> (Option<u64>, Option<HeaderValue>) {
    let Balancing::ConsistentHash { key, .. } = &cluster.model.policy.balancing else {
        return (None, None);
    };
    match key {
        HashKey::Header(name) => {
            let mut values: Vec<&[u8]> = parts
                .headers
                .get_all(name)
                .iter()
                .map(HeaderValue::as_bytes)
                .collect();
            // In whichever order they come (Envoy: HeaderHashMethod::evaluate).
            values.sort_unstable();
            let hash = (!values.is_empty()).then(|| key_hash(&values.concat()));
            (hash, None)
        }
        HashKey::SourceIp => (
            Some(key_hash(client.address.ip().to_string().as_bytes())),
            None,
        ),
        HashKey::Query(name) => (
            query(parts, name).map(|value| key_hash(value.as_bytes())),
            None,
        ),
        HashKey::Cookie {
            name,
            path,
            ttl,
            attributes,
        } => {
            if let Some(value) = cookie(parts, name) {
                return (Some(key_hash(value.as_bytes())), None);
            }
            let Some(ttl) = ttl else {
                return (None, None);
            };
            let seed = format!("{}{}{}", client.address, client.local, fastrand::u64(..));
            let value = format!("{:016x}", key_hash(seed.as_bytes()));
            let mut cookie = format!("{name}=\"{value}\"");
            if !ttl.is_zero() {
                // Writing to a String doesn't fail.
                let _ = write!(cookie, "; Max-Age={}", ttl.as_secs());
            }
            if let Some(path) = path {
                let _ = write!(cookie, "; Path={path}");
            }
            for (name, value) in attributes {
                let _ = match value.as_str() {
                    "" => write!(cookie, "; {name}"),
                    value => write!(cookie, "; {name}={value}"),
                };
            }
            cookie.push_str("; HttpOnly");
            (
                Some(key_hash(value.as_bytes())),
                HeaderValue::try_from(cookie).ok(),
            )
        }
    }
}

fn query<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    parts.uri.query()?.split('&').find_map(|parameter| {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (key == name).then_some(value)
    })
}

fn cookie<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    parts
        .headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| {
            let (key, value) = pair.trim().split_once('=')?;
            (key == name).then(|| value.trim_matches('"'))
        })
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found() {
        let request = http::Request::get("/x?a&user=me&user=you")
            .header(COOKIE, "other=1; session=\"abc\"")
            .body(());
        let parts = request.unwrap().into_parts().0;
        assert_eq!(query(&parts, "user"), Some("me"));
        assert_eq!(query(&parts, "a"), Some(""));
        assert_eq!(query(&parts, "b"), None);
        assert_eq!(cookie(&parts, "session"), Some("abc"));
        assert_eq!(cookie(&parts, "none"), None);
    }
}
