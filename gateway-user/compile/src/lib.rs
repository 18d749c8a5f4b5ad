//! Objects → what this node serves.
//!
//! | part | what it makes |
//! |---|---|
//! | [`services`] | Services → what the datapath translates |
//! | [`shifting`] | TCP routes that are nothing but weights → turns that the datapath takes |
//! | [`front`] | Gateways and routes → the listeners of a gateway pod |
//! | [`clusters`] | the destinations of routes → clusters |
//! | [`endpoints`] | EndpointSlices → the addresses behind each Service port |
//! | [`whole`] | all of that together |
//! | [`mod@check`] | what is wrong with it, whoever serves it |
//! | [`compiler`] | one state of the objects after the other, at the cost of what has changed |

mod check;
mod clusters;
mod compiled;
mod compiler;
mod endpoints;
mod front;
mod identity;
mod placement;
mod ports;
mod publisher;
mod scope;
mod secret;
mod services;
mod share;
mod shifting;
mod slices;
#[cfg(test)]
mod tests;
mod topology;
mod whole;

use nodegate_model::{gateway::Gateway, service::ServicePort};
use nodegate_resources::Resources;
use nodegate_values::diagnostic::Diagnostic;

pub use check::check;
pub use compiled::Compiled;
pub use compiler::{Compiler, Work};
pub use identity::{
    GatewayIdentity, INGRESS_GATEWAY, NodeIdentity, TcpShifting, Unenforced, UnknownShifting,
};
pub use publisher::Publisher;
pub use scope::{Claims, ServiceScope};
pub use topology::topology;

use whole::{Subject, Whole};

/// Compiles what `node` redirects and what the gateway pod `gateway` (if this process is one) serves.
pub fn compile(
    resources: &Resources,
    node: &NodeIdentity,
    gateway: Option<&GatewayIdentity>,
    scope: &ServiceScope,
) -> Compiled {
    let subject = Subject::new(node, gateway, scope);
    Whole::of(resources, &subject).compiled(resources)
}

/// What a gateway pod serves.
pub fn gateway(
    resources: &Resources,
    identity: &GatewayIdentity,
    diagnostics: &mut Vec<Diagnostic>,
) -> Gateway {
    let endpoints = endpoints::Endpoints::of(resources, diagnostics);
    front::istio::compile(resources, &endpoints, identity, diagnostics).0
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
