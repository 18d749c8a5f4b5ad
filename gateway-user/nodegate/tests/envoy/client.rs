//! A client that sends bytes as they are, and reads what comes back.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{SystemTime, UNIX_EPOCH},
};

/// A response.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// The port that the client came from.
    pub(crate) port: u16,
    /// When it was asked for, in microseconds since 1970.
    pub(crate) asked: i64,
    /// Statuses of interim responses.
    pub(crate) interim: Vec<u16>,
    /// 0 if the connection ended before there was one.
    pub(crate) status: u16,
    /// As they came.
    pub(crate) headers: Vec<(String, String)>,
    /// Without its framing.
    pub(crate) body: Vec<u8>,
    /// Whether the connection ended within the body.
    pub(crate) cut: bool,
}

impl Answer {
    /// Whether it is an endpoint's, and not the proxy's own.
    pub(crate) fn is_of_endpoint(&self) -> bool {
        values(&self.headers, "x-envoy-upstream-service-time")
            .next()
            .is_some()
    }

    /// Whether the connection may be used again.
    pub(crate) fn leaves_open(&self) -> bool {
        let mut connection = values(&self.headers, "connection");
        self.status != 0 && !self.cut && !connection.any(|value| value == "close")
    }
}

/// Sends a request and reads the response to it.
pub(crate) fn ask(to: SocketAddr, request: &[u8]) -> io::Result<Answer> {
    Connection::open(to)?.ask(request)
}

/// A connection, for one request after the other.
pub(crate) struct Connection {
    to: SocketAddr,
    reader: Reader,
}

impl Connection {
    pub(crate) fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience::limit()))?;
        let reader = Reader {
            stream,
            buffer: Vec::new(),
        };
        Ok(Self { to, reader })
    }

    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        *self = Self::open(self.to)?;
        Ok(())
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.stream.write_all(bytes)
    }

    /// Sends nothing more.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.reader.stream.shutdown(Shutdown::Write)
    }

    /// All that comes until the other side ends.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.reader.fill()? {}
        Ok(std::mem::take(&mut self.reader.buffer))
    }

    /// What comes up to and with the marker; none if the connection ends before it.
    pub(crate) fn until(&mut self, marker: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.reader.until(marker)
    }

    /// Sends a request and reads the response to it.
    pub(crate) fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        let asked = SystemTime::now().duration_since(UNIX_EPOCH);
        let asked = asked.map_err(io::Error::other)?.as_micros() as i64;
        self.send(request)?;
        let head_only = request.starts_with(b"HEAD ");
        let reader = &mut self.reader;
        let mut answer = Answer {
            port: reader.stream.local_addr()?.port(),
            asked,
            ..Answer::default()
        };
        loop {
            let Some(head) = reader.head()? else {
                return Ok(answer);
            };
            let (status, headers) = parse(&head).ok_or_else(|| {
                let head = String::from_utf8_lossy(&head);
                io::Error::other(format!(
                    "{} answered with what is not HTTP: {head}",
                    self.to
                ))
            })?;
            if (100..200).contains(&status) && status != 101 {
                answer.interim.push(status);
                continue;
            }
            answer.status = status;
            answer.headers = headers;
            break;
        }
        if !(head_only || matches!(answer.status, 101 | 204 | 304)) {
            reader.body(&mut answer)?;
        }
        Ok(answer)
    }
}

/// Values of a header.
pub(crate) fn values<'a>(
    headers: &'a [(String, String)],
    name: &'a str,
) -> impl Iterator<Item = &'a str> {
    headers
        .iter()
        .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Reader {
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
            let at = self
                .buffer
                .windows(marker.len())
                .position(|window| window == marker);
            if let Some(at) = at {
                let rest = self.buffer.split_off(at + marker.len());
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.until(b"\r\n\r\n")
    }

    fn exactly(&mut self, length: usize, answer: &mut Answer) -> io::Result<()> {
        while self.buffer.len() < length {
            if !self.fill()? {
                answer.cut = true;
                answer.body.append(&mut self.buffer);
                return Ok(());
            }
        }
        let rest = self.buffer.split_off(length);
        answer
            .body
            .extend(std::mem::replace(&mut self.buffer, rest));
        Ok(())
    }

    fn body(&mut self, answer: &mut Answer) -> io::Result<()> {
        let chunked = values(&answer.headers, "transfer-encoding").any(|value| value == "chunked");
        let length = values(&answer.headers, "content-length").next();
        let length = length.and_then(|length| length.parse().ok());
        if chunked {
            return self.chunks(answer);
        }
        if let Some(length) = length {
            return self.exactly(length, answer);
        }
        while self.fill()? {}
        answer.body.append(&mut self.buffer);
        Ok(())
    }

    fn chunks(&mut self, answer: &mut Answer) -> io::Result<()> {
        loop {
            let Some(line) = self.until(b"\r\n")? else {
                answer.cut = true;
                return Ok(());
            };
            let line = String::from_utf8_lossy(&line);
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
            if size == 0 {
                // There are no trailers: neither proxy passes any on.
                self.until(b"\r\n")?;
                return Ok(());
            }
            self.exactly(size, answer)?;
            if answer.cut {
                return Ok(());
            }
            self.until(b"\r\n")?;
        }
    }
}

fn parse(head: &[u8]) -> Option<(u16, Vec<(String, String)>)> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.trim_end().split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        })
        .collect::<Option<_>>()?;
    Some((status.parse().ok()?, headers))
}
