//! DestinationRules that do not count for what a gateway routes, or only in part.

use std::collections::BTreeSet;

use nodegate_resources::{
    Resources,
    istio::{DestinationRule, VirtualService},
    lookup::{
        Destinations, RuleUser, full_host, gateway_reference, is_host_within, named_destinations,
    },
    object::Object,
};
use nodegate_values::diagnostic::{Diagnostic, Severity};

pub(super) fn report(
    resources: &Resources,
    known: &Destinations<'_>,
    client: RuleUser<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let routed = routed(resources, known);
    for (object, rule) in resources.destination_rules() {
        let pattern = full_host(&rule.spec.host, &object.key.namespace);
        let its: Vec<_> = routed
            .iter()
            .filter(|host| is_host_within(host, &pattern))
            .map(String::as_str)
            .collect();
        if its.is_empty() {
            let message = "no route of a gateway leads to its host: it has no effect here";
            diagnostics.push(object.report(Severity::Info, "spec.host", message, None));
            continue;
        }
        diagnostics.extend(unseen(object, rule, &its, known, client));
    }
}

/// The hosts that routes of gateways lead to.
fn routed(resources: &Resources, known: &Destinations<'_>) -> BTreeSet<String> {
    let on_gateway = |object: &Object, service: &VirtualService| {
        let namespace = &object.key.namespace;
        let mut names = service.spec.gateways.iter();
        service.spec.hosts.is_empty()
            || names.any(|name| gateway_reference(name, namespace).is_some())
    };
    let mut hosts = BTreeSet::new();
    for (object, service) in resources.virtual_services() {
        if on_gateway(object, service) {
            hosts.extend(named_destinations(service).map(|(_, destination)| {
                known.meant(full_host(&destination.host, &object.key.namespace))
            }));
        }
    }
    hosts
}

/// What of a rule does not count for any of the hosts that it is about.
fn unseen(
    object: &Object,
    rule: &DestinationRule,
    hosts: &[&str],
    known: &Destinations<'_>,
    client: RuleUser<'_>,
) -> Option<Diagnostic> {
    let counted: Vec<_> = hosts
        .iter()
        .filter_map(|host| known.rule(host, client))
        .filter(|merged| merged.has(object))
        .collect();
    if counted.is_empty() {
        let why = known.why_unseen(object, rule, hosts[0], client);
        let message = format!(
            "does not count at the gateway in {}: {why}",
            client.namespace
        );
        return Some(object.report(Severity::Warning, "spec.host", message, None));
    }
    // Of several for one host the subsets are put together, and the oldest policy counts.
    let mut policies = counted.iter().map(|merged| &merged.policy_of().key);
    let lost = rule.spec.traffic_policy.is_some() && !policies.any(|key| *key == object.key);
    let other = counted.first().filter(|_| lost)?;
    let message = format!(
        "{} is for the same host, and is older: its policy counts, and not this one",
        other.policy_of().key
    );
    let fix = "put both into one DestinationRule".to_owned();
    Some(object.report(Severity::Warning, "spec.trafficPolicy", message, fix))
}
