//! EndpointSlices → the addresses behind each Service port.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
};
use nodegate_model::{
    gateway::Locality,
    service::{self as model, Protocol},
};
use nodegate_resources::{Resources, object::Object};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use crate::{identity::GatewayIdentity, placement::Placement, ports::protocol};

/// Says which Service a slice belongs to (kubernetes.io/docs/reference/labels-annotations-taints).
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The endpoint controller's mark on slices of headless Services.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// The endpoints of Services.
#[derive(Debug)]
pub(crate) struct Endpoints<'r> {
    slices: BTreeMap<(&'r str, &'r str), Vec<Slice<'r>>>,
    localities: Arc<Localities>,
}

/// Where Nodes are, by name.
pub(crate) type Localities = BTreeMap<String, Locality>;

/// Whose point of view it is: kube-proxy does not even watch the slices of headless Services, whatever their
/// Service is (`newInformerFactory` of its cmd/kube-proxy/app); for gateways they are as any others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View {
    KubeProxy,
    Gateway,
}

#[derive(Debug)]
struct Slice<'r> {
    is_headless: bool,
    ports: &'r [EndpointPort],
    targets: Vec<SliceTarget<'r>>,
}

/// An address behind a Service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SliceTarget<'r> {
    pub(crate) address: IpAddr,
    /// What its slice says about it.
    pub(crate) endpoint: &'r Endpoint,
    /// The Pod that has it, if that is known.
    pub(crate) pod: Option<&'r Pod>,
}

// === impl Endpoints ===

impl<'r> Endpoints<'r> {
    /// Those of all Services.
    pub(crate) fn of(resources: &'r Resources, diagnostics: &mut Vec<Diagnostic>) -> Self {
        let localities = Arc::new(localities(resources));
        Self::among(
            resources,
            resources.endpoint_slices(),
            localities,
            diagnostics,
        )
    }

    /// Those of no Service.
    pub(crate) fn none() -> Self {
        Self {
            slices: BTreeMap::new(),
            localities: Arc::default(),
        }
    }

    /// Those in some of the slices, which are in the order of their names.
    pub(crate) fn among(
        resources: &'r Resources,
        all: impl Iterator<Item = (&'r Arc<Object>, &'r EndpointSlice)>,
        localities: Arc<Localities>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut slices: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (object, slice) in all {
            let Some(service) = service_of(slice) else {
                continue;
            };
            let key = (object.key.namespace.as_str(), service);
            if let Some(service) = resources.service(key.0, key.1) {
                strange_ports(object, slice, (service, key.1), diagnostics);
            }
            slices.entry(key).or_default().push(Slice {
                is_headless: is_headless(slice),
                ports: slice.ports.as_deref().unwrap_or_default(),
                targets: targets(resources, object, slice, diagnostics),
            });
        }
        Self { slices, localities }
    }

    /// Where Nodes are.
    pub(crate) fn localities(&self) -> &Arc<Localities> {
        &self.localities
    }

    /// Where an endpoint is: what its Pod's label says, else what its Node's labels say.
    pub(crate) fn place(&self, target: &SliceTarget<'r>) -> Placement<'r> {
        let node = target.endpoint.node_name.as_deref();
        self.place_on(target.pod, node)
    }

    /// Where the gateway pod is.
    pub(crate) fn place_of(
        &self,
        resources: &'r Resources,
        identity: &'r GatewayIdentity,
    ) -> Placement<'r> {
        let pod = resources.pod(&identity.namespace, &identity.name);
        let node = pod.and_then(|pod| pod.spec.as_ref()?.node_name.as_deref());
        Placement {
            labels: Some(Cow::Borrowed(&identity.labels)),
            ..self.place_on(pod, node)
        }
    }

    fn place_on(&self, pod: Option<&'r Pod>, node: Option<&'r str>) -> Placement<'r> {
        let labels = pod.and_then(|pod| pod.metadata.labels.as_ref());
        // Labels have no slashes in their values (`GetLocalityLabel` of istio's pkg/model).
        let own = labels.and_then(|labels| labels.get("istio-locality"));
        let own = own.map(|own| Locality::parse(&own.replace('.', "/")));
        let of_node = node.and_then(|node| self.localities.get(node));
        Placement {
            locality: own.or_else(|| of_node.cloned()).unwrap_or_default(),
            labels: labels.map(Cow::Borrowed),
            node,
        }
    }

    /// The endpoints of a Service's port, which has a name or an empty one, ready or not; each with its
    /// target port. A slice's port belongs to the Service's port of the same name and protocol, as with
    /// kube-proxy.
    pub(crate) fn behind(
        &self,
        namespace: &str,
        service: &str,
        (name, wanted): (&str, Protocol),
        view: View,
    ) -> Vec<(SliceTarget<'r>, u16)> {
        let mut behind = Vec::new();
        let slices = self.slices.get(&(namespace, service)).into_iter().flatten();
        for slice in slices.filter(|slice| view == View::Gateway || !slice.is_headless) {
            let target = slice.ports.iter().find_map(|port| {
                let same = port.name.as_deref().unwrap_or_default() == name
                    && protocol(port.protocol.as_deref()) == wanted;
                let number = u16::try_from(port.port?).ok()?;
                (same && number != 0).then_some(number)
            });
            if let Some(port) = target {
                behind.extend(slice.targets.iter().map(|target| (*target, port)));
            }
        }
        behind
    }
}

/// The Service that a slice belongs to, if it counts at all.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<&str> {
    let labels = slice.metadata.labels.as_ref()?;
    labels.get(SERVICE_NAME).map(String::as_str)
}

/// Whether a slice is marked as one of a headless Service. Whether the Service itself has the label does not
/// count.
fn is_headless(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.is_some_and(|labels| labels.contains_key(HEADLESS))
}

/// Namespace and name of the Pod that has an endpoint of a slice of `namespace`.
pub(crate) fn pod_of<'e>(endpoint: &'e Endpoint, namespace: &'e str) -> Option<(&'e str, &'e str)> {
    let target = endpoint.target_ref.as_ref()?;
    let is_pod = target.kind.as_deref() == Some("Pod");
    let namespace = target.namespace.as_deref().unwrap_or(namespace);
    is_pod.then_some((namespace, target.name.as_deref()?))
}

/// Warns about ports of a slice that are none of the Service's: the endpoints are not behind it by them.
fn strange_ports(
    object: &Object,
    slice: &EndpointSlice,
    (service, name): (&Service, &str),
    diagnostics: &mut Vec<Diagnostic>,
) {
    let spec = service.spec.as_ref();
    let ports = spec
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default();
    let known = |port: &EndpointPort| {
        ports.iter().any(|of_service| {
            of_service.name.as_deref().unwrap_or_default()
                == port.name.as_deref().unwrap_or_default()
                && protocol(of_service.protocol.as_deref()) == protocol(port.protocol.as_deref())
        })
    };
    let said = |name: Option<&str>, transport: Option<&str>| {
        let name = name.filter(|name| !name.is_empty());
        let name = name.map_or("without a name".to_owned(), |name| format!("`{name}`"));
        format!("{name} ({})", transport.unwrap_or("TCP"))
    };
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        if known(port) {
            continue;
        }
        let its: Vec<_> = ports
            .iter()
            .map(|port| said(port.name.as_deref(), port.protocol.as_deref()))
            .collect();
        let message = format!(
            "Service {}/{name} has no port {}; no connection gets to these endpoints by it",
            object.key.namespace,
            said(port.name.as_deref(), port.protocol.as_deref()),
        );
        let fix = (!its.is_empty()).then(|| format!("its ports are {}", its.join(", ")));
        let path = format!("ports[{index}].name");
        diagnostics.push(object.report(Severity::Warning, path, message, fix));
    }
}

/// `getLocality` of istio's pilot/pkg/serviceregistry/kube/controller.
fn localities(resources: &Resources) -> Localities {
    let nodes = resources.nodes().filter_map(|(object, node)| {
        let labels = node.metadata.labels.as_ref()?;
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let locality = Locality {
            region: label("topology.kubernetes.io/region"),
            zone: label("topology.kubernetes.io/zone"),
            subzone: label("topology.istio.io/subzone"),
        };
        Some((object.key.name.clone(), locality))
    });
    nodes.collect()
}

fn targets<'r>(
    resources: &'r Resources,
    object: &Object,
    slice: &'r EndpointSlice,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<SliceTarget<'r>> {
    let mut targets = Vec::new();
    if slice.address_type == "FQDN" {
        return targets;
    }
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        // kube-proxy reads the first address only.
        let Some(text) = endpoint.addresses.first() else {
            continue;
        };
        match text.parse::<IpAddr>() {
            Ok(address) if takes_traffic(address, &slice.address_type) => {
                targets.push(SliceTarget {
                    address,
                    endpoint,
                    pod: pod_of(endpoint, &object.key.namespace)
                        .and_then(|(namespace, name)| resources.pod(namespace, name)),
                });
            }
            _ => {
                let path = format!("endpoints[{index}].addresses[0]");
                let message = format!("`{text}` is no address of a pod; left out");
                diagnostics.push(object.report(Severity::Warning, path, message, None));
            }
        }
    }
    targets
}

/// What the API server accepts as an endpoint (`ValidateNonSpecialIP` of kubernetes
/// pkg/apis/core/validation) of that type: anything else would let a slice reach into the node itself.
fn takes_traffic(address: IpAddr, kind: &str) -> bool {
    let (family, link_local) = match address {
        IpAddr::V4(address) => ("IPv4", address.is_link_local()),
        // 127.0.0.1 and its like have such a form too.
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => return false,
        IpAddr::V6(address) => ("IPv6", address.is_unicast_link_local()),
    };
    let special = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    family == kind && !special && !link_local
}

// === impl SliceTarget ===

impl SliceTarget<'_> {
    /// Unknown counts as yes (discovery/v1 EndpointConditions).
    pub(crate) fn is_ready(&self) -> bool {
        let conditions = self.endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready) != Some(false)
    }

    /// As the model has it, for the node `node`.
    pub(crate) fn model(&self, port: u16, node: &str) -> model::Endpoint {
        let endpoint = self.endpoint;
        let conditions = endpoint.conditions.as_ref();
        let hints = endpoint.hints.as_ref();
        let zones = hints.and_then(|hints| hints.for_zones.as_ref());
        let nodes = hints.and_then(|hints| hints.for_nodes.as_ref());
        model::Endpoint {
            address: self.address,
            port,
            local: endpoint.node_name.as_deref() == Some(node),
            node: endpoint.node_name.clone(),
            ready: self.is_ready(),
            serving: conditions.and_then(|conditions| conditions.serving) != Some(false),
            terminating: conditions.and_then(|conditions| conditions.terminating) == Some(true),
            hints: model::Hints {
                zones: zones
                    .into_iter()
                    .flatten()
                    .map(|zone| zone.name.clone())
                    .collect(),
                nodes: nodes
                    .into_iter()
                    .flatten()
                    .map(|node| node.name.clone())
                    .collect(),
            },
        }
    }
}
