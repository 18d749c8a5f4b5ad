//! The program with few file descriptors and few connections: whom it refuses, and who is served all the same.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use nix::sys::resource::{Resource, setrlimit};
use nodegate_programs::own;

/// So many descriptors.
const FILES: u64 = 200;

/// An endpoint that answers every request on a connection, for as long as its client wants; but never one for
/// `/hold`, which it counts.
fn endpoint(held: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let port = listener.local_addr().expect("a socket").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a socket");
            let held = Arc::clone(&held);
            thread::spawn(move || {
                while let Some(head) = head(&mut stream) {
                    if head.starts_with("GET /hold ") {
                        held.fetch_add(1, Ordering::SeqCst);
                        let _ = stream.read(&mut [0]);
                        break;
                    }
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    if stream.write_all(answer).is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

/// What comes up to an empty line.
fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    String::from_utf8(head).ok()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    listener.local_addr().expect("a socket").port()
}

/// Ended when dropped.
struct Program {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
    /// Requests that its endpoint holds.
    held: Arc<AtomicUsize>,
}

impl Program {
    fn start(more: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let held = Arc::default();
        let (port, endpoint) = (free_port(), endpoint(Arc::clone(&held)));
        fs::write(directory.path().join("a.yaml"), manifests(port, endpoint)).expect("a file");
        let mut command = run(directory.path());
        command.args(more);
        // SAFETY: after fork, nothing is called but setrlimit(2), which is safe there.
        unsafe {
            command.pre_exec(|| {
                setrlimit(Resource::RLIMIT_NOFILE, FILES, FILES).map_err(io::Error::from)
            });
        }
        let child = command.spawn().expect("the program");
        let program = Self {
            child,
            directory,
            port,
            held,
        };
        wait_for_service(&program);
        program
    }

    /// A client that will wait for no longer than a test may.
    fn client(&self) -> Option<TcpStream> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        let limit = Some(patience::limit());
        stream.set_read_timeout(limit).expect("a socket");
        Some(stream)
    }

    /// What `status` says was refused for a reason.
    fn refused(&self, reason: &str) -> u64 {
        let admin = self.directory.path().join("admin.sock");
        let mut status = own(env!("CARGO_BIN_EXE_nodegate"));
        status.args(["status", "-o", "json", "--admin"]).arg(admin);
        let output = status.output().expect("the program");
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a status");
        status["proxy"]["refused"][reason]
            .as_u64()
            .expect("a number")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(directory: &Path) -> Command {
    let mut command = own(env!("CARGO_BIN_EXE_nodegate"));
    command
        .args(["run", "--role", "proxy", "--workers", "1"])
        .args(["--node-name", "node1", "--manifests"])
        .arg(directory)
        .arg("--admin")
        .arg(directory.join("admin.sock"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn manifests(port: u16, endpoint: u16) -> String {
    format!(
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
    )
}

/// The status that a request is answered with; none if the connection ends.
fn status(stream: &mut TcpStream) -> Option<u16> {
    stream.write_all(&request("/")).ok()?;
    status_of(stream)
}

fn status_of(stream: &mut TcpStream) -> Option<u16> {
    head(stream)?.get(9..12)?.parse().ok()
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

/// What becomes of a request that the endpoint would hold.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Held,
    Answered(u16),
    Refused,
}

fn hold(program: &Program, stream: &mut TcpStream) -> Fate {
    let before = program.held.load(Ordering::SeqCst);
    if stream.write_all(&request("/hold")).is_err() {
        return Fate::Refused;
    }
    let fate = patience::until(|| {
        if program.held.load(Ordering::SeqCst) > before {
            return Some(Fate::Held);
        }
        stream.set_nonblocking(true).expect("a socket");
        let waits = stream.peek(&mut [0]);
        stream.set_nonblocking(false).expect("a socket");
        match waits {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Ok(1) => Some(status_of(stream).map_or(Fate::Refused, Fate::Answered)),
            _ => Some(Fate::Refused),
        }
    });
    fate.expect("something becomes of it")
}

/// Whether a request is answered well.
fn ask(stream: &mut TcpStream) -> bool {
    status(stream) == Some(200) && stream.read_exact(&mut [0; 2]).is_ok()
}

/// Waits until new clients are served.
fn wait_for_service(program: &Program) {
    let served = patience::until(|| {
        let mut client = program.client()?;
        ask(&mut client).then_some(())
    });
    served.expect("new clients are served");
}

#[test]
fn with_no_descriptor_left_clients_hear_at_once_and_others_go_on() {
    let program = Program::start(&[]);
    let mut first = program.client().expect("a connection");
    assert!(ask(&mut first));
    // By what becomes of them: served, told that there is nobody for them, and not taken in.
    let (mut served, mut told, mut refused) = (Vec::new(), Vec::new(), 0);
    for _ in 0..2 * FILES {
        let mut client = program.client().expect("the kernel takes it");
        match hold(&program, &mut client) {
            Fate::Held => served.push(client),
            Fate::Answered(503) => told.push(client),
            Fate::Refused => refused += 1,
            other @ Fate::Answered(_) => panic!("{other:?}"),
        }
        if refused > 10 {
            break;
        }
    }
    assert!(served.len() > 50, "{}", served.len());
    assert!(!told.is_empty() && refused > 10, "{} {refused}", told.len());
    assert!(program.refused("descriptors") >= refused);
    assert!(program.refused("endpoint-descriptors") >= told.len() as u64);
    // Who is connected hears at once, whatever it is: the connection to the endpoint may be somebody else's now.
    let status = status(&mut first);
    assert!(matches!(status, Some(200 | 503)), "{status:?}");
    drop((served, told));
    wait_for_service(&program);
}

#[test]
fn more_connections_than_there_may_be_are_reset() {
    let program = Program::start(&["--max-connections", "3"]);
    // That of the start may not have been seen to end yet.
    let open = patience::until(|| {
        let mut open: Vec<_> = (0..3).filter_map(|_| program.client()).collect();
        open.iter_mut().all(ask).then_some(open)
    });
    let mut open = open.expect("three are served");
    let mut fourth = program.client().expect("the kernel takes it");
    assert_eq!(status(&mut fourth), None);
    assert!(program.refused("connections") > 0);
    assert!(open.iter_mut().all(ask));
    open.pop();
    wait_for_service(&program);
}

#[test]
fn a_port_may_have_a_limit_of_its_own() {
    let limited = free_port();
    let limit = format!("{limited}=1,10000");
    let program = Program::start(&["--max-connections", &limit]);
    let directory = program.directory.path();
    let of_limited = manifests(limited, 1).replace("name: web", "name: limited");
    let (gateway, _) = of_limited.split_once("---").expect("a Gateway comes first");
    fs::write(directory.join("b.yaml"), gateway).expect("a file");
    let connect = || {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, limited)).ok()?;
        stream.set_read_timeout(Some(patience::limit())).ok()?;
        Some(stream)
    };
    let first = patience::until(|| {
        connect().filter(|stream| {
            let mut stream = stream.try_clone().expect("a socket");
            // It has no routes.
            status(&mut stream) == Some(404)
        })
    });
    let _first = first.expect("one is served");
    let mut second = connect().expect("the kernel takes it");
    assert_eq!(status(&mut second), None);
    assert!(program.refused("connections") > 0);
    wait_for_service(&program);
}

#[test]
fn clients_are_refused_while_memory_is_scarce() {
    // It takes more than this as soon as it runs.
    let directory = tempfile::tempdir().expect("a directory");
    let (port, endpoint) = (free_port(), endpoint(Arc::default()));
    fs::write(directory.path().join("a.yaml"), manifests(port, endpoint)).expect("a file");
    let mut command = run(directory.path());
    command.args(["--max-memory", "4Mi"]);
    let program = Program {
        child: command.spawn().expect("the program"),
        directory,
        port,
        held: Arc::default(),
    };
    let refused = patience::until(|| {
        let mut client = program.client()?;
        let is_refused = status(&mut client).is_none();
        (is_refused && program.refused("memory") > 0).then_some(())
    });
    refused.expect("a client is refused");
}
