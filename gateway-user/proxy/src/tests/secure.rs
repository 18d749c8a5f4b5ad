//! Clients that speak TLS.

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

#[tokio::test]
async fn requests_come_in_as_https() {
    let authority = Authority::new();
    let endpoint = Endpoint::echoing_heads().await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let tls = simple(&authority.issue(&["a.example"]));
    fixture
        .apply(serving(port, vec![https(&[], tls)], &endpoint))
        .await;
    let client = Client::of(&authority);
    let mut peer = Peer::of(client.connect(port, "a.example").await.unwrap());
    for _ in 0..2 {
        peer.send("GET /x HTTP/1.1\r\nHost: a.example\r\nx-forwarded-proto: http\r\nx-forwarded-client-cert: Hash=1\r\n\r\n").await;
        let (head, seen) = peer.response().await;
        assert_eq!(Some(status(&head)), OK);
        assert_eq!(header(&seen, "x-forwarded-proto"), Some("https"));
        assert_eq!(header(&seen, "x-forwarded-client-cert"), None);
    }
}

#[tokio::test]
async fn a_client_without_a_protocol_of_ours_goes_on() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let tls = simple(&authority.issue(&["a.example"]));
    fixture
        .apply(serving(port, vec![https(&[], tls)], &endpoint))
        .await;
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["spdy/3"], None),
        (&[], None),
    ] {
        let client = Client::of(&authority).offering(offered);
        let stream = client.connect(port, "a.example").await.unwrap();
        let protocol = stream.get_ref().1.alpn_protocol();
        let protocol = protocol.map(|name| String::from_utf8_lossy(name).into_owned());
        assert_eq!(protocol.as_deref(), chosen, "{offered:?}");
    }
    let client = Client::of(&authority).offering(&["spdy/3"]);
    assert_eq!(client.status(port, "a.example").await.as_deref(), OK);
}

#[tokio::test]
async fn the_name_decides_which_certificate_is_shown() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let chains = vec![
        https(
            &["*.shop.example"],
            simple(&authority.issue(&["*.shop.example"])),
        ),
        https(
            &["a.shop.example"],
            simple(&authority.issue(&["a.shop.example"])),
        ),
    ];
    let mut records = fixture.proxy.tap().subscribe(16);
    fixture.apply(serving(port, chains, &endpoint)).await;
    let client = Client::of(&authority);
    for name in ["a.shop.example", "b.shop.example"] {
        assert_eq!(client.status(port, name).await.as_deref(), OK, "{name}");
    }
    assert!(client.connect(port, "other.org").await.is_err());
    let record = closed(&mut records).await;
    assert_eq!(record.server_name.as_deref(), Some("other.org"));
    assert_eq!(record.details, "filter_chain_not_found");
    assert!(record.flags.contains(ResponseFlag::NoRoute));
}

#[tokio::test]
async fn plain_text_on_a_port_of_tls_is_told_as_that() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let tls = simple(&authority.issue(&["a.example"]));
    let mut records = fixture.proxy.tap().subscribe(16);
    fixture
        .apply(serving(port, vec![https(&[], tls)], &endpoint))
        .await;
    let mut peer = Peer::connect(port).await;
    peer.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert_eq!(peer.head().await, None);
    let record = closed(&mut records).await;
    assert_eq!(record.details, "plain_text_on_a_port_of_TLS");
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn a_host_of_another_server_is_misdirected() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let identity = authority.issue(&["a.example", "b.example"]);
    let chains = ["a.example", "b.example"].map(|name| https(&[name], simple(&identity)));
    fixture.apply(serving(port, chains.into(), &endpoint)).await;
    let client = Client::of(&authority);
    let mut peer = Peer::of(client.connect(port, "a.example").await.unwrap());
    for (host, expected) in [
        ("a.example", "HTTP/1.1 200 OK"),
        ("b.example", "HTTP/1.1 421 Misdirected Request"),
        ("c.example", "HTTP/1.1 404 Not Found"),
    ] {
        assert_eq!(status(&peer.get(host, "/").await.0), expected);
    }
}

#[tokio::test]
async fn clients_show_a_certificate_that_is_good() {
    let authority = Authority::new();
    let endpoint = Endpoint::echoing_heads().await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let own = authority.issue(&["a.example"]);
    let tls = mutual(&own, identities(&authority));
    fixture
        .apply(serving(port, vec![https(&[], tls)], &endpoint))
        .await;
    let stranger = Authority::new();
    let expired = authority.issue_with(&["client.example"], |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let good = authority.issue(&["client.example"]);
    for (what, client, is_served) in [
        ("none", Client::of(&authority), false),
        (
            "another authority's",
            Client::with(&authority, &stranger.issue(&["client.example"])),
            false,
        ),
        ("expired", Client::with(&authority, &expired), false),
        ("good", Client::with(&authority, &good), true),
    ] {
        let answer = client.get(port, "a.example").await;
        assert_eq!(answer.is_some(), is_served, "{what}");
    }
    let (_, seen) = Client::with(&authority, &good)
        .get(port, "a.example")
        .await
        .unwrap();
    let told = header(&seen, "x-forwarded-client-cert").unwrap();
    let hash = format!("{:x}", Sha256::digest(good.0.der()));
    assert!(told.starts_with(&format!("Hash={hash};Cert=\"")), "{told}");
    assert!(told.ends_with(";URI=;DNS=client.example"), "{told}");
}

#[tokio::test]
async fn a_certificate_may_be_left_out_and_must_not_be_bad() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let tls = DownstreamTls {
        clients: ClientCertificates::Optional(identities(&authority)),
        ..simple(&authority.issue(&["a.example"]))
    };
    fixture
        .apply(serving(port, vec![https(&[], tls)], &endpoint))
        .await;
    let good = Client::with(&authority, &authority.issue(&["client.example"]));
    let bad = Client::with(&authority, &Authority::new().issue(&["client.example"]));
    for (client, expected) in [(Client::of(&authority), OK), (good, OK), (bad, None)] {
        assert_eq!(client.status(port, "a.example").await.as_deref(), expected);
    }
}

#[tokio::test]
async fn a_certificate_must_be_one_of_those_that_are_named() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let own = authority.issue(&["a.example"]);
    let client = authority.issue(&["client.example"]);
    let hash = format!("{:x}", Sha256::digest(client.0.der()));
    let none = "0".repeat(64);
    let any = || identities(&authority);
    for (clients, expected) in [
        (
            ClientIdentities {
                subject_alt_names: vec!["other.example".into()],
                ..any()
            },
            None,
        ),
        (
            ClientIdentities {
                subject_alt_names: vec!["other.example".into(), "client.example".into()],
                ..any()
            },
            OK,
        ),
        (
            ClientIdentities {
                hashes: vec![none.clone()],
                ..any()
            },
            None,
        ),
        (
            ClientIdentities {
                hashes: vec![none, hash],
                ..any()
            },
            OK,
        ),
        (
            ClientIdentities {
                spki: vec!["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into()],
                ..any()
            },
            None,
        ),
        (
            ClientIdentities {
                spki: vec![STANDARD.encode(Sha256::digest(client.1.subject_public_key_info()))],
                ..any()
            },
            OK,
        ),
    ] {
        let what = format!("{clients:?}");
        let chain = https(&[], mutual(&own, clients));
        fixture.apply(serving(port, vec![chain], &endpoint)).await;
        let client = Client::with(&authority, &client);
        let found = client.status(port, "a.example").await;
        assert_eq!(found.as_deref(), expected, "{what}");
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let numbered = |number: u64| {
        authority.issue_with(&["client.example"], |params| {
            params.serial_number = Some(SerialNumber::from(number));
        })
    };
    let [good, revoked] = [7, 8].map(numbered);
    let list = |until| {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: until,
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(8u64),
                revocation_time: date_time_ymd(2024, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&authority.issuer).unwrap().pem().unwrap()
    };
    let own = authority.issue(&["a.example"]);
    for (until, expected) in [
        (date_time_ymd(2124, 1, 1), [OK, None]),
        // Nobody knows what has been revoked since.
        (date_time_ymd(2024, 2, 1), [None, None]),
    ] {
        let clients = ClientIdentities {
            revocations: Some(secret(&list(until))),
            ..identities(&authority)
        };
        let chain = https(&[], mutual(&own, clients));
        fixture.apply(serving(port, vec![chain], &endpoint)).await;
        for (identity, expected) in [&good, &revoked].into_iter().zip(expected) {
            let client = Client::with(&authority, identity);
            let found = client.status(port, "a.example").await;
            assert_eq!(found.as_deref(), expected);
        }
    }
}

#[tokio::test]
async fn a_missing_secret_takes_down_its_host_alone() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let good = https(&["a.example"], simple(&authority.issue(&["a.example"])));
    let mut without = simple(&authority.issue(&["b.example"]));
    without.certificates[0].chain = missing();
    without.certificates[0].key = missing();
    let mut broken = simple(&authority.issue(&["c.example"]));
    broken.certificates[0].key = secret("-----BEGIN PRIVATE KEY-----\nMAA=\n");
    let mut strange = simple(&authority.issue(&["d.example"]));
    strange.certificates[0].key = secret(&KeyPair::generate().unwrap().serialize_pem());
    let chains = vec![
        good,
        https(&["b.example"], without),
        https(&["c.example"], broken),
        https(&["d.example"], strange),
        https(&[], simple(&authority.issue(&["*.example"]))),
    ];
    let mut records = fixture.proxy.tap().subscribe(16);
    fixture.apply(serving(port, chains, &endpoint)).await;
    let client = Client::of(&authority);
    for (name, told) in [
        ("b.example", "Secret_web_is_not_in_the_gateway's_namespace"),
        ("c.example", "Secret_web_can't_be_used"),
        ("d.example", "Secret_web_can't_be_used"),
    ] {
        assert!(client.connect(port, name).await.is_err(), "{name}");
        let record = closed(&mut records).await;
        assert!(record.details.contains(told), "{}", record.details);
    }
    assert_eq!(client.status(port, "a.example").await.as_deref(), OK);
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let client = Client::of(&authority);
    let mut open = Vec::new();
    for _ in 0..5 {
        let identity = authority.issue(&["a.example"]);
        let chain = https(&[], simple(&identity));
        fixture.apply(serving(port, vec![chain], &endpoint)).await;
        let stream = client.connect(port, "a.example").await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        assert_eq!(&shown, identity.0.der());
        open.push(Peer::of(stream));
        for peer in &mut open {
            assert_eq!(Some(status(&peer.get("a.example", "/").await.0)), OK);
        }
    }
}

/// Tickets of a client that shows them to whomever it talks to.
#[derive(Debug, Default)]
struct Careless {
    tickets: Mutex<Vec<Tls13ClientSessionValue>>,
    session: Mutex<Option<Tls12ClientSessionValue>>,
}

impl ClientSessionStore for Careless {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        *self.session.lock().unwrap() = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.session.lock().unwrap().clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        *self.session.lock().unwrap() = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.tickets.lock().unwrap().push(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tickets.lock().unwrap().pop()
    }
}

#[tokio::test]
async fn sessions_go_on_at_every_worker_and_at_no_other_server() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(3), free_port());
    let identity = authority.issue(&["a.example", "b.example", "c.example"]);
    let chains = vec![
        https(&["a.example"], simple(&identity)),
        https(&["b.example"], simple(&identity)),
        https(&["c.example"], mutual(&identity, identities(&authority))),
    ];
    fixture.apply(serving(port, chains, &endpoint)).await;
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let mut client = Client::speaking(&authority, None, versions);
        client.config.resumption = Resumption::store(Arc::new(Careless::default()));
        let kind = async |name: &str| {
            let mut peer = Peer::of(client.connect(port, name).await.unwrap());
            peer.get(name, "/").await;
            peer.stream_of().get_ref().1.handshake_kind().unwrap()
        };
        assert_eq!(kind("a.example").await, HandshakeKind::Full);
        // The kernel spreads them over the workers.
        for _ in 0..12 {
            assert_eq!(kind("a.example").await, HandshakeKind::Resumed);
        }
        assert_eq!(kind("b.example").await, HandshakeKind::Full);
        assert_eq!(client.status(port, "c.example").await, None);
    }
}

#[tokio::test]
async fn only_versions_that_are_allowed_are_spoken() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let identity = authority.issue(&["a.example"]);
    for (oldest, newest, expected) in [
        (TlsVersion::V12, TlsVersion::V13, [true, true]),
        (TlsVersion::V13, TlsVersion::V13, [false, true]),
        (TlsVersion::V12, TlsVersion::V12, [true, false]),
    ] {
        let tls = DownstreamTls {
            oldest,
            newest,
            ..simple(&identity)
        };
        fixture
            .apply(serving(port, vec![https(&[], tls)], &endpoint))
            .await;
        for (version, expected) in [&TLS12, &TLS13].into_iter().zip(expected) {
            let client = Client::speaking(&authority, None, &[version]);
            let found = client.status(port, "a.example").await;
            assert_eq!(found.is_some(), expected, "{oldest:?} {newest:?}");
        }
    }
}

#[tokio::test]
async fn tls_is_passed_on_to_the_endpoint_of_its_name() {
    let authority = Authority::new();
    let endpoint = Endpoint::telling_the_rest().await;
    let (endpoint, _rest) = endpoint;
    let inner = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(1), free_port());
    // The endpoint is a gateway itself.
    let (behind, behind_port) = (Fixture::new(1), free_port());
    let chain = https(&[], simple(&authority.issue(&["a.example"])));
    behind
        .apply(serving(behind_port, vec![chain], &inner))
        .await;
    let passed = TlsChain {
        name: "tls.443".into(),
        server_names: vec!["a.example".into()],
        protocol: ChainProtocol::Passthrough(TcpRoute {
            origin: RouteOrigin::virtual_service("shop", "web", 0),
            destinations: vec![nodegate_model::gateway::Destination::new("behind", 1)],
        }),
    };
    let mut front = serving(port, vec![passed], &endpoint);
    let behind_address = format!("127.0.0.1:{behind_port}");
    front.clusters.insert(
        "behind".into(),
        Arc::new(cluster("behind", &[&behind_address])),
    );
    let mut records = fixture.proxy.tap().subscribe(16);
    fixture.apply(front).await;
    let client = Client::of(&authority);
    assert_eq!(client.status(port, "a.example").await.as_deref(), OK);
    let record = closed(&mut records).await;
    assert_eq!(record.server_name.as_deref(), Some("a.example"));
    assert_eq!(record.decision.cluster.as_deref(), Some("behind"));
    assert!(client.connect(port, "b.example").await.is_err());
}

#[tokio::test]
async fn a_first_message_may_come_in_pieces() {
    let authority = Authority::new();
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = (Fixture::new(1), free_port());
    let tls = simple(&authority.issue(&["a.example"]));
    fixture
        .apply(serving(port, vec![https(&[], tls)], &endpoint))
        .await;
    // A relay that passes on one byte at a time.
    let relay = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let relay_port = relay.local_addr().unwrap().port();
    let relaying = tokio::spawn(async move {
        let (mut client, _) = relay.accept().await.unwrap();
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        server.set_nodelay(true).unwrap();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let up = async {
            use tokio::io::AsyncReadExt as _;
            while let Ok(byte) = from_client.read_u8().await {
                if to_server.write_u8(byte).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        let down = tokio::io::copy(&mut from_server, &mut to_client);
        tokio::select! { () = up => {}, _ = down => {} }
    });
    let found = Client::of(&authority).status(relay_port, "a.example").await;
    assert_eq!(found.as_deref(), OK);
    relaying.abort();
}
