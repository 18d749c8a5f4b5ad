//! What runs in a pod: a server that the container's image chooses.
//!
//! | last part of the image's name | what it serves |
//! |---|---|
//! | `tcp-echo-server` | every line with a word before it, as Istio's sample does; see [`echo`] |
//! | `nginx`, `httpserver`, any other | HTTP/1.1; see [`http`] |
//!
//! A containerPort of protocol UDP answers each datagram with the pod's name before it. All listen on
//! IPv4 and IPv6. There is no server for SCTP ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    rc::Rc,
    time::Duration,
};

use anyhow::Context as _;
use hyper_util::server::graceful::GracefulShutdown;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::LocalSet,
};

use crate::{admission::protocol, workload::Pod};

pub mod echo;
pub mod http;

/// How long requests may go on after SIGTERM, and the first one of a connection may take to come.
const DRAIN: Duration = Duration::from_secs(10);

/// Takes IPv4, too, as namespaces are new and their `net.ipv6.bindv6only` is 0 (ipv6(7)).
const EVERYWHERE: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

/// A pod, as its server knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// Its name.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// All of its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Its node's name.
    pub node: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its containers, in order.
    pub containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// As written.
    pub image: String,
    /// As written.
    pub args: Vec<String>,
    /// Those that are given as values.
    pub env: BTreeMap<String, String>,
    /// Of protocol TCP.
    pub tcp: Vec<u16>,
    /// Of protocol UDP.
    pub udp: Vec<u16>,
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answers lines.
    TcpEcho,
    /// Answers like nginx without configuration.
    Nginx,
    /// Answers `/hello`.
    HttpServer,
    /// Answers everything with what it knows about the request.
    Http,
}

impl PodSpec {
    /// What a pod's server has to know.
    pub fn new(pod: &Pod) -> Self {
        let containers = pod
            .template
            .spec
            .get("containers")
            .and_then(Value::as_array);
        let mut containers: Vec<Container> = containers
            .into_iter()
            .flatten()
            .map(Container::new)
            .collect();
        // A server without a declared port listens where most of them do.
        if containers
            .iter()
            .all(|container| container.tcp.is_empty() && container.udp.is_empty())
            && let Some(first) = containers.first_mut()
        {
            first.tcp.push(80);
        }
        Self {
            pod: pod.name.clone(),
            namespace: pod.namespace.clone(),
            address: pod.address,
            addresses: pod.addresses().into(),
            node: pod.node.clone(),
            labels: pod.template.labels.clone(),
            containers,
        }
    }
}

impl Container {
    fn new(value: &Value) -> Self {
        let list = |field: &str| {
            value
                .get(field)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
        };
        let ports = |wanted: &str| {
            list("ports")
                .filter(|port| protocol(port) == wanted)
                .filter_map(|port| u16::try_from(port.get("containerPort")?.as_u64()?).ok())
                .collect()
        };
        let string = |value: &Value, field: &str| {
            value.get(field).and_then(Value::as_str).map(str::to_owned)
        };
        Self {
            image: string(value, "image").unwrap_or_default(),
            args: list("args")
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            env: list("env")
                .filter_map(|entry| Some((string(entry, "name")?, string(entry, "value")?)))
                .collect(),
            tcp: ports("TCP"),
            udp: ports("UDP"),
        }
    }

    /// What the image's name stands for: its last part, without tag and digest.
    pub fn kind(&self) -> Kind {
        let last = self.image.rsplit('/').next().unwrap_or_default();
        match last.split([':', '@']).next().unwrap_or_default() {
            "tcp-echo-server" => Kind::TcpEcho,
            "nginx" => Kind::Nginx,
            "httpserver" => Kind::HttpServer,
            _ => Kind::Http,
        }
    }

    /// The ports to listen on; an echo server's are its first argument.
    fn tcp_ports(&self) -> anyhow::Result<Vec<u16>> {
        match (self.kind(), self.args.first()) {
            (Kind::TcpEcho, Some(list)) => list
                .split(',')
                .map(|port| {
                    port.trim()
                        .parse()
                        .with_context(|| format!("args[0]: `{port}` is not a port"))
                })
                .collect(),
            _ => Ok(self.tcp.clone()),
        }
    }
}

/// Serves until SIGTERM, then ends what is under way. Makes the file `ready` when every port
/// listens.
pub fn run(pod: PodSpec, ready: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, serve(Rc::new(pod), ready))
}

async fn serve(pod: Rc<PodSpec>, ready: &Path) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (stop, stopped) = watch::channel(());
    let graceful = Rc::new(GracefulShutdown::new());
    let mut tasks = Vec::new();
    let mut taken = BTreeSet::new();
    for (index, container) in pod.containers.iter().enumerate() {
        for port in container.tcp_ports()? {
            // Containers share the pod's addresses; the first to declare a port has it.
            if !taken.insert(port) {
                continue;
            }
            let address = SocketAddr::from((EVERYWHERE, port));
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("listening on TCP port {port}"))?;
            eprintln!("{} listens on {port}/TCP ({:?})", pod.pod, container.kind());
            let listener = Listener {
                listener,
                stopped: stopped.clone(),
            };
            let (pod, graceful) = (pod.clone(), graceful.clone());
            tasks.push(tokio::task::spawn_local(async move {
                match pod.containers[index].kind() {
                    Kind::TcpEcho => echo::serve_tcp(listener, &pod.containers[index]).await,
                    _ => http::serve(listener, pod, index, graceful).await,
                }
            }));
        }
        for port in &container.udp {
            let address = SocketAddr::from((EVERYWHERE, *port));
            let socket = UdpSocket::bind(address)
                .await
                .with_context(|| format!("listening on UDP port {port}"))?;
            tokio::task::spawn_local(echo::serve_udp(socket, pod.pod.clone()));
        }
    }
    std::fs::write(ready, "").with_context(|| format!("writing {}", ready.display()))?;

    terminate.recv().await;
    drop(stop);
    for task in tasks {
        // With their ends nobody else holds `graceful`.
        let _ = task.await;
    }
    if let Ok(graceful) = Rc::try_unwrap(graceful) {
        // What takes longer is cut off.
        let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    }
    Ok(())
}

/// A listener until SIGTERM.
struct Listener {
    listener: TcpListener,
    /// Closed then.
    stopped: watch::Receiver<()>,
}

impl Listener {
    /// The next connection. After SIGTERM those that the kernel has accepted before, then none: closing the
    /// listener would reset them.
    async fn accept(&mut self) -> Option<(TcpStream, SocketAddr)> {
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = self.listener.accept() => accepted,
                _ = self.stopped.changed() => return None,
            };
            match accepted {
                Ok(accepted) => return Some(accepted),
                // Out of descriptors, or the peer was gone already.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn images_are_known_by_their_last_part() {
        for (image, kind) in [
            ("docker.io/istio/tcp-echo-server:1.2", Kind::TcpEcho),
            ("nginx", Kind::Nginx),
            ("localhost:5000/nginx", Kind::Nginx),
            ("nginx@sha256:00", Kind::Nginx),
            ("x/httpserver:v1", Kind::HttpServer),
            ("whoami:v1", Kind::Http),
            ("", Kind::Http),
        ] {
            let container = Container {
                image: image.into(),
                ..Container::default()
            };
            assert_eq!(container.kind(), kind, "{image}");
        }
    }

    #[test]
    fn containers_are_read_as_written() {
        let container = Container::new(&json!({
            "image": "a/tcp-echo-server", "args": ["9000, 9001", "one"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {}}],
            "ports": [{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}],
        }));
        assert_eq!(container.tcp_ports().unwrap(), [9000, 9001]);
        assert_eq!((container.tcp, container.udp), (vec![80], vec![53]));
        assert_eq!(container.env, BTreeMap::from([("A".into(), "1".into())]));
    }
}
