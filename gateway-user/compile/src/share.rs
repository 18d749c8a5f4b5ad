//! What has come out the same, in place of what was made anew.

use std::sync::Arc;

use nodegate_model::{
    gateway::{Cluster, Gateway},
    service::ServicePort,
};
use nodegate_sharing::SharedMap;

/// Takes the Service ports that have not changed from those before; both are sorted by name and protocol.
pub(crate) fn services(
    before: &[Arc<ServicePort>],
    services: Vec<Arc<ServicePort>>,
) -> Vec<Arc<ServicePort>> {
    let mut before = before.iter().peekable();
    let services = services.into_iter();
    services
        .map(|service| {
            // Most are shared already, and known by their pointers.
            if before.next_if(|old| Arc::ptr_eq(old, &service)).is_some() {
                return service;
            }
            while before.next_if(|old| is_before(old, &service)).is_some() {}
            match before.next_if(|old| **old == service) {
                Some(old) => Arc::clone(old),
                None => service,
            }
        })
        .collect()
}

fn is_before(a: &ServicePort, b: &ServicePort) -> bool {
    (&a.name, a.protocol) < (&b.name, b.protocol)
}

/// Takes what has not changed of a Gateway from the one before.
pub(crate) fn gateway(before: &Arc<Gateway>, gateway: Arc<Gateway>) -> Arc<Gateway> {
    if Arc::ptr_eq(before, &gateway) {
        return gateway;
    }
    // Of a slice, an Arc's own comparison does not look at the pointer first, as it does of a sized value.
    let same_listeners =
        Arc::ptr_eq(&before.listeners, &gateway.listeners) || before.listeners == gateway.listeners;
    let listeners = if same_listeners { before } else { &gateway };
    let shared = Gateway {
        listeners: Arc::clone(&listeners.listeners),
        clusters: clusters(&before.clusters, &gateway.clusters),
    };
    let changed = shared.clusters.changes_since(&before.clusters).next();
    if same_listeners && changed.is_none() {
        return Arc::clone(before);
    }
    Arc::new(shared)
}

fn clusters(
    before: &SharedMap<String, Arc<Cluster>>,
    clusters: &SharedMap<String, Arc<Cluster>>,
) -> SharedMap<String, Arc<Cluster>> {
    let (same, other): (Vec<_>, Vec<_>) = clusters
        .changes_since(before)
        .partition(|change| change.before == change.after);
    if same.is_empty() {
        return clusters.clone();
    }
    let mut shared = before.clone();
    for change in other {
        match change.after {
            Some(after) => drop(shared.insert(change.key.clone(), Arc::clone(after))),
            None => drop(shared.remove(change.key)),
        }
    }
    shared
}
