//! Objects → what this node serves.

mod clusters;
mod endpoints;
mod gateway;
mod http;
mod services;
mod tcp;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use nodegate_model::{Snapshot, gateway::Gateway, selection::NodeTopology, service::ServicePort};
use nodegate_resources::Resources;
use nodegate_values::diagnostic::{self, Diagnostic};

/// The labels by which Istio's own manifests choose their ingress gateway.
pub const INGRESS_GATEWAY: (&str, &str) = ("istio", "ingressgateway");

/// The zone of a Node (kubernetes.io/docs/reference/labels-annotations-taints).
const ZONE: &str = "topology.kubernetes.io/zone";

/// The node that this is for.
#[derive(Clone, Debug, Default)]
pub struct NodeIdentity {
    /// Name of the Node object.
    pub name: String,
}

/// The gateway pod that this is for.
#[derive(Clone, Debug, Default)]
pub struct GatewayIdentity {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's labels, by which Gateways and Services choose it.
    pub labels: BTreeMap<String, String>,
}

/// Which Services the datapath translates.
#[derive(Clone, Debug, Default)]
pub enum ServiceScope {
    /// Every Service, as kube-proxy does.
    All,
    /// Those that lead to gateway pods.
    #[default]
    Gateway,
    /// Those with these labels.
    Selector(BTreeMap<String, String>),
    /// Those with one of these namespaces and names; `*` stands for any.
    Names(Vec<(String, String)>),
}

impl ServiceScope {
    /// Whether a Service is among them by its name; none if its name does not say.
    pub fn has_name(&self, namespace: &str, name: &str) -> Option<bool> {
        let is = |wanted: &str, it: &str| wanted == "*" || wanted == it;
        match self {
            Self::All => Some(true),
            Self::Names(names) => {
                let mut names = names.iter();
                Some(names.any(|(a, b)| is(a, namespace) && is(b, name)))
            }
            Self::Gateway | Self::Selector(_) => None,
        }
    }
}

/// Who gets an address that several Services claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Claims {
    /// The oldest of them; an external IP that is another's cluster IP leads nowhere.
    #[default]
    Oldest,
    /// Each of them, as kube-proxy writes its rules: whose comes first is chance.
    All,
}

/// The content of a [`Snapshot`].
#[derive(Debug, Default)]
pub struct Compiled {
    /// See [`Snapshot::node`].
    pub node: NodeTopology,
    /// See [`Snapshot::services`].
    pub services: Vec<ServicePort>,
    /// See [`Snapshot::gateway`].
    pub gateway: Arc<Gateway>,
    /// Those of the resources, and what showed only now; sorted by place.
    pub diagnostics: Vec<Diagnostic>,
}

/// Compiles what `node` redirects and what the gateway pod `gateway` (if this process is one) serves.
pub fn compile(
    resources: &Resources,
    node: &NodeIdentity,
    gateway: Option<&GatewayIdentity>,
    scope: &ServiceScope,
) -> Compiled {
    let mut diagnostics = resources.diagnostics.clone();
    let endpoints = endpoints::Endpoints::of(resources, &mut diagnostics);
    let wanted = services::Wanted {
        scope,
        claims: Claims::Oldest,
        node,
    };
    let services = services::compile(resources, &endpoints, &wanted, &mut diagnostics);
    let gateway = gateway.map_or_else(Gateway::default, |identity| {
        gateway::compile(resources, &endpoints, identity, &mut diagnostics)
    });
    diagnostic::sort(&mut diagnostics);
    diagnostics.dedup();
    Compiled {
        node: topology(resources, node),
        services,
        gateway: Arc::new(gateway),
        diagnostics,
    }
}

/// What a gateway pod serves.
pub fn gateway(
    resources: &Resources,
    identity: &GatewayIdentity,
    diagnostics: &mut Vec<Diagnostic>,
) -> Gateway {
    let endpoints = endpoints::Endpoints::of(resources, diagnostics);
    gateway::compile(resources, &endpoints, identity, diagnostics)
}

/// The Services that kube-proxy would translate, sorted by name and protocol.
pub fn kube_proxy(
    resources: &Resources,
    node: &NodeIdentity,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<ServicePort> {
    let endpoints = endpoints::Endpoints::of(resources, diagnostics);
    let wanted = services::Wanted {
        scope: &ServiceScope::All,
        claims: Claims::All,
        node,
    };
    services::compile(resources, &endpoints, &wanted, diagnostics)
}

/// Where `node` is, by its Node object.
pub fn topology(resources: &Resources, node: &NodeIdentity) -> NodeTopology {
    let zone = resources.node(&node.name).and_then(|node| {
        let zone = node.metadata.labels.as_ref()?.get(ZONE)?;
        (!zone.is_empty()).then(|| zone.clone())
    });
    NodeTopology {
        name: node.name.clone(),
        zone,
    }
}

impl Compiled {
    /// Takes those of `services` that are in scope in place of those of the objects, and what is wrong with
    /// them.
    #[must_use]
    pub fn with_services(
        mut self,
        services: &[ServicePort],
        diagnostics: &[Diagnostic],
        scope: &ServiceScope,
    ) -> Self {
        let in_scope = |service: &&ServicePort| {
            let name = &service.name;
            scope.has_name(&name.namespace, &name.name) == Some(true)
        };
        self.services = services.iter().filter(in_scope).cloned().collect();
        self.diagnostics.extend_from_slice(diagnostics);
        diagnostic::sort(&mut self.diagnostics);
        self
    }
}

/// Numbers the Snapshots of a process.
#[derive(Debug, Default)]
pub struct Publisher {
    current: Option<Arc<Snapshot>>,
}

// === impl Publisher ===

impl Publisher {
    /// What was published last.
    pub fn current(&self) -> Option<&Arc<Snapshot>> {
        self.current.as_ref()
    }

    /// Makes a Snapshot. Its generation is new only if there is something new to apply; with nothing
    /// but other messages it keeps the generation, and with nothing new at all it is the same.
    pub fn publish(&mut self, compiled: Compiled) -> Arc<Snapshot> {
        let Compiled {
            node,
            services,
            gateway,
            diagnostics,
        } = compiled;
        let generation = match &self.current {
            None => 1,
            Some(current)
                if current.node == node
                    && current.services == services
                    && current.gateway == gateway =>
            {
                if current.diagnostics == diagnostics {
                    return current.clone();
                }
                current.generation
            }
            Some(current) => current.generation + 1,
        };
        let snapshot = Arc::new(Snapshot {
            generation,
            node,
            services,
            gateway,
            diagnostics,
        });
        self.current = Some(snapshot.clone());
        snapshot
    }
}
