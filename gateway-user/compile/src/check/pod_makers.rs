//! Whether Services and subsets mean any pod, or what makes pods.
//!
//! A namespace without one says nothing: its pods may be made by somebody else.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use nodegate_resources::{
    Resources,
    lookup::{full_host, selects, service_of},
    object::Object,
    pod_maker::PodMaker,
};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use super::labels::{Labels, meant, written};
use crate::services::gateway_selectors;

/// The labels of those behind a Service, by namespace and name.
type Behind<'r> = BTreeMap<(&'r str, &'r str), Vec<&'r Labels>>;

/// What Services and subsets mean that nobody is.
pub(super) fn unmeant(resources: &Resources) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let behind = services(resources, &mut found);
    subsets(resources, &behind, &mut found);
    found
}

fn services<'r>(resources: &'r Resources, found: &mut Vec<Diagnostic>) -> Behind<'r> {
    let mut behind = Behind::new();
    let gateways = gateway_selectors(resources);
    let are_pods_known = resources.pods().next().is_some();
    for (object, service) in resources.services() {
        let namespace = object.key.namespace.as_str();
        let Some(selector) = selector(service) else {
            continue;
        };
        let makers = makers(resources, namespace);
        let pods: Vec<_> = pods(resources, namespace).collect();
        // Of a gateway's Service, the pods may be wherever any are.
        let is_gateway = gateways
            .iter()
            .any(|wanted| selects(wanted, Some(selector)));
        if makers.is_empty() && pods.is_empty() && !(is_gateway && are_pods_known) {
            continue;
        }
        let chosen: Vec<_> = makers
            .iter()
            .copied()
            .filter(|maker| selects(selector, Some(maker.labels())))
            .collect();
        let there = pods
            .iter()
            .copied()
            .filter(|labels| selects(selector, Some(labels)));
        let there: Vec<_> = there.collect();
        if chosen.is_empty() && there.is_empty() {
            let known = makers.iter().map(|maker| maker.labels()).chain(pods);
            let message = format!(
                "no Pod, Deployment, StatefulSet or DaemonSet here has {}: the Service has no endpoints",
                written(selector)
            );
            let fix = meant(selector, known);
            found.push(object.report(Severity::Warning, "spec.selector", message, fix));
            continue;
        }
        if there.is_empty() {
            found.extend(ports(object, service, &chosen));
        }
        let labels = chosen.iter().map(|maker| maker.labels()).chain(there);
        behind.insert((namespace, &object.key.name), labels.collect());
    }
    behind
}

/// Names of containers' ports that none of those who are behind a Service has.
fn ports(object: &Object, service: &Service, chosen: &[&PodMaker]) -> Vec<Diagnostic> {
    let spec = service.spec.iter();
    let ports = spec
        .flat_map(|spec| spec.ports.iter().flatten())
        .enumerate();
    let missing = ports.filter_map(|(index, port)| {
        let name = missing_port(port, chosen)?;
        let message = format!(
            "no container behind the Service has a port with the name `{name}`: this port has no endpoints"
        );
        let field = format!("spec.ports[{index}].targetPort");
        Some(object.report(Severity::Warning, field, message, None))
    });
    missing.collect()
}

fn subsets(resources: &Resources, behind: &Behind<'_>, found: &mut Vec<Diagnostic>) {
    for (object, rule) in resources.destination_rules() {
        let host = full_host(&rule.spec.host, &object.key.namespace);
        let Some(chosen) = service_of(&host).and_then(|service| behind.get(&service)) else {
            continue;
        };
        for (index, subset) in rule.spec.subsets.iter().enumerate() {
            if chosen
                .iter()
                .any(|labels| selects(&subset.labels, Some(labels)))
            {
                continue;
            }
            let message = format!(
                "nothing behind `{}` has {}: the subset `{}` has no endpoints",
                rule.spec.host,
                written(&subset.labels),
                subset.name
            );
            let fix = meant(&subset.labels, chosen.iter().copied());
            let field = format!("spec.subsets[{index}].labels");
            found.push(object.report(Severity::Warning, field, message, fix));
        }
    }
}

/// None of a Service whose endpoints somebody else writes, or that is a name for another host.
fn selector(service: &Service) -> Option<&Labels> {
    let selector = service.spec.as_ref()?.selector.as_ref()?;
    (!selector.is_empty()).then_some(selector)
}

fn makers<'r>(resources: &'r Resources, namespace: &str) -> Vec<&'r PodMaker> {
    let all = resources.pod_makers();
    let there = all.filter(|(object, _)| object.key.namespace == namespace);
    there.map(|(_, maker)| maker).collect()
}

fn pods<'r>(resources: &'r Resources, namespace: &'r str) -> impl Iterator<Item = &'r Labels> {
    let all = resources.pods();
    let there = all.filter(move |(object, _)| object.key.namespace == namespace);
    there.filter_map(|(_, pod)| pod.metadata.labels.as_ref())
}

/// The name that the port means, if no container has it.
fn missing_port<'p>(port: &'p ServicePort, chosen: &[&PodMaker]) -> Option<&'p str> {
    match &port.target_port {
        Some(IntOrString::String(name)) if name.parse::<u16>().is_err() => {
            let is_there = chosen.iter().any(|maker| maker.has_port(name));
            (!is_there).then_some(name)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use nodegate_resources::{admission::Store, manifest::Manifest};

    use super::*;

    const APP: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web-v1}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, version: v1}}
    spec: {containers: [{name: web, image: nginx, ports: [{containerPort: 80, name: http}]}]}
";

    fn told(service: &str, subset: &str, app: &str) -> Vec<String> {
        let text = format!(
            "{app}---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {service}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: web}}
spec: {{host: web, subsets: [{{name: one, labels: {{version: {subset}}}}}]}}
"
        );
        let manifest = Manifest::parse("a.yaml".into(), &text);
        let resources = Store::default().admit([&manifest], Vec::new());
        assert!(
            resources.diagnostics.is_empty(),
            "{:?}",
            resources.diagnostics
        );
        unmeant(&resources)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    const SERVICE: &str = "{selector: {app: web}, ports: [{port: 80, targetPort: http}]}";

    #[test]
    fn what_deployments_make_is_meant() {
        assert_eq!(told(SERVICE, "v1", APP), [""; 0]);
        // Whose pods these are is not known.
        assert_eq!(told(&SERVICE.replace("web", "other"), "v9", ""), [""; 0]);
        let sets = APP.replace("Deployment", "StatefulSet");
        assert_eq!(told(SERVICE, "v1", &sets), [""; 0]);
    }

    #[test]
    fn what_nobody_is_is_told_with_what_was_meant() {
        let found = told(&SERVICE.replace("app: web", "app: wbe"), "v1", APP);
        assert_eq!(
            found,
            [
                "warning: a.yaml:13: Service default/web: spec.selector: no Pod, Deployment, StatefulSet or DaemonSet here has app=wbe: the Service has no endpoints (fix: did you mean `app: web`?)"
            ]
        );
        let found = told(&SERVICE.replace(": http", ": https"), "v2", APP);
        assert_eq!(
            found,
            [
                "warning: a.yaml:13: Service default/web: spec.ports[0].targetPort: no container behind the Service has a port with the name `https`: this port has no endpoints",
                "warning: a.yaml:18: DestinationRule default/web: spec.subsets[0].labels: nothing behind `web` has version=v2: the subset `one` has no endpoints (fix: did you mean `version: v1`?)"
            ]
        );
    }

    #[test]
    fn a_deployment_that_cannot_be_read_breaks_nothing() {
        for (right, wrong) in [
            ("labels: {app: web, version: v1}", "labels: [app]"),
            ("{name: web-v1}", "{}"),
        ] {
            let broken = APP.replace(right, wrong);
            assert_eq!(told(SERVICE, "v1", &broken), [""; 0], "{broken}");
        }
    }
}
