//! Header blocks of HTTP/2 (RFC 7541): read with all that they may use, written with as little as possible.

use std::{collections::VecDeque, io, sync::LazyLock};

use super::huffman;
use crate::differential::wire::Headers;

/// Bytes that an entry of the table counts for beside its own (section 4.1).
const ENTRY: usize = 32;
/// How large the table may be, as long as nobody says otherwise (RFC 9113, section 6.5.2).
const TABLE: usize = 4096;

/// Appendix A: names with a value, and names without one.
const STATIC: &str = ":authority\n:method GET\n:method POST\n:path /\n:path /index.html\n:scheme http\n:scheme https\n\
    :status 200\n:status 204\n:status 206\n:status 304\n:status 400\n:status 404\n:status 500\naccept-charset\n\
    accept-encoding gzip, deflate\naccept-language\naccept-ranges\naccept\naccess-control-allow-origin\nage\nallow\n\
    authorization\ncache-control\ncontent-disposition\ncontent-encoding\ncontent-language\ncontent-length\n\
    content-location\ncontent-range\ncontent-type\ncookie\ndate\netag\nexpect\nexpires\nfrom\nhost\nif-match\n\
    if-modified-since\nif-none-match\nif-range\nif-unmodified-since\nlast-modified\nlink\nlocation\nmax-forwards\n\
    proxy-authenticate\nproxy-authorization\nrange\nreferer\nrefresh\nretry-after\nserver\nset-cookie\n\
    strict-transport-security\ntransfer-encoding\nuser-agent\nvary\nvia\nwww-authenticate";

/// A header, as a table has it.
type Field = (String, String);

static FIXED: LazyLock<Vec<Field>> = LazyLock::new(|| {
    let lines = STATIC.lines().map(|line| {
        let (name, value) = line.split_once(' ').unwrap_or((line, ""));
        (name.to_owned(), value.to_owned())
    });
    lines.collect()
});

/// Reads the header blocks of one direction of a connection, in their order.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The newest first.
    table: VecDeque<Field>,
    size: usize,
    limit: usize,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            limit: TABLE,
        }
    }

    /// The headers of a block. Bytes that are no text are shown as such.
    pub(crate) fn decode(&mut self, block: &[u8]) -> io::Result<Headers> {
        let mut rest = block;
        let mut headers = Headers::new();
        while let Some(&first) = rest.first() {
            match first {
                0x80.. => {
                    let index = integer(&mut rest, 7)?;
                    headers.push(self.field(index)?);
                }
                0x40.. => {
                    let field = self.literal(&mut rest, 6)?;
                    headers.push(field.clone());
                    self.add(field);
                }
                0x20.. => {
                    self.limit = integer(&mut rest, 5)?;
                    self.shrink();
                }
                _ => headers.push(self.literal(&mut rest, 4)?),
            }
        }
        Ok(headers)
    }

    fn literal(&self, rest: &mut &[u8], bits: u32) -> io::Result<Field> {
        let name = match integer(rest, bits)? {
            0 => text(rest)?,
            index => self.field(index)?.0,
        };
        Ok((name, text(rest)?))
    }

    fn field(&self, index: usize) -> io::Result<Field> {
        let place = index.checked_sub(1).ok_or_else(malformed)?;
        let own = || self.table.get(place - FIXED.len());
        let found = FIXED.get(place).or_else(own);
        found.cloned().ok_or_else(malformed)
    }

    fn add(&mut self, field: Field) {
        self.size += size(&field);
        self.table.push_front(field);
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.size > self.limit {
            let Some(last) = self.table.pop_back() else {
                return;
            };
            self.size -= size(&last);
        }
    }
}

fn size((name, value): &Field) -> usize {
    name.len() + value.len() + ENTRY
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a broken header block")
}

/// A number whose first bits are the last ones of a byte (section 5.1).
fn integer(rest: &mut &[u8], bits: u32) -> io::Result<usize> {
    let mask = (1 << bits) - 1;
    let mut number = usize::from(byte(rest)?) & mask;
    if number < mask {
        return Ok(number);
    }
    for shift in (0..28).step_by(7) {
        let next = usize::from(byte(rest)?);
        number += (next & 0x7f) << shift;
        if next < 0x80 {
            return Ok(number);
        }
    }
    Err(malformed())
}

fn byte(rest: &mut &[u8]) -> io::Result<u8> {
    let (first, others) = rest.split_first().ok_or_else(malformed)?;
    *rest = others;
    Ok(*first)
}

/// A name or a value (section 5.2).
fn text(rest: &mut &[u8]) -> io::Result<String> {
    let is_packed = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(rest, 7)?;
    let (bytes, others) = rest.split_at_checked(length).ok_or_else(malformed)?;
    *rest = others;
    let bytes = if is_packed {
        huffman::unpack(bytes).ok_or_else(malformed)?
    } else {
        bytes.to_vec()
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A block in which each header stands as it is: literal, and not to be put into a table.
pub(crate) fn encode<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            let length = text.len();
            if length < 0x7f {
                block.push(length as u8);
            } else {
                let mut rest = length - 0x7f;
                block.push(0x7f);
                while rest >= 0x80 {
                    block.push(rest as u8 | 0x80);
                    rest >>= 7;
                }
                block.push(rest as u8);
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER
            .decode(text.replace(' ', "").as_bytes())
            .unwrap()
    }

    fn field(name: &str, value: &str) -> Field {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn what_is_written_is_read() {
        let long = "x".repeat(300);
        let headers = [
            (":method", "GET"),
            ("x-long", long.as_str()),
            ("x-empty", ""),
        ];
        let read = Decoder::new().decode(&encode(headers)).unwrap();
        assert_eq!(read, headers.map(|(name, value)| field(name, value)));
    }

    /// RFC 7541, appendix C.6: responses with Huffman codes, and a table of 256 bytes that entries are evicted from.
    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let mut decoder = Decoder::new();
        let first = "3fe101 48 82 6402 58 85 aec3771a4b 61 96 d07abe941054d444a8200595040b8166e082a62d1bff \
                     6e 91 9d29ad171863c78f0b97c8e9ae82ae43d3";
        let date = "Mon, 21 Oct 2013 20:13:21 GMT";
        assert_eq!(
            decoder.decode(&bytes(first)).unwrap(),
            [
                field(":status", "302"),
                field("cache-control", "private"),
                field("date", date),
                field("location", "https://www.example.com"),
            ]
        );
        assert_eq!(
            decoder.decode(&bytes("48 83 640eff c1 c0 bf")).unwrap(),
            [
                field(":status", "307"),
                field("cache-control", "private"),
                field("date", date),
                field("location", "https://www.example.com"),
            ]
        );
        // The first of all has had to go.
        assert_eq!(decoder.table.len(), 4);
        assert_eq!(decoder.size, 222);
    }

    #[test]
    fn broken_blocks_are_told() {
        for block in ["80", "ff", "00", "0005 61", "be", "00 81 00 00"] {
            assert!(Decoder::new().decode(&bytes(block)).is_err(), "{block}");
        }
    }
}
