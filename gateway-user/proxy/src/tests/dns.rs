//! Endpoints that have names.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    num::NonZero,
    sync::{Arc, Mutex},
    time::Duration,
};

use nodegate_model::gateway::{Cluster, DnsTarget, Locality};
use patience::{Deadline, Stopwatch};
use tokio::{net::UdpSocket, task::JoinHandle, time};

use super::harness::{Endpoint, Fixture, Peer, free_port, ok, status};
use crate::{
    Options,
    fixture::{cluster, gateway, http_listener, prefix_route},
};

/// A server that knows IPv4 addresses, and how long they hold.
struct DnsServer {
    address: SocketAddr,
    /// None: it fails.
    zone: Arc<Mutex<Option<Zone>>>,
    task: JoinHandle<()>,
}

type Zone = HashMap<String, (Vec<Ipv4Addr>, u32)>;

impl DnsServer {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Some(Zone::new())));
        let known = Arc::clone(&zone);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let answer = answer(&buffer[..length], known.lock().unwrap().as_ref());
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        Self {
            address,
            zone,
            task,
        }
    }

    fn set(&self, name: &str, addresses: &[&str], ttl: u32) {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let mut zone = self.zone.lock().unwrap();
        let zone = zone.get_or_insert_default();
        zone.insert(name.to_owned(), (addresses, ttl));
    }

    fn fail(&self) {
        *self.zone.lock().unwrap() = None;
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// RFC 1035, section 4.1, as far as it goes here.
fn answer(query: &[u8], zone: Option<&Zone>) -> Vec<u8> {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_lowercase());
        at += length + 1;
    }
    let question = &query[12..at + 5];
    let is_ipv4 = query[at + 2] == 1;
    let (code, records) = match zone {
        None => (2, None),
        Some(zone) => match zone.get(&labels.join(".")) {
            None => (3, None),
            Some(records) => (0, Some(records).filter(|_| is_ipv4)),
        },
    };
    let count = records.map_or(0, |(addresses, _)| addresses.len() as u8);
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(question);
    if let Some((addresses, ttl)) = records {
        for address in addresses {
            answer.extend([0xC0, 12, 0, 1, 0, 1]);
            answer.extend(ttl.to_be_bytes());
            answer.extend([0, 4]);
            answer.extend(address.octets());
        }
    }
    answer
}

/// Endpoints on one port of several loopback addresses, that say which.
async fn endpoints(addresses: &[&str]) -> (u16, Vec<JoinHandle<()>>) {
    let first = tokio::net::TcpListener::bind((addresses[0], 0))
        .await
        .unwrap();
    let port = first.local_addr().unwrap().port();
    let mut listeners = vec![first];
    for address in &addresses[1..] {
        listeners.push(
            tokio::net::TcpListener::bind((*address, port))
                .await
                .unwrap(),
        );
    }
    let tasks = listeners.into_iter().map(|listener| {
        let body = listener.local_addr().unwrap().ip().to_string();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let body = body.clone();
                tokio::spawn(async move {
                    let mut peer = Peer::of(stream);
                    while peer.head().await.is_some() {
                        peer.send(ok(&body)).await;
                    }
                });
            }
        })
    });
    (port, tasks.collect())
}

fn named(host: &str, port: u16, all: bool) -> Cluster {
    let mut cluster = cluster("web", &[]);
    cluster.names = vec![DnsTarget {
        host: host.into(),
        port,
        weight: 1,
        all,
        locality: Locality::default(),
        priority: 0,
    }];
    cluster
}

async fn proxy(dns: SocketAddr, web: Cluster) -> (Fixture, u16) {
    let fixture = Fixture::with_options(Options {
        workers: NonZero::<usize>::MIN,
        address: Some(Ipv4Addr::LOCALHOST.into()),
        dns: Some(dns),
        ..Options::default()
    });
    let port = free_port();
    let listener = http_listener(port, &["*"], vec![prefix_route("/", &[("web", 1)])]);
    fixture.apply(gateway(vec![listener], vec![web])).await;
    (fixture, port)
}

/// Who answers so many requests.
async fn answering(port: u16, count: usize) -> Vec<String> {
    let mut client = Peer::connect(port).await;
    let mut found = Vec::new();
    for _ in 0..count {
        let (head, body) = client.get("a", "/").await;
        let body = if status(&head).contains("200") {
            body
        } else {
            head[9..12].to_owned()
        };
        if !found.contains(&body) {
            found.push(body);
        }
    }
    found.sort();
    found
}

/// Waits until these and no others answer.
async fn becomes(port: u16, wanted: &[&str]) {
    let deadline = Deadline::new();
    loop {
        let last = deadline.passed();
        let found = answering(port, 20).await;
        if found == wanted {
            return;
        }
        assert!(!last, "{found:?}, not {wanted:?}");
        time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn all_addresses_are_endpoints_for_as_long_as_the_answer_holds() {
    let (port, _tasks) = endpoints(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]).await;
    let dns = DnsServer::start().await;
    dns.set("web.example", &["127.0.0.1", "127.0.0.2"], 1);
    let (_fixture, proxy) = proxy(dns.address, named("web.example", port, true)).await;
    // There is no time in which it has no endpoints.
    assert_eq!(answering(proxy, 20).await, ["127.0.0.1", "127.0.0.2"]);
    dns.set("web.example", &["127.0.0.3"], 1);
    becomes(proxy, &["127.0.0.3"]).await;
}

#[tokio::test]
async fn one_address_at_a_time() {
    let (port, _tasks) = endpoints(&["127.0.0.1", "127.0.0.2"]).await;
    let dns = DnsServer::start().await;
    dns.set("web.example", &["127.0.0.2", "127.0.0.1"], 1);
    let (_fixture, proxy) = proxy(dns.address, named("web.example", port, false)).await;
    assert_eq!(answering(proxy, 20).await, ["127.0.0.2"]);
}

#[tokio::test]
async fn failures_leave_endpoints_and_no_such_name_does_not() {
    let (port, _tasks) = endpoints(&["127.0.0.1"]).await;
    let dns = DnsServer::start().await;
    dns.set("web.example", &["127.0.0.1"], 1);
    let (_fixture, proxy) = proxy(dns.address, named("web.example", port, true)).await;
    dns.fail();
    time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(answering(proxy, 3).await, ["127.0.0.1"]);
    // It is asked again after five seconds; that there is no such name is an answer.
    *dns.zone.lock().unwrap() = Some(Zone::new());
    becomes(proxy, &["503"]).await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_holds_nothing_up_for_long() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let web = Endpoint::answering("hi").await;
    let mut both = named("web.example", 80, true);
    both.endpoints = cluster("web", &[&web.address()]).endpoints;
    let watch = Stopwatch::of_process();
    let (_fixture, port) = proxy(silent.local_addr().unwrap(), both).await;
    watch.lap().below(Duration::from_secs(5)).unwrap();
    assert_eq!(answering(port, 3).await, ["hi"]);
}
