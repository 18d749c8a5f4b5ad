//! Where requests end in what a client sends, so that hyper gets one after the other and each head is looked at.
//!
//! What hyper itself refuses is not told here: from there on all bytes are hyper's, which ends the connection.

use super::{
    fault::{HeadFault, HeadScan},
    framing::BodyEnd,
};

/// Requests as they come, one after the other.
#[derive(Debug)]
pub struct Requests {
    at: At,
}

/// What comes next.
#[derive(Debug)]
enum At {
    Head(HeadScan),
    /// So many bytes of a body.
    Body(u64),
    Chunks(Chunks),
    /// Something that is no request, to its end.
    Rest,
}

/// What is a request's of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How many bytes: up to the end of the request, if that is among them.
    pub length: usize,
    /// What is wrong with its head.
    pub fault: Option<HeadFault>,
}

/// Where in a chunked body (RFC 9112, section 7.1) the next byte is.
// As hyper's `ChunkedState` goes, in the same order: what is an error there is one here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunks {
    /// In a chunk's size, after so many digits of it.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind the size, up to the end of the line.
    Extension {
        size: u64,
    },
    /// Before the LF of that line.
    SizeLf {
        size: u64,
    },
    /// So many bytes of the chunk are left.
    Data(u64),
    /// Before the line end after a chunk.
    DataCr,
    DataLf,
    /// In the lines after the last chunk: whether something stands in this one, and whether CR came last.
    Trailers {
        is_empty: bool,
        after_cr: bool,
    },
}

/// What comes after a byte of a chunked body.
enum Next {
    /// More of it.
    In(Chunks),
    /// Its end.
    End,
    /// hyper refuses it.
    Refused,
}

// === impl Requests ===

impl Default for Requests {
    fn default() -> Self {
        Self {
            at: At::Head(HeadScan::default()),
        }
    }
}

impl Requests {
    /// Whether the next byte begins a request.
    pub fn are_between(&self) -> bool {
        matches!(&self.at, At::Head(head) if head.is_new())
    }

    /// Whether the next byte is of a head.
    pub fn are_in_head(&self) -> bool {
        matches!(self.at, At::Head(_))
    }

    /// Whether it is hyper's business what comes next, since it refuses what has come.
    pub fn are_given_up(&self) -> bool {
        matches!(self.at, At::Rest)
    }

    /// Takes what comes up to the end of the request that it belongs to.
    pub fn take(&mut self, bytes: &[u8]) -> Taken {
        let mut length = 0;
        while length < bytes.len() {
            let rest = &bytes[length..];
            match &mut self.at {
                At::Head(head) => {
                    if let Some(fault) = head.read(rest) {
                        self.at = At::Rest;
                        return Taken {
                            length: bytes.len(),
                            fault: Some(fault),
                        };
                    }
                    let Some((end, framing)) = head.end() else {
                        length = bytes.len();
                        break;
                    };
                    length += end;
                    self.at = match framing.request_body() {
                        BodyEnd::None | BodyEnd::Length(0) => At::Head(HeadScan::default()),
                        BodyEnd::Length(length) => At::Body(length),
                        BodyEnd::Chunked => At::Chunks(Chunks::BEGIN),
                        BodyEnd::Unclear => At::Rest,
                    };
                }
                At::Body(left) => {
                    let part = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    length += part;
                    *left -= part as u64;
                    if *left == 0 {
                        self.at = At::Head(HeadScan::default());
                    }
                }
                At::Chunks(chunks) => {
                    let (part, next) = chunks.take(rest);
                    length += part;
                    self.at = next;
                }
                At::Rest => length = bytes.len(),
            }
            if self.are_between() {
                break;
            }
        }
        Taken {
            length,
            fault: None,
        }
    }
}

// === impl Chunks ===

impl Chunks {
    const BEGIN: Self = Self::Size { size: 0, digits: 0 };

    /// Takes bytes up to the end of the body; gives how many, and what comes then.
    fn take(mut self, bytes: &[u8]) -> (usize, At) {
        let mut at = 0;
        while at < bytes.len() {
            if let Self::Data(left) = self {
                let rest = bytes.len() - at;
                let part = rest.min(usize::try_from(left).unwrap_or(usize::MAX));
                at += part;
                self = match left - part as u64 {
                    0 => Self::DataCr,
                    left => Self::Data(left),
                };
                continue;
            }
            let next = self.byte(bytes[at]);
            at += 1;
            self = match next {
                Next::In(next) => next,
                Next::End => return (at, At::Head(HeadScan::default())),
                Next::Refused => return (bytes.len(), At::Rest),
            };
        }
        (at, At::Chunks(self))
    }

    /// What comes after a byte.
    fn byte(self, byte: u8) -> Next {
        Next::In(match (self, byte) {
            (Self::Size { size, digits }, byte) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let sum = size.checked_mul(16);
                let Some(size) = sum.and_then(|sum| sum.checked_add(digit.into())) else {
                    return Next::Refused;
                };
                let digits = digits.saturating_add(1);
                Self::Size { size, digits }
            }
            (Self::Size { digits: 0, .. }, _) => return Next::Refused,
            (Self::Size { size, .. } | Self::Extension { size }, b'\r') => Self::SizeLf { size },
            (Self::Size { size, .. }, b' ' | b'\t' | b';') => Self::Extension { size },
            (Self::Size { .. }, _) | (Self::Extension { .. }, b'\n') => return Next::Refused,
            (Self::Extension { size }, _) => Self::Extension { size },
            (Self::SizeLf { size: 0 }, b'\n') => Self::Trailers {
                is_empty: true,
                after_cr: false,
            },
            (Self::SizeLf { size }, b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::BEGIN,
            (Self::SizeLf { .. } | Self::DataCr | Self::DataLf, _) => return Next::Refused,
            (Self::Trailers { is_empty, after_cr }, byte) => match (after_cr, byte) {
                (true, b'\n') if is_empty => return Next::End,
                (true, b'\n') => Self::Trailers {
                    is_empty: true,
                    after_cr: false,
                },
                (true, _) => return Next::Refused,
                (false, b'\r') => Self::Trailers {
                    is_empty,
                    after_cr: true,
                },
                (false, _) => Self::Trailers {
                    is_empty: false,
                    after_cr: false,
                },
            },
            // Taken as a whole.
            (Self::Data(left), _) => Self::Data(left),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &str = "POST /a HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    const SMUGGLED: &str =
        "POST /b HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";

    /// The requests in a text that comes in pieces of a length, and the fault that the last of them has.
    fn split(text: &str, piece: usize) -> (Vec<String>, Option<HeadFault>) {
        let mut requests = Requests::default();
        let (mut all, mut one) = (Vec::new(), String::new());
        let mut rest = text;
        while !rest.is_empty() {
            let part = &rest[..piece.min(rest.len())];
            let taken = requests.take(part.as_bytes());
            assert!(taken.length > 0 && taken.length <= part.len());
            one.push_str(&part[..taken.length]);
            if taken.fault.is_some() {
                return (all, taken.fault);
            }
            rest = &rest[taken.length..];
            if requests.are_between() {
                all.push(std::mem::take(&mut one));
            }
        }
        if !one.is_empty() {
            all.push(one);
        }
        (all, None)
    }

    #[test]
    fn requests_are_told_apart_however_they_come() {
        let requests = [
            "GET /1 HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "POST /2 HTTP/1.1\r\nhost: a\r\nContent-Length: 5\r\n\r\n\r\n\r\n\n".to_owned(),
            "POST /3 HTTP/1.1\r\nContent-Length: 0\r\n\r\n".to_owned(),
            format!("{CHUNKED}3\r\nabc\r\n1F;x=\"\r\"\r\n"),
        ];
        // The last has a CR within an extension, which hyper refuses: all that follows is its.
        let (last, whole) = requests.split_last().unwrap();
        let chunked = format!("{CHUNKED}A ;x=y\r\n0123456789\r\n0\r\na: b\nc\r\nd: e\r\n\r\n");
        let text = format!("{}{chunked}\r\nGET /4 HTTP/1.1\n\n{last}", whole.concat());
        for piece in 1..text.len() {
            let (found, fault) = split(&text, piece);
            assert_eq!(fault, None, "{piece}");
            assert_eq!(found[..3], *whole, "{piece}");
            assert_eq!(found[3], chunked, "{piece}");
            assert_eq!(found[4], "\r\nGET /4 HTTP/1.1\n\n", "{piece}");
            assert_eq!(found.last(), Some(last), "{piece}");
        }
    }

    #[test]
    fn each_head_is_looked_at() {
        for before in [
            "",
            "GET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc",
            &format!("{CHUNKED}3\r\nabc\r\n0\r\n\r\n"),
        ] {
            let text = format!("{before}{SMUGGLED}");
            for piece in 1..text.len() {
                let (found, fault) = split(&text, piece);
                assert_eq!(fault, Some(HeadFault::TwoFramings), "{before:?}, {piece}");
                assert_eq!(found.concat(), before, "{piece}");
            }
        }
        // What stands in a body is no head.
        let body = format!(
            "POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{SMUGGLED}",
            SMUGGLED.len()
        );
        assert_eq!(split(&body, 7), (vec![body], None));
    }

    #[test]
    fn what_hyper_refuses_is_left_to_it() {
        for chunks in [
            "",
            "\r\n",
            "g",
            "+1\r\n",
            "1\na",
            "1;a\n",
            "1\r\nab",
            "10000000000000000\r\n",
        ] {
            let text = format!("{CHUNKED}{chunks}GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n");
            assert_eq!(split(&text, 9), (vec![text], None), "{chunks:?}");
        }
        for length in ["+1", "", "0x1", "18446744073709551616"] {
            let text =
                format!("GET / HTTP/1.1\r\ncontent-length: {length}\r\n\r\nGET / HTTP/1.1\r\n\r\n");
            assert_eq!(split(&text, 9), (vec![text], None), "{length:?}");
        }
    }
}
