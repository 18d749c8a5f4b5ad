//! The headers that a gateway adds to every request that it passes on.

use std::{mem, rc::Rc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use nodegate_observe::RequestRecord;
use nodegate_route::edge::X_REQUEST_ID;

use super::{
    headers::{X_ENVOY_ATTEMPT_COUNT, X_ENVOY_DECORATOR_OPERATION, X_ENVOY_EXPECTED_TIMEOUT},
    identity::Identity,
};
use crate::http1;

/// The headers, before they are among those of the request.
///
/// Unless the route reads or changes headers, they are written to the endpoint from here, and need no
/// places in a map of headers.
#[derive(Clone, Debug)]
pub(crate) struct OwnHeaders {
    client: Rc<Identity>,
    operation: Option<HeaderValue>,
    attempt: u32,
    /// In milliseconds.
    timeout: Option<u64>,
    id: [u8; 36],
    /// Whether those that no route is needed for are among the request's headers already.
    identified: bool,
}

impl OwnHeaders {
    /// Those of a client's new request, which has no route yet.
    pub(crate) fn new(client: &Rc<Identity>) -> Self {
        Self {
            client: Rc::clone(client),
            operation: None,
            attempt: 1,
            timeout: None,
            id: request_id(),
            identified: false,
        }
    }

    /// Adds what the route is called in traces, and how long the endpoint may take.
    pub(crate) fn set_route(&mut self, operation: Option<HeaderValue>, timeout: Option<Duration>) {
        self.operation = operation;
        self.timeout = timeout.map(|time| time.as_millis() as u64);
    }

    /// Puts those that no route is needed for among others, in place of those that are there; once.
    pub(crate) fn identify(&mut self, headers: &mut HeaderMap) {
        if mem::replace(&mut self.identified, true) {
            return;
        }
        self.client.insert(headers);
        if let Ok(id) = HeaderValue::from_bytes(&self.id) {
            headers.insert(X_REQUEST_ID, id);
        }
    }

    /// Whether they are among the request's headers in part, so that they can't be written beside them.
    pub(crate) fn is_identified(&self) -> bool {
        self.identified
    }

    /// The request's id.
    pub(crate) fn id(&self) -> &str {
        // There are only hexadecimal digits and hyphens, so that this doesn't fail.
        std::str::from_utf8(&self.id).unwrap_or_default()
    }

    /// Tells a record what endpoints would be told, of a request with these headers of the client's.
    pub(crate) fn note(&self, headers: &HeaderMap, record: &mut RequestRecord) {
        self.id().clone_into(&mut record.request_id);
        let came_through = self.client.forwarded_for(headers);
        record.forwarded_for = Some(String::from_utf8_lossy(came_through.as_bytes()).into_owned());
    }

    /// Says how long the endpoint may take.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = Some(timeout.as_millis() as u64);
    }

    /// Says which try it is, counted from 1.
    pub(crate) fn set_attempt(&mut self, attempt: u32) {
        self.attempt = attempt;
    }

    /// Puts the headers among others, in place of those that are there.
    pub(crate) fn insert(mut self, headers: &mut HeaderMap) {
        self.identify(headers);
        if let Some(operation) = self.operation {
            headers.insert(X_ENVOY_DECORATOR_OPERATION, operation);
        }
        headers.insert(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(self.attempt));
        if let Some(timeout) = self.timeout {
            headers.insert(X_ENVOY_EXPECTED_TIMEOUT, HeaderValue::from(timeout));
        }
    }

    /// Writes the headers as lines of a head of HTTP/1.1.
    pub(crate) fn write(&self, head: &mut Vec<u8>) {
        head.extend_from_slice(self.client.lines());
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

/// Writes a header line.
fn write(head: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    http1::put(head, name.as_str(), value);
}

/// The digits of a number.
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

/// A fresh request id, shaped as a random UUID (RFC 9562, section 5.4). It need not be secret.
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
    use super::*;

    fn own() -> OwnHeaders {
        OwnHeaders {
            client: Rc::new(Identity::new([10, 0, 0, 9].into(), None).unwrap()),
            operation: Some(HeaderValue::from_static("a:80/*")),
            attempt: 2,
            timeout: Some(1500),
            id: request_id(),
            identified: false,
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
    fn numbers_are_written_whole() {
        for number in [0, 9, 10, 2000, u64::MAX] {
            let mut digits = [0; 20];
            let written = decimal(number, &mut digits).to_vec();
            assert_eq!(String::from_utf8(written).unwrap(), number.to_string());
        }
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
