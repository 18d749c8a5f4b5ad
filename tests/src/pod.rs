//! What the server in a pod has to know: the pod, its containers, and what their images stand for.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{admission::protocol, workload::Pod};

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

/// What a container's server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
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
    pub fn kind(&self) -> ServerKind {
        let last = self.image.rsplit('/').next().unwrap_or_default();
        match last.split([':', '@']).next().unwrap_or_default() {
            "tcp-echo-server" => ServerKind::TcpEcho,
            "nginx" => ServerKind::Nginx,
            "httpserver" => ServerKind::HttpServer,
            _ => ServerKind::Http,
        }
    }

    /// The ports to listen on; an echo server's are its first argument.
    pub fn tcp_ports(&self) -> anyhow::Result<Vec<u16>> {
        match (self.kind(), self.args.first()) {
            (ServerKind::TcpEcho, Some(list)) => list
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn images_are_known_by_their_last_part() {
        for (image, kind) in [
            ("docker.io/istio/tcp-echo-server:1.2", ServerKind::TcpEcho),
            ("nginx", ServerKind::Nginx),
            ("localhost:5000/nginx", ServerKind::Nginx),
            ("nginx@sha256:00", ServerKind::Nginx),
            ("x/httpserver:v1", ServerKind::HttpServer),
            ("whoami:v1", ServerKind::Http),
            ("", ServerKind::Http),
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
