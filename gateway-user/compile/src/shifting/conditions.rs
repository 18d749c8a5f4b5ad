//! What only a proxy can do: each is a reason why the kernel doesn't follow a route.

use nodegate_model::{
    gateway::{Balancing, Cluster, ConnectionLimits},
    service::{ServicePort, TrafficPolicy},
};

use crate::{clusters::Behind, front::istio::PlainTcpRoute};

/// What stands against it at the Service port.
pub(super) fn of_port(port: &ServicePort) -> Option<String> {
    let reachable = port.node_port.is_some()
        || !port.external_ips.is_empty()
        || !port.load_balancer_ips.is_empty();
    let policy = if port.internal_policy == TrafficPolicy::Local {
        "internalTrafficPolicy"
    } else if reachable && port.external_policy == TrafficPolicy::Local {
        "externalTrafficPolicy"
    } else {
        return None;
    };
    Some(format!(
        "{policy} Local keeps connections at the gateways of this node"
    ))
}

/// What stands against it in the route and its destinations.
pub(super) fn of_route(route: &PlainTcpRoute) -> Option<String> {
    if let Some(policy) = &route.restricted_by {
        return Some(format!("{policy} restricts who may use the gateway"));
    }
    route.route.destinations.iter().find_map(|destination| {
        let name = &destination.cluster;
        let Some(cluster) = route.clusters.get(name) else {
            return Some(format!("{name} does not exist"));
        };
        // Such an address means what it means where the gateway is: 127.0.0.1 is its pod, and a cluster IP leads on.
        // What slices may hold, the API server has checked.
        let mut behind = route.behind.iter();
        let behind = behind.find(|behind| behind.cluster == *name);
        if behind.is_none_or(Behind::has_others) {
            return Some(format!("{name} has endpoints that are of no Service"));
        }
        of_cluster(cluster).map(|why| match &cluster.rule {
            Some(rule) => format!("{name} has {why} (DestinationRule {rule})"),
            None => format!("{name} has {why}"),
        })
    })
}

fn of_cluster(cluster: &Cluster) -> Option<&'static str> {
    let policy = &cluster.policy;
    let is_near_preferred = policy.locality.is_some() || !cluster.shares.is_empty();
    let found = [
        (policy.tls.is_some(), "endpoints that are spoken to in TLS"),
        (policy.outliers.is_some(), "outlierDetection"),
        (policy.warmup.is_some(), "a warmup"),
        (is_near_preferred, "a preference for near endpoints"),
        (
            matches!(policy.balancing, Balancing::ConsistentHash { .. }),
            "consistentHash",
        ),
        (
            matches!(policy.balancing, Balancing::Passthrough),
            "PASSTHROUGH",
        ),
    ];
    let found = found.into_iter().find(|(is_so, _)| *is_so);
    found
        .map(|(_, why)| why)
        .or_else(|| of_limits(&policy.limits))
}

/// Of `connectionPool.tcp`; what is of HTTP doesn't count.
fn of_limits(limits: &ConnectionLimits) -> Option<&'static str> {
    let usual = ConnectionLimits::default();
    let found = [
        (limits.max_connections.is_some(), "maxConnections"),
        (
            limits.connect_timeout != usual.connect_timeout,
            "a connectTimeout",
        ),
        (
            limits.tcp_idle_timeout != usual.tcp_idle_timeout,
            "an idleTimeout",
        ),
        (
            limits.max_connection_duration.is_some(),
            "a maxConnectionDuration",
        ),
        (limits.keepalive.is_some(), "a tcpKeepalive"),
    ];
    let found = found.into_iter().find(|(is_so, _)| *is_so);
    found.map(|(_, why)| why)
}
