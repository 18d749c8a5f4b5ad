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

use std::{collections::BTreeMap, sync::Arc};

use nodegate_model::gateway::{Cluster, Gateway, Listener, ListenerProtocol, TcpRoute};
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

/// A TCP route of a server without TLS, with all that it leads to, and without endpoints of Services.
#[derive(Clone, Debug)]
pub(crate) struct PlainTcpRoute {
    pub(crate) route: TcpRoute,
    /// Those that there are, by name.
    pub(crate) clusters: BTreeMap<String, Arc<Cluster>>,
    /// What is behind those of Services.
    pub(crate) behind: Vec<Behind>,
    /// The policy that restricts who may use the gateway, if there is one.
    pub(crate) restricted_by: Option<String>,
}

/// The TCP route by which the pod serves a port of its own, if it has one. What is wrong about it, the gateway
/// tells.
pub(crate) fn plain_tcp_route(
    resources: &Resources,
    identity: &GatewayIdentity,
    port: u16,
) -> Option<PlainTcpRoute> {
    let mut ports = servers_by_port(resources, identity, &mut Vec::new());
    let (kind, servers) = ports.remove(&port)?;
    let server = servers.first().filter(|_| kind == ListenerKind::Tcp)?;
    let none = Endpoints::none();
    let known = Destinations::of(resources.objects.values());
    let mut context = GatewayContext {
        resources,
        identity,
        clusters: Clusters::new(resources, known, &none, identity),
        diagnostics: Vec::new(),
    };
    let route = tcp::route(*server, &mut context, &mut Vec::new())?;
    let (clusters, behind) = context.clusters.finish(&mut Vec::new());
    Some(PlainTcpRoute {
        route,
        clusters,
        behind,
        restricted_by: policies::restricting(resources, identity),
    })
}

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
            ListenerKind::Tls => {
                tls::listener(&servers, &mut context, &mut lost).map(ListenerProtocol::Tls)
            }
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
