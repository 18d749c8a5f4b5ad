//! All that there is, compiled at once.

use std::{collections::BTreeMap, sync::Arc};

use nodegate_model::{gateway::Gateway, selection::NodeTopology, service::ServicePort};
use nodegate_resources::Resources;
use nodegate_values::diagnostic::{self, Diagnostic, Diagnostics, ObjectKey};

use crate::{
    clusters::Behind,
    compiled::Compiled,
    endpoints::{Endpoints, Localities},
    front,
    identity::{GatewayIdentity, NodeIdentity},
    scope::{Claims, ServiceScope},
    services::{self, ServiceView},
    topology::topology,
};

/// For whom objects are compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) node: NodeIdentity,
    pub(crate) gateway: Option<GatewayIdentity>,
    pub(crate) scope: ServiceScope,
}

impl Subject {
    pub(crate) fn new(
        node: &NodeIdentity,
        gateway: Option<&GatewayIdentity>,
        scope: &ServiceScope,
    ) -> Self {
        Self {
            node: node.clone(),
            gateway: gateway.cloned(),
            scope: scope.clone(),
        }
    }
}

/// What is made of all objects, and what is to be known to go on from there.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) node: NodeTopology,
    /// Sorted by name and protocol.
    pub(crate) services: Vec<Arc<ServicePort>>,
    pub(crate) gateway: Arc<Gateway>,
    /// What is behind the gateway's clusters.
    pub(crate) behind: Vec<Behind>,
    pub(crate) localities: Arc<Localities>,
    /// What is wrong with EndpointSlices.
    pub(crate) of_slices: Findings,
    /// What is wrong with all else. What is wrong with the objects themselves, the Resources have.
    pub(crate) of_others: Vec<Diagnostic>,
}

/// What is wrong with objects, by object; those with which nothing is wrong are not there.
pub(crate) type Findings = BTreeMap<ObjectKey, Vec<Diagnostic>>;

// === impl Whole ===

impl Whole {
    pub(crate) fn of(resources: &Resources, subject: &Subject) -> Self {
        let Subject {
            node,
            gateway,
            scope,
        } = subject;
        let (mut of_slices, mut of_others) = (Vec::new(), Vec::new());
        let endpoints = Endpoints::of(resources, &mut of_slices);
        let view = ServiceView {
            scope,
            claims: Claims::Oldest,
            node,
        };
        let services = services::compile(resources, &endpoints, &view, &mut of_others);
        let (gateway, behind) = gateway.as_ref().map_or_else(Default::default, |identity| {
            front::istio::compile(resources, &endpoints, identity, &mut of_others)
        });
        Self {
            node: topology(resources, node),
            services: services.into_iter().map(Arc::new).collect(),
            gateway: Arc::new(gateway),
            behind,
            localities: Arc::clone(endpoints.localities()),
            of_slices: by_object(of_slices),
            of_others,
        }
    }

    pub(crate) fn compiled(self, resources: &Resources) -> Compiled {
        Compiled {
            diagnostics: diagnostics(resources, &self.of_slices, &self.of_others),
            node: self.node,
            services: self.services,
            gateway: self.gateway,
        }
    }
}

/// All that is wrong, sorted by place, each once.
pub(crate) fn diagnostics(
    resources: &Resources,
    of_slices: &Findings,
    of_others: &[Diagnostic],
) -> Diagnostics {
    if of_slices.is_empty() && of_others.is_empty() && !has_twins(&resources.diagnostics) {
        return resources.diagnostics.clone();
    }
    let mut all = resources.diagnostics.to_vec();
    all.extend(of_slices.values().flatten().cloned());
    all.extend_from_slice(of_others);
    diagnostic::sort(&mut all);
    all.dedup();
    all.into()
}

/// Whether sorted messages say something twice.
fn has_twins(sorted: &[Diagnostic]) -> bool {
    sorted.windows(2).any(|two| two[0] == two[1])
}

/// What was found, by the object that it is about.
pub(crate) fn by_object(found: Vec<Diagnostic>) -> Findings {
    let mut findings = Findings::new();
    for diagnostic in found {
        if let Some(object) = &diagnostic.object {
            let its = findings.entry(object.clone()).or_default();
            its.push(diagnostic);
        }
    }
    findings
}
