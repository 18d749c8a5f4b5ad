//! One state of the objects after the other, at the cost of what has changed.
//!
//! EndpointSlices decide about nothing but the endpoints of a Service's ports and clusters, and so do Pods
//! that are no gateways. Where nothing else has changed, what the last state was compiled to is taken on:
//! only the endpoints of those Services are looked for again, by the functions that do so in the whole. Routes
//! decide about nothing but TCP routes where this is no gateway. Any other change is compiled whole, and shares
//! with the last what comes out the same.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use nodegate_model::{
    gateway::Gateway,
    service::{Endpoint, ServicePort},
};
use nodegate_resources::{
    ResourceKind, Resources,
    object::{Body, Object},
};
use nodegate_sharing::Change;
use nodegate_values::diagnostic::{Diagnostics, ObjectKey};

use crate::{
    clusters::Behind,
    compiled::Compiled,
    endpoints::{Endpoints, service_of},
    identity::{GatewayIdentity, NodeIdentity},
    scope::ServiceScope,
    services::{Labels, behind, gateway_labels, gateway_selectors},
    share, shifting,
    slices::{Named, SliceIndex},
    whole::{Findings, Subject, Whole, by_object},
};

/// Compiles one state of the objects after the other. The outcome is always that of
/// [`compile`](crate::compile); what has not changed is shared with the one before.
#[derive(Debug, Default)]
pub struct Compiler {
    /// None before the first.
    last: Option<Last>,
    work: Work,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Whether all objects were compiled.
    pub whole: bool,
    /// Service ports whose endpoints were looked for.
    pub services: usize,
    /// Clusters whose endpoints were looked for.
    pub clusters: usize,
}

/// The last state, and what it was compiled to.
#[derive(Debug)]
struct Last {
    subject: Subject,
    resources: Arc<Resources>,
    made: Whole,
    diagnostics: Diagnostics,
    slices: SliceIndex,
    /// What is behind the gateway's clusters, by Service.
    behind: HashMap<Named, Vec<Behind>>,
    /// By which labels gateway pods are known.
    selectors: BTreeSet<Labels>,
}

/// What has changed since the last state, where nothing has but EndpointSlices, Pods and, as long as this is no
/// gateway, routes.
#[derive(Debug, Default)]
struct Touched {
    slices: Vec<TouchedSlice>,
    pods: Vec<Named>,
    /// Whether a route or a destination of one has.
    routes: bool,
}

/// An EndpointSlice as it was and as it is.
#[derive(Debug)]
struct TouchedSlice {
    key: ObjectKey,
    before: Option<Arc<Object>>,
    after: Option<Arc<Object>>,
}

// === impl Compiler ===

impl Compiler {
    /// Compiles what `node` redirects and what the gateway pod `gateway` (if this process is one) serves.
    pub fn compile(
        &mut self,
        resources: &Arc<Resources>,
        node: &NodeIdentity,
        gateway: Option<&GatewayIdentity>,
        scope: &ServiceScope,
    ) -> Compiled {
        let subject = Subject::new(node, gateway, scope);
        self.work = Work::default();
        // Until it is done there is no last state: one that is half done would be wrong for ever.
        let last = self.last.take();
        let touched = last
            .as_ref()
            .filter(|last| last.subject == subject)
            .and_then(|last| last.touched(resources));
        let next = match (last, touched) {
            (Some(mut last), Some(touched)) => {
                last.take_on(resources, &touched, &mut self.work);
                last
            }
            (last, _) => {
                let next = Last::new(resources, subject, last.as_ref());
                self.work = next.work_of_all();
                next
            }
        };
        self.last.insert(next).compiled()
    }

    /// How much was looked at the last time.
    pub fn work(&self) -> Work {
        self.work
    }
}

// === impl Last ===

impl Last {
    /// Compiles all objects.
    fn new(resources: &Arc<Resources>, subject: Subject, before: Option<&Self>) -> Self {
        let mut made = Whole::of(resources, &subject);
        if let Some(Self { made: before, .. }) = before {
            made.services = share::services(&before.services, made.services);
            made.gateway = share::gateway(&before.gateway, made.gateway);
        }
        let mut behind: HashMap<Named, Vec<Behind>> = HashMap::new();
        for one in std::mem::take(&mut made.behind) {
            behind.entry(one.service.clone()).or_default().push(one);
        }
        Self {
            diagnostics: made.diagnostics(resources),
            slices: SliceIndex::of(resources),
            selectors: gateway_selectors(resources),
            resources: Arc::clone(resources),
            subject,
            made,
            behind,
        }
    }

    fn work_of_all(&self) -> Work {
        Work {
            whole: true,
            services: self.made.services.len(),
            clusters: self.behind.values().map(Vec::len).sum(),
        }
    }

    fn compiled(&self) -> Compiled {
        Compiled {
            node: self.made.node.clone(),
            services: self.made.services.clone(),
            gateway: Arc::clone(&self.made.gateway),
            diagnostics: self.diagnostics.clone(),
        }
    }

    /// What has changed; none if it is something that more depends on than endpoints.
    fn touched(&self, resources: &Resources) -> Option<Touched> {
        let mut touched = Touched::default();
        let changes = resources.objects.changes_since(&self.resources.objects);
        for Change { key, before, after } in changes {
            match &after.or(before)?.body {
                Body::EndpointSlice(_) => touched.slices.push(TouchedSlice {
                    key: key.clone(),
                    before: before.cloned(),
                    after: after.cloned(),
                }),
                Body::Pod(_) if self.is_plain_pod(key, before, after) => {
                    touched.pods.push((key.namespace.clone(), key.name.clone()));
                }
                Body::VirtualService(_)
                | Body::DestinationRule(_)
                | Body::ServiceEntry(_)
                | Body::WorkloadEntry(_)
                | Body::AuthorizationPolicy(_)
                | Body::RequestAuthentication(_)
                    if self.subject.gateway.is_none() =>
                {
                    touched.routes = true;
                }
                // Nothing is compiled of it.
                Body::Namespace(_) | Body::PodMaker(_) => {}
                _ => return None,
            }
        }
        Some(touched)
    }

    /// Whether a Pod is no gateway that has changed as such.
    fn is_plain_pod(
        &self,
        key: &ObjectKey,
        before: Option<&Arc<Object>>,
        after: Option<&Arc<Object>>,
    ) -> bool {
        let labels = |object: Option<&Arc<Object>>| {
            let pod = object.and_then(|object| pod(object))?;
            gateway_labels(pod, &self.selectors).cloned()
        };
        let own = self.subject.gateway.as_ref();
        let is_own =
            own.is_some_and(|own| (&own.namespace, &own.name) == (&key.namespace, &key.name));
        !is_own && labels(before) == labels(after)
    }

    /// Goes on to the next state.
    fn take_on(&mut self, resources: &Arc<Resources>, touched: &Touched, work: &mut Work) {
        let services = self.services_of(resources, touched);
        let slices = services.iter().flat_map(|service| {
            let names = self.slices.of_service(service);
            names.filter_map(move |name| slice(resources, &service.0, name))
        });
        let slices: Vec<_> = slices.collect();
        let mut found = Vec::new();
        let endpoints = Endpoints::among(
            resources,
            slices.iter().copied(),
            Arc::clone(&self.made.localities),
            &mut found,
        );
        for service in &services {
            work.services += renew_ports(&mut self.made.services, service, |port| {
                behind(&endpoints, &port.name, port.protocol, &self.subject.node)
            });
        }
        work.clusters += self.renew_clusters(resources, &endpoints, &services);
        let of_slices = slices.iter().map(|(object, _)| &object.key);
        let of_slices = of_slices.chain(touched.slices.iter().map(|slice| &slice.key));
        let said: Findings = of_slices
            .filter_map(|key| self.made.of_slices.remove_entry(key))
            .collect();
        let found = by_object(found);
        let mut news = said != found || !resources.diagnostics.is(&self.resources.diagnostics);
        self.made.of_slices.extend(found);
        if touched.routes || self.has_shifted(&services) {
            let before = std::mem::take(&mut self.made.of_shifts);
            self.renew_shifts(resources);
            news |= before != self.made.of_shifts;
        }
        if news {
            self.diagnostics = self.made.diagnostics(resources);
        }
        self.resources = Arc::clone(resources);
    }

    /// The Services whose endpoints may have changed.
    fn services_of(&mut self, resources: &Resources, touched: &Touched) -> BTreeSet<Named> {
        let mut services = BTreeSet::new();
        for TouchedSlice { key, before, .. } in &touched.slices {
            if let Some(slice) = before.as_ref().and_then(|object| endpoint_slice(object)) {
                services.extend(self.slices.take(&key.namespace, &key.name, slice));
            }
        }
        for TouchedSlice { key, after, .. } in &touched.slices {
            if let Some(slice) = after.as_ref().and_then(|object| endpoint_slice(object)) {
                services.extend(self.slices.put(&key.namespace, &key.name, slice));
            }
        }
        for pod in &touched.pods {
            for (namespace, name) in self.slices.with_pod(pod) {
                let service = slice(resources, namespace, name).and_then(|(_, slice)| {
                    Some((namespace.clone(), service_of(slice)?.to_owned()))
                });
                services.extend(service);
            }
        }
        services
    }

    /// Whether it depends on one of the Services which TCP routes take over Service ports, or may.
    fn has_shifted(&self, services: &BTreeSet<Named>) -> bool {
        let Whole {
            shifted,
            services: ports,
            ..
        } = &self.made;
        !shifting::services_of(shifted, ports).is_disjoint(services)
            || !shifting::candidates(ports).is_disjoint(services)
    }

    /// Looks for the TCP routes that take over Service ports.
    fn renew_shifts(&mut self, resources: &Resources) {
        let candidates = shifting::candidates(&self.made.services);
        let gateways = self.endpoints_of(resources, &candidates);
        let node = &self.subject.node;
        let shifted = shifting::find(resources, &gateways, &self.made.services, node);
        let behind = shifting::services_of(&shifted, &self.made.services);
        let endpoints = self.endpoints_of(resources, &behind);
        let services = &mut self.made.services;
        self.made.of_shifts = shifting::settle(&shifted, resources, &endpoints, node, services);
        self.made.shifted = shifted;
    }

    /// The endpoints of some Services. What is wrong with their slices has been told.
    fn endpoints_of<'r>(
        &self,
        resources: &'r Resources,
        services: &BTreeSet<Named>,
    ) -> Endpoints<'r> {
        let slices = services.iter().flat_map(|service| {
            let names = self.slices.of_service(service);
            names.filter_map(move |name| slice(resources, &service.0, name))
        });
        let localities = Arc::clone(&self.made.localities);
        Endpoints::among(resources, slices, localities, &mut Vec::new())
    }

    /// Looks for the endpoints of the Services' clusters; gives how many there are.
    fn renew_clusters(
        &mut self,
        resources: &Resources,
        endpoints: &Endpoints<'_>,
        services: &BTreeSet<Named>,
    ) -> usize {
        let Some(identity) = &self.subject.gateway else {
            return 0;
        };
        let here = endpoints.place_of(resources, identity);
        let mut clusters = self.made.gateway.clusters.clone();
        let behind = services
            .iter()
            .filter_map(|service| self.behind.get(service));
        let (mut looked_at, mut changed) = (0, false);
        for behind in behind.flatten() {
            let Some(cluster) = self.made.gateway.clusters.get(&behind.cluster) else {
                continue;
            };
            looked_at += 1;
            let renewed = behind.renewed(cluster, endpoints, &here);
            if renewed != **cluster {
                clusters.insert(behind.cluster.clone(), Arc::new(renewed));
                changed = true;
            }
        }
        if changed {
            self.made.gateway = Arc::new(Gateway {
                listeners: Arc::clone(&self.made.gateway.listeners),
                clusters,
            });
        }
        looked_at
    }
}

/// Gives the ports of a Service the endpoints that they have now; says how many ports it has.
fn renew_ports(
    services: &mut [Arc<ServicePort>],
    (namespace, name): &Named,
    behind: impl Fn(&ServicePort) -> Vec<Endpoint>,
) -> usize {
    let order =
        |port: &Arc<ServicePort>| (&port.name.namespace, &port.name.name).cmp(&(namespace, name));
    let begin = services.partition_point(|port| order(port).is_lt());
    let its = services[begin..].iter_mut();
    let mut looked_at = 0;
    for port in its.take_while(|port| order(port).is_eq()) {
        looked_at += 1;
        let endpoints = behind(port);
        if endpoints != port.endpoints {
            *port = Arc::new(ServicePort {
                endpoints,
                ..ServicePort::clone(port)
            });
        }
    }
    looked_at
}

fn slice<'r>(
    resources: &'r Resources,
    namespace: &str,
    name: &str,
) -> Option<(&'r Arc<Object>, &'r EndpointSlice)> {
    let object = resources.get(ResourceKind::EndpointSlice, namespace, name)?;
    Some((object, endpoint_slice(object)?))
}

fn endpoint_slice(object: &Object) -> Option<&EndpointSlice> {
    match &object.body {
        Body::EndpointSlice(slice) => Some(slice),
        _ => None,
    }
}

fn pod(object: &Object) -> Option<&Pod> {
    match &object.body {
        Body::Pod(pod) => Some(pod),
        _ => None,
    }
}
