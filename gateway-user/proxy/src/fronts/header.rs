//! The header of the PROXY protocol, in both versions (haproxy's doc/proxy-protocol.txt).

use std::{io, net::SocketAddr};

use ppp::{HeaderResult, PartialResult as _, v1, v2};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    net::TcpStream,
};

/// With what the second version begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The first version's longest line (section 2.1).
const LONGEST_LINE: usize = 107;

/// The second version's fixed part (section 2.2).
const FIXED: usize = 16;

/// The most that may follow the fixed part: addresses, and what the front adds (TLVs), which nobody here reads.
/// The format allows for 64 KiB.
const LONGEST_REST: usize = 4096;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Of this client, which connected to this address.
    Client {
        client: SocketAddr,
        local: SocketAddr,
    },
    /// The front's own, such as a check of its own: as it looks.
    Own,
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// It ended.
    #[error("ended before its PROXY header was complete")]
    Ended,
    /// It broke.
    #[error(transparent)]
    Broken(#[from] io::Error),
    /// It has none.
    #[error("does not begin with a PROXY header")]
    None,
    /// Longer than anybody needs.
    #[error("has a PROXY header of more than {LONGEST_REST} bytes")]
    TooLong,
    /// It makes no sense.
    #[error("has a PROXY header that makes no sense: {0}")]
    Bad(String),
}

/// Reads the header, and nothing of what follows it.
pub(super) async fn read(stream: &mut TcpStream) -> Result<Told, HeaderError> {
    let mut header = vec![0; SIGNATURE.len()];
    fill(stream, &mut header).await?;
    if header == *SIGNATURE {
        header.resize(FIXED, 0);
        fill(stream, &mut header[SIGNATURE.len()..]).await?;
        let rest = usize::from(u16::from_be_bytes([header[FIXED - 2], header[FIXED - 1]]));
        if rest > LONGEST_REST {
            return Err(HeaderError::TooLong);
        }
        header.resize(FIXED + rest, 0);
        fill(stream, &mut header[FIXED..]).await?;
    } else if header.starts_with(b"PROXY ") {
        read_line(stream, &mut header).await?;
    } else {
        return Err(HeaderError::None);
    }
    parse(&header)
}

async fn fill(stream: &mut (impl AsyncRead + Unpin), part: &mut [u8]) -> Result<(), HeaderError> {
    match stream.read_exact(part).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(HeaderError::Ended),
        Err(error) => Err(error.into()),
    }
}

/// Reads on to the end of the line.
async fn read_line(stream: &mut TcpStream, line: &mut Vec<u8>) -> Result<(), HeaderError> {
    while !line.ends_with(b"\r\n") {
        let mut ahead = [0; LONGEST_LINE];
        let room = LONGEST_LINE - line.len();
        if room == 0 {
            return Err(HeaderError::Bad("its line does not end".to_owned()));
        }
        let seen = stream.peek(&mut ahead[..room]).await?;
        if seen == 0 {
            return Err(HeaderError::Ended);
        }
        let end = ahead[..seen].iter().position(|byte| *byte == b'\n');
        let its = end.map_or(seen, |end| end + 1);
        let begun = line.len();
        line.resize(begun + its, 0);
        fill(stream, &mut line[begun..]).await?;
        if end.is_some() && !line.ends_with(b"\r\n") {
            return Err(HeaderError::Bad("its line ends without CR".to_owned()));
        }
    }
    Ok(())
}

/// Reads a whole header.
fn parse(header: &[u8]) -> Result<Told, HeaderError> {
    let parsed = HeaderResult::parse(header);
    if parsed.is_incomplete() {
        return Err(HeaderError::Bad("it is cut".to_owned()));
    }
    match parsed {
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Unknown => Told::Own,
            v1::Addresses::Tcp4(both) => told(
                (both.source_address, both.source_port),
                (both.destination_address, both.destination_port),
            ),
            v1::Addresses::Tcp6(both) => told(
                (both.source_address, both.source_port),
                (both.destination_address, both.destination_port),
            ),
        }),
        HeaderResult::V1(Err(error)) => Err(HeaderError::Bad(error.to_string())),
        HeaderResult::V2(Ok(header)) if header.command == v2::Command::Local => Ok(Told::Own),
        HeaderResult::V2(Ok(header)) => match (header.protocol, header.addresses) {
            (v2::Protocol::Stream, v2::Addresses::IPv4(both)) => Ok(told(
                (both.source_address, both.source_port),
                (both.destination_address, both.destination_port),
            )),
            (v2::Protocol::Stream, v2::Addresses::IPv6(both)) => Ok(told(
                (both.source_address, both.source_port),
                (both.destination_address, both.destination_port),
            )),
            // "the receiver should ignore address information" (section 2.2, UNSPEC).
            (_, v2::Addresses::Unspecified) => Ok(Told::Own),
            _ => Err(HeaderError::Bad("it is of no TCP connection".to_owned())),
        },
        HeaderResult::V2(Err(error)) => Err(HeaderError::Bad(error.to_string())),
    }
}

fn told(client: impl Into<SocketAddr>, local: impl Into<SocketAddr>) -> Told {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Told::Client {
        client: canonical(client.into()),
        local: canonical(local.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(client: &str, local: &str) -> Told {
        Told::Client {
            client: client.parse().unwrap(),
            local: local.parse().unwrap(),
        }
    }

    fn version2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family][..], &length, rest].concat()
    }

    const ADDRESSES: [u8; 12] = [203, 0, 113, 9, 192, 0, 2, 1, 0xc0, 0x00, 0x01, 0xbb];

    #[test]
    fn clients_of_both_versions() {
        let v4 = client("203.0.113.9:49152", "192.0.2.1:443");
        let line = b"PROXY TCP4 203.0.113.9 192.0.2.1 49152 443\r\n";
        assert_eq!(parse(line).unwrap(), v4);
        let line = b"PROXY TCP6 2001:db8::9 2001:db8::1 49152 443\r\n";
        assert_eq!(
            parse(line).unwrap(),
            client("[2001:db8::9]:49152", "[2001:db8::1]:443")
        );
        assert_eq!(parse(&version2(0x21, 0x11, &ADDRESSES)).unwrap(), v4);
        // What a front adds is not looked at, whatever it says of its lengths.
        for more in [&[0x20, 0, 2, 1, 2][..], &[0x20, 0xff, 0xff], &[0x04]] {
            let rest = [&ADDRESSES[..], more].concat();
            assert_eq!(parse(&version2(0x21, 0x11, &rest)).unwrap(), v4);
        }
    }

    #[test]
    fn the_front_s_own_connections() {
        assert_eq!(parse(b"PROXY UNKNOWN\r\n").unwrap(), Told::Own);
        assert_eq!(
            parse(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n").unwrap(),
            Told::Own
        );
        assert_eq!(parse(&version2(0x20, 0x00, &[])).unwrap(), Told::Own);
        assert_eq!(parse(&version2(0x20, 0x11, &ADDRESSES)).unwrap(), Told::Own);
        assert_eq!(parse(&version2(0x21, 0x00, &[])).unwrap(), Told::Own);
    }

    #[test]
    fn what_makes_no_sense_is_no_header() {
        for bad in [
            &b"PROXY TCP4 203.0.113.9 192.0.2.1 49152\r\n"[..],
            b"PROXY TCP4 203.0.113.900 192.0.2.1 49152 443\r\n",
            b"PROXY TCP4 203.0.113.9 192.0.2.1 49152 65536\r\n",
            b"PROXY TCP6 203.0.113.9 192.0.2.1 49152 443\r\n",
            b"PROXY TCP4 203.0.113.9\0 192.0.2.1 49152 443\r\n",
            b"PROXY UDP4 203.0.113.9 192.0.2.1 49152 443\r\n",
            &version2(0x21, 0x11, &ADDRESSES[..11]),
            &version2(0x31, 0x11, &ADDRESSES),
            &version2(0x22, 0x11, &ADDRESSES),
            // Of a datagram, and of a Unix socket.
            &version2(0x21, 0x12, &ADDRESSES),
            &version2(0x21, 0x31, &[0; 216]),
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
