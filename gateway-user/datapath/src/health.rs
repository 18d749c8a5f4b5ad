//! The health check node ports: where load balancers ask whether this node has endpoints of a Service
//! whose external traffic policy is Local.
//!
//! The answers are kube-proxy's (pkg/proxy/healthcheck/service_health.go): 200 with at least one ready
//! endpoint on this node, 503 without, and JSON that says so. It has one server for each family, which
//! counts the endpoints of that family; here, one server counts those of the family that it is asked in.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use nodegate_model::{Published, service::ServicePort};
use serde::Serialize;
use socket2::{Domain, Socket, Type};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinSet},
};
use tracing::{info, warn};

/// A Service that has a health check node port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Service {
    namespace: String,
    name: String,
}

/// What a load balancer is told (`X-Load-Balancing-Endpoint-Weight` says the number too).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Health<'s> {
    service: &'s Service,
    local_endpoints: usize,
    /// Whether the maps are in step with the Services. Always true: the ports are opened after the first
    /// Snapshot.
    service_proxy_healthy: bool,
}

/// How many endpoints there are: IPv4, IPv6.
type Counts = [usize; 2];

/// A port that is listened on.
struct Listener {
    service: Service,
    endpoints: Arc<[AtomicUsize; 2]>,
    task: AbortHandle,
}

/// Serves the ports of every Snapshot until the sender of Snapshots is gone.
pub async fn serve(mut published: watch::Receiver<Published>) {
    let mut tasks = JoinSet::new();
    let mut listeners: BTreeMap<u16, Listener> = BTreeMap::new();
    loop {
        let snapshot = published.borrow_and_update().snapshot.clone();
        if let Some(snapshot) = snapshot {
            let wanted = wanted(&snapshot.services);
            listeners.retain(|port, listener| {
                let stays = wanted
                    .get(port)
                    .is_some_and(|(s, _)| *s == listener.service);
                if !stays {
                    listener.task.abort();
                }
                stays
            });
            for (port, (service, count)) in wanted {
                if let Some(listener) = listeners.get(&port) {
                    for (held, count) in listener.endpoints.iter().zip(count) {
                        held.store(count, Ordering::Relaxed);
                    }
                } else {
                    let listener = listen(&mut tasks, port, service, count);
                    listeners.extend(listener.map(|listener| (port, listener)));
                }
            }
        }
        if published.changed().await.is_err() {
            return;
        }
    }
}

/// The ports, their Services, and how many addresses of ready endpoints are on this node.
fn wanted<S: Borrow<ServicePort>>(services: &[S]) -> BTreeMap<u16, (Service, Counts)> {
    let mut addresses: BTreeMap<u16, (Service, BTreeSet<_>)> = BTreeMap::new();
    for service in services.iter().map(Borrow::borrow) {
        let Some(port) = service.health_check_node_port else {
            continue;
        };
        // All ports of a Service have one health check.
        let (_, addresses) = addresses.entry(port).or_insert_with(|| {
            let service = Service {
                namespace: service.name.namespace.clone(),
                name: service.name.name.clone(),
            };
            (service, BTreeSet::new())
        });
        let local = service
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.local && endpoint.ready);
        addresses.extend(local.map(|endpoint| endpoint.address));
    }
    let counted = addresses.into_iter();
    counted
        .map(|(port, (service, addresses))| {
            let v4 = addresses.iter().filter(|a: &&IpAddr| a.is_ipv4()).count();
            (port, (service, [v4, addresses.len() - v4]))
        })
        .collect()
}

fn listen(
    tasks: &mut JoinSet<()>,
    port: u16,
    service: Service,
    counts: Counts,
) -> Option<Listener> {
    let name = format!("{}/{}", service.namespace, service.name);
    let listener = match bind(port) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(port, service = name, %error, "no health check (another program has the port?)");
            return None;
        }
    };
    info!(port, service = name, "health check");
    let endpoints = Arc::new(counts.map(AtomicUsize::new));
    let task = tasks.spawn(accept(listener, service.clone(), Arc::clone(&endpoints)));
    Some(Listener {
        service,
        endpoints,
        task,
    })
}

/// All addresses of both families; of IPv4 alone where there is no IPv6.
fn bind(port: u16) -> std::io::Result<TcpListener> {
    let (socket, address) = if let Ok(socket) = Socket::new(Domain::IPV6, Type::STREAM, None) {
        socket.set_only_v6(false)?;
        (socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    } else {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        (socket, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
    };
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: TcpListener, service: Service, endpoints: Arc<[AtomicUsize; 2]>) {
    let service = Arc::new(service);
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors, say; a load balancer asks again.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let family = usize::from(peer.ip().to_canonical().is_ipv6());
        let (service, endpoints) = (Arc::clone(&service), Arc::clone(&endpoints));
        tokio::spawn(async move {
            let answer = service_fn(move |_: Request<Incoming>| {
                let response = response(&service, endpoints[family].load(Ordering::Relaxed));
                async move { Ok::<_, Infallible>(response) }
            });
            // One that breaks off is asked again.
            let _ = http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

fn response(service: &Service, count: usize) -> Response<Full<bytes::Bytes>> {
    let health = Health {
        service,
        local_endpoints: count,
        service_proxy_healthy: true,
    };
    // Two strings and two numbers: writing them to memory cannot fail.
    let body = serde_json::to_vec(&health).unwrap_or_default();
    let mut response = Response::new(Full::from(body));
    if count == 0 {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    let json = header::HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    let no_sniffing = header::HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, no_sniffing);
    headers.insert("x-load-balancing-endpoint-weight", count.into());
    response
}

#[cfg(test)]
mod tests {
    use nodegate_model::service::{Endpoint, Protocol, ServicePortName};

    use super::*;

    fn service(port: &str, endpoints: Vec<Endpoint>) -> ServicePort {
        let name = ServicePortName {
            namespace: "web".into(),
            name: "front".into(),
            port: port.into(),
        };
        ServicePort {
            health_check_node_port: Some(32_000),
            endpoints,
            ..ServicePort::new(name, Protocol::Tcp, 80)
        }
    }

    fn endpoint(address: &str, local: bool, ready: bool) -> Endpoint {
        Endpoint {
            ready,
            ..Endpoint::ready(address.parse().unwrap(), 8080, local)
        }
    }

    #[test]
    fn ready_addresses_on_this_node_are_counted_once() {
        let http = vec![
            endpoint("10.0.0.1", true, true),
            endpoint("10.0.0.2", true, false),
            endpoint("10.0.1.1", false, true),
        ];
        let https = vec![
            endpoint("10.0.0.1", true, true),
            endpoint("10.0.0.3", true, true),
        ];
        let wanted = wanted(&[service("http", http), service("https", https)]);
        assert_eq!(wanted.len(), 1);
        assert_eq!(wanted[&32_000].1, [2, 0]);
    }

    #[test]
    fn a_pod_with_two_addresses_counts_once_in_each_family() {
        let both = vec![
            endpoint("10.0.0.1", true, true),
            endpoint("fd00::1", true, true),
            endpoint("fd00::2", true, true),
        ];
        assert_eq!(wanted(&[service("http", both)])[&32_000].1, [1, 2]);
    }

    #[test]
    fn answers_are_those_of_kube_proxy() {
        let service = Service {
            namespace: "web".into(),
            name: "front".into(),
        };
        let up = response(&service, 2);
        assert_eq!(up.status(), 200);
        assert_eq!(up.headers()["x-load-balancing-endpoint-weight"], "2");
        assert_eq!(response(&service, 0).status(), 503);
        let health = Health {
            service: &service,
            local_endpoints: 2,
            service_proxy_healthy: true,
        };
        assert_eq!(
            serde_json::to_string(&health).unwrap(),
            r#"{"service":{"namespace":"web","name":"front"},"localEndpoints":2,"serviceProxyHealthy":true}"#
        );
    }

    /// A real request to a real port on loopback.
    #[tokio::test]
    async fn ports_come_change_and_go() {
        use std::sync::Arc;

        use nodegate_model::{Snapshot, gateway::Gateway};
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        async fn ask(port: u16) -> Option<String> {
            let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .ok()?;
            stream
                .write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
                .await
                .ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await.ok()?;
            text.lines().next().map(Into::into)
        }
        async fn until(port: u16, expected: Option<&str>) {
            let deadline = patience::Deadline::new();
            while ask(port).await.as_deref() != expected {
                assert!(!deadline.passed(), "{port} never answered {expected:?}");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }

        // A port that is free now.
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let port = port.port();
        let (sender, receiver) = watch::channel(Published::default());
        let task = tokio::spawn(serve(receiver));
        let publish = |services: Vec<ServicePort>| {
            let snapshot = Snapshot {
                generation: 1,
                node: nodegate_model::selection::NodeTopology::default(),
                services: services.into_iter().map(Arc::new).collect(),
                gateway: Arc::new(Gateway::default()),
                diagnostics: Vec::new().into(),
            };
            sender.send_replace(Published {
                version: 1,
                snapshot: Some(Arc::new(snapshot)),
            });
        };
        let with = |endpoints| ServicePort {
            health_check_node_port: Some(port),
            ..service("http", endpoints)
        };
        publish(vec![with(vec![endpoint("10.0.0.1", true, true)])]);
        until(port, Some("HTTP/1.1 200 OK")).await;
        publish(vec![with(vec![endpoint("10.0.1.1", false, true)])]);
        until(port, Some("HTTP/1.1 503 Service Unavailable")).await;
        publish(Vec::new());
        until(port, None).await;
        drop(sender);
        task.await.unwrap();
    }
}
