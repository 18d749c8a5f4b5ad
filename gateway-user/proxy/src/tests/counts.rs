//! What is counted for each route and each cluster.

use nodegate_model::gateway::Gateway;

use super::harness::{Endpoint, Fixture, Peer, free_port, ok, status};
use crate::{
    Counts,
    fixture::{cluster, gateway, http_listener, prefix_route, tcp_listener},
};

/// A refused port: nothing listens there.
const NOWHERE: &str = "127.0.0.1:1";

fn table(http: u16, tcp: u16, endpoint: &Endpoint) -> Gateway {
    let routes = vec![
        prefix_route("/down", &[("down", 1)]),
        prefix_route("/", &[("web", 1)]),
    ];
    gateway(
        vec![
            http_listener(http, &["*"], routes),
            tcp_listener(tcp, &[("web", 1)]),
        ],
        vec![
            cluster("web", &[&endpoint.address()]),
            cluster("down", &[NOWHERE]),
        ],
    )
}

fn statuses(statuses: [u64; 5]) -> Counts {
    Counts {
        statuses,
        ..Counts::default()
    }
}

#[tokio::test]
async fn answers_and_connections_are_counted_over_workers_and_configurations() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        while let Some(head) = peer.head().await {
            let answer = if head.starts_with("GET /missing") {
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned()
            } else {
                ok("hi")
            };
            peer.send(answer).await;
        }
    })
    .await;
    let fixture = Fixture::new(2);
    let (http, tcp) = (free_port(), free_port());
    fixture.apply(table(http, tcp, &endpoint)).await;
    for _ in 0..8 {
        let mut client = Peer::connect(http).await;
        assert_eq!(status(&client.get("a", "/").await.0), "HTTP/1.1 200 OK");
        client.get("a", "/missing").await;
        client.get("a", "/down").await;
    }
    // Counts go on although every cluster and every listener may be another one now.
    fixture.apply(table(http, tcp, &endpoint)).await;
    let mut client = Peer::connect(tcp).await;
    client.get("a", "/").await;

    let counts = fixture.proxy.counts();
    let of_port = |port: u16| -> Vec<Counts> {
        let routes = counts.routes.iter();
        let routes = routes.filter(|route| route.port == port);
        routes.map(|route| route.counts).collect()
    };
    let wanted = [statuses([0, 0, 0, 0, 8]), statuses([0, 8, 0, 8, 0])];
    assert_eq!(of_port(http), wanted);
    assert_eq!(of_port(tcp)[0].opened, 1);
    let cluster = |name: &str| {
        let mut clusters = counts.clusters.iter();
        clusters
            .find(|cluster| cluster.name == name)
            .unwrap()
            .counts
    };
    assert_eq!(cluster("down").failed, 8);
    assert_eq!(cluster("web").statuses, [0, 8, 0, 8, 0]);
    assert_eq!(cluster("web").opened, 1);
}
