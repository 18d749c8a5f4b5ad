//! Gateways and VirtualServices → the listeners of one gateway pod.

mod bind;
mod binding;
mod context;
mod destinations;
mod http;
mod policies;
mod server;
mod server_tls;
mod tcp;
mod tls;

use nodegate_model::gateway::{Gateway, Listener, ListenerProtocol};
use nodegate_resources::{Resources, lookup::Destinations};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use bind::{gateways, servers_by_port};
use binding::BoundService;
use context::GatewayContext;
use server::{GatewayServer, ListenerKind};

use crate::{
    clusters::{Behind, Clusters},
    endpoints::Endpoints,
    identity::GatewayIdentity,
};

/// What the pod serves, and what is behind its clusters.
pub(crate) fn compile(
    resources: &Resources,
    endpoints: &Endpoints<'_>,
    identity: &GatewayIdentity,
    diagnostics: &mut Vec<Diagnostic>,
) -> (Gateway, Vec<Behind>) {
    let known = Destinations::of(resources.objects.values());
    let mut context = GatewayContext {
        resources,
        identity,
        clusters: Clusters::new(resources, known, endpoints, identity),
        diagnostics: Vec::new(),
    };
    let ports = servers_by_port(resources, identity, diagnostics);
    let mut listeners = Vec::new();
    for (port, (kind, servers)) in ports {
        let protocol = match kind {
            ListenerKind::Http => Some(ListenerProtocol::Http(http::routes(
                format!("http.{port}"),
                &servers,
                &mut context,
            ))),
            ListenerKind::Tls => tls::listener(&servers, &mut context).map(ListenerProtocol::Tls),
            ListenerKind::Tcp => servers.first().and_then(|server| {
                let route = tcp::route(*server, &mut context);
                if route.is_none() {
                    let message =
                        "no VirtualService has a tcp route for this server, so the port is closed";
                    let fix = "bind a VirtualService with a tcp route to this Gateway".to_owned();
                    diagnostics.push(server.report(Severity::Warning, message, fix));
                }
                route.map(ListenerProtocol::Tcp)
            }),
        };
        listeners.extend(protocol.map(|protocol| Listener { port, protocol }));
    }
    let (clusters, behind) = context.clusters.finish(&mut context.diagnostics);
    diagnostics.append(&mut context.diagnostics);
    unreachable_hosts(resources, identity, diagnostics);
    let listeners = policies::enforced(listeners, resources, identity, diagnostics);
    let gateway = Gateway {
        listeners: listeners.into(),
        clusters: clusters.into_iter().collect(),
    };
    (gateway, behind)
}

/// Warns about VirtualServices whose hosts no server of their Gateways has.
fn unreachable_hosts(
    resources: &Resources,
    identity: &GatewayIdentity,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let gateways = gateways(resources, identity);
    for (object, service) in resources.virtual_services() {
        let bound = BoundService {
            object,
            spec: &service.spec,
        };
        let its: Vec<_> = gateways
            .iter()
            .filter(|(gateway, _)| bound.names(gateway))
            .collect();
        let mut servers = its.iter().flat_map(|(gateway, spec)| {
            let servers = spec.spec.servers.iter().enumerate();
            servers.map(|(index, spec)| GatewayServer {
                gateway,
                index,
                spec,
                port: 0,
            })
        });
        if !its.is_empty() && !servers.any(|server| !server.domains(&bound).is_empty()) {
            let names: Vec<_> = its
                .iter()
                .map(|(gateway, _)| gateway.key.to_string())
                .collect();
            let message = format!("no server of {} has any of these hosts", names.join(", "));
            let fix = "add the host to the Gateway's server".to_owned();
            diagnostics.push(object.report(Severity::Warning, "spec.hosts", message, fix));
        }
    }
}
