//! Which of a Service port's endpoints take its traffic on this node.
//!
//! The rules are those of `CategorizeEndpoints` in Kubernetes' pkg/proxy/topology.go.

use serde::{Deserialize, Serialize};

use super::service::{Endpoint, IpFamily, ServicePort, TrafficPolicy};

/// Where this node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTopology {
    /// Name of the Node object.
    pub name: String,
    /// Its label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

/// The endpoints of one family that take a Service port's traffic on this node, each list in the
/// order of [`ServicePort::endpoints`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection<'s> {
    /// For traffic with policy Cluster: the ready ones that are meant for this node, else those that
    /// still serve while they end. Empty if nothing can use them.
    pub cluster: Vec<&'s Endpoint>,
    /// For traffic with policy Local: the ready ones on this node, else those on it that still serve
    /// while they end. Empty if nothing can use them.
    pub local: Vec<&'s Endpoint>,
    /// All that are in one of the lists.
    pub reachable: Vec<&'s Endpoint>,
    /// Whether there is a usable endpoint on any node.
    pub has_endpoints: bool,
    /// [`ServicePort::internal_policy`].
    pub internal_policy: TrafficPolicy,
    /// [`ServicePort::external_policy`].
    pub external_policy: TrafficPolicy,
    /// Whether the port can be reached by anything but the cluster IP.
    pub is_external: bool,
}

/// Why an endpoint is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    /// Hints do not count.
    Any,
    /// Hinted for this node.
    Node,
    /// Hinted for this zone.
    Zone,
}

/// Selects the endpoints of `family` that take the traffic of `port` on `node`.
pub fn select<'s>(port: &'s ServicePort, family: IpFamily, node: &NodeTopology) -> Selection<'s> {
    let all: Vec<_> = port
        .endpoints
        .iter()
        .filter(|endpoint| IpFamily::of(endpoint.address) == family)
        .collect();
    let mut selection = Selection {
        internal_policy: port.internal_policy,
        external_policy: port.external_policy,
        is_external: port.is_external(family),
        has_endpoints: all
            .iter()
            .any(|endpoint| endpoint.ready || is_ending(endpoint)),
        ..Selection::default()
    };
    if selection.uses_cluster() {
        let topology = topology(&all, node);
        selection.cluster =
            ready_or_ending(&all, |endpoint| is_meant_for(endpoint, topology, node));
    }
    if selection.uses_local() {
        let local: Vec<_> = all.iter().copied().filter(|e| e.local).collect();
        selection.local = ready_or_ending(&local, |_| true);
    }
    selection.reachable = merge(&all, &selection.cluster, &selection.local);
    selection
}

/// Those of `all` that are in `a` or `b`, which are in the order of `all`.
fn merge<'s>(all: &[&'s Endpoint], a: &[&'s Endpoint], b: &[&'s Endpoint]) -> Vec<&'s Endpoint> {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut in_either = |endpoint: &&Endpoint| {
        let is_it = |other: &&&Endpoint| std::ptr::eq(**other, *endpoint);
        a.next_if(is_it).is_some() | b.next_if(is_it).is_some()
    };
    all.iter().copied().filter(|e| in_either(e)).collect()
}

/// The ready ones that are `preferred`; without any, those that still serve while they end. The
/// preference does not count for those: it is a last effort not to break connections.
fn ready_or_ending<'s>(
    endpoints: &[&'s Endpoint],
    preferred: impl Fn(&Endpoint) -> bool,
) -> Vec<&'s Endpoint> {
    let these = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<_> {
        let endpoints = endpoints.iter().copied();
        endpoints.filter(|endpoint| wanted(endpoint)).collect()
    };
    let ready = these(&|endpoint| endpoint.ready && preferred(endpoint));
    if ready.is_empty() {
        these(&is_ending)
    } else {
        ready
    }
}

/// Ends, but still serves.
fn is_ending(endpoint: &Endpoint) -> bool {
    endpoint.serving && endpoint.terminating
}

/// Hints count if every ready endpoint has one and one of them is for us; for the node before for the
/// zone (`topologyModeFromHints`).
fn topology(endpoints: &[&Endpoint], node: &NodeTopology) -> Topology {
    let ready = || endpoints.iter().filter(|endpoint| endpoint.ready);
    let counts = |mode, hinted: fn(&Endpoint) -> bool| {
        ready().all(|endpoint| hinted(endpoint))
            && ready().any(|endpoint| is_meant_for(endpoint, mode, node))
    };
    if counts(Topology::Node, |endpoint| !endpoint.hints.nodes.is_empty()) {
        Topology::Node
    } else if counts(Topology::Zone, |endpoint| !endpoint.hints.zones.is_empty()) {
        Topology::Zone
    } else {
        Topology::Any
    }
}

fn is_meant_for(endpoint: &Endpoint, topology: Topology, node: &NodeTopology) -> bool {
    match topology {
        Topology::Any => true,
        Topology::Node => endpoint.hints.nodes.contains(&node.name),
        Topology::Zone => {
            let zone = node.zone.as_ref();
            zone.is_some_and(|zone| endpoint.hints.zones.contains(zone))
        }
    }
}

// === impl Selection ===

impl<'s> Selection<'s> {
    /// Whether some traffic goes to endpoints on all nodes. Pods' own traffic to an external address
    /// with policy Local does.
    pub fn uses_cluster(&self) -> bool {
        self.internal_policy == TrafficPolicy::Cluster || self.is_external
    }

    /// Whether some traffic stays on this node.
    pub fn uses_local(&self) -> bool {
        self.internal_policy == TrafficPolicy::Local
            || (self.external_policy == TrafficPolicy::Local && self.is_external)
    }

    /// The endpoints for traffic to the cluster IP.
    pub fn internal(&self) -> &[&'s Endpoint] {
        self.for_policy(self.internal_policy)
    }

    /// The endpoints for traffic from outside to node ports, external and load balancer IPs.
    pub fn external(&self) -> &[&'s Endpoint] {
        self.for_policy(self.external_policy)
    }

    /// Whether traffic to the cluster IP can be served. If not, it is refused when there is no
    /// endpoint anywhere, and dropped when there is one on another node.
    pub fn has_internal(&self) -> bool {
        self.has_endpoints && !self.lacks_local(self.internal_policy)
    }

    /// Whether traffic from outside can be served; if not, as for [`Self::has_internal`].
    pub fn has_external(&self) -> bool {
        self.has_endpoints && !self.lacks_local(self.external_policy)
    }

    fn lacks_local(&self, policy: TrafficPolicy) -> bool {
        policy == TrafficPolicy::Local && self.local.is_empty()
    }

    fn for_policy(&self, policy: TrafficPolicy) -> &[&'s Endpoint] {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }
}

#[cfg(test)]
mod tests;
