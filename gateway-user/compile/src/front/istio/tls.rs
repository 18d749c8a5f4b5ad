//! Servers of TLS → the chains of a port.

use std::collections::HashMap;

use nodegate_model::gateway::{ChainProtocol, RouteOrigin, TlsChain, TlsListener};
use nodegate_resources::istio::{
    TlsMatch,
    words::{ServerProtocol, ServerTlsMode},
};
use nodegate_values::diagnostic::Severity;

use super::{
    binding::{BoundService, names_gateway},
    context::GatewayContext,
    destinations::NamedIn,
    http,
    server::GatewayServer,
    server_tls,
    tcp::{self, Lost},
};

/// The chains of the servers that share a port; none if nothing would be served. Each has routes of its own
/// (`buildGatewayTCPBasedFilterChains` of istio's pilot/pkg/networking/core/gateway.go).
pub(super) fn listener<'r>(
    servers: &[GatewayServer<'r>],
    context: &mut GatewayContext<'r>,
    lost: &mut Vec<Lost<'r>>,
) -> Option<TlsListener> {
    let mut names = Names::default();
    let mut chains = Vec::new();
    for server in servers {
        let Some(tls) = &server.spec.tls else {
            continue;
        };
        match tls.mode() {
            Ok(ServerTlsMode::Passthrough) => passed_on(*server, &mut names, &mut chains, context),
            Ok(mode) if mode.ends_here() => {
                if names.take_all(*server, context) {
                    chains.extend(ending_here(*server, mode, context, lost));
                }
            }
            Ok(_) | Err(_) => {}
        }
    }
    (!chains.is_empty()).then_some(TlsListener { chains })
}

/// The chain of a server at which TLS ends. None for TCP inside TLS that leads nowhere.
fn ending_here<'r>(
    server: GatewayServer<'r>,
    mode: ServerTlsMode,
    context: &mut GatewayContext<'r>,
    lost: &mut Vec<Lost<'r>>,
) -> Option<TlsChain> {
    let tls = Box::new(server_tls::compile(server, mode, context)?);
    let name = name(server);
    let protocol = if server.spec.port.protocol() == Ok(ServerProtocol::Https) {
        let routes = http::routes(name.clone(), &[server], context);
        ChainProtocol::Https { tls, routes }
    } else {
        let Some(route) = tcp::route(server, context, lost) else {
            let message =
                "no VirtualService has a tcp route for this server, so its connections are closed";
            let fix = "bind a VirtualService with a tcp route to this Gateway".to_owned();
            let warning = server.report(Severity::Warning, message, fix);
            context.diagnostics.push(warning);
            return None;
        };
        ChainProtocol::Tls { tls, route }
    };
    Some(TlsChain {
        name,
        server_names: server_names(server),
        protocol,
    })
}

/// The name of an HTTPS server's routes (`gatewayRDSRouteName` of istio's pilot/pkg/model/gateway.go).
fn name(server: GatewayServer<'_>) -> String {
    let key = &server.gateway.key;
    format!(
        "https.{}.{}.{}.{}",
        server.port, server.spec.port.name, key.name, key.namespace
    )
}

/// The names that a server is for; empty: all (`getSNIHostsForServer` of istio's gateway.go).
fn server_names(server: GatewayServer<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for host in server.spec.read_hosts() {
        if host.domain == "*" {
            return Vec::new();
        }
        if !names.contains(&host.domain) {
            names.push(host.domain);
        }
    }
    names
}

/// The chains of a server through which TLS is passed on: one for each match of a `tls` route
/// (`buildGatewayNetworkFiltersFromTLSRoutes`).
fn passed_on(
    server: GatewayServer<'_>,
    names: &mut Names,
    chains: &mut Vec<TlsChain>,
    context: &mut GatewayContext<'_>,
) {
    let before = chains.len();
    for service in context.bound_to(server.gateway) {
        if server.domains(&service).is_empty() {
            continue;
        }
        for (index, route) in service.spec.tls.iter().enumerate() {
            let key = &service.object.key;
            let named_in = NamedIn {
                namespace: &key.namespace,
                server_port: server.port,
            };
            for (place, matches) in route.matches.iter().enumerate() {
                if !applies(matches, &service, server) {
                    continue;
                }
                let site = MatchSite {
                    service: &service,
                    route: index,
                    place,
                };
                if !names.take_of_match(&site, matches, server, context) {
                    continue;
                }
                let origin = RouteOrigin::virtual_service(&key.namespace, &key.name, index);
                let route = tcp::leading(origin, &route.route, named_in, context);
                chains.push(TlsChain {
                    name: format!(
                        "tls.{}.{}.{}.{index}.{place}",
                        server.port, key.name, key.namespace
                    ),
                    server_names: sni(matches),
                    protocol: ChainProtocol::Passthrough(route),
                });
            }
        }
    }
    if chains.len() == before {
        let message =
            "no VirtualService has a tls route for this server, so its connections are closed";
        let fix = "bind a VirtualService with a tls route to this Gateway".to_owned();
        let warning = server.report(Severity::Warning, message, fix);
        context.diagnostics.push(warning);
    }
}

/// On a gateway only port and gateways count (`l4SingleMatch`).
fn applies(matches: &TlsMatch, service: &BoundService<'_>, server: GatewayServer<'_>) -> bool {
    let namespace = &service.object.key.namespace;
    (matches.port == 0 || matches.port == i64::from(server.port))
        && (matches.gateways.is_empty()
            || names_gateway(&matches.gateways, namespace, server.gateway))
}

/// The names of a match; empty: all.
fn sni(matches: &TlsMatch) -> Vec<String> {
    let names = matches
        .sni_hosts
        .iter()
        .map(|name| name.to_ascii_lowercase());
    let names: Vec<_> = names.collect();
    if names.iter().any(|name| name == "*") {
        Vec::new()
    } else {
        names
    }
}

/// Names that chains have, and whose they are.
#[derive(Default)]
struct Names {
    taken: HashMap<String, String>,
}

/// Where a match stands.
struct MatchSite<'s> {
    service: &'s BoundService<'s>,
    /// Place in `spec.tls`.
    route: usize,
    /// Place among the route's matches.
    place: usize,
}

impl Names {
    /// Takes the names of a server; none of them if another one has any (`mergeGateways` of istio's
    /// pilot/pkg/model/gateway.go, `CheckDuplicates`).
    fn take_all(&mut self, server: GatewayServer<'_>, context: &mut GatewayContext<'_>) -> bool {
        let whose = format!("{} (servers[{}])", server.gateway.key, server.index);
        let Err((name, holder)) = self.take(&server_names(server), &whose) else {
            return true;
        };
        let message = format!(
            "`{name}` is at port {} already, by {holder}; this server is left out",
            server.port
        );
        let path = format!("spec.servers[{}].hosts", server.index);
        let fix = "a name can have one server at a port".to_owned();
        let error = server.gateway.report(Severity::Error, path, message, fix);
        context.diagnostics.push(error);
        false
    }

    /// Takes the names of a match; none of them if another chain has any.
    fn take_of_match(
        &mut self,
        site: &MatchSite<'_>,
        matches: &TlsMatch,
        server: GatewayServer<'_>,
        context: &mut GatewayContext<'_>,
    ) -> bool {
        let object = site.service.object;
        let whose = object.key.to_string();
        let Err((name, holder)) = self.take(&sni(matches), &whose) else {
            return true;
        };
        // Of one VirtualService's own routes the review of routes tells.
        if holder != whose {
            let message = format!(
                "`{name}` is at port {} already, by {holder}; this match is left out",
                server.port
            );
            let path = format!("spec.tls[{}].match[{}].sniHosts", site.route, site.place);
            let fix = "a name can lead to one route at a port".to_owned();
            let warning = object.report(Severity::Warning, path, message, fix);
            context.diagnostics.push(warning);
        }
        false
    }

    /// Takes names, or says which one is whose.
    fn take(&mut self, names: &[String], whose: &str) -> Result<(), (String, String)> {
        let all = [String::from("*")];
        let names = if names.is_empty() { &all } else { names };
        for name in names {
            if let Some(holder) = self.taken.get(name) {
                return Err((name.clone(), holder.clone()));
            }
        }
        for name in names {
            self.taken.insert(name.clone(), whose.to_owned());
        }
        Ok(())
    }
}
