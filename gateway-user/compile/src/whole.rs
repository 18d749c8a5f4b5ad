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
    shifting::{self, ShiftedPort},
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
    /// The Service ports that gateways have TCP routes for.
    pub(crate) shifted: Vec<ShiftedPort>,
    /// What is wrong about those.
    pub(crate) of_shifts: Vec<Diagnostic>,
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
        let mut services: Vec<_> = services.into_iter().map(Arc::new).collect();
        let shifted = shifting::find(resources, &endpoints, &services, node);
        let of_shifts = shifting::settle(&shifted, resources, &endpoints, node, &mut services);
        let (gateway, behind) = gateway.as_ref().map_or_else(Default::default, |identity| {
            front::istio::compile(resources, &endpoints, identity, &mut of_others)
        });
        Self {
            node: topology(resources, node),
            services,
            gateway: Arc::new(gateway),
            behind,
            localities: Arc::clone(endpoints.localities()),
            shifted,
            of_shifts,
            of_slices: by_object(of_slices),
            of_others,
        }
    }

    pub(crate) fn compiled(self, resources: &Resources) -> Compiled {
        Compiled {
            diagnostics: self.diagnostics(resources),
            node: self.node,
            services: self.services,
            gateway: self.gateway,
        }
    }

    /// All that is wrong, sorted by place, each once.
    pub(crate) fn diagnostics(&self, resources: &Resources) -> Diagnostics {
        let found = self.of_slices.values().flatten();
        let mut found = found.chain(&self.of_others).chain(&self.of_shifts);
        let Some(first) = found.next() else {
            if has_twins(&resources.diagnostics) {
                return sorted(resources.diagnostics.to_vec());
            }
            return resources.diagnostics.clone();
        };
        let mut all = resources.diagnostics.to_vec();
        all.push(first.clone());
        all.extend(found.cloned());
        sorted(all)
    }
}

fn sorted(mut all: Vec<Diagnostic>) -> Diagnostics {
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
