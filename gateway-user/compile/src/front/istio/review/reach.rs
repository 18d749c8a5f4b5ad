//! Destinations that are there, and that the gateway does not get to.

use std::collections::BTreeSet;

use nodegate_resources::{
    Resources,
    istio::VirtualService,
    lookup::{Destinations, RuleUser, is_exported, named_destinations},
    object::Object,
};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use super::named;
use crate::{
    front::istio::{bind::gateways, binding::BoundService},
    identity::GatewayIdentity,
};

pub(super) fn report(
    resources: &Resources,
    known: &Destinations<'_>,
    identity: &GatewayIdentity,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let client = RuleUser {
        namespace: &identity.namespace,
        labels: &identity.labels,
    };
    let ours = gateways(resources, identity);
    for (object, service) in resources.virtual_services() {
        let bound = BoundService {
            object,
            spec: &service.spec,
        };
        let is_ours = ours.iter().any(|(gateway, _)| bound.names(gateway));
        if is_ours
            && !is_exported(
                &service.spec.export_to,
                &object.key.namespace,
                client.namespace,
            )
        {
            let message = format!(
                "does not have {}, where the gateway is, so that no gateway there applies it",
                client.namespace
            );
            let fix = format!("add `{}`, or `*`", client.namespace);
            diagnostics.push(object.report(Severity::Warning, "spec.exportTo", message, fix));
            continue;
        }
        diagnostics.extend(unnamed_ports(object, service, known, resources));
        // What others delegate to has no Gateways of its own.
        if is_ours || service.spec.hosts.is_empty() {
            diagnostics.extend(hidden(object, service, known, client));
        }
    }
}

fn hidden<'d>(
    object: &'d Object,
    service: &'d VirtualService,
    known: &'d Destinations<'_>,
    client: RuleUser<'d>,
) -> impl Iterator<Item = Diagnostic> {
    named_destinations(service).filter_map(move |(path, destination)| {
        let namespace = &object.key.namespace;
        if known.miss(destination, namespace).is_some() {
            return None;
        }
        let why = known.hidden(destination, namespace, client)?;
        let consequence = consequence(&path);
        let message = format!("{}; {consequence}", why.message);
        let field = format!("{path}.{}", why.field);
        Some(object.report(Severity::Warning, field, message, why.fix))
    })
}

/// Tells of destinations with several ports of which none is named: that of the Gateway's server is taken.
fn unnamed_ports(
    object: &Object,
    service: &VirtualService,
    known: &Destinations<'_>,
    resources: &Resources,
) -> Vec<Diagnostic> {
    let namespace = &object.key.namespace;
    let gateways = named(&service.spec.gateways, namespace, resources);
    let servers = gateways.iter().flat_map(|(_, _, of)| &of.spec.servers);
    let servers: BTreeSet<_> = servers.map(|server| server.port.number).collect();
    let mut found = Vec::new();
    for (path, destination) in named_destinations(service) {
        if destination.port.is_some() {
            continue;
        }
        let ports = known.ports(destination, namespace);
        if ports.len() < 2 {
            continue;
        }
        let list: Vec<_> = ports.iter().map(ToString::to_string).collect();
        let host = &destination.host;
        let what = format!(
            "`{host}` has several ports ({}), and none is named",
            list.join(", ")
        );
        let lost: Vec<_> = servers
            .iter()
            .filter(|port| !ports.contains(port))
            .collect();
        let (severity, message) = match lost.as_slice() {
            [] if servers.is_empty() => (Severity::Warning, what),
            [] => (
                Severity::Info,
                format!("{what}: that of the Gateway's server is taken"),
            ),
            [first, ..] => (
                Severity::Warning,
                format!(
                    "{what}: that of the Gateway's server is taken, and {first} is none of them; {}",
                    consequence(&path)
                ),
            ),
        };
        let fix = format!("`port: {{number: {}}}`", ports[0]);
        found.push(object.report(severity, format!("{path}.port"), message, fix));
    }
    found
}

fn consequence(path: &str) -> &'static str {
    if path.starts_with("spec.tcp") {
        "connections to it are closed"
    } else if path.contains(".mirror") {
        "no copies are sent"
    } else {
        "requests to it are answered with 503"
    }
}
