//! HTTP/1.1 as it comes: heads with their headers in order, and bodies without their framing.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
};

use nix::sys::socket::{self, sockopt};

/// Headers as they came.
pub type Headers = Vec<(String, String)>;

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Its first line.
    pub start: String,
    /// As they came.
    pub headers: Headers,
    /// Without its framing.
    pub body: Vec<u8>,
    /// What comes after the body.
    pub trailers: Headers,
    /// Whether the connection ended within the body.
    pub cut: bool,
}

impl Message {
    /// The values of a header.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self
            .headers
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }
}

/// What the end of a message is told by, when nothing in its head says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Its head: it has no body.
    Nothing,
    /// The end of the connection.
    Connection,
}

/// One side of a connection.
pub(super) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience::limit()))?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Ends the connection with a reset (socket(7), `SO_LINGER`).
    pub(super) fn reset(&self) -> io::Result<()> {
        let linger = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        Ok(socket::setsockopt(&self.stream, sockopt::Linger, &linger)?)
    }

    /// First line and headers of the next message; none at the end of the connection.
    pub(super) fn head(&mut self) -> io::Result<Option<Message>> {
        let Some(bytes) = self.until(b"\r\n\r\n")? else {
            return Ok(None);
        };
        // Bytes that are no text are shown as such, and are the same on both sides.
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        Ok(Some(Message {
            start,
            headers: lines.map(field).collect(),
            ..Message::default()
        }))
    }

    /// Reads the body that belongs to a head.
    pub(super) fn body(&mut self, message: &mut Message, rest: Rest) -> io::Result<()> {
        let chunked = message
            .values("transfer-encoding")
            .any(|value| value.eq_ignore_ascii_case("chunked"));
        let length = message.values("content-length").next();
        let length = length.and_then(|length| length.parse().ok());
        match length {
            _ if chunked => self.chunks(message),
            Some(length) => self.exactly(length, message),
            None if rest == Rest::Nothing => Ok(()),
            None => {
                while self.fill()? {}
                message.body.append(&mut self.buffer);
                Ok(())
            }
        }
    }

    /// Whether more came.
    fn fill(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(length) => {
                self.buffer.extend_from_slice(&chunk[..length]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn until(&mut self, marker: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            let mut windows = self.buffer.windows(marker.len());
            if let Some(at) = windows.position(|window| window == marker) {
                let rest = self.buffer.split_off(at + marker.len());
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// So many bytes; none if there are fewer before the end of the connection.
    pub(super) fn bytes(&mut self, length: usize) -> io::Result<Option<Vec<u8>>> {
        while self.buffer.len() < length {
            if !self.fill()? {
                return Ok(None);
            }
        }
        let rest = self.buffer.split_off(length);
        Ok(Some(std::mem::replace(&mut self.buffer, rest)))
    }

    fn exactly(&mut self, length: usize, message: &mut Message) -> io::Result<()> {
        if let Some(body) = self.bytes(length)? {
            message.body.extend(body);
        } else {
            message.cut = true;
            message.body.append(&mut self.buffer);
        }
        Ok(())
    }

    fn trailers(&mut self, message: &mut Message) -> io::Result<()> {
        loop {
            let Some(line) = self.until(b"\r\n")? else {
                message.cut = true;
                return Ok(());
            };
            let line = String::from_utf8_lossy(&line);
            match line.trim_end() {
                "" => return Ok(()),
                line => message.trailers.push(field(line)),
            }
        }
    }

    fn chunks(&mut self, message: &mut Message) -> io::Result<()> {
        loop {
            let Some(line) = self.until(b"\r\n")? else {
                message.cut = true;
                return Ok(());
            };
            let line = String::from_utf8_lossy(&line);
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
            if size > 0 {
                self.exactly(size, message)?;
            }
            if message.cut {
                return Ok(());
            }
            if size == 0 {
                return self.trailers(message);
            }
            self.until(b"\r\n")?;
        }
    }
}

/// Name and value of a line.
fn field(line: &str) -> (String, String) {
    match line.split_once(':') {
        Some((name, value)) => (name.to_owned(), value.trim().to_owned()),
        None => (line.to_owned(), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// What is read of bytes that come over a connection.
    fn read(bytes: &'static [u8], rest: Rest) -> Vec<Message> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let writer = thread::spawn(move || {
            TcpStream::connect(address)
                .unwrap()
                .write_all(bytes)
                .unwrap();
        });
        let mut wire = Wire::new(listener.accept().unwrap().0).unwrap();
        let mut messages = Vec::new();
        while let Some(mut message) = wire.head().unwrap() {
            wire.body(&mut message, rest).unwrap();
            messages.push(message);
        }
        writer.join().unwrap();
        messages
    }

    #[test]
    fn messages_follow_each_other_whatever_ends_them() {
        let messages = read(
            b"POST /a HTTP/1.1\r\nX-A: 1\r\nx-a:  2 \r\ncontent-length: 3\r\n\r\nabc\
              POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nde\r\n1\r\nf\r\n0\r\nX-T: 1\r\n\r\n\
              GET /c HTTP/1.1\r\n\r\n",
            Rest::Nothing,
        );
        let bodies: Vec<_> = messages.iter().map(|message| &message.body[..]).collect();
        assert_eq!(bodies, [&b"abc"[..], b"def", b""]);
        let values: Vec<_> = messages[0].values("x-a").collect();
        assert_eq!(values, ["1", "2"]);
        assert_eq!(messages[1].trailers, [("X-T".to_owned(), "1".to_owned())]);
        assert_eq!(messages[2].start, "GET /c HTTP/1.1");
        assert!(messages.iter().all(|message| !message.cut));
    }

    #[test]
    fn what_is_missing_of_a_body_is_told() {
        let messages = read(
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
            Rest::Connection,
        );
        assert!(messages[0].cut);
        let messages = read(b"HTTP/1.1 200 OK\r\n\r\nabc", Rest::Connection);
        assert_eq!(
            (messages[0].cut, &messages[0].body[..]),
            (false, &b"abc"[..])
        );
    }
}
