//! Policies that are for a gateway and that nobody enforces here: told, and its listeners closed if that is
//! wanted.

use nodegate_model::gateway::{
    ChainProtocol, DirectResponse, HeaderOperations, HttpAction, HttpRoute, HttpRoutes, Listener,
    ListenerProtocol, PathMatch, RouteKind, RouteMatch, RouteOrigin, TlsChain, TlsListener,
    VirtualHost,
};
use nodegate_resources::{Resources, object::Object, policies::PolicyScope};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use crate::identity::{GatewayIdentity, Unenforced};

/// What Envoy's filter says to whom it keeps out (`source/extensions/filters/http/rbac`).
const DENIED: &[u8] = b"RBAC: access denied";

/// A policy that would keep requests out if somebody enforced it.
struct Policy<'r> {
    object: &'r Object,
    scope: PolicyScope<'r>,
    kind: RouteKind,
}

/// Tells of policies. Gives the listeners of the gateway: closed where one is for it and it is to be closed then.
pub(super) fn enforced(
    listeners: Vec<Listener>,
    resources: &Resources,
    identity: &GatewayIdentity,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Listener> {
    let mut first = None;
    for policy in policies(resources) {
        if policy.scope.has(&identity.namespace, &identity.labels) {
            diagnostics.push(policy.report(identity.unenforced));
            first = first.or(Some(policy));
        } else if !policy.is_for_a_gateway(resources) {
            let message = "is for no gateway: between pods nothing is enforced by this version";
            let info = policy.object.report(Severity::Info, "", message, None);
            diagnostics.push(info);
        }
    }
    match first {
        Some(policy) if identity.unenforced == Unenforced::Refuse => {
            let listeners = listeners.into_iter();
            listeners.filter_map(|it| policy.closed(it)).collect()
        }
        _ => listeners,
    }
}

/// The first policy that restricts who may use a gateway, as people name it.
pub(super) fn restricting(resources: &Resources, identity: &GatewayIdentity) -> Option<String> {
    let mut all = policies(resources);
    let its = all.find(|it| it.scope.has(&identity.namespace, &identity.labels))?;
    Some(its.object.key.to_string())
}

/// All that restrict anything, in the order of their names.
fn policies(resources: &Resources) -> impl Iterator<Item = Policy<'_>> {
    let authorization = resources
        .authorization_policies()
        .filter(|(_, policy)| policy.restricts())
        .map(|(object, policy)| Policy {
            object,
            scope: policy.scope(),
            kind: RouteKind::AuthorizationPolicy,
        });
    let authentication = resources
        .request_authentications()
        .filter(|(_, policy)| policy.restricts())
        .map(|(object, policy)| Policy {
            object,
            scope: policy.scope(),
            kind: RouteKind::RequestAuthentication,
        });
    authorization.chain(authentication)
}

// === impl Policy ===

impl Policy<'_> {
    fn report(&self, unenforced: Unenforced) -> Diagnostic {
        let what = match self.kind {
            RouteKind::RequestAuthentication => "no token is looked at",
            _ => "it keeps nobody out",
        };
        let (message, fix) = match unenforced {
            Unenforced::Pass => (
                format!("not enforced by this version, and it is for this gateway: {what}"),
                "`nodegate run --unenforced-policies refuse` answers 403 instead; else remove it, and keep \
                 such traffic away from this gateway",
            ),
            Unenforced::Refuse => (
                "not enforced by this version, and it is for this gateway: all requests to it are answered \
                 with 403 (--unenforced-policies refuse)"
                    .to_owned(),
                "remove it, or `--unenforced-policies pass`",
            ),
        };
        let object = self.object;
        object.report(Severity::Error, "", message, fix.to_owned())
    }

    /// Whether it is for pods that a Gateway selects.
    fn is_for_a_gateway(&self, resources: &Resources) -> bool {
        let mut gateways = resources.gateways();
        gateways.any(|(_, gateway)| {
            let selector = &gateway.spec.selector;
            // Where the pods are is not said by it.
            !selector.is_empty() && self.scope.has(&self.object.key.namespace, selector)
        })
    }

    /// A listener that answers everything with 403. One of TCP is none, and what is inside TLS and no HTTP is left
    /// out.
    fn closed(&self, listener: Listener) -> Option<Listener> {
        let port = listener.port;
        let protocol = match listener.protocol {
            ListenerProtocol::Tcp(_) => return None,
            ListenerProtocol::Http(routes) => ListenerProtocol::Http(self.refusing(port, routes)),
            ListenerProtocol::Tls(tls) => {
                let chains = tls.chains.into_iter().filter_map(|chain| {
                    let ChainProtocol::Https { tls, routes } = chain.protocol else {
                        return None;
                    };
                    let routes = self.refusing(port, routes);
                    Some(TlsChain {
                        protocol: ChainProtocol::Https { tls, routes },
                        ..chain
                    })
                });
                let chains: Vec<_> = chains.collect();
                if chains.is_empty() {
                    return None;
                }
                ListenerProtocol::Tls(TlsListener { chains })
            }
        };
        Some(Listener { port, protocol })
    }

    /// Routes of this name by which everything is answered with 403.
    fn refusing(&self, port: u16, routes: HttpRoutes) -> HttpRoutes {
        let key = &self.object.key;
        let route = HttpRoute {
            name: String::new(),
            origin: RouteOrigin {
                kind: self.kind,
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                index: 0,
            },
            matches: RouteMatch::path(PathMatch::Prefix("/".into())),
            action: HttpAction::DirectResponse(DirectResponse {
                status: 403,
                body: DENIED.to_vec(),
            }),
            headers: HeaderOperations::default(),
            fault: None,
            cors: None,
        };
        let everything = VirtualHost {
            name: format!("*:{port}"),
            domains: vec!["*".into()],
            routes: vec![route],
            require_tls: false,
        };
        HttpRoutes {
            name: routes.name,
            virtual_hosts: vec![everything],
        }
    }
}
