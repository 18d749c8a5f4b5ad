//! What is there: the table, and the JSON that scripts read.

use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;
use serde_json::Value;

use crate::{
    admission::{self, Store},
    state::State,
};

/// A testbed's inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ps {
    /// In order.
    pub nodes: Vec<NodeAddress>,
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
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// All of its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeAddress {
    /// Its name.
    pub name: String,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// All of its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
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
    /// All of them; empty for headless Services.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<IpAddr>,
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
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// All of its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
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
                addresses: pod.addresses().into(),
                node: pod.node.clone(),
            })
            .collect();
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Self {
            nodes: state
                .layout
                .nodes
                .iter()
                .map(|node| NodeAddress {
                    name: node.name.clone(),
                    address: node.address,
                    addresses: node.addresses().into(),
                })
                .collect(),
            client: Client {
                address: state.layout.client,
                addresses: state.layout.client_addresses().into(),
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
    // An ExternalName may say what it likes.
    let cluster_ips = if admission::families(object).is_empty() {
        Vec::new()
    } else {
        admission::cluster_ips(object).unwrap_or_default()
    };
    Service {
        namespace: object.key.namespace.clone(),
        name: object.key.name.clone(),
        cluster_ip: match cluster_ips.first() {
            Some(first) => first.to_string(),
            None if admission::headless(object) => "None".into(),
            None => String::new(),
        },
        cluster_ips,
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
