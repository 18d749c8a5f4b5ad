//! What is there: the table, and the JSON that scripts read.

use std::net::Ipv4Addr;

use serde::Serialize;
use serde_json::Value;

use crate::{
    admission::{self, Store},
    config::Node,
    state::State,
};

/// A testbed's inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ps {
    /// In order.
    pub nodes: Vec<Node>,
    /// The machine outside the cluster.
    pub client: Client,
    /// By namespace and name.
    pub services: Vec<Service>,
    /// By namespace and name.
    pub pods: Vec<PodAddress>,
}

/// The machine outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Client {
    /// Its address.
    pub address: Ipv4Addr,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `None` for headless Services, empty for those that have none (`ExternalName`).
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    /// As written.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    /// In order.
    pub ports: Vec<Port>,
}

/// A Service's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Empty when it has none.
    pub name: String,
    /// `TCP`, …
    pub protocol: String,
    /// On cluster and external IPs.
    pub port: u64,
    /// On nodes.
    pub node_port: Option<u64>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodAddress {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The name of its node.
    pub node: String,
}

impl Ps {
    pub(crate) fn new(state: &State, store: &Store) -> Self {
        let services = store
            .values()
            .filter(|object| admission::is_service(object));
        let mut pods: Vec<PodAddress> = state
            .pods
            .iter()
            .map(|pod| PodAddress {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                address: pod.address,
                node: pod.node.clone(),
            })
            .collect();
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Self {
            nodes: state.layout.nodes.clone(),
            client: Client {
                address: state.layout.client,
            },
            services: services.map(service).collect(),
            pods,
        }
    }

    /// The Service of that name.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        let mut services = self.services.iter();
        services.find(|service| service.namespace == namespace && service.name == name)
    }

    /// The pods whose names begin so.
    pub fn pods_named<'a>(
        &'a self,
        namespace: &'a str,
        prefix: &'a str,
    ) -> impl Iterator<Item = &'a PodAddress> {
        self.pods
            .iter()
            .filter(move |pod| pod.namespace == namespace && pod.name.starts_with(prefix))
    }
}

fn service(object: &crate::object::Object) -> Service {
    let headless = object.at("/spec/clusterIP").is_some_and(|ip| ip == "None");
    Service {
        namespace: object.key.namespace.clone(),
        name: object.key.name.clone(),
        cluster_ip: if headless {
            "None"
        } else {
            admission::cluster_ip(object).unwrap_or_default()
        }
        .into(),
        external_ips: admission::service_external_ips(object)
            .map(str::to_owned)
            .collect(),
        ports: admission::ports(&object.value)
            .map(|port| Port {
                name: port
                    .get("name")
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .into(),
                protocol: admission::protocol(port).into(),
                port: port.get("port").and_then(Value::as_u64).unwrap_or_default(),
                node_port: admission::node_port(port),
            })
            .collect(),
    }
}
