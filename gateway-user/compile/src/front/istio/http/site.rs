//! Where a route is written.

use nodegate_model::gateway::RouteOrigin;

use crate::front::istio::{destinations::NamedIn, server::GatewayServer};

/// Where a route is written, and for which server it is compiled.
#[derive(Clone, Copy)]
pub(super) struct RouteSite<'p> {
    pub(super) origin: &'p RouteOrigin,
    /// The namespace that short names of destinations are completed with.
    pub(super) namespace: &'p str,
    pub(super) server: GatewayServer<'p>,
}

// === impl RouteSite ===

impl<'p> RouteSite<'p> {
    /// Where its destinations are named.
    pub(super) fn named_in(self) -> NamedIn<'p> {
        NamedIn {
            namespace: self.namespace,
            server_port: self.server.port,
        }
    }
}
