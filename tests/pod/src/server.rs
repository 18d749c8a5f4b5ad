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
    collections::BTreeSet,
    net::{Ipv6Addr, SocketAddr},
    path::Path,
    rc::Rc,
    time::Duration,
};

use anyhow::Context as _;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::LocalSet,
};

use nodegate_testbed::pod::{PodSpec, ServerKind};

mod echo;
mod http;

/// How long requests may go on after SIGTERM, and the first one of a connection may take to come.
const DRAIN: Duration = Duration::from_secs(10);

/// Takes IPv4, too, as namespaces are new and their `net.ipv6.bindv6only` is 0 (ipv6(7)).
const EVERYWHERE: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

/// Serves until SIGTERM, then ends what is under way. Makes the file `ready` when every port
/// listens.
pub(crate) fn run(pod: PodSpec, ready: &Path) -> anyhow::Result<()> {
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
                    ServerKind::TcpEcho => echo::serve_tcp(listener, &pod.containers[index]).await,
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
