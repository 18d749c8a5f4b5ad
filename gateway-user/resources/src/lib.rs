//! What users write: Kubernetes and Istio objects, with the place in the manifest that each came
//! from.
//!
//! | part | what it does |
//! |---|---|
//! | [`manifest`] | text → typed objects, each of whose fields knows its line |
//! | [`validate`] | what the API server or istiod would refuse about one object |
//! | [`admission`] | what they would refuse about objects together; keeps the last good state |
//! | [`lookup`] | who is meant: hosts, destinations, subsets, references to Gateways |

pub mod admission;
pub mod istio;
pub mod lookup;
pub mod manifest;
pub mod object;
pub mod validate;

use std::{collections::BTreeMap, sync::Arc};

use istio::{DestinationRule, Gateway, ServiceEntry, VirtualService};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Secret, Service},
    discovery::v1::EndpointSlice,
};
use nodegate_values::diagnostic::{Diagnostic, ObjectKey};
use object::{Body, Object};

/// The objects in force, at one moment, and what is wrong with those that are not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// Rises by one with every change that a source reports; the first is 1.
    pub version: u64,
    /// The accepted version of each object.
    pub objects: BTreeMap<ObjectKey, Arc<Object>>,
    /// Sorted by place.
    pub diagnostics: Vec<Diagnostic>,
}

macro_rules! of_kind {
    ($($method:ident: $kind:ident,)*) => {
        impl Resources {
            $(
                #[doc = concat!("The objects of kind ", stringify!($kind), ", by namespace and name.")]
                pub fn $method(&self) -> impl Iterator<Item = (&Arc<Object>, &$kind)> {
                    self.objects.values().filter_map(|object| match &object.body {
                        Body::$kind(body) => Some((object, &**body)),
                        _ => None,
                    })
                }
            )*
        }
    };
}

of_kind! {
    services: Service,
    pods: Pod,
    nodes: Node,
    endpoint_slices: EndpointSlice,
    gateways: Gateway,
    virtual_services: VirtualService,
    destination_rules: DestinationRule,
    service_entries: ServiceEntry,
}

impl Resources {
    /// One object of a kind of an API group; that of Kubernetes' core is empty.
    pub fn get(
        &self,
        group: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Option<&Arc<Object>> {
        self.objects.get(&ObjectKey {
            kind: kind.into(),
            group: group.into(),
            namespace: namespace.into(),
            name: name.into(),
        })
    }

    /// One Pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        match &self.get("", "Pod", namespace, name)?.body {
            Body::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    /// One Node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        match &self.get("", "Node", "", name)?.body {
            Body::Node(node) => Some(node),
            _ => None,
        }
    }

    /// One VirtualService.
    pub fn virtual_service(
        &self,
        namespace: &str,
        name: &str,
    ) -> Option<(&Object, &VirtualService)> {
        let object = self.get("networking.istio.io", "VirtualService", namespace, name)?;
        match &object.body {
            Body::VirtualService(service) => Some((object, service)),
            _ => None,
        }
    }

    /// One Secret.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<&Secret> {
        match &self.get("", "Secret", namespace, name)?.body {
            Body::Secret(secret) => Some(secret),
            _ => None,
        }
    }

    /// One Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        match &self.get("", "Service", namespace, name)?.body {
            Body::Service(service) => Some(service),
            _ => None,
        }
    }
}
