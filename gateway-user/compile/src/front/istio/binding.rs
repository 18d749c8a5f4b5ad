//! Which VirtualServices a Gateway applies.

use nodegate_resources::{istio, lookup::gateway_reference, object::Object};

/// A VirtualService that a Gateway applies.
#[derive(Clone, Copy)]
pub(super) struct BoundService<'r> {
    pub(super) object: &'r Object,
    pub(super) spec: &'r istio::VirtualServiceSpec,
}

// === impl BoundService ===

impl BoundService<'_> {
    pub(super) fn names(&self, gateway: &Object) -> bool {
        names_gateway(&self.spec.gateways, &self.object.key.namespace, gateway)
    }

    /// Its rank in istiod's order: VirtualServices that are exported to fewer namespaces come first.
    pub(super) fn visibility(&self) -> u8 {
        match self.spec.export_to.as_slice() {
            [] => 2,
            to if to.iter().any(|to| to == "*") => 2,
            to if to.iter().any(|to| to == ".") => 0,
            _ => 1,
        }
    }
}

/// Whether `gateway` is among the Gateways that are named in an object of `namespace`.
pub(super) fn names_gateway(names: &[String], namespace: &str, gateway: &Object) -> bool {
    let key = &gateway.key;
    names
        .iter()
        .filter_map(|name| gateway_reference(name, namespace))
        .any(|named| named == (key.namespace.as_str(), key.name.as_str()))
}
