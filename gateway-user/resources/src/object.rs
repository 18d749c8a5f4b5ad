//! One object, typed, and the place that it came from.

use std::{path::PathBuf, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node, Pod, Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use nodegate_values::diagnostic::{Diagnostic, Location, ObjectKey, Severity};

use super::{
    istio::{DestinationRule, Gateway, ServiceEntry, VirtualService},
    manifest::lines::Lines,
};

/// An object of a kind that nodegate reads.
#[derive(Clone, Debug)]
pub struct Object {
    /// Kind, namespace (`default` if none is given) and name.
    pub key: ObjectKey,
    /// What it says.
    pub body: Body,
    /// Where it says so.
    pub origin: ManifestPlace,
}

/// The document that an object was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestPlace {
    /// The file, as it was named to us.
    pub file: Arc<PathBuf>,
    /// Line of each field.
    pub lines: Lines,
}

/// The kinds that nodegate reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// `v1` Service
    Service(Box<Service>),
    /// `v1` Pod
    Pod(Box<Pod>),
    /// `v1` Node
    Node(Box<Node>),
    /// `v1` Namespace
    Namespace(Box<Namespace>),
    /// `v1` Secret
    Secret(Box<Secret>),
    /// `discovery.k8s.io/v1` EndpointSlice
    EndpointSlice(Box<EndpointSlice>),
    /// `networking.istio.io` Gateway
    Gateway(Box<Gateway>),
    /// `networking.istio.io` VirtualService
    VirtualService(Box<VirtualService>),
    /// `networking.istio.io` DestinationRule
    DestinationRule(Box<DestinationRule>),
    /// `networking.istio.io` ServiceEntry
    ServiceEntry(Box<ServiceEntry>),
}

// === impl Object ===

/// Objects are equal when they say the same; where they say it does not count.
impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.body == other.body
    }
}

impl Object {
    /// This object: as it is held already, if that says the same in the same place, else a copy.
    pub(super) fn shared(&self, held: Option<&Arc<Self>>) -> Arc<Self> {
        match held.filter(|held| self == &***held && self.origin == held.origin) {
            Some(held) => Arc::clone(held),
            None => Arc::new(self.clone()),
        }
    }

    /// The object's metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match &self.body {
            Body::Service(body) => &body.metadata,
            Body::Pod(body) => &body.metadata,
            Body::Node(body) => &body.metadata,
            Body::Namespace(body) => &body.metadata,
            Body::Secret(body) => &body.metadata,
            Body::EndpointSlice(body) => &body.metadata,
            Body::Gateway(body) => &body.metadata,
            Body::VirtualService(body) => &body.metadata,
            Body::DestinationRule(body) => &body.metadata,
            Body::ServiceEntry(body) => &body.metadata,
        }
    }

    /// `metadata.creationTimestamp`. A manifest that was never in a cluster has none; that counts
    /// as the oldest, as the zero time does in istiod.
    pub fn created(&self) -> Option<Timestamp> {
        Some(self.metadata().creation_timestamp.as_ref()?.0)
    }

    /// istiod's order of objects: by creation, then name, then namespace
    /// (`configCompareByCreationTime` of pilot/pkg/model).
    pub fn age(&self) -> (Option<Timestamp>, &str, &str) {
        (self.created(), &self.key.name, &self.key.namespace)
    }

    /// Where the object begins.
    pub fn location(&self) -> Location {
        self.origin.location("")
    }

    /// A message about the field at `path`.
    pub fn report(
        &self,
        severity: Severity,
        path: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<Option<String>>,
    ) -> Diagnostic {
        let path = path.into();
        Diagnostic {
            severity,
            location: Some(self.origin.location(&path)),
            object: Some(self.key.clone()),
            field: (!path.is_empty()).then_some(path),
            message: message.into(),
            fix: fix.into(),
        }
    }
}

// === impl ManifestPlace ===

impl ManifestPlace {
    /// The place of the field at `path`, or of its nearest parent that is written out.
    pub fn location(&self, path: &str) -> Location {
        Location {
            file: self.file.clone(),
            line: self.lines.line(path),
        }
    }
}
