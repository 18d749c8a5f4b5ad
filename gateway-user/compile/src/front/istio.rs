//! Gateways and VirtualServices → the listeners of one gateway pod.

mod bind;
mod binding;
mod context;
mod destinations;
mod http;
mod policies;
mod review;
mod server;
mod server_tls;
mod tcp;
mod tls;

use nodegate_model::gateway::{Gateway, Listener, ListenerProtocol};
use nodegate_resources::{Resources, lookup::Destinations};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use bind::servers_by_port;
use context::GatewayContext;
use server::ListenerKind;

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
    let (mut listeners, mut lost) = (Vec::new(), Vec::new());
    for (port, (kind, servers)) in ports {
        let protocol = match kind {
            ListenerKind::Http => Some(ListenerProtocol::Http(http::routes(
                format!("http.{port}"),
                &servers,
                &mut context,
            ))),
            ListenerKind::Tls => tls::listener(&servers, &mut context).map(ListenerProtocol::Tls),
            ListenerKind::Tcp => servers.first().and_then(|server| {
                let route = tcp::route(*server, &mut context, &mut lost);
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
    diagnostics.extend(lost.iter().filter_map(|lost| lost.report(&listeners)));
    let known = Destinations::of(resources.objects.values());
    review::report(resources, &known, &listeners, identity, diagnostics);
    let listeners = policies::enforced(listeners, resources, identity, diagnostics);
    let gateway = Gateway {
        listeners: listeners.into(),
        clusters: clusters.into_iter().collect(),
    };
    (gateway, behind)
}
