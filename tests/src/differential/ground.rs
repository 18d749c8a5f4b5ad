//! What stands there from the start: the Gateway, Services, and their endpoints.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// An endpoint, which is a port of the client's host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint {
    pub(super) name: &'static str,
    pub(super) port: u16,
}

/// A Service with ports 80 and 81.
pub(super) const ALPHA: &str = "alpha";
/// A Service with port 80 alone, which need not be named.
pub(super) const BETA: &str = "beta";
/// A Service whose port's name says that it is TCP.
pub(super) const GAMMA: &str = "gamma";
/// A Service in HTTP/2.
pub(super) const DELTA: &str = "delta";
/// A Service of gRPC.
pub(super) const CALLS: &str = "calls";
/// A Service in HTTP/2, with a connection for each request: what is done to that is done to no other request.
pub(super) const ALONE: &str = "alone";
/// Services for copies of requests.
pub(super) const MIRRORS: [&str; 2] = ["mirror", "mirror-too"];
/// A ServiceEntry with the subsets `v1` and `v2`, and one that has no endpoints.
pub(super) const SHARDS: &str = "shards.test";
/// The Gateway that all VirtualServices may name.
pub(super) const GATEWAY: &str = "web";
/// The port of all Gateways.
pub(super) const PORT: u16 = 8080;

/// All of them.
pub(super) const ENDPOINTS: [Endpoint; 10] = [
    endpoint("alpha", 9001),
    endpoint("beta", 9002),
    endpoint("mirror", 9003),
    endpoint("mirror-too", 9004),
    endpoint("v1", 9005),
    endpoint("v2", 9006),
    endpoint("gamma", 9007),
    endpoint(DELTA, 9008),
    endpoint(CALLS, 9009),
    endpoint(ALONE, 9010),
];

const fn endpoint(name: &'static str, port: u16) -> Endpoint {
    Endpoint { name, port }
}

/// Where endpoints are: on the client's host, which both gateways reach.
pub(super) fn address() -> Ipv4Addr {
    CLIENT
}

/// The client's address in every cluster.
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 170, 10);

/// All objects.
pub(super) fn objects() -> Vec<Value> {
    let mut objects = vec![gateway()];
    objects.extend(service(ALPHA, "http", &[80, 81], 9001));
    objects.extend(service(BETA, "http", &[80], 9002));
    objects.extend(service(GAMMA, "tcp", &[80], 9007));
    objects.extend(service(DELTA, "http2", &[80], 9008));
    objects.extend(service(CALLS, "grpc", &[80], 9009));
    objects.extend(service(ALONE, "http2", &[80], 9010));
    objects.push(alone());
    let [first, second] = MIRRORS;
    objects.extend(service(first, "http", &[80], 9003));
    objects.extend(service(second, "http2", &[80], 9004));
    objects.extend(shards());
    objects
}

fn gateway() -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": GATEWAY, "namespace": "default"},
        "spec": {
            "selector": {"istio": "ingressgateway"},
            "servers": [{
                "port": {"number": PORT, "name": "http", "protocol": "HTTP"},
                "hosts": ["*"],
            }],
        },
    })
}

/// A Service without a selector, with ports of a protocol, and its one endpoint.
fn service(name: &str, protocol: &str, ports: &[u16], target: u16) -> [Value; 2] {
    let named = |port: &u16| format!("{protocol}-{port}");
    let of_service = ports
        .iter()
        .map(|port| json!({"name": named(port), "port": port}));
    let of_slice = ports
        .iter()
        .map(|port| json!({"name": named(port), "port": target}));
    [
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"ports": of_service.collect::<Vec<_>>()},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-1"),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address()], "conditions": {"ready": true}}],
            "ports": of_slice.collect::<Vec<_>>(),
        }),
    ]
}

fn alone() -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": ALONE, "namespace": "default"},
        "spec": {
            "host": ALONE,
            "trafficPolicy": {"connectionPool": {"http": {"maxRequestsPerConnection": 1}}},
        },
    })
}

fn shards() -> [Value; 2] {
    let endpoint = |version: &str, port: u16| json!({"address": address(), "ports": {"http": port}, "labels": {"version": version}});
    let subset = |version: &str| json!({"name": version, "labels": {"version": version}});
    [
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {"name": "shards", "namespace": "default"},
            "spec": {
                "hosts": [SHARDS],
                "location": "MESH_INTERNAL",
                "resolution": "STATIC",
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                "endpoints": [endpoint("v1", 9005), endpoint("v2", 9006)],
            },
        }),
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "DestinationRule",
            "metadata": {"name": "shards", "namespace": "default"},
            "spec": {"host": SHARDS, "subsets": [subset("v1"), subset("v2"), subset("none")]},
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn endpoints_are_on_the_clients_host() {
        let layout = Config::default().layout(Some(1), &[].into()).unwrap();
        assert_eq!(layout.client, CLIENT);
    }
}
