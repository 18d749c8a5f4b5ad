//! `nodegate run --dns-server`: the program itself, a DNS server, and endpoints that only it knows.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{RData, Record, RecordType, rdata::A},
};

/// Names, their addresses, and what has been asked for.
#[derive(Default)]
struct Zone {
    addresses: BTreeMap<&'static str, Vec<Ipv4Addr>>,
    asked: Vec<String>,
}

/// Answers for a second.
fn dns_server(zone: Arc<Mutex<Zone>>) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let address = socket.local_addr().expect("a socket");
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let asked = Message::from_vec(&buffer[..length]).expect("a query");
            let answer = answer(&asked, &mut zone.lock().expect("nobody panics"));
            socket
                .send_to(&answer.to_vec().expect("an answer"), from)
                .expect("a socket");
        }
    });
    address
}

fn answer(asked: &Message, zone: &mut Zone) -> Message {
    let mut answer = Message::response(asked.metadata.id, OpCode::Query);
    let query = asked.queries[0].clone();
    let name = query.name().to_utf8();
    let name = name.trim_end_matches('.');
    zone.asked.push(name.to_owned());
    match zone.addresses.get(name) {
        None => answer.metadata.response_code = ResponseCode::NXDomain,
        Some(addresses) if query.query_type() == RecordType::A => {
            for address in addresses {
                let record =
                    Record::from_rdata(query.name().clone(), 1, RData::A(A::from(*address)));
                answer.add_answer(record);
            }
        }
        // There is no other kind of address.
        Some(_) => {}
    }
    answer.add_query(query);
    answer
}

/// Endpoints on one port of two addresses, which say on which they are.
fn endpoints() -> u16 {
    let first = TcpListener::bind(("127.0.0.2", 0)).expect("a socket");
    let port = first.local_addr().expect("a socket").port();
    let second = TcpListener::bind(("127.0.0.3", port)).expect("a socket");
    for listener in [first, second] {
        thread::spawn(move || {
            let body = listener.local_addr().expect("a socket").ip().to_string();
            for stream in listener.incoming() {
                let mut stream = stream.expect("a socket");
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).unwrap_or(0) == 0 {
                        break;
                    }
                    head.push(byte[0]);
                }
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        });
    }
    port
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    listener.local_addr().expect("a socket").port()
}

/// Ended when dropped.
struct Program(Child);

impl Program {
    fn start(manifests: &Path, dns: SocketAddr) -> Self {
        let mut command = nodegate_programs::own(env!("CARGO_BIN_EXE_nodegate"));
        command
            .args([
                "run",
                "--role",
                "proxy",
                "--workers",
                "1",
                "--node-name",
                "node1",
            ])
            .arg("--manifests")
            .arg(manifests)
            .arg("--admin")
            .arg(manifests.join("admin.sock"))
            .args(["--dns-server", &dns.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().expect("the program"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Status and body, or nothing as long as nobody listens.
fn ask(port: u16, host: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream
        .set_read_timeout(Some(patience::limit()))
        .expect("a socket");
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.get(9..12)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

fn becomes(port: u16, host: &str, wanted: (u16, &str)) {
    let wanted = Some((wanted.0, wanted.1.to_owned()));
    let became = patience::until(|| (ask(port, host) == wanted).then_some(()));
    became.unwrap_or_else(|late| panic!("{host}: {:?} {late}", ask(port, host)));
}

#[test]
fn names_of_service_entries_are_asked_of_the_given_server() {
    let zone = Arc::new(Mutex::new(Zone::default()));
    let set = |address: &str| {
        let addresses = vec![address.parse().unwrap()];
        zone.lock()
            .unwrap()
            .addresses
            .insert("web.example", addresses);
    };
    set("127.0.0.2");
    let dns = dns_server(Arc::clone(&zone));
    let target = endpoints();
    let port = free_port();
    let directory = tempfile::tempdir().unwrap();
    let gateway = format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: web, namespace: default}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}]
"
    );
    let entry = |name: &str| {
        format!(
            "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{name}.example]
  resolution: DNS
  ports: [{{name: http, number: 80, protocol: HTTP, targetPort: {target}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{name}.example]
  gateways: [web]
  http: [{{route: [{{destination: {{host: {name}.example}}}}]}}]
"
        )
    };
    let manifests = [gateway, entry("web"), entry("gone")].join("---\n");
    fs::write(directory.path().join("all.yaml"), manifests).unwrap();
    let _program = Program::start(directory.path(), dns);
    becomes(port, "web.example", (200, "127.0.0.2"));
    becomes(port, "gone.example", (503, "no healthy upstream"));
    // The answer holds for a second only.
    set("127.0.0.3");
    becomes(port, "web.example", (200, "127.0.0.3"));
    let asked = &zone.lock().unwrap().asked;
    for name in ["web.example", "gone.example"] {
        assert!(asked.iter().any(|asked| asked == name), "{asked:?}");
    }
}
