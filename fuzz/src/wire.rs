//! A gateway on loopback that gets arbitrary bytes from a client: it stays there, ends what is no request, serves
//! others, and sends endpoints nothing but requests that can be read in one way.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    num::NonZero,
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use nodegate_compile::{GatewayIdentity, NodeIdentity, ServiceScope, compile};
use nodegate_model::Snapshot;
use nodegate_proxy::{Options, Proxy};
use nodegate_resources::{admission::Store, manifest::Manifest};

/// What a client says first in HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Somebody else asks after so many inputs.
const OTHERS: u64 = 64;
/// Whoever has ended its side is answered or ended within that.
const LIMIT: Duration = Duration::from_secs(15);

static INPUTS: AtomicU64 = AtomicU64::new(0);

/// Bytes of a client in HTTP/1.1.
pub fn http1(input: &[u8]) {
    send(&[input]);
}

/// Bytes of a client behind the preface of HTTP/2.
pub fn http2(input: &[u8]) {
    send(&[PREFACE, input]);
}

fn send(parts: &[&[u8]]) {
    let gateway = gateway();
    let mut stream = TcpStream::connect(gateway).expect("the gateway is there");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    // It may be ended in the middle.
    for part in parts {
        let _ = stream.write_all(part);
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut heard = Vec::new();
    if let Err(error) = stream.read_to_end(&mut heard) {
        let is_late = matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        );
        assert!(!is_late, "the connection does not end");
    }
    if INPUTS.fetch_add(1, Relaxed).is_multiple_of(OTHERS) {
        others_are_served(gateway);
    }
}

fn others_are_served(gateway: SocketAddr) {
    let mut stream = TcpStream::connect(gateway).expect("the gateway is there");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    let request = b"GET /other HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n";
    stream.write_all(request).expect("it takes a request");
    let mut heard = String::new();
    stream.read_to_string(&mut heard).expect("it answers");
    assert!(
        heard.starts_with("HTTP/1.1 200") && heard.ends_with("\r\n\r\n/other"),
        "{heard}"
    );
}

/// Starts the gateway and its endpoint, which live as long as the process.
fn gateway() -> SocketAddr {
    static GATEWAY: OnceLock<SocketAddr> = OnceLock::new();
    *GATEWAY.get_or_init(|| {
        let endpoint = endpoint().expect("a listener");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let snapshot = snapshot(port, endpoint);
        let proxy = Proxy::start(Options {
            workers: NonZero::<usize>::MIN,
            address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            extended_connect: true,
            ..Options::default()
        })
        .expect("a thread");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let applied = runtime.block_on(proxy.apply(&std::sync::Arc::new(snapshot)));
        assert!(applied.failures.is_empty(), "{:?}", applied.failures);
        std::mem::forget((proxy, runtime));
        (Ipv4Addr::LOCALHOST, port).into()
    })
}

fn snapshot(port: u16, endpoint: u16) -> Snapshot {
    let text = format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: web, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: web, namespace: istio-system}}
spec:
  hosts: [web.example]
  resolution: STATIC
  ports: [{{name: http, number: 80, protocol: HTTP, targetPort: {endpoint}}}]
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: istio-system}}
spec: {{hosts: ['*'], gateways: [web], http: [{{route: [{{destination: {{host: web.example}}}}]}}]}}
"
    );
    let manifest = Manifest::parse(PathBuf::from("gateway.yaml"), &text);
    let mut store = Store::default();
    let resources = store.admit([&manifest], Vec::new());
    let gateway = GatewayIdentity {
        namespace: "istio-system".into(),
        name: "gateway".into(),
        labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
        ..GatewayIdentity::default()
    };
    let node = NodeIdentity::default();
    let compiled = compile(&resources, &node, Some(&gateway), &ServiceScope::Gateway);
    Snapshot {
        generation: 1,
        node: compiled.node,
        services: compiled.services,
        gateway: compiled.gateway,
        diagnostics: compiled.diagnostics,
    }
}

/// An endpoint that answers with the path, and ends the process by what cannot be read in one way.
fn endpoint() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    Ok(port)
}

fn serve(stream: TcpStream) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(head) = head(&mut reader)? {
        let (line, headers) = head.split_first().expect("a request line");
        let words: Vec<_> = line.split(' ').collect();
        let [method, path, "HTTP/1.1"] = words[..] else {
            panic!("no request line: {line:?}");
        };
        let values = |wanted: &str| -> Vec<&str> {
            let fields = headers
                .iter()
                .map(|line| line.split_once(": ").expect("a header"));
            fields
                .filter(|(name, _)| *name == wanted)
                .map(|(_, value)| value)
                .collect()
        };
        match (
            &values("content-length")[..],
            &values("transfer-encoding")[..],
        ) {
            ([], []) => {}
            ([length], []) => {
                assert!(length.bytes().all(|byte| byte.is_ascii_digit()), "{head:?}");
                let length = length.parse().expect("a length");
                if io::copy(&mut reader.by_ref().take(length), &mut io::sink())? < length {
                    return Ok(());
                }
            }
            ([], ["chunked"]) => {
                if !chunks(&mut reader)? {
                    return Ok(());
                }
            }
            _ => panic!("framed in two ways: {head:?}"),
        }
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", path.len());
        writer.write_all(answer.as_bytes())?;
        if method != "HEAD" {
            writer.write_all(path.as_bytes())?;
        }
    }
    Ok(())
}

/// The lines of a head; none at the end.
fn head(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Vec<String>>> {
    let mut lines = Vec::new();
    loop {
        let Some(line) = line(reader)? else {
            return Ok(None);
        };
        if line.is_empty() {
            return Ok(Some(lines));
        }
        lines.push(line);
    }
}

/// A line that ends with CRLF, without any other control character; none at the end.
fn line(reader: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    reader.read_until(b'\n', &mut bytes)?;
    if bytes.last() != Some(&b'\n') {
        return Ok(None);
    }
    let Some(line) = bytes.strip_suffix(b"\r\n") else {
        panic!("a line ends with LF alone: {}", bytes.escape_ascii());
    };
    let is_clean = line
        .iter()
        .all(|byte| !byte.is_ascii_control() || *byte == b'\t');
    assert!(is_clean, "a control character: {}", line.escape_ascii());
    Ok(Some(String::from_utf8_lossy(line).into_owned()))
}

/// Whether the body is there to its end.
fn chunks(reader: &mut BufReader<TcpStream>) -> io::Result<bool> {
    loop {
        let Some(size) = line(reader)? else {
            return Ok(false);
        };
        let size = u64::from_str_radix(&size, 16).expect("a chunk's size");
        if size == 0 {
            break;
        }
        if io::copy(&mut reader.by_ref().take(size), &mut io::sink())? < size {
            return Ok(false);
        }
        match line(reader)? {
            None => return Ok(false),
            Some(end) => assert_eq!(end, "", "a chunk does not end where it says"),
        }
    }
    Ok(head(reader)?.is_some())
}
