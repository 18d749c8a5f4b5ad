//! Which requests mirrors get copies of.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use nodegate_model::gateway::Mirror;
use nodegate_values::percentage::Percentage;
use tokio::sync::mpsc;

use super::{
    super::overload::Refusal,
    harness::{Endpoint, Fixture, free_port, header, ok, status, until},
    http2::{Server, connect},
};
use crate::fixture::{cluster, forward, gateway, http_listener, prefix_route};

/// An endpoint that answers once it has read a request, and notes what that was.
async fn reading(seen: Arc<Mutex<Vec<String>>>) -> Endpoint {
    Endpoint::new(move |_, mut peer| {
        let seen = Arc::clone(&seen);
        async move {
            while let Some(head) = peer.head().await {
                let length =
                    header(&head, "content-length").map_or(0, |text| text.parse().unwrap());
                let body = peer.exactly(length).await;
                seen.lock()
                    .unwrap()
                    .push(format!("{} {body}", status(&head)));
                peer.send(&ok("read")).await;
            }
        }
    })
    .await
}

/// A copy that there is not is counted, and its request served all the same.
#[tokio::test]
async fn bodies_that_are_too_large_are_not_copied() {
    let copies = Arc::new(Mutex::new(Vec::new()));
    let mirror = reading(Arc::clone(&copies)).await;
    let endpoint = reading(Arc::default()).await;
    let mut route = prefix_route("/", &[("web", 1)]);
    forward(&mut route).mirrors = vec![Mirror {
        cluster: "mirror".into(),
        percentage: Percentage::ALL,
    }];
    let fixture = Fixture::new(1);
    let port = free_port();
    fixture
        .apply(gateway(
            vec![http_listener(port, &["*"], vec![route])],
            vec![
                cluster("web", &[&endpoint.address()]),
                cluster("mirror", &[&mirror.address()]),
            ],
        ))
        .await;
    let mut client = connect(port).await;
    let before = Refusal::Copies.count();
    // The largest one that is copied comes last, so that the one before would have been.
    for size in [(1 << 20) + 1, 1 << 20] {
        let request = Request::post("http://a.example/large")
            .body(BoxBody::new(Full::new(Bytes::from(vec![b'a'; size]))))
            .unwrap();
        let answer = client.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
    }
    until(|| !copies.lock().unwrap().is_empty()).await;
    let lengths: Vec<_> = copies.lock().unwrap().iter().map(String::len).collect();
    let head = "POST /large HTTP/1.1 ".len();
    assert_eq!(lengths, [head + (1 << 20)]);
    assert_eq!(Refusal::Copies.count(), before + 1);
}

/// Trailers may come after all that was announced of a body.
#[tokio::test]
async fn bodies_whose_end_comes_late_are_copied() {
    for http2 in [false, true] {
        let copies = Arc::new(Mutex::new(Vec::new()));
        let mirror = reading(Arc::clone(&copies)).await;
        let (endpoint, server) = (reading(Arc::default()).await, Server::new().await);
        let address = if http2 {
            server.address().to_string()
        } else {
            endpoint.address()
        };
        let mut web = cluster("web", &[&address]);
        web.http2 = http2;
        let mut route = prefix_route("/", &[("web", 1)]);
        forward(&mut route).mirrors = vec![Mirror {
            cluster: "mirror".into(),
            percentage: Percentage::ALL,
        }];
        let fixture = Fixture::new(1);
        let port = free_port();
        fixture
            .apply(gateway(
                vec![http_listener(port, &["*"], vec![route])],
                vec![web, cluster("mirror", &[&mirror.address()])],
            ))
            .await;
        let (send, receive) = mpsc::channel::<Frame<Bytes>>(1);
        let stream = futures_util::stream::unfold(receive, async |mut receive| {
            let frame = receive.recv().await?;
            Some((Ok::<_, Infallible>(frame), receive))
        });
        let request = Request::post("http://a.example/late")
            .header("content-length", "4")
            .body(BoxBody::new(StreamBody::new(Box::pin(stream))))
            .unwrap();
        let mut client = connect(port).await;
        let answer = tokio::spawn(client.send_request(request));
        send.send(Frame::data("body".into())).await.unwrap();
        until(|| server.connections() + endpoint.connections() > 0).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-trailer", HeaderValue::from_static("1"));
        // Whoever has answered need not wait for it.
        let _ = send.send(Frame::trailers(trailers)).await;
        drop(send);
        let answer = answer.await.unwrap().unwrap();
        answer.into_body().collect().await.unwrap();
        until(|| !copies.lock().unwrap().is_empty()).await;
        assert_eq!(*copies.lock().unwrap(), ["POST /late HTTP/1.1 body"]);
    }
}
