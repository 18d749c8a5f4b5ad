//! Whether what Istio objects name is there.

use super::Round;
use nodegate_values::{
    diagnostic::{Diagnostic, Severity},
    spelling::nearest,
};

use crate::{
    istio::{Destination, DestinationRule, VirtualService},
    lookup::{
        Destinations, NoDestination, consequence, full_host, gateway_reference, is_for_gateways,
        named_destinations, service_of,
    },
    object::{Body, Object},
};

impl Round {
    /// Refuses an update of a VirtualService that leads to where there is nothing. A new one, and one
    /// whose Service disappears, is in force, as with istiod: its requests are answered with 503
    /// until the Service is there.
    pub(super) fn check_destinations(&mut self) {
        let chosen: Vec<_> = self
            .proposals
            .values()
            .filter_map(|proposal| proposal.chosen.clone())
            .collect();
        let known = Destinations::of(&chosen);
        let gateways: Vec<_> = chosen
            .iter()
            .filter(|object| matches!(object.body, Body::Gateway(_)))
            .map(|object| (object.key.namespace.as_str(), object.key.name.as_str()))
            .collect();
        for proposal in self.proposals.values_mut() {
            let Some(object) = proposal.chosen.clone().filter(|_| !proposal.refused) else {
                continue;
            };
            match &object.body {
                Body::VirtualService(service) => {
                    let misses = misses(&object, service, &known);
                    let before = match proposal.last.as_ref().map(|last| &last.body) {
                        Some(Body::VirtualService(before)) => Some(before),
                        _ => None,
                    };
                    let is_new = |destination: &Destination| {
                        before.is_some_and(|before| {
                            !named_destinations(before).any(|(_, before)| before == destination)
                        })
                    };
                    let on_gateway = is_for_gateways(&object, service);
                    let severity = if on_gateway
                        && misses.iter().any(|(_, destination, _)| is_new(destination))
                    {
                        proposal.refuse();
                        Severity::Error
                    } else {
                        Severity::Warning
                    };
                    let reports = misses
                        .into_iter()
                        .map(|(path, _, miss)| report(&object, severity, on_gateway, &path, miss));
                    self.diagnostics.extend(reports);
                    self.diagnostics
                        .extend(no_gateways(&object, service, &gateways));
                }
                Body::DestinationRule(rule) => {
                    self.diagnostics.extend(no_subject(&object, rule, &known));
                }
                _ => {}
            }
        }
    }
}

/// Warns about a DestinationRule for Services that are not there.
fn no_subject(
    object: &Object,
    rule: &DestinationRule,
    known: &Destinations<'_>,
) -> Option<Diagnostic> {
    let host = full_host(&rule.spec.host, &object.key.namespace);
    service_of(&host)?;
    let (message, fix) = if let Some(end) = host.strip_prefix('*') {
        if known.is_any_within(&host) {
            return None;
        }
        let fix = "create the Service, or name one that there is";
        let message = format!("no Service has a host that ends in `{end}`");
        (message, fix.to_owned())
    } else if known.service(&host).is_none() {
        let to = Destination {
            host: rule.spec.host.clone(),
            ..Destination::default()
        };
        let miss = known.miss(&to, &object.key.namespace)?;
        (miss.message, miss.fix)
    } else {
        return None;
    };
    Some(object.report(Severity::Warning, "spec.host", message, fix))
}

fn report(
    object: &Object,
    severity: Severity,
    on_gateway: bool,
    path: &str,
    miss: NoDestination,
) -> Diagnostic {
    let NoDestination {
        field,
        message,
        fix,
    } = miss;
    let consequence = match severity {
        Severity::Error => "the last accepted version stays in force",
        _ if !on_gateway => "only sidecars would have this route",
        _ => consequence(path),
    };
    let field = format!("{path}.{field}");
    object.report(severity, field, format!("{message}; {consequence}"), fix)
}

fn misses<'v>(
    object: &Object,
    service: &'v VirtualService,
    known: &Destinations<'_>,
) -> Vec<(String, &'v Destination, NoDestination)> {
    named_destinations(service)
        .filter_map(|(path, destination)| {
            let miss = known.miss(destination, &object.key.namespace)?;
            Some((path, destination, miss))
        })
        .collect()
}

/// Warns about Gateways that are not there.
fn no_gateways(
    object: &Object,
    service: &VirtualService,
    gateways: &[(&str, &str)],
) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    for (index, name) in service.spec.gateways.iter().enumerate() {
        let namespace = &object.key.namespace;
        let Some((its_namespace, name)) = gateway_reference(name, namespace) else {
            continue;
        };
        if gateways.contains(&(its_namespace, name)) || name.contains('*') || its_namespace == "*" {
            continue;
        }
        let same_name = gateways.iter().find(|(_, other)| *other == name);
        let near = same_name
            .map(|(namespace, name)| format!("{namespace}/{name}"))
            .or_else(|| {
                let names = gateways.iter().filter(|(other, _)| *other == its_namespace);
                nearest(name, names.map(|(_, name)| *name))
            });
        let fix = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => "create the Gateway, or name one that there is".into(),
        };
        let message = format!("there is no Gateway {its_namespace}/{name}");
        warnings.push(object.report(
            Severity::Warning,
            format!("spec.gateways[{index}]"),
            message,
            fix,
        ));
    }
    warnings
}
