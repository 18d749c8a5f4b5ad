//! What users write: Kubernetes and Istio objects, with the place in the manifest that each came
//! from.
//!
//! | part | what it does |
//! |---|---|
//! | [`manifest`] | text → typed objects, each of whose fields knows its line |
//! | [`validate`] | what the API server or istiod would refuse about one object |
//! | [`admission`] | what they would refuse about objects together; keeps the last good state |
//! | [`definition`] | the custom resource definitions of Istio's kinds, made of the types here |
//! | [`policies`] | whose requests policies are about |
//! | [`pod_maker`] | which pods a Deployment, StatefulSet or DaemonSet would make |
//! | [`lookup`] | what names refer to: hosts, destinations, subsets, Gateways |

pub mod admission;
pub mod definition;
pub mod istio;
mod kind;
pub mod lookup;
pub mod manifest;
mod names;
pub mod object;
pub mod pod_maker;
pub mod policies;
pub mod validate;

use std::sync::Arc;

pub use kind::ResourceKind;

use istio::{
    AuthorizationPolicy, DestinationRule, Gateway, RequestAuthentication, ServiceEntry,
    VirtualService,
};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Secret, Service},
    discovery::v1::EndpointSlice,
};
use nodegate_sharing::SharedMap;
use nodegate_values::diagnostic::{Diagnostics, ObjectKey};
use object::{Body, Object};
use pod_maker::PodMaker;

/// The objects in force, at one moment, and what is wrong with those that are not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// Rises by one with every change that a source reports; the first is 1.
    pub version: u64,
    /// The accepted version of each object. Those that have not changed are shared with the Resources before.
    pub objects: SharedMap<ObjectKey, Arc<Object>>,
    /// Sorted by place.
    pub diagnostics: Diagnostics,
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
    pod_makers: PodMaker,
    gateways: Gateway,
    virtual_services: VirtualService,
    destination_rules: DestinationRule,
    service_entries: ServiceEntry,
    authorization_policies: AuthorizationPolicy,
    request_authentications: RequestAuthentication,
}

impl Resources {
    /// One object.
    pub fn get(&self, kind: ResourceKind, namespace: &str, name: &str) -> Option<&Arc<Object>> {
        self.objects.get(&kind.key(namespace, name))
    }

    /// One Pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        match &self.get(ResourceKind::Pod, namespace, name)?.body {
            Body::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    /// One Node.
    pub fn node(&self, name: &str) -> Option<&Node> {
        match &self.get(ResourceKind::Node, "", name)?.body {
            Body::Node(node) => Some(node),
            _ => None,
        }
    }

    /// One Gateway.
    pub fn gateway(&self, namespace: &str, name: &str) -> Option<(&Arc<Object>, &Gateway)> {
        let object = self.get(ResourceKind::Gateway, namespace, name)?;
        match &object.body {
            Body::Gateway(gateway) => Some((object, gateway)),
            _ => None,
        }
    }

    /// One Secret.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<&Secret> {
        match &self.get(ResourceKind::Secret, namespace, name)?.body {
            Body::Secret(secret) => Some(secret),
            _ => None,
        }
    }

    /// One Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        match &self.get(ResourceKind::Service, namespace, name)?.body {
            Body::Service(service) => Some(service),
            _ => None,
        }
    }
}
