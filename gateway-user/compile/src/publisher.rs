//! Numbers Snapshots.

use std::sync::Arc;

use nodegate_model::Snapshot;

use crate::{compiled::Compiled, share};

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
        let services = share::services(before.map_or(&[], |before| &before.services), services);
        let gateway = match before {
            Some(before) => share::gateway(&before.gateway, gateway),
            None => gateway,
        };
        let generation = match &self.current {
            None => 1,
            Some(current)
                if current.node == node
                    && current.services == services
                    // An equal one is the one before by now.
                    && Arc::ptr_eq(&current.gateway, &gateway) =>
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
