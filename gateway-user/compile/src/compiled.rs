//! What is made of the objects.

use std::sync::Arc;

use nodegate_model::{gateway::Gateway, selection::NodeTopology, service::ServicePort};
use nodegate_values::diagnostic::{self, Diagnostic, Diagnostics};

use crate::scope::ServiceScope;

/// The content of a [`Snapshot`](nodegate_model::Snapshot).
#[derive(Debug, Default)]
pub struct Compiled {
    /// See [`Snapshot::node`](nodegate_model::Snapshot::node).
    pub node: NodeTopology,
    /// See [`Snapshot::services`](nodegate_model::Snapshot::services).
    pub services: Vec<Arc<ServicePort>>,
    /// See [`Snapshot::gateway`](nodegate_model::Snapshot::gateway).
    pub gateway: Arc<Gateway>,
    /// Those of the resources, and what showed only now; sorted by place.
    pub diagnostics: Diagnostics,
}

// === impl Compiled ===

impl Compiled {
    /// Takes those of `services` that are in scope in place of those of the objects, and what is wrong with
    /// them.
    #[must_use]
    pub fn with_services(
        mut self,
        services: &[ServicePort],
        diagnostics: &[Diagnostic],
        scope: &ServiceScope,
    ) -> Self {
        let in_scope = |service: &&ServicePort| {
            let name = &service.name;
            scope.has_name(&name.namespace, &name.name) == Some(true)
        };
        let services = services.iter().filter(in_scope).cloned();
        self.services = services.map(Arc::new).collect();
        self.with_diagnostics(diagnostics)
    }

    /// Adds what else is wrong.
    #[must_use]
    pub fn with_diagnostics(mut self, diagnostics: &[Diagnostic]) -> Self {
        if !diagnostics.is_empty() {
            let mut all = [&*self.diagnostics, diagnostics].concat();
            diagnostic::sort(&mut all);
            self.diagnostics = all.into();
        }
        self
    }
}
