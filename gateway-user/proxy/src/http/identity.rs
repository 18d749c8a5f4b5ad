//! What endpoints are told of a client.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use crate::{accept::Security, http1};
use nodegate_route::edge::{
    X_ENVOY_EXTERNAL_ADDRESS, X_FORWARDED_CLIENT_CERT, X_FORWARDED_FOR, X_FORWARDED_PROTO,
};

const CLEAR: HeaderValue = HeaderValue::from_static("http");
const SECURE: HeaderValue = HeaderValue::from_static("https");

/// What endpoints are told of a client with each of its requests.
#[derive(Debug)]
pub(crate) struct Identity {
    address: HeaderValue,
    scheme: HeaderValue,
    /// What is said of the client's certificate, if it has shown one.
    certificate: Option<HeaderValue>,
    /// The header lines of HTTP/1.1.
    lines: Vec<u8>,
}

impl Identity {
    pub(crate) fn new(address: IpAddr, security: Option<&Security>) -> Option<Self> {
        let scheme = if security.is_some() { SECURE } else { CLEAR };
        let certificate = security.and_then(|security| security.certificate.clone());
        let address = HeaderValue::try_from(address.to_string()).ok()?;
        let mut lines = Vec::new();
        // Every client is an outside one: no network is trusted (Envoy: `internal_address_config` is
        // empty).
        http1::put(&mut lines, X_FORWARDED_FOR.as_str(), address.as_bytes());
        http1::put(
            &mut lines,
            X_ENVOY_EXTERNAL_ADDRESS.as_str(),
            address.as_bytes(),
        );
        http1::put(&mut lines, X_FORWARDED_PROTO.as_str(), scheme.as_bytes());
        if let Some(certificate) = &certificate {
            http1::put(
                &mut lines,
                X_FORWARDED_CLIENT_CERT.as_str(),
                certificate.as_bytes(),
            );
        }
        Some(Self {
            address,
            scheme,
            certificate,
            lines,
        })
    }

    /// The headers as lines of a head of HTTP/1.1.
    pub(crate) fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// The addresses that a request with these headers has come through.
    pub(crate) fn forwarded_for(&self, headers: &HeaderMap) -> HeaderValue {
        let values = headers.get_all(X_FORWARDED_FOR).iter();
        with_client(values, &self.address)
    }

    /// Puts the headers among others, in place of those that are there.
    pub(crate) fn insert(&self, headers: &mut HeaderMap) {
        append_forwarded_for(headers, &self.address);
        headers.insert(X_ENVOY_EXTERNAL_ADDRESS, self.address.clone());
        headers.insert(X_FORWARDED_PROTO, self.scheme.clone());
        if let Some(certificate) = &self.certificate {
            headers.insert(X_FORWARDED_CLIENT_CERT, certificate.clone());
        }
    }
}

/// Adds the client's address to the addresses that are there already.
// Envoy: Http::Utility::appendXff, which joins with a bare comma.
fn append_forwarded_for(headers: &mut HeaderMap, client: &HeaderValue) {
    let value = with_client(headers.get_all(X_FORWARDED_FOR).iter(), client);
    headers.insert(X_FORWARDED_FOR, value);
}

fn with_client<'v>(
    values: impl Iterator<Item = &'v HeaderValue>,
    client: &HeaderValue,
) -> HeaderValue {
    let mut values = values.peekable();
    if values.peek().is_none() {
        return client.clone();
    }
    let mut all = Vec::new();
    for value in values {
        all.extend_from_slice(value.as_bytes());
        all.push(b',');
    }
    all.extend_from_slice(client.as_bytes());
    // Joining valid values makes a valid value.
    HeaderValue::from_maybe_shared(Bytes::from(all)).unwrap_or_else(|_| client.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_for_is_joined() {
        let client = HeaderValue::from_static("10.0.0.9");
        let mut headers = HeaderMap::new();
        append_forwarded_for(&mut headers, &client);
        assert_eq!(headers[X_FORWARDED_FOR], "10.0.0.9");
        headers.append(
            X_FORWARDED_FOR,
            HeaderValue::from_static("1.1.1.1, 2.2.2.2"),
        );
        append_forwarded_for(&mut headers, &client);
        assert_eq!(
            headers.get_all(X_FORWARDED_FOR).iter().collect::<Vec<_>>(),
            ["10.0.0.9,1.1.1.1, 2.2.2.2,10.0.0.9"]
        );
    }
}
