//! EndpointSlices → the ready addresses behind each Service port.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::{
    core::v1::{Pod, ServicePort},
    discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
};

use crate::{
    model::{gateway::Locality, service::Protocol},
    resources::{
        Resources,
        diagnostic::{Diagnostic, Severity},
        object::Object,
    },
};

/// Says which Service a slice belongs to (kubernetes.io/docs/reference/labels-annotations-taints).
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The endpoints of all Services.
#[derive(Debug)]
pub(super) struct Endpoints<'r> {
    slices: BTreeMap<(&'r str, &'r str), Vec<Slice<'r>>>,
    /// By Node.
    localities: BTreeMap<&'r str, Locality>,
}

#[derive(Debug)]
struct Slice<'r> {
    ports: &'r [EndpointPort],
    ready: Vec<Ready<'r>>,
}

/// An address that takes traffic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready<'r> {
    pub(super) address: IpAddr,
    /// The Node that it is on.
    pub(super) node: Option<&'r str>,
    /// The Pod that has it, if that is known.
    pub(super) pod: Option<&'r Pod>,
}

/// A protocol as Services and slices write it; TCP if they do not.
pub(super) fn protocol(name: Option<&str>) -> Protocol {
    match name {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

// === impl Endpoints ===

impl<'r> Endpoints<'r> {
    pub(super) fn of(resources: &'r Resources, diagnostics: &mut Vec<Diagnostic>) -> Self {
        let mut slices: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (object, slice) in resources.endpoint_slices() {
            let labels = slice.metadata.labels.as_ref();
            let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) else {
                continue;
            };
            let key = (object.key.namespace.as_str(), service.as_str());
            slices.entry(key).or_default().push(Slice {
                ports: slice.ports.as_deref().unwrap_or_default(),
                ready: ready(resources, object, slice, diagnostics),
            });
        }
        Self {
            slices,
            localities: localities(resources),
        }
    }

    /// Where an endpoint is: what its Node's labels say.
    pub(super) fn locality(&self, ready: &Ready<'_>) -> Locality {
        let node = ready.node.and_then(|node| self.localities.get(node));
        node.cloned().unwrap_or_default()
    }

    /// The ready endpoints of a Service's port, each with its target port. A slice's port belongs to
    /// the Service's port of the same name and protocol, as with kube-proxy.
    pub(super) fn behind(
        &self,
        namespace: &str,
        service: &str,
        port: &ServicePort,
    ) -> Vec<(Ready<'r>, u16)> {
        let name = port.name.as_deref().unwrap_or_default();
        let wanted = protocol(port.protocol.as_deref());
        let mut behind = Vec::new();
        for slice in self.slices.get(&(namespace, service)).into_iter().flatten() {
            let target = slice.ports.iter().find_map(|port| {
                let same = port.name.as_deref().unwrap_or_default() == name
                    && protocol(port.protocol.as_deref()) == wanted;
                let number = u16::try_from(port.port?).ok()?;
                (same && number != 0).then_some(number)
            });
            if let Some(target) = target {
                behind.extend(slice.ready.iter().map(|ready| (*ready, target)));
            }
        }
        behind
    }
}

/// `getLocality` of istio's pilot/pkg/serviceregistry/kube/controller.
fn localities(resources: &Resources) -> BTreeMap<&str, Locality> {
    let nodes = resources.nodes().filter_map(|(object, node)| {
        let labels = node.metadata.labels.as_ref()?;
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let locality = Locality {
            region: label("topology.kubernetes.io/region"),
            zone: label("topology.kubernetes.io/zone"),
            subzone: label("topology.istio.io/subzone"),
        };
        Some((object.key.name.as_str(), locality))
    });
    nodes.collect()
}

fn ready<'r>(
    resources: &'r Resources,
    object: &Object,
    slice: &'r EndpointSlice,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Ready<'r>> {
    let mut ready = Vec::new();
    if slice.address_type == "FQDN" {
        return ready;
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        // Unknown counts as ready (discovery/v1 EndpointConditions).
        let conditions = endpoint.conditions.as_ref();
        if conditions.and_then(|conditions| conditions.ready) == Some(false) {
            continue;
        }
        // kube-proxy reads the first address only.
        let Some(text) = endpoint.addresses.first() else {
            continue;
        };
        match text.parse::<IpAddr>() {
            Ok(address) if takes_traffic(address) => ready.push(Ready {
                address,
                node: endpoint.node_name.as_deref(),
                pod: pod(resources, &object.key.namespace, endpoint),
            }),
            _ => {
                let path = format!("endpoints[{index}].addresses[0]");
                let message = format!("`{text}` is no address of a pod; left out");
                diagnostics.push(object.report(Severity::Warning, path, message, None));
            }
        }
    }
    ready
}

/// What the API server accepts as an endpoint (`ValidateNonSpecialIP` of kubernetes
/// pkg/apis/core/validation): anything else would let a slice reach into the node itself.
fn takes_traffic(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local)
}

fn pod<'r>(resources: &'r Resources, namespace: &str, endpoint: &Endpoint) -> Option<&'r Pod> {
    let target = endpoint.target_ref.as_ref()?;
    if target.kind.as_deref() != Some("Pod") {
        return None;
    }
    resources.pod(
        target.namespace.as_deref().unwrap_or(namespace),
        target.name.as_deref()?,
    )
}
