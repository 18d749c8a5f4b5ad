//! Ports that a Service leads to a gateway pod by, and that no Gateway has the pod listen on.

use std::net::SocketAddr;

use super::World;
use nodegate_compile::{GatewayIdentity, INGRESS_GATEWAY};
use nodegate_resources::lookup::selects;

/// Why a connection to a gateway pod is refused at a port that it does not listen on, and what to change;
/// none of other pods, which may have any port.
pub(super) fn why(world: &World<'_>, identity: &GatewayIdentity, at: SocketAddr) -> Option<String> {
    let labels = &identity.labels;
    let its: Vec<_> = world
        .resources
        .gateways()
        .filter(|(_, gateway)| {
            let selector = &gateway.spec.selector;
            !selector.is_empty() && selects(selector, Some(labels))
        })
        .collect();
    let (key, value) = INGRESS_GATEWAY;
    let is_gateway = !its.is_empty() || labels.get(key).is_some_and(|own| own == value);
    if !is_gateway {
        return None;
    }
    // Gateways name the Service's port, and not the container's.
    let service = world.services.iter().find(|service| {
        let mut endpoints = service.endpoints.iter();
        endpoints.any(|endpoint| endpoint.socket() == at)
    });
    let port = service.map_or(at.port(), |service| service.port);
    let of_gateway = format!("the gateway pod {}/{}", identity.namespace, identity.name);
    let has_it = its.iter().find(|(_, gateway)| {
        let mut servers = gateway.spec.servers.iter();
        servers.any(|server| server.port.number == i64::from(port))
    });
    if let Some((object, _)) = has_it {
        return Some(format!(
            "refused: {of_gateway} does not listen on {}: the server of {} for port {port} is not \
             served (fix: `nodegate check` says why)",
            at.port(),
            object.key,
        ));
    }
    let others: Vec<_> = its
        .iter()
        .map(|(object, _)| object.key.to_string())
        .collect();
    let (nobody, fix) = if others.is_empty() {
        (
            "no Gateway selects it".to_owned(),
            format!("a Gateway with the selector {key}: {value} and a server for port {port}"),
        )
    } else {
        (
            format!("no Gateway has a server for port {port}"),
            format!("a server for port {port} in {}", others.join(" or ")),
        )
    };
    Some(format!(
        "refused: {of_gateway} does not listen on {}: {nobody} (fix: {fix})",
        at.port(),
    ))
}
