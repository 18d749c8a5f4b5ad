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
use serde::Serialize;

use super::{
    ResourceKind,
    istio::{
        AuthorizationPolicy, DestinationRule, Gateway, RequestAuthentication, ServiceEntry,
        VirtualService, Workload,
    },
    manifest::lines::Lines,
    pod_maker::PodMaker,
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
    /// The file, as it was named to us; of an object of the API server, a name of our own.
    pub file: Arc<PathBuf>,
    /// Line of each field.
    pub lines: Lines,
}

/// The kinds that nodegate reads.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
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
    /// `apps/v1` Deployment, StatefulSet or DaemonSet
    PodMaker(Box<PodMaker>),
    /// `networking.istio.io` Gateway
    Gateway(Box<Gateway>),
    /// `networking.istio.io` VirtualService
    VirtualService(Box<VirtualService>),
    /// `networking.istio.io` DestinationRule
    DestinationRule(Box<DestinationRule>),
    /// `networking.istio.io` ServiceEntry
    ServiceEntry(Box<ServiceEntry>),
    /// `networking.istio.io` WorkloadEntry
    WorkloadEntry(Box<Workload>),
    /// `security.istio.io` AuthorizationPolicy
    AuthorizationPolicy(Box<AuthorizationPolicy>),
    /// `security.istio.io` RequestAuthentication
    RequestAuthentication(Box<RequestAuthentication>),
}

// === impl Object ===

/// Objects are equal when they say the same; where they say it does not count.
impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.body == other.body
    }
}

impl Object {
    /// This object: as it is held already, if that says the same in the same place, else itself.
    pub(super) fn shared(self: &Arc<Self>, held: Option<&Arc<Self>>) -> Arc<Self> {
        let same = held.filter(|held| self.is_the_same(held));
        Arc::clone(same.unwrap_or(self))
    }

    /// Whether both say the same in the same place.
    pub(super) fn is_the_same(&self, other: &Self) -> bool {
        self == other && self.origin == other.origin
    }

    /// The object's metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        self.body.metadata()
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

    /// Where the object begins; none of an object of the API server.
    pub fn location(&self) -> Option<Location> {
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
            location: self.origin.location(&path),
            object: Some(self.key.clone()),
            field: (!path.is_empty()).then_some(path),
            message: message.into(),
            fix: fix.into(),
        }
    }
}

// === impl Body ===

impl Body {
    /// Its kind.
    pub fn kind(&self) -> ResourceKind {
        match self {
            Self::Service(_) => ResourceKind::Service,
            Self::Pod(_) => ResourceKind::Pod,
            Self::Node(_) => ResourceKind::Node,
            Self::Namespace(_) => ResourceKind::Namespace,
            Self::Secret(_) => ResourceKind::Secret,
            Self::EndpointSlice(_) => ResourceKind::EndpointSlice,
            Self::PodMaker(body) => body.kind,
            Self::Gateway(_) => ResourceKind::Gateway,
            Self::VirtualService(_) => ResourceKind::VirtualService,
            Self::DestinationRule(_) => ResourceKind::DestinationRule,
            Self::ServiceEntry(_) => ResourceKind::ServiceEntry,
            Self::WorkloadEntry(_) => ResourceKind::WorkloadEntry,
            Self::AuthorizationPolicy(_) => ResourceKind::AuthorizationPolicy,
            Self::RequestAuthentication(_) => ResourceKind::RequestAuthentication,
        }
    }

    /// The object's metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Service(body) => &body.metadata,
            Self::Pod(body) => &body.metadata,
            Self::Node(body) => &body.metadata,
            Self::Namespace(body) => &body.metadata,
            Self::Secret(body) => &body.metadata,
            Self::EndpointSlice(body) => &body.metadata,
            Self::PodMaker(body) => &body.metadata,
            Self::Gateway(body) => &body.metadata,
            Self::VirtualService(body) => &body.metadata,
            Self::DestinationRule(body) => &body.metadata,
            Self::ServiceEntry(body) => &body.metadata,
            Self::WorkloadEntry(body) => &body.metadata,
            Self::AuthorizationPolicy(body) => &body.metadata,
            Self::RequestAuthentication(body) => &body.metadata,
        }
    }
}

// === impl ManifestPlace ===

impl ManifestPlace {
    /// The place of the field at `path`, or of its nearest parent that is written out; none of an object of
    /// the API server.
    pub fn location(&self, path: &str) -> Option<Location> {
        let line = self.lines.line(path);
        (line > 0).then(|| Location {
            file: self.file.clone(),
            line,
        })
    }
}
