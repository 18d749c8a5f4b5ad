use std::{net::Ipv4Addr, num::NonZero, sync::Arc, time::Duration};

use nodegate_model::gateway::{Gateway, Listener};
use patience::Stopwatch;
use tokio::{sync::Notify, time};

use super::harness::{Endpoint, Fixture, Peer, free_port, header, ok, status};
use crate::{
    BindError, Options,
    fixture::{cluster, gateway, http_listener, prefix_route, tcp_listener},
};

fn http(port: u16) -> Listener {
    http_listener(port, &["*"], vec![prefix_route("/", &[("web", 1)])])
}

fn with(listeners: Vec<Listener>, endpoint: &Endpoint) -> Gateway {
    gateway(listeners, vec![cluster("web", &[&endpoint.address()])])
}

/// A request that the endpoint has, and answers with `late` once it is let.
struct Waiting {
    fixture: Fixture,
    endpoint: Endpoint,
    port: u16,
    client: Peer,
    go_on: Arc<Notify>,
}

async fn waiting() -> Waiting {
    let (came, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let gates = (Arc::clone(&came), Arc::clone(&go_on));
    let endpoint = Endpoint::new(move |_, mut peer| {
        let (came, go_on) = gates.clone();
        async move {
            peer.head().await;
            came.notify_one();
            go_on.notified().await;
            peer.send(ok("late")).await;
        }
    })
    .await;
    let fixture = Fixture::new(1);
    let port = free_port();
    fixture.apply(with(vec![http(port)], &endpoint)).await;
    let mut client = Peer::connect(port).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    came.notified().await;
    Waiting {
        fixture,
        endpoint,
        port,
        client,
        go_on,
    }
}

#[tokio::test]
async fn listeners_come_and_go() {
    let endpoint = Endpoint::answering("hi").await;
    let fixture = Fixture::new(2);
    let (stays, goes) = (free_port(), free_port());
    assert!(Peer::try_connect(stays).await.is_err());
    fixture
        .apply(with(vec![http(stays), http(goes)], &endpoint))
        .await;
    let mut on_staying = Peer::connect(stays).await;
    let mut on_going = Peer::connect(goes).await;
    assert_eq!(on_staying.get("a", "/").await.1, "hi");
    assert_eq!(on_going.get("a", "/").await.1, "hi");

    fixture.apply(with(vec![http(stays)], &endpoint)).await;
    assert!(Peer::try_connect(goes).await.is_err());
    // Idle: it is closed, and properly.
    assert_eq!(on_going.rest().await.unwrap(), "");
    assert_eq!(on_staying.get("a", "/").await.1, "hi");

    fixture
        .apply(with(vec![http(stays), http(goes)], &endpoint))
        .await;
    assert_eq!(Peer::connect(goes).await.get("a", "/").await.1, "hi");
}

#[tokio::test]
async fn requests_outlive_their_listener() {
    let Waiting {
        fixture,
        endpoint,
        mut client,
        go_on,
        ..
    } = waiting().await;
    fixture.apply(with(Vec::new(), &endpoint)).await;
    go_on.notify_one();
    let (head, body) = client.response().await;
    assert_eq!(body, "late");
    assert_eq!(header(&head, "connection"), Some("close"));
    assert_eq!(client.rest().await.unwrap(), "");
}

#[tokio::test]
async fn taken_ports_hold_nobody_up() {
    let endpoint = Endpoint::answering("hi").await;
    let fixture = Fixture::new(2);
    let holder = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = holder.local_addr().unwrap().port();
    let free = free_port();
    let make = || with(vec![http(taken), http(free)], &endpoint);

    let applied = fixture.try_apply(make()).await;
    assert!(matches!(applied.failures[..], [BindError::Taken { port }] if port == taken));
    assert_eq!(Peer::connect(free).await.get("a", "/").await.1, "hi");

    drop(holder);
    fixture.apply(make()).await;
    assert_eq!(Peer::connect(taken).await.get("a", "/").await.1, "hi");
}

#[tokio::test]
async fn ports_change_their_protocol() {
    let web = Endpoint::answering("hi").await;
    let echo = Endpoint::new(|_, mut peer| async move {
        while let Some(line) = peer.until("\n").await {
            peer.send(line).await;
        }
    })
    .await;
    let fixture = Fixture::new(1);
    let port = free_port();
    let tcp = || {
        gateway(
            vec![tcp_listener(port, &[("echo", 1)])],
            vec![cluster("echo", &[&echo.address()])],
        )
    };
    fixture.apply(with(vec![http(port)], &web)).await;
    let mut browser = Peer::connect(port).await;
    browser.get("a", "/").await;

    fixture.apply(tcp()).await;
    assert_eq!(browser.rest().await.unwrap(), "");
    let mut netcat = Peer::connect(port).await;
    netcat.send("x\n").await;
    assert_eq!(netcat.until("\n").await.unwrap(), "x\n");

    fixture.apply(with(vec![http(port)], &web)).await;
    assert_eq!(Peer::connect(port).await.get("a", "/").await.1, "hi");
    netcat.send("y\n").await;
    assert_eq!(netcat.until("\n").await.unwrap(), "y\n");
}

#[tokio::test]
async fn no_request_is_lost_while_routes_change() {
    let endpoint = Endpoint::answering("hi").await;
    let fixture = Fixture::new(2);
    let port = free_port();
    fixture.apply(with(vec![http(port)], &endpoint)).await;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                for _ in 0..50 {
                    let mut client = Peer::connect(port).await;
                    for _ in 0..3 {
                        let (head, _) = client.get("a", "/").await;
                        assert_eq!(status(&head), "HTTP/1.1 200 OK");
                    }
                }
            })
        })
        .collect();
    while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
        fixture.apply(with(vec![http(port)], &endpoint)).await;
        time::sleep(Duration::from_millis(1)).await;
    }
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn shutdown_lets_requests_finish() {
    let Waiting {
        fixture,
        endpoint: _endpoint,
        port,
        mut client,
        go_on,
    } = waiting().await;
    let shutdown = tokio::spawn(fixture.proxy.shutdown(patience::limit()));
    while Peer::try_connect(port).await.is_ok() {
        time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!shutdown.is_finished());
    go_on.notify_one();
    let (head, body) = client.response().await;
    assert_eq!(body, "late");
    assert_eq!(header(&head, "connection"), Some("close"));
    shutdown.await.unwrap();
}

#[tokio::test]
async fn shutdown_ends_at_its_deadline() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        peer.rest().await.ok();
    })
    .await;
    let fixture = Fixture::new(1);
    let port = free_port();
    fixture
        .apply(gateway(
            vec![tcp_listener(port, &[("web", 1)])],
            vec![cluster("web", &[&endpoint.address()])],
        ))
        .await;
    let mut client = Peer::connect(port).await;
    client.send("x").await;
    let watch = Stopwatch::of_process();
    fixture.proxy.shutdown(Duration::from_millis(200)).await;
    let expected = Duration::from_millis(190)..Duration::from_secs(5);
    watch.lap().within(expected).unwrap();
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let web = Endpoint::answering("hi").await;
    let fixture = Fixture::with_options(Options {
        workers: NonZero::<usize>::MIN,
        address: Some(Ipv4Addr::LOCALHOST.into()),
        idle_timeout: Duration::from_secs(1),
        ..Options::default()
    });
    let (http_port, tcp_port) = (free_port(), free_port());
    fixture
        .apply(with(
            vec![http(http_port), tcp_listener(tcp_port, &[("web", 1)])],
            &web,
        ))
        .await;
    let started = time::Instant::now();
    let mut browser = Peer::connect(http_port).await;
    browser.get("a", "/").await;
    let mut netcat = Peer::connect(tcp_port).await;
    netcat.get("a", "/").await;
    let mut silent = Peer::connect(http_port).await;
    assert_eq!(browser.rest().await.unwrap(), "");
    assert_eq!(silent.rest().await.unwrap(), "");
    assert!(started.elapsed() >= Duration::from_millis(900));
    let error = netcat.rest().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
