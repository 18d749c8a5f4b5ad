//! Acceptors that hand connections on to others: here one that ends TLS.

use std::{net::Ipv4Addr, rc::Rc, sync::Arc};

use arc_swap::ArcSwap;
use nodegate_observe::Tap;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{PrivatePkcs8KeyDer, ServerName},
};
use tokio::{
    net::TcpStream,
    task::{self, LocalSet},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};

use super::harness::{Endpoint, Peer, status};
use crate::{
    Options,
    accept::{Acceptor, Arrival, ByProtocol, Sockets, Transport},
    config::Config,
    counters::WorkerIndex,
    fixture::{cluster, gateway, http_listener, prefix_route, tcp_listener},
    http::{HttpAcceptor, HttpPool},
    tcp::TcpAcceptor,
    worker::Worker,
};

/// Hands on what is inside of TLS.
struct EndOfTls<A> {
    tls: TlsAcceptor,
    inner: Rc<A>,
}

impl Transport for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl<A: Acceptor<TlsStream<TcpStream>> + 'static> Acceptor for EndOfTls<A> {
    fn accept(&self, arrival: Arrival) {
        let (tls, inner) = (self.tls.clone(), Rc::clone(&self.inner));
        task::spawn_local(async move {
            if let Ok(stream) = tls.accept(arrival.stream).await {
                inner.accept(Arrival {
                    stream,
                    peers: arrival.peers,
                    listener: arrival.listener,
                    registration: arrival.registration,
                });
            }
        });
    }
}

/// Both sides of TLS for `localhost`.
fn tls() -> (TlsAcceptor, TlsConnector) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = issued.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let key = PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key.into())
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server).into(), Arc::new(client).into())
}

#[tokio::test]
async fn what_is_inside_of_tls_is_served_by_the_listener_s_protocol() {
    let endpoint = Endpoint::answering("hi").await;
    let [http, tcp] =
        [(); 2].map(|()| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let ports = [&http, &tcp].map(|socket| socket.local_addr().unwrap().port());
    let routes = vec![prefix_route("/", &[("web", 1)])];
    let listeners = vec![
        http_listener(ports[0], &["*"], routes),
        tcp_listener(ports[1], &[("web", 1)]),
    ];
    let gateway = gateway(listeners, vec![cluster("web", &[&endpoint.address()])]);
    let (config, _) = Config::new(&Arc::new(gateway), &Arc::default(), &Config::default());
    let (server, client) = tls();
    let worker = Rc::new(Worker::new(
        WorkerIndex { index: 0, count: 1 },
        Arc::new(ArcSwap::from_pointee(config)),
        Arc::new(Options::default()),
        Tap::default(),
    ));
    let serving = async {
        let by_protocol = ByProtocol {
            http: HttpAcceptor::new(Rc::clone(&worker), Rc::new(HttpPool::default())),
            tcp: TcpAcceptor::new(Rc::clone(&worker)),
        };
        let acceptor = EndOfTls {
            tls: server,
            inner: Rc::new(by_protocol),
        };
        let mut sockets = Sockets::new(Rc::clone(&worker), Box::new(acceptor));
        for (port, socket) in ports.into_iter().zip([http, tcp]) {
            socket.set_nonblocking(true).unwrap();
            sockets.open(port, socket);
        }
        for (port, by_proxy) in ports.into_iter().zip([true, false]) {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let mut peer = Peer::of(client.connect(name, stream).await.unwrap());
            for _ in 0..2 {
                let (head, body) = peer.get("a", "/").await;
                assert_eq!((status(&head), body.as_str()), ("HTTP/1.1 200 OK", "hi"));
                assert_eq!(head.contains("server: istio-envoy"), by_proxy, "{head}");
            }
        }
    };
    LocalSet::new().run_until(serving).await;
}
