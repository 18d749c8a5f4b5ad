//! Endpoints that are spoken to in TLS.

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::{
    HeaderValue, StatusCode,
    header::{CONNECTION, UPGRADE},
};
use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nodegate_model::gateway::{Cluster, TlsCredentials, TlsMode, TlsSecret, UpstreamTls};
use nodegate_observe::{Record, ResponseFlag};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use super::{
    authority::Authority,
    harness::{Endpoint, Fixture, Peer, free_port, header, status},
};
use crate::fixture::{cluster, gateway, http_listener, prefix_route, tcp_listener};

impl Authority {
    /// An endpoint with a certificate for these names, which may want one of the client.
    async fn endpoint(&self, names: &[&str], mutual: bool) -> TlsEndpoint {
        let (certificate, key) = self.issue(names);
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if mutual {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain = vec![certificate.der().clone()];
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsEndpoint::start(config).await
    }

    fn simple(&self) -> UpstreamTls {
        UpstreamTls {
            mode: TlsMode::Simple,
            sni: None,
            verify_host: true,
            subject_alt_names: Vec::new(),
            credentials: TlsCredentials::Files {
                identity: None,
                authorities: Some(self.path("ca.pem")),
            },
            insecure_skip_verify: false,
        }
    }

    fn mutual(&self, identity: (PathBuf, PathBuf)) -> UpstreamTls {
        UpstreamTls {
            mode: TlsMode::Mutual,
            credentials: TlsCredentials::Files {
                identity: Some(identity),
                authorities: Some(self.path("ca.pem")),
            },
            ..self.simple()
        }
    }
}

/// Says over HTTP what the connection is like; what is neither h2 nor HTTP/1.1 is sent back.
struct TlsEndpoint {
    address: String,
    task: JoinHandle<()>,
}

impl TlsEndpoint {
    async fn start(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let connection = stream.get_ref().1;
                    let alpn = connection.alpn_protocol().map(<[u8]>::to_vec);
                    let alpn = alpn.map(|alpn| String::from_utf8(alpn).unwrap());
                    let said = format!(
                        "{} {} {}",
                        connection.server_name().unwrap_or("-"),
                        alpn.as_deref().unwrap_or("-"),
                        connection.peer_certificates().is_some(),
                    );
                    let service = service_fn(move |request: Request<Incoming>| {
                        let response = match request.headers().get(UPGRADE) {
                            Some(protocol) => switched(protocol.clone(), request),
                            None => Response::new(Full::new(Bytes::from(said.clone()))),
                        };
                        async move { Ok::<_, std::convert::Infallible>(response) }
                    });
                    // How it ends is what the proxy is asked about.
                    match alpn.as_deref() {
                        Some("h2") => {
                            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                                .serve_connection(TokioIo::new(stream), service)
                                .await;
                        }
                        Some(_) => {
                            let _ = hyper::server::conn::http1::Builder::new()
                                .serve_connection(TokioIo::new(stream), service)
                                .with_upgrades()
                                .await;
                        }
                        None => {
                            let mut bytes = Vec::new();
                            let _ = stream.read_to_end(&mut bytes).await;
                            let _ = stream.write_all(&bytes).await;
                            let _ = stream.shutdown().await;
                        }
                    }
                });
            }
        });
        Self { address, task }
    }
}

/// Agrees to another protocol, in which everything is sent back, and `bye` at the end.
fn switched(protocol: HeaderValue, request: Request<Incoming>) -> Response<Full<Bytes>> {
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(request).await.unwrap();
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.write_all(b"bye").await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
    response
}

impl Drop for TlsEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn web(endpoint: &str, tls: UpstreamTls) -> Cluster {
    let mut web = cluster("web", &[endpoint]);
    web.policy.tls = Some(tls);
    web
}

async fn proxy(web: Cluster) -> (Fixture, u16) {
    let fixture = Fixture::new(1);
    let port = free_port();
    let route = prefix_route("/", &[("web", 1)]);
    let listener = http_listener(port, &["*"], vec![route]);
    fixture.apply(gateway(vec![listener], vec![web])).await;
    (fixture, port)
}

async fn asked(port: u16, host: &str) -> (String, String) {
    let (head, body) = Peer::connect(port).await.get(host, "/").await;
    (status(&head).to_owned(), body)
}

const OK: &str = "HTTP/1.1 200 OK";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable";

/// Also with bytes that don't wait for the answer, and with more than fits into one record.
#[tokio::test]
async fn websockets_go_through_tls() {
    let authority = Authority::new();
    let endpoint = authority.endpoint(&["a.example"], false).await;
    let (_fixture, port) = proxy(web(&endpoint.address, authority.simple())).await;
    let mut client = Peer::connect(port).await;
    client
        .send(
            "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: x\r\n\r\nearly\n",
        )
        .await;
    let head = client.head().await.unwrap();
    assert_eq!(status(&head), "HTTP/1.1 101 Switching Protocols");
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(client.until("\n").await.unwrap(), "early\n");
    let long = "x".repeat(300_000) + "\n";
    client.send(&long).await;
    assert_eq!(client.until("\n").await.unwrap(), long);
    client.shutdown().await;
    assert_eq!(client.rest().await.unwrap(), "bye");
}

#[tokio::test]
async fn the_host_is_asked_for_and_verified() {
    let authority = Authority::new();
    let endpoint = authority
        .endpoint(&["a.example", "*.b.example"], false)
        .await;
    let (fixture, port) = proxy(web(&endpoint.address, authority.simple())).await;
    for host in ["a.example", "A.example:8443", "x.b.example"] {
        let name = host.split(':').next().unwrap().to_ascii_lowercase();
        let wanted = (OK.to_owned(), format!("{name} http/1.1 false"));
        let (status, body) = asked(port, host).await;
        assert_eq!((status, body.to_ascii_lowercase()), wanted);
    }
    let mut records = fixture.proxy.tap().subscribe(16);
    let (status, body) = asked(port, "c.example").await;
    assert_eq!(status, UNAVAILABLE);
    let begin = "upstream connect error or disconnect/reset before headers. retried and the latest \
                 reset reason: remote connection failure, transport failure reason: TLS_error:|";
    let unretried = begin.replace("retried and the latest ", "");
    assert!(body.starts_with(&unretried), "{body}");
    assert!(body.contains("not valid for name"), "{body}");
    let record = records.recv().await;
    let Record::Request(record) = &*record else {
        panic!("{record:?}");
    };
    assert!(
        record
            .flags
            .contains(ResponseFlag::UpstreamConnectionFailure)
    );
    assert!(
        record
            .transport_failure
            .as_ref()
            .unwrap()
            .contains("TLS_error")
    );
}

#[tokio::test]
async fn http2_is_agreed_upon() {
    let authority = Authority::new();
    let endpoint = authority.endpoint(&["a.example"], false).await;
    let mut cluster = web(&endpoint.address, authority.simple());
    cluster.http2 = true;
    let (_fixture, port) = proxy(cluster).await;
    for _ in 0..2 {
        let (_, body) = asked(port, "a.example").await;
        assert_eq!(body, "a.example h2 false");
    }
}

#[tokio::test]
async fn connections_are_reused_for_the_same_name_only() {
    let authority = Authority::new();
    let endpoint = authority.endpoint(&["a.example", "b.example"], false).await;
    let (_fixture, port) = proxy(web(&endpoint.address, authority.simple())).await;
    let mut client = Peer::connect(port).await;
    for host in ["a.example", "b.example", "a.example", "b.example"] {
        let (_, body) = client.get(host, "/").await;
        assert_eq!(body, format!("{host} http/1.1 false"));
    }
}

#[tokio::test]
async fn whom_nobody_vouches_for_is_not_spoken_to() {
    let (authority, other) = (Authority::new(), Authority::new());
    let endpoint = other.endpoint(&["a.example"], false).await;
    let (_fixture, port) = proxy(web(&endpoint.address, authority.simple())).await;
    let (status, body) = asked(port, "a.example").await;
    assert_eq!(status, UNAVAILABLE);
    assert!(body.contains("invalid peer certificate"), "{body}");

    let careless = UpstreamTls {
        insecure_skip_verify: true,
        verify_host: false,
        ..authority.simple()
    };
    let (_fixture, port) = proxy(web(&endpoint.address, careless)).await;
    assert_eq!(asked(port, "z.example").await.1, "z.example http/1.1 false");
}

#[tokio::test]
async fn listed_names_replace_the_host() {
    let authority = Authority::new();
    let uri = "spiffe://cluster.local/ns/default/sa/web";
    let endpoint = authority.endpoint(&["a.example", uri], false).await;
    for (names, wanted) in [
        (&["b.example", "a.example"][..], OK),
        (&["b.example"], UNAVAILABLE),
        (&[], OK),
    ] {
        let tls = UpstreamTls {
            sni: Some("other.example".into()),
            verify_host: false,
            subject_alt_names: names.iter().map(ToString::to_string).collect(),
            ..authority.simple()
        };
        let (_fixture, port) = proxy(web(&endpoint.address, tls)).await;
        let (status, body) = asked(port, "x.example").await;
        assert_eq!(status, wanted, "{names:?}: {body}");
        assert!(status != OK || body.starts_with("other.example "), "{body}");
    }
}

#[tokio::test]
async fn both_show_a_certificate_and_files_may_change() {
    let authority = Authority::new();
    let endpoint = authority.endpoint(&["a.example"], true).await;
    let (_fixture, port) = proxy(web(&endpoint.address, authority.simple())).await;
    // The endpoint says in TLS 1.3 only after the handshake that it wants a certificate.
    let (status, body) = asked(port, "a.example").await;
    assert_eq!(status, UNAVAILABLE);
    assert!(body.contains("CertificateRequired"), "{body}");

    let stranger = Authority::new();
    let identity = stranger.issue_files("client");
    let tls = authority.mutual(identity.clone());
    let (_fixture, port) = proxy(web(&endpoint.address, tls)).await;
    assert_eq!(asked(port, "a.example").await.0, UNAVAILABLE);

    // The right ones are put in place of those of the stranger.
    let (certificate, key) = authority.issue(&["client"]);
    stranger.write("client.pem", &certificate.pem());
    stranger.write("client.key", &key.serialize_pem());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let wanted = (OK.to_owned(), "a.example http/1.1 true".to_owned());
    assert_eq!(asked(port, "a.example").await, wanted);

    // What can't be read doesn't replace what could be.
    stranger.write("client.pem", "nonsense");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(asked(port, "a.example").await, wanted);
}

#[tokio::test]
async fn certificates_come_from_secrets_too() {
    let authority = Authority::new();
    let endpoint = authority.endpoint(&["a.example"], true).await;
    let (certificate, key) = authority.issue(&["client"]);
    let from = |content| UpstreamTls {
        credentials: TlsCredentials::Secret {
            name: "web-tls".into(),
            content,
        },
        mode: TlsMode::Mutual,
        ..authority.simple()
    };
    let secret = TlsSecret {
        identity: Some((certificate.pem().into(), key.serialize_pem().into())),
        authorities: Some(authority.issuer.pem().into()),
    };
    let (fixture, port) = proxy(web(&endpoint.address, from(None))).await;
    let (status, body) = asked(port, "a.example").await;
    assert_eq!(status, UNAVAILABLE);
    assert!(
        body.contains("Secret web-tls is not in the gateway's namespace"),
        "{body}"
    );

    let listener = http_listener(port, &["*"], vec![prefix_route("/", &[("web", 1)])]);
    let cluster = web(&endpoint.address, from(Some(secret)));
    fixture.apply(gateway(vec![listener], vec![cluster])).await;
    assert_eq!(asked(port, "a.example").await.1, "a.example http/1.1 true");
}

#[tokio::test]
async fn missing_files_are_named() {
    let authority = Authority::new();
    let endpoint = authority.endpoint(&["a.example"], false).await;
    let tls = authority.mutual(("/nowhere/cert.pem".into(), "/nowhere/key.pem".into()));
    let (_fixture, port) = proxy(web(&endpoint.address, tls)).await;
    let (status, body) = asked(port, "a.example").await;
    assert_eq!(status, UNAVAILABLE);
    assert!(body.contains("/nowhere/key.pem: No such file"), "{body}");
}

#[tokio::test]
async fn who_does_not_speak_tls_fails() {
    let authority = Authority::new();
    let endpoint = Endpoint::new(|_, mut peer| async move {
        peer.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let (_fixture, port) = proxy(web(&endpoint.address(), authority.simple())).await;
    let (status, body) = asked(port, "a.example").await;
    assert_eq!(status, UNAVAILABLE);
    assert!(body.contains("TLS_error:|"), "{body}");
}

#[tokio::test]
async fn tcp_goes_in_tls_too() {
    let authority = Authority::new();
    let endpoint = authority.endpoint(&["a.example"], false).await;
    let tls = UpstreamTls {
        sni: Some("a.example".into()),
        verify_host: false,
        ..authority.simple()
    };
    let fixture = Fixture::new(1);
    let port = free_port();
    let listener = tcp_listener(port, &[("web", 1)]);
    let web = web(&endpoint.address, tls);
    fixture.apply(gateway(vec![listener], vec![web])).await;
    let mut client = Peer::connect(port).await;
    client.send("there and back").await;
    client.shutdown().await;
    assert_eq!(client.rest().await.unwrap(), "there and back");
}
