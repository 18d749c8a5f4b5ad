//! Connections that fronts bring, and say whose they are.

use std::{net::IpAddr, num::NonZero, time::Duration};

use super::harness::{Endpoint, Fixture, Peer, free_port, simple};
use crate::{
    Fronts, Options,
    fixture::{cluster, gateway, tcp_listener},
};

/// A proxy that trusts these networks at this port.
fn trusting(port: u16, networks: &[&str]) -> Fixture {
    let networks = networks.iter();
    let fronts = networks.map(|network| (port, network.parse().unwrap()));
    Fixture::with_options(Options {
        workers: NonZero::new(1).unwrap(),
        address: Some(IpAddr::from([127, 0, 0, 1])),
        fronts: Fronts(fronts.collect()),
        header_timeout: Duration::from_secs(1),
        ..Options::default()
    })
}

const LINE: &str = "PROXY TCP4 203.0.113.9 192.0.2.1 49152 443\r\n";

fn version2() -> Vec<u8> {
    let fixed = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11";
    let addresses = [203, 0, 113, 9, 192, 0, 2, 1, 0xc0, 0, 1, 0xbb];
    // An addition that claims to be longer than all.
    [&fixed[..], &addresses, &[0xea, 0xff, 0xff, 1, 2]].concat()
}

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn endpoints_hear_of_the_client_and_not_of_the_front() {
    let endpoint = Endpoint::echoing_heads().await;
    let port = free_port();
    let fixture = trusting(port, &["127.0.0.0/8"]);
    fixture.apply(simple(port, &endpoint)).await;
    for header in [LINE.as_bytes(), &version2()] {
        let mut client = Peer::connect(port).await;
        // In pieces, the last of which has the request's beginning.
        let whole = [header, REQUEST.as_bytes()].concat();
        for piece in [&whole[..5], &whole[5..30], &whole[30..]] {
            client.send(piece).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let answer = client.head().await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let seen = client.until("\r\n\r\n").await.unwrap();
        assert!(seen.contains("x-forwarded-for: 203.0.113.9\r\n"), "{seen}");
        // The connection is that client's, request after request.
        client.send(REQUEST).await;
        client.head().await.unwrap();
        let seen = client.until("\r\n\r\n").await.unwrap();
        assert!(seen.contains("x-forwarded-for: 203.0.113.9\r\n"), "{seen}");
    }
    // The front's own.
    let mut client = Peer::connect(port).await;
    client.send(["PROXY UNKNOWN\r\n", REQUEST].concat()).await;
    client.head().await.unwrap();
    let seen = client.until("\r\n\r\n").await.unwrap();
    assert!(seen.contains("x-forwarded-for: 127.0.0.1\r\n"), "{seen}");
}

#[tokio::test]
async fn records_of_tcp_are_of_the_client() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        peer.send("hello").await;
    })
    .await;
    let port = free_port();
    let fixture = trusting(port, &["127.0.0.1/32"]);
    let to = gateway(
        vec![tcp_listener(port, &[("echo", 1)])],
        vec![cluster("echo", &[&endpoint.address()])],
    );
    fixture.apply(to).await;
    let mut records = fixture.proxy.tap().subscribe(16);
    let mut client = Peer::connect(port).await;
    client.send(LINE).await;
    client.shutdown().await;
    assert_eq!(client.rest().await.unwrap(), "hello");
    let opened = records.recv().await.to_string();
    assert!(opened.contains("203.0.113.9:49152"), "{opened}");
}

#[tokio::test]
async fn who_is_not_trusted_cannot_pass_for_another() {
    let endpoint = Endpoint::answering("ok").await;
    let (port, other) = (free_port(), free_port());
    // Other networks at this port, and this network at another port.
    let fixture = Fixture::with_options(Options {
        workers: NonZero::new(1).unwrap(),
        address: Some(IpAddr::from([127, 0, 0, 1])),
        fronts: Fronts(vec![
            (port, "192.0.2.0/24".parse().unwrap()),
            (other, "127.0.0.0/8".parse().unwrap()),
        ]),
        ..Options::default()
    });
    fixture.apply(simple(port, &endpoint)).await;
    let mut client = Peer::connect(port).await;
    client.send([LINE, REQUEST].concat()).await;
    let answer = client.rest().await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let mut client = Peer::connect(port).await;
    client.send(REQUEST).await;
    let answer = client.head().await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_front_that_says_nothing_is_not_served() {
    let endpoint = Endpoint::answering("ok").await;
    let port = free_port();
    let fixture = trusting(port, &["127.0.0.0/8"]);
    fixture.apply(simple(port, &endpoint)).await;
    let mut records = fixture.proxy.tap().subscribe(16);
    let too_long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 64]].concat();
    let endless = format!("PROXY TCP4 {}", "1".repeat(200));
    for (sent, details) in [
        (REQUEST.as_bytes(), "does_not_begin_with"),
        (&too_long, "more_than_4096_bytes"),
        (endless.as_bytes(), "line_does_not_end"),
        (b"PROXY TCP4 1 2 3 4\r\n", "makes_no_sense"),
        (b"PROXY TCP4 203.0.113.9", "has_no_PROXY_header_yet"),
    ] {
        let mut client = Peer::connect(port).await;
        client.send(sent).await;
        let error = client.rest().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let record = records.recv().await.to_string();
        assert!(record.contains(details), "{record}");
    }
    assert_eq!(endpoint.connections(), 0);
}
