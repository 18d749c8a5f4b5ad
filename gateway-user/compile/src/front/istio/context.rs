//! What all listeners of a gateway pod are made of.

use nodegate_resources::{Resources, lookup::is_exported, object::Object};
use nodegate_values::diagnostic::Diagnostic;

use super::binding::BoundService;
use crate::{clusters::Clusters, identity::GatewayIdentity};

/// What all listeners are made of.
pub(super) struct GatewayContext<'r> {
    pub(super) resources: &'r Resources,
    pub(super) identity: &'r GatewayIdentity,
    pub(super) clusters: Clusters<'r>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

// === impl GatewayContext ===

impl<'r> GatewayContext<'r> {
    /// The VirtualServices that `gateway` applies, in istiod's order (`VirtualServicesForGateway` of
    /// `pilot/pkg/model/push_context.go`).
    pub(super) fn bound_to(&self, gateway: &Object) -> Vec<BoundService<'r>> {
        let mut bound: Vec<_> = self
            .resources
            .virtual_services()
            .map(|(object, service)| BoundService {
                object,
                spec: &service.spec,
            })
            .filter(|service| {
                let own = &service.object.key.namespace;
                !service.spec.hosts.is_empty()
                    && service.names(gateway)
                    && is_exported(&service.spec.export_to, own, &self.identity.namespace)
            })
            .collect();
        bound.sort_by(|a, b| {
            (a.visibility(), a.object.age()).cmp(&(b.visibility(), b.object.age()))
        });
        bound
    }
}
