//! Objects → what this node serves.
//!
//! | part | what it makes |
//! |---|---|
//! | [`services`] | Services → what the datapath translates |
//! | [`front`] | Gateways and routes → the listeners of a gateway pod |
//! | [`clusters`] | the destinations of routes → clusters |
//! | [`endpoints`] | EndpointSlices → the addresses behind each Service port |

mod clusters;
mod compiled;
mod endpoints;
mod front;
mod identity;
mod placement;
mod ports;
mod publisher;
mod scope;
mod services;
#[cfg(test)]
mod tests;
mod topology;

use std::sync::Arc;

use nodegate_model::{gateway::Gateway, service::ServicePort};
use nodegate_resources::Resources;
use nodegate_values::diagnostic::{self, Diagnostic};

pub use compiled::Compiled;
pub use identity::{GatewayIdentity, INGRESS_GATEWAY, NodeIdentity};
pub use publisher::Publisher;
pub use scope::{Claims, ServiceScope};
pub use topology::topology;

/// Compiles what `node` redirects and what the gateway pod `gateway` (if this process is one) serves.
pub fn compile(
    resources: &Resources,
    node: &NodeIdentity,
    gateway: Option<&GatewayIdentity>,
    scope: &ServiceScope,
) -> Compiled {
    let mut diagnostics = resources.diagnostics.clone();
    let endpoints = endpoints::Endpoints::of(resources, &mut diagnostics);
    let view = services::ServiceView {
        scope,
        claims: Claims::Oldest,
        node,
    };
    let services = services::compile(resources, &endpoints, &view, &mut diagnostics);
    let gateway = gateway.map_or_else(Gateway::default, |identity| {
        front::istio::compile(resources, &endpoints, identity, &mut diagnostics)
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
    front::istio::compile(resources, &endpoints, identity, diagnostics)
}

/// The Services that kube-proxy would translate, sorted by name and protocol.
pub fn kube_proxy(
    resources: &Resources,
    node: &NodeIdentity,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<ServicePort> {
    let endpoints = endpoints::Endpoints::of(resources, diagnostics);
    let view = services::ServiceView {
        scope: &ServiceScope::All,
        claims: Claims::All,
        node,
    };
    services::compile(resources, &endpoints, &view, diagnostics)
}
