//! A proxy, endpoints that do what a test wants, and clients that see every byte.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZero,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use nodegate_model::{Snapshot, gateway::Gateway};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time,
};

use crate::{
    Applied, Options, Proxy,
    fixture::{cluster, everything_to},
};

/// Waits until it is so.
pub(crate) async fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = patience::Deadline::new();
    while !is_so() {
        assert!(!deadline.passed(), "not within {:?}", patience::limit());
        time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for something; a test that waits for so long has failed.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    let limit = patience::limit();
    let Ok(came) = time::timeout(limit, what).await else {
        panic!("nothing came within {limit:?}");
    };
    came
}

pub(crate) struct Fixture {
    pub(crate) proxy: Proxy,
    generation: AtomicU64,
}

impl Fixture {
    pub(crate) fn new(workers: usize) -> Self {
        Self::with_options(Options {
            workers: NonZero::new(workers).unwrap(),
            address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            ..Options::default()
        })
    }

    pub(crate) fn with_options(options: Options) -> Self {
        Self {
            proxy: Proxy::start(options).unwrap(),
            generation: AtomicU64::new(0),
        }
    }

    pub(crate) async fn try_apply(&self, gateway: Gateway) -> Applied {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let applied = self
            .proxy
            .apply(&Snapshot {
                generation,
                node: nodegate_model::selection::NodeTopology::default(),
                services: Vec::new(),
                gateway: Arc::new(gateway),
                diagnostics: Vec::new().into(),
            })
            .await;
        assert_eq!(applied.generation, generation);
        assert_eq!(*self.proxy.applied().borrow(), generation);
        applied
    }

    pub(crate) async fn apply(&self, gateway: Gateway) {
        let applied = self.try_apply(gateway).await;
        assert!(applied.failures.is_empty(), "{:?}", applied.failures);
    }
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// All paths of all hosts to one cluster with one endpoint.
pub(crate) fn simple(port: u16, endpoint: &Endpoint) -> Gateway {
    everything_to(cluster("web", &[&endpoint.address()]), port)
}

/// A proxy with one worker in front of the endpoint.
pub(crate) async fn proxy_to(endpoint: &Endpoint) -> (Fixture, u16) {
    let fixture = Fixture::new(1);
    let port = free_port();
    fixture.apply(simple(port, endpoint)).await;
    (fixture, port)
}

/// An endpoint: runs a script for each connection.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Endpoint {
    pub(crate) async fn new<F>(script: impl Fn(usize, Peer) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let index = count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(script(index, Peer::of(stream)));
            }
        });
        Self {
            address,
            connections,
            task,
        }
    }

    /// Answers every request with this body.
    pub(crate) async fn answering(body: &'static str) -> Self {
        Self::new(move |_, mut peer| async move {
            while peer.head().await.is_some() {
                peer.send(&ok(body)).await;
            }
        })
        .await
    }

    /// Answers every request with its head.
    pub(crate) async fn echoing_heads() -> Self {
        Self::new(|_, mut peer| async move {
            while let Some(head) = peer.head().await {
                peer.send(&ok(&head)).await;
            }
        })
        .await
    }

    /// Answers nothing, and tells what comes after the head on its first connection until that ends.
    pub(crate) async fn telling_the_rest() -> (Self, oneshot::Receiver<String>) {
        let (told, rest) = oneshot::channel();
        let told = Mutex::new(Some(told));
        let endpoint = Self::new(move |_, mut peer| {
            let told = told.lock().unwrap().take();
            async move {
                peer.head().await;
                let rest = peer.rest().await;
                if let Some(told) = told {
                    told.send(rest.unwrap_or_default()).unwrap();
                }
            }
        })
        .await;
        (endpoint, rest)
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One side of a connection, byte by byte.
pub(crate) struct Peer<S = TcpStream> {
    stream: S,
    buffer: Vec<u8>,
}

impl Peer {
    pub(crate) async fn connect(port: u16) -> Self {
        Self::try_connect(port).await.unwrap()
    }

    pub(crate) async fn try_connect(port: u16) -> std::io::Result<Self> {
        Self::connect_to((Ipv4Addr::LOCALHOST, port).into()).await
    }

    pub(crate) async fn connect_to(address: SocketAddr) -> std::io::Result<Self> {
        TcpStream::connect(address).await.map(Self::of)
    }

    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) fn stream_of(&self) -> &S {
        &self.stream
    }

    pub(crate) fn of(stream: S) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }

    pub(crate) async fn shutdown(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    async fn fill(&mut self) -> std::io::Result<usize> {
        soon(self.stream.read_buf(&mut self.buffer)).await
    }

    /// Reads up to and with the marker; none at the end of the stream.
    pub(crate) async fn until(&mut self, marker: &str) -> Option<String> {
        loop {
            let marker = marker.as_bytes();
            if let Some(at) = self.buffer.windows(marker.len()).position(|w| w == marker) {
                let rest = self.buffer.split_off(at + marker.len());
                let found = std::mem::replace(&mut self.buffer, rest);
                return Some(String::from_utf8(found).unwrap());
            }
            if self.fill().await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// A head, with its blank line.
    pub(crate) async fn head(&mut self) -> Option<String> {
        self.until("\r\n\r\n").await
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> String {
        String::from_utf8(self.bytes(length).await).unwrap()
    }

    pub(crate) async fn bytes(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert_ne!(self.fill().await.unwrap(), 0, "ended early");
        }
        let rest = self.buffer.split_off(length);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// All that is left. A reset is an error.
    pub(crate) async fn rest(&mut self) -> std::io::Result<String> {
        while self.fill().await? > 0 {}
        Ok(String::from_utf8(std::mem::take(&mut self.buffer)).unwrap())
    }

    /// A response with `content-length`: its head and body.
    pub(crate) async fn response(&mut self) -> (String, String) {
        let head = self.head().await.expect("no response");
        let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        let body = self.exactly(length).await;
        (head, body)
    }

    /// Asks and reads the response.
    pub(crate) async fn get(&mut self, host: &str, target: &str) -> (String, String) {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        self.response().await
    }
}

/// A header of a head.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// The head's first line.
pub(crate) fn status(head: &str) -> &str {
    head.lines().next().unwrap_or_default()
}
