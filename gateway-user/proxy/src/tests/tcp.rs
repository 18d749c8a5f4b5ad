use nodegate_model::gateway::Gateway;
use nodegate_observe::{ConnectionState, Record};

use super::harness::{Endpoint, Fixture, Peer, free_port};
use crate::fixture::{cluster, gateway, tcp_listener};

/// Answers each line with its name and the line.
async fn echo(name: &'static str) -> Endpoint {
    Endpoint::new(move |_, mut peer| async move {
        while let Some(line) = peer.until("\n").await {
            peer.send(format!("{name} {line}")).await;
        }
    })
    .await
}

fn to(port: u16, endpoint: &Endpoint) -> Gateway {
    gateway(
        vec![tcp_listener(port, &[("echo", 1)])],
        vec![cluster("echo", &[&endpoint.address()])],
    )
}

#[tokio::test]
async fn replies_come_after_the_client_s_end() {
    // Reads to the end before it answers, as `(date; sleep 1) | nc` makes it.
    let endpoint = Endpoint::new(|_, mut peer| async move {
        let all = peer.rest().await.unwrap();
        peer.send(format!("one {all}")).await;
    })
    .await;
    let fixture = Fixture::new(1);
    let port = free_port();
    fixture.apply(to(port, &endpoint)).await;
    let mut client = Peer::connect(port).await;
    client.send("now").await;
    client.shutdown().await;
    assert_eq!(client.rest().await.unwrap(), "one now");
}

#[tokio::test]
async fn requests_go_on_after_the_endpoint_s_end() {
    let (heard, hearing) = tokio::sync::oneshot::channel();
    let heard = std::sync::Mutex::new(Some(heard));
    let endpoint = Endpoint::new(move |_, mut peer| {
        let heard = heard.lock().unwrap().take().unwrap();
        async move {
            peer.send("bye").await;
            peer.shutdown().await;
            heard.send(peer.rest().await.unwrap()).unwrap();
        }
    })
    .await;
    let fixture = Fixture::new(1);
    let port = free_port();
    fixture.apply(to(port, &endpoint)).await;
    let mut client = Peer::connect(port).await;
    assert_eq!(client.rest().await.unwrap(), "bye");
    client.send("still here").await;
    client.shutdown().await;
    assert_eq!(hearing.await.unwrap(), "still here");
}

#[tokio::test]
async fn open_connections_keep_their_endpoint() {
    let (old, new) = (echo("one").await, echo("two").await);
    let fixture = Fixture::new(1);
    let port = free_port();
    fixture.apply(to(port, &old)).await;
    let mut client = Peer::connect(port).await;
    client.send("a\n").await;
    assert_eq!(client.until("\n").await.unwrap(), "one a\n");

    fixture.apply(to(port, &new)).await;
    client.send("b\n").await;
    assert_eq!(client.until("\n").await.unwrap(), "one b\n");
    let mut other = Peer::connect(port).await;
    other.send("c\n").await;
    assert_eq!(other.until("\n").await.unwrap(), "two c\n");

    // Not even the listener's end touches it.
    fixture.apply(gateway(Vec::new(), Vec::new())).await;
    assert!(Peer::try_connect(port).await.is_err());
    client.send("d\n").await;
    assert_eq!(client.until("\n").await.unwrap(), "one d\n");
}

#[tokio::test]
async fn eight_of_ten_go_to_eighty_percent() {
    let (one, two) = (echo("one").await, echo("two").await);
    let fixture = Fixture::new(2);
    let port = free_port();
    fixture
        .apply(gateway(
            vec![tcp_listener(port, &[("one", 80), ("two", 20)])],
            vec![
                cluster("one", &[&one.address()]),
                cluster("two", &[&two.address()]),
            ],
        ))
        .await;
    let mut twos = 0;
    for _ in 0..10 {
        let mut client = Peer::connect(port).await;
        client.send("x\n").await;
        twos += usize::from(client.until("\n").await.unwrap() == "two x\n");
    }
    assert_eq!(twos, 2);
}

#[tokio::test]
async fn nowhere_to_go_is_a_reset() {
    let fixture = Fixture::new(1);
    let (unknown, empty, dead) = (free_port(), free_port(), free_port());
    fixture
        .apply(gateway(
            vec![
                tcp_listener(unknown, &[("unknown", 1)]),
                tcp_listener(empty, &[("empty", 1)]),
                tcp_listener(dead, &[("dead", 1)]),
            ],
            vec![
                cluster("empty", &[]),
                cluster("dead", &[&format!("127.0.0.1:{}", free_port())]),
            ],
        ))
        .await;
    let mut records = fixture.proxy.tap().subscribe(16);
    for (port, wanted) in [
        (unknown, "NC cluster_not_found"),
        (empty, "UH no_healthy_upstream"),
        (dead, "UF Connection_refused"),
    ] {
        // It may come before the client has noticed that it is connected.
        let error = match Peer::try_connect(port).await {
            Ok(mut client) => client.rest().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let record = records.recv().await.to_string();
        assert!(record.contains(&format!("tcp closed {wanted}")), "{record}");
    }
}

#[tokio::test]
async fn records_at_both_ends() {
    let endpoint = echo("one").await;
    let fixture = Fixture::new(1);
    let port = free_port();
    fixture.apply(to(port, &endpoint)).await;
    let mut records = fixture.proxy.tap().subscribe(16);
    let mut client = Peer::connect(port).await;
    client.send("a\n").await;
    client.shutdown().await;
    assert_eq!(client.rest().await.unwrap(), "one a\n");
    for (state, received, sent) in [
        (ConnectionState::Opened, 0, 0),
        (ConnectionState::Closed, 2, 6),
    ] {
        let record = records.recv().await;
        let Record::Connection(record) = &*record else {
            panic!("{record}");
        };
        assert_eq!(record.state, state);
        assert_eq!(record.decision.endpoint, Some(endpoint.address));
        assert_eq!((record.bytes_received, record.bytes_sent), (received, sent));
        assert!(record.flags.is_empty());
    }
}
