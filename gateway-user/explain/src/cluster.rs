//! The objects of a cluster: nodes, pods, and who has which address.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use k8s_openapi::api::core::v1::{Node, Pod};
use serde::{Serialize, Serializer};

use nodegate_resources::Resources;

/// What is known of the nodes and pods of a cluster.
#[derive(Debug)]
pub struct Cluster {
    nodes: BTreeMap<String, Vec<IpAddr>>,
    pods: BTreeMap<PodName, PodFacts>,
    by_address: BTreeMap<IpAddr, PodName>,
}

/// Names a pod: prints as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// The node that it runs on.
    pub node: Option<String>,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Its labels; none if there is no Pod object, but only an endpoint that names it.
    pub labels: Option<BTreeMap<String, String>>,
}

// === impl Cluster ===

impl Cluster {
    /// Reads Nodes, Pods and EndpointSlices. An endpoint that names its pod says where the pod is,
    /// as the Pod's own status does.
    pub fn new(resources: &Resources) -> Self {
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            pods: BTreeMap::new(),
            by_address: BTreeMap::new(),
        };
        for (object, node) in resources.nodes() {
            let addresses = internal_addresses(node);
            cluster.nodes.insert(object.key.name.clone(), addresses);
        }
        for (object, pod) in resources.pods() {
            let name = PodName {
                namespace: object.key.namespace.clone(),
                name: object.key.name.clone(),
            };
            cluster.pods.insert(name, facts(pod));
        }
        cluster.endpoints(resources);
        for (name, pod) in &cluster.pods {
            let addresses = pod.addresses.iter();
            let of_pod = addresses.map(|address| (*address, name.clone()));
            cluster.by_address.extend(of_pod);
        }
        cluster
    }

    fn endpoints(&mut self, resources: &Resources) {
        for (object, slice) in resources.endpoint_slices() {
            for endpoint in &slice.endpoints {
                if let Some(node) = &endpoint.node_name {
                    self.nodes.entry(node.clone()).or_default();
                }
                let target = endpoint.target_ref.as_ref();
                let target = target.filter(|target| target.kind.as_deref() == Some("Pod"));
                let Some(name) = target.and_then(|target| target.name.clone()) else {
                    continue;
                };
                let namespace = target.and_then(|target| target.namespace.clone());
                let namespace = namespace.unwrap_or_else(|| object.key.namespace.clone());
                let pod = self.pods.entry(PodName { namespace, name }).or_default();
                let addresses = endpoint.addresses.iter();
                let addresses = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
                pod.addresses.extend(addresses);
                pod.node = pod.node.take().or_else(|| endpoint.node_name.clone());
            }
        }
    }

    /// Names and addresses of the nodes. A node that only endpoints name has no address.
    pub fn nodes(&self) -> &BTreeMap<String, Vec<IpAddr>> {
        &self.nodes
    }

    /// The node with this address.
    pub fn node_with(&self, address: IpAddr) -> Option<&str> {
        let mut nodes = self.nodes.iter();
        let node = nodes.find(|(_, addresses)| addresses.contains(&address));
        node.map(|(name, _)| name.as_str())
    }

    /// All pods.
    pub fn pods(&self) -> &BTreeMap<PodName, PodFacts> {
        &self.pods
    }

    /// The pod with this address.
    pub fn pod_with(&self, address: IpAddr) -> Option<(&PodName, &PodFacts)> {
        self.pods.get_key_value(self.by_address.get(&address)?)
    }
}

fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let status = node.status.as_ref();
    let addresses = status.and_then(|status| status.addresses.as_ref());
    let addresses = addresses.into_iter().flatten();
    addresses
        .filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

fn facts(pod: &Pod) -> PodFacts {
    let status = pod.status.as_ref();
    let one = status.and_then(|status| status.pod_ip.as_deref());
    let several = status.and_then(|status| status.pod_ips.as_ref());
    let several = several.into_iter().flatten().map(|ip| ip.ip.as_str());
    PodFacts {
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        addresses: several
            .chain(one)
            .filter_map(|ip| ip.parse().ok())
            .collect(),
        labels: Some(pod.metadata.labels.clone().unwrap_or_default()),
    }
}

// === impl PodName ===

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for PodName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
