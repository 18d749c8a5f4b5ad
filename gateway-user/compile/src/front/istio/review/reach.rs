//! Destinations that are there, and that the gateway does not get to.

use std::collections::{BTreeMap, BTreeSet};

use nodegate_resources::{
    Resources,
    istio::VirtualService,
    lookup::{
        Destinations, RuleUser, consequence, full_host, is_exported, is_for_gateways,
        named_destinations,
    },
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
    let by_sidecars = by_sidecars(resources);
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
        } else if !is_for_gateways(object, service) {
            let sidecars = RuleUser {
                namespace: &object.key.namespace,
                labels: &BTreeMap::new(),
            };
            diagnostics.extend(hidden(object, service, known, sidecars));
        }
        if is_ours {
            diagnostics.extend(of_sidecars(object, service, &by_sidecars));
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
        let consequence = if is_for_gateways(object, service) {
            consequence(&path)
        } else {
            "only sidecars would have this route"
        };
        let message = format!("{}; {consequence}", why.message);
        let field = format!("{path}.{}", why.field);
        Some(object.report(Severity::Warning, field, message, why.fix))
    })
}

/// The hosts that a VirtualService for sidecars alone has, and leads to subsets of; of several the first.
fn by_sidecars(resources: &Resources) -> BTreeMap<String, &Object> {
    let mut found = BTreeMap::new();
    for (object, service) in resources.virtual_services() {
        if is_for_gateways(object, service) {
            continue;
        }
        let full = |host: &str| full_host(host, &object.key.namespace);
        let own: BTreeSet<_> = service.spec.hosts.iter().map(|host| full(host)).collect();
        for (_, destination) in named_destinations(service) {
            let host = full(&destination.host);
            if !destination.subset.is_empty() && own.contains(&host) {
                found.entry(host).or_insert(&**object);
            }
        }
    }
    found
}

/// Tells of destinations without a subset that another VirtualService has subsets for: its rules are for
/// sidecars, and a gateway does not follow them (`IngressRouteRulesNotAffected` of istio's pkg/config/analysis).
fn of_sidecars(
    object: &Object,
    service: &VirtualService,
    by_sidecars: &BTreeMap<String, &Object>,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (path, destination) in named_destinations(service) {
        if !destination.subset.is_empty() {
            continue;
        }
        let host = full_host(&destination.host, &object.key.namespace);
        if let Some(other) = by_sidecars.get(&host) {
            let message = format!(
                "no subset is named, and only sidecars go by the subsets of {}",
                other.key
            );
            let fix = "name the subset here, too".to_owned();
            let path = format!("{path}.subset");
            found.push(object.report(Severity::Info, path, message, fix));
        }
    }
    found
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
