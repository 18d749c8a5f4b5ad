//! The endpoint behind a proxy under attack: it writes down what it gets, and misbehaves where it is asked to.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::said::{self, EVIL};

/// Where requests lead that are never answered.
pub(super) const HOLD: &str = "/hold";
/// Where requests lead that get an answer of [`LARGE_BYTES`].
pub(super) const LARGE: &str = "/large";
/// As much as no window of HTTP/2 has room for at once.
pub(super) const LARGE_BYTES: usize = 1 << 20;

/// What requests ask for that are hidden in others.
const HIDDEN: &str = "/hidden";
/// How faults end of messages that are not there to their end.
const CUT: &str = "cut off";

/// A request as it came, read by the letter of RFC 9112.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The request line.
    pub(super) line: String,
    /// All header lines, in lower case.
    pub(super) headers: String,
    pub(super) body: Vec<u8>,
    /// Why it cannot be framed, if it cannot.
    pub(super) fault: Option<&'static str>,
}

/// A server that ends with the process. Nobody but a proxy under attack connects to it.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

// === impl Seen ===

impl Seen {
    /// Why no proxy may let it pass, if it may not: a body that is cut off is the end of a connection alone.
    pub(super) fn misread(&self) -> Option<String> {
        let fault = self.fault.filter(|fault| !fault.ends_with(CUT));
        if let Some(fault) = fault {
            return Some(format!("{fault} got to the endpoint"));
        }
        let is_hidden = self.line.contains(HIDDEN);
        is_hidden.then(|| format!("a hidden request got to the endpoint: {:?}", self.line))
    }
}

// === impl Endpoint ===

impl Endpoint {
    pub(super) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let own = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&own);
                // A proxy that ends a connection in the middle is what is tried, and no error here.
                thread::spawn(move || serve(stream, &seen));
            }
        });
        Ok(Self { address, seen })
    }

    /// How many requests have come so far.
    pub(super) fn count(&self) -> usize {
        lock(&self.seen).len()
    }

    /// Those that have come after the first `count`.
    pub(super) fn since(&self, count: usize) -> Vec<Seen> {
        lock(&self.seen)[count..].to_vec()
    }
}

fn lock(seen: &Mutex<Vec<Seen>>) -> MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Seen>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(head) = until(&mut stream, &mut buffer, b"\r\n\r\n")? {
        let mut request = read(&head);
        let target = request.line.split(' ').nth(1).unwrap_or("").to_owned();
        let is_early = target.starts_with(EVIL);
        if !is_early && request.fault.is_none() {
            let (headers, body) = (&request.headers, &mut request.body);
            request.fault = self::body(&mut stream, &mut buffer, headers, body)?;
        }
        let fault = request.fault;
        let is_head = request.line.starts_with("HEAD ");
        // The request counts before anybody hears the answer.
        lock(seen).push(request);
        if fault.is_some() {
            return stream.write_all(
                b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            );
        }
        if let Some(name) = target.strip_prefix(EVIL) {
            return said::say(&mut stream, name);
        }
        if target.starts_with(HOLD) {
            let mut rest = Vec::new();
            return stream.read_to_end(&mut rest).map(drop);
        }
        let body = if target.starts_with(LARGE) {
            vec![b'x'; LARGE_BYTES]
        } else {
            target.into_bytes()
        };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes())?;
        if !is_head {
            stream.write_all(&body)?;
        }
    }
    Ok(())
}

/// Takes what comes up to and with the marker; none at the end.
fn until(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    marker: &[u8],
) -> io::Result<Option<Vec<u8>>> {
    loop {
        let found = buffer.windows(marker.len()).position(|part| part == marker);
        if let Some(at) = found {
            let rest = buffer.split_off(at + marker.len());
            return Ok(Some(std::mem::replace(buffer, rest)));
        }
        if !more(stream, buffer)? {
            return Ok(None);
        }
    }
}

/// Takes so many bytes; false if the connection ends before.
fn exactly(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    count: usize,
    body: &mut Vec<u8>,
) -> io::Result<bool> {
    while buffer.len() < count {
        if !more(stream, buffer)? {
            return Ok(false);
        }
    }
    body.extend(buffer.drain(..count));
    Ok(true)
}

fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = [0; 16 * 1024];
    let read = stream.read(&mut chunk)?;
    buffer.extend(&chunk[..read]);
    Ok(read > 0)
}

/// A head; with a fault if no two readers need agree on it.
fn read(head: &[u8]) -> Seen {
    let text = String::from_utf8_lossy(head).into_owned();
    let (line, headers) = text.split_once("\r\n").unwrap_or((&text, ""));
    let headers = headers.trim_end().to_ascii_lowercase();
    let without_ends = text.replace("\r\n", "");
    let fault = if without_ends.contains(['\r', '\n', '\0']) {
        Some("a control character in a head")
    } else if headers.lines().any(|line| line.starts_with([' ', '\t'])) {
        Some("a folded header")
    } else if headers.lines().any(|line| {
        let name = line.split(':').next().unwrap_or("");
        name.ends_with([' ', '\t']) || !line.contains(':')
    }) {
        Some("a header without a name")
    } else if line.split(' ').count() != 3 {
        Some("a request line that is not three words")
    } else {
        None
    };
    Seen {
        line: line.to_owned(),
        headers,
        body: Vec::new(),
        fault,
    }
}

/// Reads a body (RFC 9112, section 6.3); gives why it cannot be framed, if it cannot.
fn body(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    headers: &str,
    body: &mut Vec<u8>,
) -> io::Result<Option<&'static str>> {
    let values = |wanted: &str| -> Vec<String> {
        let fields = headers.lines().filter_map(|line| line.split_once(':'));
        let fields = fields.filter(|(name, _)| *name == wanted);
        fields.map(|(_, value)| value.trim().to_owned()).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(None),
        ([length], []) => {
            let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let Some(count) = length.parse().ok().filter(|_| is_number) else {
                return Ok(Some("a length that is no number"));
            };
            let whole = exactly(stream, buffer, count, body)?;
            Ok((!whole).then_some("a body that is cut off"))
        }
        ([], [coding]) if coding == "chunked" => chunks(stream, buffer, body),
        ([], _) => Ok(Some("a coding that is not chunked")),
        (_, []) => Ok(Some("two lengths")),
        _ => Ok(Some("a length and a coding")),
    }
}

fn chunks(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    body: &mut Vec<u8>,
) -> io::Result<Option<&'static str>> {
    let cut = Ok(Some("chunks that are cut off"));
    loop {
        let Some(line) = until(stream, buffer, b"\r\n")? else {
            return cut;
        };
        let size = std::str::from_utf8(&line)
            .unwrap_or("")
            .trim_end_matches("\r\n");
        let is_hex = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_hexdigit());
        let Some(size) = usize::from_str_radix(size, 16).ok().filter(|_| is_hex) else {
            return Ok(Some("a chunk's size that is no number"));
        };
        if size == 0 {
            break;
        }
        if !exactly(stream, buffer, size, body)? {
            return cut;
        }
        let mut end = Vec::new();
        if !exactly(stream, buffer, 2, &mut end)? || end != b"\r\n" {
            return Ok(Some("a chunk that does not end where it says"));
        }
    }
    // Trailers, up to an empty line.
    loop {
        match until(stream, buffer, b"\r\n")? {
            None => return cut,
            Some(line) if line == b"\r\n" => return Ok(None),
            Some(_) => {}
        }
    }
}
