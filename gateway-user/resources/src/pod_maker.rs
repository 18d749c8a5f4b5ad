//! What makes pods: of a Deployment, StatefulSet or DaemonSet, which pods it would make.
//!
//! A cluster has the pods themselves. Manifests as people keep them have these, and from them it can be told
//! whether a Service or a subset means anybody. No more of them is read, and nothing in them is judged.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use crate::ResourceKind;

/// A Deployment, StatefulSet or DaemonSet of `apps/v1`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PodMaker {
    /// Which of them.
    #[serde(skip)]
    pub kind: ResourceKind,
    /// Its own metadata.
    pub metadata: ObjectMeta,
    /// What it makes.
    pub spec: PodMakerSpec,
}

/// What it makes of pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodMakerSpec {
    /// Its pods.
    pub template: PodTemplate,
}

/// The pods that are made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodTemplate {
    /// Their labels, and no more.
    pub metadata: TemplateMetadata,
    /// What runs in them.
    pub spec: TemplateSpec,
}

/// The metadata of the pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateMetadata {
    /// Their labels.
    pub labels: BTreeMap<String, String>,
}

/// What runs in the pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateSpec {
    /// The containers.
    pub containers: Vec<TemplateContainer>,
}

/// A container of the pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateContainer {
    /// The ports that it tells of.
    pub ports: Vec<TemplatePort>,
}

/// A port of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplatePort {
    /// By which a Service's `targetPort` may mean it.
    pub name: String,
}

// === impl PodMaker ===

impl PodMaker {
    /// None of one that cannot be read: the API server says what is wrong with it, and for us it makes no pods.
    pub(crate) fn of(kind: ResourceKind, value: &Value) -> Option<Self> {
        let metadata = ObjectMeta::deserialize(value.get("metadata")?).ok()?;
        let spec = PodMakerSpec::deserialize(value.get("spec")?).ok()?;
        Some(Self {
            kind,
            metadata,
            spec,
        })
    }

    /// The labels of its pods.
    pub const fn labels(&self) -> &BTreeMap<String, String> {
        &self.spec.template.metadata.labels
    }

    /// Whether one of its containers has a port of this name.
    pub fn has_port(&self, name: &str) -> bool {
        let containers = self.spec.template.spec.containers.iter();
        containers
            .flat_map(|container| &container.ports)
            .any(|port| port.name == name)
    }
}
