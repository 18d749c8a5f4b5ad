//! Clients that speak TLS: what serves them, and how they are served.

mod clients;
mod servers;
mod sessions;

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use nodegate_model::gateway::{
    ChainProtocol, ClientCertificates, ClientIdentities, Cluster, DownstreamTls, Gateway,
    HttpRoutes, Listener, ListenerProtocol, RouteOrigin, ServerCertificate, TcpRoute, TlsChain,
    TlsListener, TlsSource, TlsVersion, VirtualHost,
};
use nodegate_observe::{ConnectionRecord, ConnectionState, Record, ResponseFlag, Subscription};
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, KeyPair, PublicKeyData as _, RevokedCertParams,
    SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, RootCertStore, SupportedProtocolVersion,
    client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    version::{TLS12, TLS13},
};
use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    authority::Authority,
    harness::{Endpoint, Fixture, Peer, free_port, header, soon, status},
};
use crate::fixture::{cluster, gateway, prefix_route};

/// Certificate and key as a Secret holds them.
type Identity = (rcgen::Certificate, KeyPair);

fn secret(text: &str) -> TlsSource {
    TlsSource::Secret {
        name: "web".into(),
        content: text.as_bytes().to_vec(),
    }
}

fn missing() -> TlsSource {
    TlsSource::Missing {
        name: "web".into(),
        reason: "is not in the gateway's namespace",
    }
}

/// TLS with this certificate, and nothing asked of clients.
fn simple((certificate, key): &Identity) -> DownstreamTls {
    DownstreamTls {
        certificates: vec![ServerCertificate {
            chain: secret(&certificate.pem()),
            key: secret(&key.serialize_pem()),
            staple: None,
        }],
        clients: ClientCertificates::Unasked,
        oldest: TlsVersion::V12,
        newest: TlsVersion::V13,
        cipher_suites: Vec::new(),
        curves: Vec::new(),
    }
}

/// What the authority issues is good.
fn identities(authority: &Authority) -> ClientIdentities {
    ClientIdentities {
        authorities: secret(&authority.issuer.pem()),
        revocations: None,
        subject_alt_names: Vec::new(),
        spki: Vec::new(),
        hashes: Vec::new(),
    }
}

fn mutual(identity: &Identity, clients: ClientIdentities) -> DownstreamTls {
    DownstreamTls {
        clients: ClientCertificates::Required(clients),
        ..simple(identity)
    }
}

/// The names of a server, and how it speaks TLS; all its requests go to the cluster `web`.
fn https(names: &[&str], tls: DownstreamTls) -> TlsChain {
    let any = ["*"];
    let domains = if names.is_empty() { &any } else { names };
    let domains = domains.iter().map(ToString::to_string).collect();
    TlsChain {
        name: format!("https.{}", names.join("+")),
        server_names: names.iter().map(ToString::to_string).collect(),
        protocol: ChainProtocol::Https {
            tls: Box::new(tls),
            routes: HttpRoutes {
                name: "https.443".into(),
                virtual_hosts: vec![VirtualHost {
                    name: format!("{}:443", names.first().unwrap_or(&"*")),
                    domains,
                    routes: vec![prefix_route("/", &[("web", 1)])],
                    require_tls: false,
                }],
            },
        },
    }
}

fn serving(port: u16, chains: Vec<TlsChain>, endpoint: &Endpoint) -> Gateway {
    let listener = Listener {
        port,
        protocol: ListenerProtocol::Tls(TlsListener { chains }),
    };
    let web: Cluster = cluster("web", &[&endpoint.address()]);
    gateway(vec![listener], vec![web])
}

/// A client.
#[derive(Clone)]
struct Client {
    config: ClientConfig,
}

impl Client {
    /// That trusts the authority.
    fn of(authority: &Authority) -> Self {
        Self::speaking(authority, None, &[&TLS13, &TLS12])
    }

    /// That has a certificate.
    fn with(authority: &Authority, identity: &Identity) -> Self {
        Self::speaking(authority, Some(identity), &[&TLS13, &TLS12])
    }

    fn speaking(
        authority: &Authority,
        identity: Option<&Identity>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
                let chain = vec![certificate.der().clone()];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        Self { config }
    }

    fn offering(mut self, protocols: &[&str]) -> Self {
        let protocols = protocols.iter().map(|name| name.as_bytes().to_vec());
        self.config.alpn_protocols = protocols.collect();
        self
    }

    async fn connect(&self, port: u16, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        soon(connector.connect(name, stream)).await
    }

    /// Asks once; none if there is no answer. In TLS 1.3 a client learns only then that it is refused.
    async fn get(&self, port: u16, name: &str) -> Option<(String, String)> {
        let stream = self.connect(port, name).await.ok()?;
        let mut peer = Peer::of(stream);
        peer.send(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n"))
            .await;
        let head = peer.head().await?;
        let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        let body = peer.exactly(length).await;
        Some((head, body))
    }

    async fn status(&self, port: u16, name: &str) -> Option<String> {
        let (head, _) = self.get(port, name).await?;
        Some(status(&head).to_owned())
    }
}

const OK: Option<&str> = Some("HTTP/1.1 200 OK");

async fn closed(records: &mut Subscription) -> ConnectionRecord {
    loop {
        if let Record::Connection(record) = &*soon(records.recv()).await
            && record.state == ConnectionState::Closed
        {
            return (**record).clone();
        }
    }
}

/// A gateway with one worker.
async fn begin(chains: Vec<TlsChain>, endpoint: &Endpoint) -> (Fixture, u16) {
    let (fixture, port) = (Fixture::new(1), free_port());
    fixture.apply(serving(port, chains, endpoint)).await;
    (fixture, port)
}
