//! What is passed on byte by byte comes out as it went in, however it comes and whoever is slow.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time,
};

use super::harness::{Fixture, free_port, soon};
use crate::fixture::{cluster, gateway, tcp_listener};

/// What one side of a connection does.
#[derive(Clone)]
struct Part {
    seed: u64,
    sends: usize,
    /// Whether it ends its side only when it has heard the other's end.
    ends_last: bool,
}

impl Part {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.sends];
        fastrand::Rng::with_seed(self.seed).fill(&mut bytes);
        bytes
    }

    /// Sends and hears at once; gives what came.
    async fn play(&self, stream: TcpStream) -> Vec<u8> {
        let bytes = self.bytes();
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let (mut reading, mut writing) = stream.into_split();
        let heard = tokio::spawn(async move {
            let mut heard = Vec::new();
            reading.read_to_end(&mut heard).await.unwrap();
            heard
        });
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let most = [1, 100, 20_000, 300_000][rng.usize(0..4)];
            let (piece, after) = rest.split_at(rng.usize(1..=most).min(rest.len()));
            writing.write_all(piece).await.unwrap();
            rest = after;
            if rng.u8(0..8) == 0 {
                time::sleep(Duration::from_millis(rng.u64(0..3))).await;
            }
        }
        if self.ends_last {
            let heard = heard.await.unwrap();
            writing.shutdown().await.unwrap();
            return heard;
        }
        writing.shutdown().await.unwrap();
        heard.await.unwrap()
    }
}

/// An endpoint that is reached through a proxy at a port.
async fn relayed() -> (Fixture, u16, TcpListener) {
    let endpoint = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = endpoint.local_addr().unwrap().to_string();
    let (fixture, port) = (Fixture::new(2), free_port());
    fixture
        .apply(gateway(
            vec![tcp_listener(port, &[("echo", 1)])],
            vec![cluster("echo", &[&address])],
        ))
        .await;
    (fixture, port, endpoint)
}

#[tokio::test]
async fn whatever_sizes_and_ends_every_byte_comes() {
    let (_fixture, port, endpoint) = relayed().await;
    let mut rng = fastrand::Rng::with_seed(7);
    for round in 0..150 {
        let mut size = || match rng.u8(0..4) {
            0 => 0,
            1 => rng.usize(1..1_000),
            2 => rng.usize(1..100_000),
            _ => rng.usize(1..3_000_000),
        };
        let sizes = [size(), size()];
        let last = rng.usize(0..3);
        let [client, server] = [0, 1].map(|side| Part {
            seed: round * 2 + side as u64,
            sends: sizes[side],
            ends_last: last == side,
        });
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (accepted, _) = soon(endpoint.accept()).await.unwrap();
        let (at_client, at_server) =
            soon(async { tokio::join!(client.play(stream), server.play(accepted)) }).await;
        // Not compared by assert_eq: nobody reads megabytes.
        assert!(at_client == server.bytes(), "{round}: to the client");
        assert!(at_server == client.bytes(), "{round}: to the endpoint");
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back_and_loses_nothing() {
    let (_fixture, port, endpoint) = relayed().await;
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut accepted, _) = soon(endpoint.accept()).await.unwrap();
    let part = Part {
        seed: 1,
        sends: 64 << 20,
        ends_last: false,
    };
    let bytes = part.bytes();
    // As much as the sockets' buffers take, and a pipe.
    let mut sent = 0;
    while let Ok(written) = time::timeout(Duration::from_millis(500), stream.writable()).await {
        written.unwrap();
        match stream.try_write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    assert!(sent < bytes.len(), "nobody reads, and all is sent");
    let rest = bytes[sent..].to_vec();
    let (_reading, mut writing) = stream.into_split();
    let sender = tokio::spawn(async move {
        writing.write_all(&rest).await.unwrap();
        writing.shutdown().await.unwrap();
    });
    let mut heard = Vec::new();
    soon(accepted.read_to_end(&mut heard)).await.unwrap();
    sender.await.unwrap();
    assert!(heard == bytes);
}

#[tokio::test]
async fn who_breaks_off_breaks_the_other_side_too() {
    let (fixture, port, endpoint) = relayed().await;
    let mut records = fixture.proxy.tap().subscribe(64);
    for by_client in [true, false] {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (accepted, _) = soon(endpoint.accept()).await.unwrap();
        let (breaks, mut stays) = if by_client {
            (stream, accepted)
        } else {
            (accepted, stream)
        };
        // In bulk, so that a pipe holds what will never be written.
        stays.writable().await.unwrap();
        while let Ok(Ok(count)) =
            time::timeout(Duration::from_millis(100), stays.write(&[7; 1 << 13])).await
        {
            assert!(count > 0);
        }
        socket2::SockRef::from(&breaks)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(breaks);
        let error = soon(stays.read_to_end(&mut Vec::new())).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let flag = if by_client { "DC" } else { "UR" };
        let closed = soon(async {
            loop {
                let record = records.recv().await.to_string();
                if record.contains("tcp closed") {
                    return record;
                }
            }
        });
        let closed = closed.await;
        assert!(closed.contains(flag), "{closed}");
    }
}
