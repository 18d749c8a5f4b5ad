//! What is wrong with objects altogether, whoever serves them.

mod certificates;
mod labels;
mod names;
mod pod_makers;
mod slices;

use std::collections::{BTreeMap, BTreeSet};

use nodegate_resources::{Resources, lookup::selects};
use nodegate_values::diagnostic::{self, Diagnostic, Severity};

use super::{GatewayIdentity, INGRESS_GATEWAY, NodeIdentity, ServiceScope, Unenforced, compile};

/// What nodegate would refuse, ignore or serve otherwise than meant, for every kind of gateway pod that the
/// Gateways name. `ours`: the labels of nodegate's own gateway pods, where there may be none yet.
pub fn check(resources: &Resources, ours: &BTreeMap<String, String>) -> Vec<Diagnostic> {
    let mut all = BTreeSet::new();
    let pods: Vec<_> = gateways(resources).into_iter().collect();
    all.extend(certificates::report(resources, &pods));
    for gateway in pods {
        let node = NodeIdentity::default();
        let compiled = compile(resources, &node, Some(&gateway), &ServiceScope::All);
        all.extend(compiled.diagnostics.iter().cloned());
    }
    all.extend(unserved(resources, ours));
    all.extend(unreached(resources));
    all.extend(pod_makers::unmeant(resources));
    all.extend(names::report(resources));
    all.extend(slices::report(resources));
    let mut all: Vec<_> = all.into_iter().collect();
    diagnostic::sort(&mut all);
    all
}

/// Warns about Gateways whose selector is nobody's: no Pod's, no Service's, and not ours.
fn unserved(resources: &Resources, ours: &BTreeMap<String, String>) -> Vec<Diagnostic> {
    let pods = resources
        .pods()
        .filter_map(|(_, pod)| pod.metadata.labels.as_ref());
    let services = resources
        .services()
        .filter_map(|(_, service)| service.spec.as_ref()?.selector.as_ref());
    let known: BTreeSet<_> = pods.chain(services).chain([ours]).collect();
    let is_nobodys = |selector: &BTreeMap<String, String>| {
        !selector.is_empty() && !known.iter().any(|labels| selects(selector, Some(labels)))
    };
    let mut found = Vec::new();
    for (object, gateway) in resources.gateways() {
        let selector = &gateway.spec.selector;
        if !is_nobodys(selector) {
            continue;
        }
        let meant = labels::meant(selector, known.iter().copied());
        let message = format!(
            "neither a Pod nor a Service's selector has {}: nobody serves this Gateway",
            labels::written(selector)
        );
        let fix = meant.unwrap_or_else(|| "the labels of the gateway's pods".to_owned());
        found.push(object.report(Severity::Warning, "spec.selector", message, fix));
    }
    found
}

/// Warns about Gateways whose pods are there, and that no Service leads to.
fn unreached(resources: &Resources) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (object, gateway) in resources.gateways() {
        let selector = &gateway.spec.selector;
        let pods: Vec<_> = resources
            .pods()
            .filter(|(_, pod)| selects(selector, pod.metadata.labels.as_ref()))
            .collect();
        if selector.is_empty() || pods.is_empty() {
            continue;
        }
        let leads_there = resources.services().any(|(service, of)| {
            let selector = of.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let selector = selector.filter(|selector| !selector.is_empty());
            pods.iter().any(|(pod, of)| {
                let labels = of.metadata.labels.as_ref();
                pod.key.namespace == service.key.namespace
                    && selector.is_some_and(|selector| selects(selector, labels))
            })
        });
        if !leads_there {
            let message = format!(
                "no Service leads to the pods with {}, so that nobody reaches its servers by one",
                labels::written(selector)
            );
            let fix = "a Service with that selector, in the namespace of the pods".to_owned();
            found.push(object.report(Severity::Warning, "spec.selector", message, fix));
        }
    }
    found
}

/// A gateway pod for each selector of a Gateway: one that is there, else one as its Service wants it.
fn gateways(resources: &Resources) -> Vec<GatewayIdentity> {
    let istio = BTreeMap::from([(INGRESS_GATEWAY.0.to_owned(), INGRESS_GATEWAY.1.to_owned())]);
    let selectors: BTreeSet<_> = resources
        .gateways()
        .map(|(_, gateway)| gateway.spec.selector.clone())
        .filter(|selector| !selector.is_empty())
        .chain([istio])
        .collect();
    let identity = |selector: BTreeMap<String, String>| {
        let pod = resources
            .pods()
            .find(|(_, pod)| selects(&selector, pod.metadata.labels.as_ref()));
        if let Some((object, pod)) = pod {
            return GatewayIdentity {
                namespace: object.key.namespace.clone(),
                name: object.key.name.clone(),
                labels: pod.metadata.labels.clone().unwrap_or_default(),
                unenforced: Unenforced::Pass,
            };
        }
        let service = resources.services().find_map(|(object, service)| {
            let labels = service.spec.as_ref()?.selector.as_ref()?;
            selects(&selector, Some(labels)).then_some((object, labels))
        });
        GatewayIdentity {
            namespace: service
                .map_or("istio-system", |(object, _)| &object.key.namespace)
                .to_owned(),
            name: "gateway".into(),
            labels: service.map_or(selector.clone(), |(_, labels)| labels.clone()),
            unenforced: Unenforced::Pass,
        }
    };
    selectors.into_iter().map(identity).collect()
}
