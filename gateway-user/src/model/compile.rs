//! Objects → what this node serves.

mod clusters;
mod endpoints;
mod gateway;
mod http;
mod services;
mod tcp;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use super::{Snapshot, gateway::Gateway, service::ServicePort};
use crate::resources::{
    Resources,
    diagnostic::{self, Diagnostic},
};

/// The labels by which Istio's own manifests choose their ingress gateway.
pub const INGRESS_GATEWAY: (&str, &str) = ("istio", "ingressgateway");

/// The node that this is for.
#[derive(Clone, Debug, Default)]
pub struct NodeIdentity {
    /// Name of the Node object.
    pub name: String,
}

/// The gateway pod that this is for.
#[derive(Clone, Debug, Default)]
pub struct GatewayIdentity {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's labels, by which Gateways and Services choose it.
    pub labels: BTreeMap<String, String>,
}

/// Which Services the datapath translates.
#[derive(Clone, Debug, Default)]
pub enum ServiceScope {
    /// Every Service, as kube-proxy does.
    All,
    /// Those that lead to gateway pods.
    #[default]
    Gateway,
    /// Those with these labels.
    Selector(BTreeMap<String, String>),
}

/// The content of a [`Snapshot`].
#[derive(Debug, Default)]
pub struct Compiled {
    /// See [`Snapshot::services`].
    pub services: Vec<ServicePort>,
    /// See [`Snapshot::gateway`].
    pub gateway: Arc<Gateway>,
    /// Those of the resources, and what showed only now; sorted by place.
    pub diagnostics: Vec<Diagnostic>,
}

/// Compiles what `node` redirects and what the gateway pod `gateway` (if this process is one) serves.
pub fn compile(
    resources: &Resources,
    node: &NodeIdentity,
    gateway: Option<&GatewayIdentity>,
    scope: &ServiceScope,
) -> Compiled {
    let mut diagnostics = resources.diagnostics.clone();
    let endpoints = endpoints::Endpoints::of(resources, &mut diagnostics);
    let services = services::compile(resources, &endpoints, node, scope, &mut diagnostics);
    let gateway = gateway.map_or_else(Gateway::default, |identity| {
        gateway::compile(resources, &endpoints, identity, &mut diagnostics)
    });
    diagnostic::sort(&mut diagnostics);
    diagnostics.dedup();
    Compiled {
        services,
        gateway: Arc::new(gateway),
        diagnostics,
    }
}

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
            services,
            gateway,
            diagnostics,
        } = compiled;
        let generation = match &self.current {
            None => 1,
            Some(current) if current.services == services && current.gateway == gateway => {
                if current.diagnostics == diagnostics {
                    return current.clone();
                }
                current.generation
            }
            Some(current) => current.generation + 1,
        };
        let snapshot = Arc::new(Snapshot {
            generation,
            services,
            gateway,
            diagnostics,
        });
        self.current = Some(snapshot.clone());
        snapshot
    }
}
