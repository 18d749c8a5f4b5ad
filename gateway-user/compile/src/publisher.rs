//! Numbers Snapshots.

use std::sync::Arc;

use nodegate_model::{Snapshot, service::ServicePort};

use crate::compiled::Compiled;

/// Numbers the Snapshots of a process.
#[derive(Debug, Default)]
pub struct Publisher {
    current: Option<Arc<Snapshot>>,
}

// === impl Publisher ===

impl Publisher {
    /// What was published last.
    pub fn current(&self) -> Option<&Arc<Snapshot>> {
        self.current.as_ref()
    }

    /// Makes a Snapshot. Its generation is new only if there is something new to apply; with nothing
    /// but other messages it keeps the generation, and with nothing new at all it is the same.
    pub fn publish(&mut self, compiled: Compiled) -> Arc<Snapshot> {
        let Compiled {
            node,
            services,
            gateway,
            diagnostics,
        } = compiled;
        let before = self.current.as_deref();
        let services = shared(before.map_or(&[], |before| &before.services), services);
        let generation = match &self.current {
            None => 1,
            Some(current)
                if current.node == node
                    && current.services == services
                    && current.gateway == gateway =>
            {
                if current.diagnostics == diagnostics {
                    return current.clone();
                }
                current.generation
            }
            Some(current) => current.generation + 1,
        };
        let snapshot = Arc::new(Snapshot {
            generation,
            node,
            services,
            gateway,
            diagnostics,
        });
        self.current = Some(snapshot.clone());
        snapshot
    }
}

/// Takes the Service ports that have not changed from those before; both are sorted by name and protocol.
fn shared(before: &[Arc<ServicePort>], services: Vec<ServicePort>) -> Vec<Arc<ServicePort>> {
    let mut before = before.iter().peekable();
    let services = services.into_iter();
    services
        .map(|service| {
            while before.next_if(|old| is_before(old, &service)).is_some() {}
            match before.next_if(|old| ***old == service) {
                Some(old) => Arc::clone(old),
                None => Arc::new(service),
            }
        })
        .collect()
}

fn is_before(a: &ServicePort, b: &ServicePort) -> bool {
    (&a.name, a.protocol) < (&b.name, b.protocol)
}
