//! Servers: which one takes a connection, what it shows, and what it does with what is inside.

use super::*;

#[tokio::test]
async fn requests_come_in_as_https() {
    let authority = Authority::new();
    let endpoint = Endpoint::echoing_heads().await;
    let tls = simple(&authority.issue(&["a.example"]));
    let (_fixture, port) = begin(vec![https(&[], tls)], &endpoint).await;
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
    let tls = simple(&authority.issue(&["a.example"]));
    let (_fixture, port) = begin(vec![https(&[], tls)], &endpoint).await;
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
    let (fixture, port) = begin(chains, &endpoint).await;
    let mut records = fixture.proxy.tap().subscribe(16);
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
    let tls = simple(&authority.issue(&["a.example"]));
    let (fixture, port) = begin(vec![https(&[], tls)], &endpoint).await;
    let mut records = fixture.proxy.tap().subscribe(16);
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
    let identity = authority.issue(&["a.example", "b.example"]);
    let chains = ["a.example", "b.example"].map(|name| https(&[name], simple(&identity)));
    let (_fixture, port) = begin(chains.into(), &endpoint).await;
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
    let mut front = serving(port, vec![passed], &inner);
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
    let tls = simple(&authority.issue(&["a.example"]));
    let (_fixture, port) = begin(vec![https(&[], tls)], &endpoint).await;
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
