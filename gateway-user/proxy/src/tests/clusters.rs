//! What clusters do with requests.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::HeaderName;
use nodegate_model::gateway::{
    Balancing, Cluster, HashKey, HashTable, Locality, LocalityPolicy, OutlierDetection,
};
use nodegate_observe::{Record, ResponseFlag};
use tokio::{sync::Semaphore, time};

use super::harness::{Endpoint, Fixture, Peer, free_port, header, ok, status, until};
use crate::fixture::{cluster, everything_to};

async fn proxy(endpoints: &[&Endpoint], change: impl FnOnce(&mut Cluster)) -> (Fixture, u16) {
    let fixture = Fixture::new(1);
    let port = free_port();
    let addresses: Vec<String> = endpoints.iter().map(|one| one.address()).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut web = cluster("web", &addresses);
    change(&mut web);
    fixture.apply(everything_to(web, port)).await;
    (fixture, port)
}

/// Answers each request when it is let.
async fn gated(body: &'static str) -> (Endpoint, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&gate);
    let endpoint = Endpoint::new(move |_, mut peer| {
        let permits = Arc::clone(&permits);
        async move {
            while peer.head().await.is_some() {
                permits.acquire().await.unwrap().forget();
                peer.send(ok(body)).await;
            }
        }
    })
    .await;
    (endpoint, gate)
}

/// Enough for two dozen requests on a busy machine.
const EJECTION: Duration = Duration::from_secs(2);

#[tokio::test]
async fn busy_endpoints_are_spared() {
    let (busy, gate) = gated("busy").await;
    let free = Endpoint::answering("free").await;
    let (_fixture, port) = proxy(&[&busy, &free], |_| {}).await;
    // One request hangs at the busy one, as soon as it gets one.
    let mut hanging = Peer::connect(port).await;
    while busy.connections() == 0 {
        hanging.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let _ = time::timeout(Duration::from_millis(50), hanging.response()).await;
    }
    for _ in 0..20 {
        assert_eq!(Peer::connect(port).await.get("a", "/").await.1, "free");
    }
    gate.add_permits(1);
}

#[tokio::test]
async fn more_than_may_wait_overflows() {
    let (endpoint, gate) = gated("hi").await;
    let (fixture, port) = proxy(&[&endpoint], |cluster| {
        cluster.policy.limits.max_connections = Some(1);
        cluster.policy.limits.max_pending_requests = Some(1);
    })
    .await;
    let mut records = fixture.proxy.tap().subscribe(4);
    let asking = async || {
        let mut client = Peer::connect(port).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client
    };
    let first = asking().await;
    until(|| endpoint.connections() == 1).await;
    // One of them waits, whichever comes first.
    let (mut second, mut third) = (asking().await, asking().await);
    let ((head, body), waiting) = tokio::select! {
        answer = second.response() => (answer, third),
        answer = third.response() => (answer, second),
    };
    assert_eq!(status(&head), "HTTP/1.1 503 Service Unavailable");
    assert_eq!(header(&head, "x-envoy-overloaded"), Some("true"));
    assert_eq!(
        body,
        "upstream connect error or disconnect/reset before headers. reset reason: overflow"
    );
    let Record::Request(record) = &*records.recv().await else {
        panic!("no TCP here");
    };
    assert_eq!(record.flags, ResponseFlag::UpstreamOverflow.into());
    // The one that waited gets the connection of the first.
    gate.add_permits(2);
    for mut client in [first, waiting] {
        assert_eq!(client.response().await.1, "hi");
    }
    assert_eq!(endpoint.connections(), 1);
}

#[tokio::test]
async fn connections_are_closed_after_so_many_requests() {
    let endpoint = Endpoint::answering("hi").await;
    let (_fixture, port) = proxy(&[&endpoint], |cluster| {
        cluster.policy.limits.max_requests_per_connection = Some(2);
    })
    .await;
    let mut client = Peer::connect(port).await;
    for _ in 0..6 {
        client.get("a", "/").await;
    }
    assert_eq!(endpoint.connections(), 3);
}

#[tokio::test]
async fn no_endpoint_is_avoided_if_one_is_more_than_the_share() {
    let bad = Endpoint::new(|_, mut peer| async move {
        while peer.head().await.is_some() {
            peer.send("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
                .await;
        }
    })
    .await;
    let (good, other) = (
        Endpoint::answering("hi").await,
        Endpoint::answering("hi").await,
    );
    let (_fixture, port) = proxy(&[&bad, &good, &other], |cluster| {
        cluster.policy.balancing = Balancing::RoundRobin;
        cluster.policy.outliers = Some(OutlierDetection {
            consecutive_5xx: Some(2),
            // One of three is more.
            max_ejection_percent: 20,
            ..OutlierDetection::default()
        });
    })
    .await;
    let mut client = Peer::connect(port).await;
    let mut failures = 0;
    for _ in 0..30 {
        let (head, _) = client.get("a", "/").await;
        failures += usize::from(status(&head).contains(" 500 "));
    }
    assert_eq!(failures, 10);
}

#[tokio::test]
async fn failing_endpoints_are_avoided_for_a_while() {
    let bad = Endpoint::new(|_, mut peer| async move {
        while peer.head().await.is_some() {
            peer.send("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
                .await;
        }
    })
    .await;
    let good = Endpoint::answering("hi").await;
    let (_fixture, port) = proxy(&[&bad, &good], |cluster| {
        cluster.policy.balancing = Balancing::RoundRobin;
        cluster.policy.outliers = Some(OutlierDetection {
            consecutive_5xx: Some(3),
            base_ejection: EJECTION,
            max_ejection_percent: 50,
            ..OutlierDetection::default()
        });
    })
    .await;
    let mut client = Peer::connect(port).await;
    let mut failures = async |count: usize| {
        let mut failures = 0;
        for _ in 0..count {
            let (head, _) = client.get("a", "/").await;
            failures += usize::from(status(&head).contains(" 500 "));
        }
        failures
    };
    assert_eq!(failures(20).await, 3);
    time::sleep(EJECTION + Duration::from_millis(50)).await;
    assert_eq!(failures(20).await, 3);
}

#[tokio::test]
async fn what_is_far_is_asked_when_what_is_near_fails() {
    let near = Endpoint::new(|_, mut peer| async move {
        while let Some(head) = peer.head().await {
            let fails = head.contains("GET /fail");
            let status = if fails { "500 Oh" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\nnear");
            peer.send(answer).await;
        }
    })
    .await;
    let far = Endpoint::answering("far").await;
    let (_fixture, port) = proxy(&[&near, &far], |cluster| {
        for endpoint in &mut cluster.endpoints {
            if endpoint.address == far.address {
                endpoint.priority = 1;
                endpoint.locality = Locality::parse("elsewhere");
            }
        }
        cluster.policy.locality = Some(LocalityPolicy::default());
        cluster.policy.outliers = Some(OutlierDetection {
            consecutive_5xx: Some(2),
            base_ejection: EJECTION,
            max_ejection_percent: 100,
            ..OutlierDetection::default()
        });
    })
    .await;
    let mut client = Peer::connect(port).await;
    for _ in 0..20 {
        assert_eq!(client.get("a", "/").await.1, "near");
    }
    for _ in 0..2 {
        assert_eq!(client.get("a", "/fail").await.1, "near");
    }
    for _ in 0..20 {
        assert_eq!(client.get("a", "/").await.1, "far");
    }
    time::sleep(EJECTION + Duration::from_millis(50)).await;
    assert_eq!(client.get("a", "/").await.1, "near");
}

#[tokio::test]
async fn keys_stay_with_their_endpoint() {
    let endpoints = [
        Endpoint::answering("1").await,
        Endpoint::answering("2").await,
        Endpoint::answering("3").await,
    ];
    let (_fixture, port) = proxy(&endpoints.each_ref(), |cluster| {
        cluster.policy.balancing = Balancing::ConsistentHash {
            key: HashKey::Header(HeaderName::from_static("x-user")),
            table: HashTable::Ring(1024),
        };
    })
    .await;
    let mut client = Peer::connect(port).await;
    let mut all = BTreeSet::new();
    for user in 0..20 {
        let mut mine = BTreeSet::new();
        for _ in 0..3 {
            client
                .send(format!(
                    "GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n"
                ))
                .await;
            mine.insert(client.response().await.1);
        }
        assert_eq!(mine.len(), 1, "{mine:?}");
        all.extend(mine);
    }
    assert_eq!(all.len(), 3);
    // All values count, in whichever order they come.
    for user in 0..20 {
        let mut both = BTreeSet::new();
        for (first, second) in [(user, 99), (99, user)] {
            client
                .send(format!(
                    "GET / HTTP/1.1\r\nHost: a\r\nX-User: {first}\r\nX-User: {second}\r\n\r\n"
                ))
                .await;
            both.insert(client.response().await.1);
        }
        assert_eq!(both.len(), 1, "{user}");
    }
}

#[tokio::test]
async fn clients_get_a_cookie_and_keep_their_endpoint() {
    let endpoints = [
        Endpoint::answering("1").await,
        Endpoint::answering("2").await,
    ];
    let (_fixture, port) = proxy(&endpoints.each_ref(), |cluster| {
        cluster.policy.balancing = Balancing::ConsistentHash {
            key: HashKey::Cookie {
                name: "session".into(),
                path: Some("/".into()),
                ttl: Some(Duration::from_mins(1)),
                attributes: vec![
                    ("SameSite".into(), "Lax".into()),
                    ("Secure".into(), String::new()),
                ],
            },
            table: HashTable::Maglev(HashTable::DEFAULT_MAGLEV),
        };
    })
    .await;
    for _ in 0..8 {
        let mut client = Peer::connect(port).await;
        let (head, first) = client.get("a", "/").await;
        let cookie = header(&head, "set-cookie").unwrap();
        assert!(
            cookie.ends_with("; Max-Age=60; Path=/; SameSite=Lax; Secure; HttpOnly"),
            "{cookie}"
        );
        let cookie = cookie.split(';').next().unwrap();
        client
            .send(format!(
                "GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"
            ))
            .await;
        let (head, second) = client.response().await;
        assert_eq!(second, first);
        assert_eq!(header(&head, "set-cookie"), None);
    }
}

#[tokio::test]
async fn connecting_has_its_own_limit() {
    // A backlog of one that is full: further connections get no answer.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut fillers = Vec::new();
    for _ in 0..4 {
        fillers.push(tokio::spawn(Peer::connect_to(address)));
    }
    time::sleep(Duration::from_millis(100)).await;
    let fixture = Fixture::new(1);
    let port = free_port();
    let mut web = cluster("web", &[&address.to_string()]);
    web.policy.limits.connect_timeout = Duration::from_millis(200);
    fixture.apply(everything_to(web, port)).await;
    let (head, body) = Peer::connect(port).await.get("a", "/").await;
    assert_eq!(status(&head), "HTTP/1.1 503 Service Unavailable");
    assert!(body.ends_with("reset reason: connection timeout"), "{body}");
}

#[tokio::test]
async fn a_client_s_broken_body_is_not_the_endpoint_s_fault() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        while let Some(head) = peer.head().await {
            if status(&head).starts_with("GET") {
                peer.send(ok("hi")).await;
            }
        }
    })
    .await;
    let (fixture, port) = proxy(&[&endpoint], |cluster| {
        cluster.policy.outliers = Some(OutlierDetection {
            consecutive_5xx: Some(1),
            max_ejection_percent: 100,
            ..OutlierDetection::default()
        });
    })
    .await;
    let mut records = fixture.proxy.tap().subscribe(1);
    let mut client = Peer::connect(port).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        .await;
    let head = client.head().await.unwrap();
    assert_eq!(status(&head), "HTTP/1.1 400 Bad Request");
    let Record::Request(record) = &*records.recv().await else {
        panic!("HTTP");
    };
    assert_eq!(record.flags, ResponseFlag::DownstreamProtocolError.into());
    // Nor is it when the client leaves.
    let mut client = Peer::connect(port).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        .await;
    drop(client);
    let Record::Request(record) = &*records.recv().await else {
        panic!("HTTP");
    };
    let left = ResponseFlag::DownstreamConnectionTermination;
    assert_eq!((record.status, record.flags), (0, left.into()));
    assert_eq!(record.details, "downstream_remote_disconnect");
    let mut client = Peer::connect(port).await;
    assert_eq!(client.get("a", "/").await.1, "hi");
}

#[tokio::test]
async fn own_answers_to_head_are_whole() {
    let (fixture, port) = proxy(&[], |_| {}).await;
    let mut records = fixture.proxy.tap().subscribe(1);
    let mut client = Peer::connect(port).await;
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert_eq!(header(&head, "content-length"), Some("19"));
    let Record::Request(record) = &*records.recv().await else {
        panic!("HTTP");
    };
    assert_eq!(record.flags, ResponseFlag::NoHealthyUpstream.into());
    assert_eq!(record.details, "no_healthy_upstream");
}
