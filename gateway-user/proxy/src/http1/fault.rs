//! What is wrong with the head of a request that hyper would accept.

use memchr::memchr;

use super::framing::{Coding, Framing, Length};

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
}

/// Looks for faults in a head while it comes in.
#[derive(Debug, Default)]
pub struct HeadScan {
    /// What has come of the head, unless all of it came at once.
    seen: Vec<u8>,
    /// How many bytes of what was read last belong to the head, and what it says of its body; none before its
    /// end. What follows isn't looked at.
    end: Option<(usize, Framing)>,
}

impl HeadScan {
    /// Takes in what has been read now, and says what is wrong with the head so far.
    pub fn read(&mut self, read: &[u8]) -> Option<HeadFault> {
        if self.end.is_some() {
            return None;
        }
        let before = self.seen.len();
        let scanned = if before == 0 {
            scan(read)
        } else {
            self.seen.extend_from_slice(read);
            scan(&self.seen)
        };
        if before == 0 && scanned.length.is_none() {
            self.seen.extend_from_slice(read);
        }
        self.end = scanned
            .length
            .map(|length| (length - before, scanned.framing));
        scanned.fault
    }

    /// Whether nothing of it has come.
    pub fn is_new(&self) -> bool {
        self.seen.is_empty() && self.end.is_none()
    }

    /// Whether the end of the head has been seen.
    pub fn is_whole(&self) -> bool {
        self.end.is_some()
    }

    /// How many bytes of what was read last belong to the head, and what it says of its body, once it is whole.
    pub fn end(&self) -> Option<(usize, Framing)> {
        self.end
    }
}

/// What stands in a head, or in its beginning.
#[derive(Debug, Default)]
struct Scanned {
    /// Its length, if all of it is there.
    length: Option<usize>,
    framing: Framing,
    fault: Option<HeadFault>,
}

/// How a record of a handshake begins: its type, and the first byte of its version.
const HANDSHAKE: [u8; 2] = [22, 3];

/// Looks at a head, or its beginning.
fn scan(head: &[u8]) -> Scanned {
    let mut scanned = Scanned::default();
    if head.starts_with(&HANDSHAKE) {
        scanned.fault = Some(HeadFault::Tls);
        return scanned;
    }
    let mut rest = head;
    let mut begun = false;
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
                scanned.length = end.map(|_| head.len() - rest.len());
                break;
            }
            _ if !begun => begun = true,
            [b'c' | b'C', ..] => {
                if let Some(value) = value(line, b"content-length") {
                    scanned.framing.length = scanned.framing.length.and(value);
                }
            }
            [b't' | b'T', ..] => {
                if let Some(value) = value(line, b"transfer-encoding") {
                    scanned.framing.coding = scanned.framing.coding.and(value);
                }
            }
            _ => {}
        }
    }
    if scanned.framing.length != Length::Absent && scanned.framing.coding != Coding::Absent {
        scanned.fault = Some(HeadFault::TwoFramings);
    }
    scanned
}

/// The value of a header, if the line has that name.
fn value<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let is_it =
        line.get(name.len()) == Some(&b':') && line[..name.len()].eq_ignore_ascii_case(name);
    is_it.then(|| line[name.len() + 1..].trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let found = scan(head.as_bytes()).fault == Some(HeadFault::TwoFramings);
            assert_eq!(found, wanted, "{head:?}");
        }
    }

    #[test]
    fn tls_is_told_from_http() {
        assert_eq!(
            scan(b"\x16\x03\x01\x02\x00\x01#").fault,
            Some(HeadFault::Tls)
        );
        assert_eq!(scan(b"\x16").fault, None);
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
        assert!(head.is_whole());
        for length in 0..whole.len() {
            assert_eq!(scan(&whole[..length]).length, None, "{length}");
        }
    }
}
