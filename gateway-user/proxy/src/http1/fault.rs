//! What is wrong with the head of a request that hyper would accept.

use memchr::memchr;

/// Why a head is refused although hyper would read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFault {
    /// It says in two ways where its body ends, which is an attempt at smuggling (RFC 9112, section
    /// 6.1). hyper would take `transfer-encoding` and forget `content-length`; Envoy refuses such a
    /// head unless `allow_chunked_length` is set.
    TwoFramings,
    /// It is the beginning of TLS (a record of a handshake: RFC 8446, section 5.1), on a port where none is spoken.
    /// What a parser says of it would depend on the bytes, which are random.
    Tls,
    /// Its target has a fragment, which no request may have (RFC 9112, section 3.2). hyper would cut
    /// it off.
    Fragment,
}

/// Looks for faults in a head while it comes in.
#[derive(Debug, Default)]
pub struct HeadScan {
    /// What has come of the head, unless all of it came at once.
    seen: Vec<u8>,
    /// Whether the end of the head has been seen. What follows isn't looked at.
    whole: bool,
}

impl HeadScan {
    /// Takes in what has been read now, and says what is wrong with the head so far.
    pub fn read(&mut self, read: &[u8]) -> Option<HeadFault> {
        if self.whole {
            // Further requests that came with this one are looked at by hyper's rules only.
            return None;
        }
        if self.seen.is_empty() {
            let (whole, fault) = scan(read);
            self.whole = whole;
            if !whole {
                self.seen.extend_from_slice(read);
            }
            return fault;
        }
        self.seen.extend_from_slice(read);
        let (whole, fault) = scan(&self.seen);
        self.whole = whole;
        fault
    }

    /// Whether the end of the head has been seen.
    pub fn is_whole(&self) -> bool {
        self.whole
    }
}

/// How a record of a handshake begins: its type, and the first byte of its version.
const HANDSHAKE: [u8; 2] = [22, 3];

/// Looks at a head, or its beginning: whether it is whole, and what is wrong with it.
fn scan(head: &[u8]) -> (bool, Option<HeadFault>) {
    if head.starts_with(&HANDSHAKE) {
        return (false, Some(HeadFault::Tls));
    }
    let mut rest = head;
    let (mut begun, mut whole) = (false, false);
    let (mut length, mut encoding) = (false, false);
    while !rest.is_empty() {
        let end = memchr(b'\n', rest);
        let (line, after) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        rest = after;
        match line {
            // Empty lines before the request line are skipped (RFC 9112, section 2.2).
            [] | [b'\r'] if !begun => {}
            [] | [b'\r'] => {
                whole = end.is_some();
                break;
            }
            line if !begun => {
                begun = true;
                // The method is a token, in which `#` may stand.
                let target = memchr(b' ', line).map_or(&[][..], |space| &line[space..]);
                if memchr(b'#', target).is_some() {
                    return (false, Some(HeadFault::Fragment));
                }
            }
            [b'c' | b'C', ..] => length |= is_header(line, b"content-length"),
            [b't' | b'T', ..] => encoding |= is_header(line, b"transfer-encoding"),
            _ => {}
        }
    }
    (
        whole,
        (length && encoding).then_some(HeadFault::TwoFramings),
    )
}

fn is_header(line: &[u8], name: &[u8]) -> bool {
    line.get(name.len()) == Some(&b':') && line[..name.len()].eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_are_found_in_targets_only() {
        for (head, wanted) in [
            ("GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n", true),
            ("\r\nGET /a?b# HTTP/1.1\r\n", true),
            ("GET /a HTTP/1.1\r\nx: #\r\n\r\n#", false),
            ("GE#T /a HTTP/1.1\r\nx: y\r\n\r\n", false),
        ] {
            let found = scan(head.as_bytes()).1 == Some(HeadFault::Fragment);
            assert_eq!(found, wanted, "{head:?}");
        }
    }

    #[test]
    fn both_lengths_are_ambiguous_and_one_is_not() {
        for (head, wanted) in [
            (
                "POST / HTTP/1.1\r\nContent-Length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
                true,
            ),
            (
                "POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\ncontent-length:1\r\n\r\n",
                true,
            ),
            (
                "\r\nPOST / HTTP/1.1\ncontent-length: 1\ntransfer-encoding: chunked\n\n",
                true,
            ),
            (
                "POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\ntransfer-encoding: chunked\r\n",
                false,
            ),
            (
                "POST / HTTP/1.1\r\nx-content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
                false,
            ),
        ] {
            let found = scan(head.as_bytes()).1 == Some(HeadFault::TwoFramings);
            assert_eq!(found, wanted, "{head:?}");
        }
    }

    #[test]
    fn tls_is_told_from_http() {
        assert_eq!(scan(b"\x16\x03\x01\x02\x00\x01#").1, Some(HeadFault::Tls));
        assert_eq!(scan(b"\x16").1, None);
        let mut head = HeadScan::default();
        assert_eq!(head.read(b"\x16"), None);
        assert_eq!(head.read(b"\x03\x01"), Some(HeadFault::Tls));
    }

    #[test]
    fn heads_are_looked_at_in_pieces() {
        let whole = b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut head = HeadScan::default();
        let found: Vec<_> = whole.chunks(7).filter_map(|part| head.read(part)).collect();
        assert_eq!(found.first(), Some(&HeadFault::TwoFramings));
        assert!(head.whole);
        for length in 0..whole.len() {
            assert!(!scan(&whole[..length]).0, "{length}");
        }
    }
}
