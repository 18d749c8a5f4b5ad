//! The headers that a gateway adds to every request that it passes on.

use std::{net::IpAddr, rc::Rc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_TYPE, EXPECT},
};

use super::{
    Client,
    headers::{
        X_ENVOY_ATTEMPT_COUNT, X_ENVOY_DECORATOR_OPERATION, X_ENVOY_EXPECTED_TIMEOUT,
        X_ENVOY_EXTERNAL_ADDRESS, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_REQUEST_ID, is_hop_by_hop,
    },
    request::Plan,
};
use crate::proxy::head;

const SCHEME: HeaderValue = HeaderValue::from_static("http");

/// What is among the headers of a request, seen in one look at all of their names, which is cheaper
/// than to look for each of them.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something else about the request"
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Some that belong to one connection only.
    pub(crate) hop_by_hop: bool,
    /// `content-type`
    pub(crate) content: bool,
    /// `expect`
    pub(crate) expect: bool,
    /// Some that are for proxies among themselves.
    pub(crate) control: bool,
    /// Some that a gateway sets itself.
    pub(crate) own: bool,
}

/// What a gateway says of a client in each of its requests.
#[derive(Debug)]
pub(crate) struct Identity {
    address: HeaderValue,
    /// As it stands in a head of HTTP/1.1.
    lines: Vec<u8>,
}

/// The headers, before they are anywhere.
///
/// Where nobody wants to see or change them they go to the endpoint as they stand here; nobody has to
/// find a place for them among the others.
#[derive(Clone, Debug)]
pub(crate) struct OwnHeaders {
    client: Rc<Identity>,
    operation: Option<HeaderValue>,
    attempt: u32,
    /// In milliseconds.
    timeout: Option<u64>,
    id: [u8; 36],
}

impl Survey {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut survey = Self::default();
        for name in headers.keys() {
            match name.as_str().strip_prefix("x-") {
                None if *name == CONTENT_TYPE => survey.content = true,
                None if *name == EXPECT => survey.expect = true,
                None => survey.hop_by_hop |= is_hop_by_hop(name),
                Some(rest) if rest.starts_with("envoy-") => survey.control = true,
                Some(rest) => {
                    survey.own |=
                        matches!(rest, "forwarded-for" | "forwarded-proto" | "request-id");
                }
            }
        }
        survey
    }
}

impl Identity {
    pub(crate) fn new(address: IpAddr) -> Option<Self> {
        let address = HeaderValue::try_from(address.to_string()).ok()?;
        let mut lines = Vec::new();
        // Every client is outside: no network is trusted (Envoy: `internal_address_config`, empty).
        write(&mut lines, &X_FORWARDED_FOR, address.as_bytes());
        write(&mut lines, &X_ENVOY_EXTERNAL_ADDRESS, address.as_bytes());
        write(&mut lines, &X_FORWARDED_PROTO, SCHEME.as_bytes());
        Some(Self { address, lines })
    }
}

impl OwnHeaders {
    pub(crate) fn new(plan: &Plan<'_>, client: &Client) -> Self {
        // The time that one try has, if that is less (Envoy: FilterUtility::setTimeoutHeaders).
        let timeout = plan.try_timeout.or(plan.timeout);
        Self {
            client: Rc::clone(&client.identity),
            operation: plan.routed.state().operation.clone(),
            attempt: 1,
            timeout: timeout
                .as_ref()
                .map(Duration::as_millis)
                .map(|time| time as u64),
            id: request_id(),
        }
    }

    /// The request's identity.
    pub(crate) fn id(&self) -> &str {
        // Hexadecimal digits and hyphens.
        std::str::from_utf8(&self.id).unwrap_or_default()
    }

    /// The client's address.
    pub(crate) fn client(&self) -> &HeaderValue {
        &self.client.address
    }

    /// Says how long the endpoint may take.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = Some(timeout.as_millis() as u64);
    }

    /// Says which try it is, from 1.
    pub(crate) fn set_attempt(&mut self, attempt: u32) {
        self.attempt = attempt;
    }

    /// Puts them among others, in place of those that are there.
    pub(crate) fn insert(self, headers: &mut HeaderMap) {
        append_forwarded_for(headers, &self.client.address);
        headers.insert(X_ENVOY_EXTERNAL_ADDRESS, self.client.address.clone());
        headers.insert(X_FORWARDED_PROTO, SCHEME);
        if let Some(operation) = self.operation {
            headers.insert(X_ENVOY_DECORATOR_OPERATION, operation);
        }
        headers.insert(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(self.attempt));
        if let Some(timeout) = self.timeout {
            headers.insert(X_ENVOY_EXPECTED_TIMEOUT, HeaderValue::from(timeout));
        }
        if let Ok(id) = HeaderValue::from_bytes(&self.id) {
            headers.insert(X_REQUEST_ID, id);
        }
    }

    /// Writes them as they stand in a head of HTTP/1.1.
    pub(crate) fn write(&self, head: &mut Vec<u8>) {
        head.extend_from_slice(&self.client.lines);
        if let Some(operation) = &self.operation {
            write(head, &X_ENVOY_DECORATOR_OPERATION, operation.as_bytes());
        }
        let mut digits = [0; 20];
        let attempt = decimal(self.attempt.into(), &mut digits);
        write(head, &X_ENVOY_ATTEMPT_COUNT, attempt);
        if let Some(timeout) = self.timeout {
            let timeout = decimal(timeout, &mut digits);
            write(head, &X_ENVOY_EXPECTED_TIMEOUT, timeout);
        }
        write(head, &X_REQUEST_ID, &self.id);
    }
}

/// Writes a header as it stands in a head of HTTP/1.1.
fn write(head: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    head::put(head, name.as_str(), value);
}

/// A number's digits.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// Adds the client's address to whatever stands there already.
// Envoy: Http::Utility::appendXff, which joins with a bare comma.
fn append_forwarded_for(headers: &mut HeaderMap, client: &HeaderValue) {
    let mut values = headers.get_all(X_FORWARDED_FOR).iter().peekable();
    let value = if values.peek().is_none() {
        client.clone()
    } else {
        let mut all = Vec::new();
        for value in values {
            all.extend_from_slice(value.as_bytes());
            all.push(b',');
        }
        all.extend_from_slice(client.as_bytes());
        // Joining valid values makes a valid value.
        HeaderValue::from_maybe_shared(Bytes::from(all)).unwrap_or_else(|_| client.clone())
    };
    headers.insert(X_FORWARDED_FOR, value);
}

/// A fresh identity, shaped as a random UUID (RFC 9562, section 5.4). It need not be secret.
fn request_id() -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let random =
        (fastrand::u128(..) & !(0xF000 << 64) & !(0b11 << 62)) | (0x4000 << 64) | (0b10 << 62);
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in random.to_be_bytes().into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 0xF)];
        at += 2;
    }
    text
}

#[cfg(test)]
mod tests {
    use http::header::HOST;

    use super::*;

    fn own() -> OwnHeaders {
        OwnHeaders {
            client: Rc::new(Identity::new([10, 0, 0, 9].into()).unwrap()),
            operation: Some(HeaderValue::from_static("a:80/*")),
            attempt: 2,
            timeout: Some(1500),
            id: request_id(),
        }
    }

    #[test]
    fn they_are_the_same_written_and_inserted() {
        let mut headers = HeaderMap::new();
        own().insert(&mut headers);
        let mut head = Vec::new();
        own().write(&mut head);
        let head = String::from_utf8(head).unwrap();
        let mut written: Vec<_> = head
            .lines()
            .map(|line| line.split_once(": ").unwrap())
            .collect();
        written.sort_unstable();
        let mut inserted: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        inserted.sort_unstable();
        assert_eq!(written.len(), 7);
        for (written, inserted) in written.iter().zip(&inserted) {
            assert_eq!(written.0, inserted.0);
            assert!(written.1 == inserted.1 || written.0 == "x-request-id");
        }
        assert!(head.contains("x-envoy-attempt-count: 2\r\n"));
        assert!(head.contains("x-envoy-expected-rq-timeout-ms: 1500\r\n"));
    }

    #[test]
    fn one_look_sees_all_kinds() {
        let survey = |name: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("a"));
            headers.insert(name, HeaderValue::from_static("1"));
            let Survey {
                hop_by_hop,
                control,
                own,
                ..
            } = Survey::of(&headers);
            [hop_by_hop, control, own]
        };
        assert_eq!(survey("te"), [true, false, false]);
        assert_eq!(survey("proxy-connection"), [true, false, false]);
        assert_eq!(survey("x-envoy-retry-on"), [false, true, false]);
        assert_eq!(survey("x-forwarded-for"), [false, false, true]);
        assert_eq!(survey("x-request-id"), [false, false, true]);
        assert_eq!(survey("x-mine"), [false, false, false]);
        assert_eq!(survey("accept"), [false, false, false]);
        let headers = [(EXPECT, "100-continue"), (CONTENT_TYPE, "text/plain")];
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let survey = Survey::of(&HeaderMap::from_iter(headers));
        assert!(survey.expect && survey.content && !survey.hop_by_hop);
    }

    #[test]
    fn numbers_are_written_whole() {
        for number in [0, 9, 10, 2000, u64::MAX] {
            let mut digits = [0; 20];
            let written = decimal(number, &mut digits).to_vec();
            assert_eq!(String::from_utf8(written).unwrap(), number.to_string());
        }
    }

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

    #[test]
    fn request_ids_are_random_uuids() {
        let own = own();
        let text = own.id();
        let groups: Vec<usize> = text.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        assert_eq!(&text[14..15], "4");
        assert!("89ab".contains(&text[19..20]));
        assert_ne!(own.id, request_id());
    }
}
