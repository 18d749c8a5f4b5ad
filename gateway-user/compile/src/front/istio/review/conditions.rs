//! Conditions of VirtualServices on the port and on the Gateway that never hold.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use nodegate_resources::{
    Resources,
    istio::VirtualService,
    lookup::{gateway_reference, selects},
    object::Object,
};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use super::named;
use crate::ports::ports;

pub(super) fn report(resources: &Resources, diagnostics: &mut Vec<Diagnostic>) {
    for (object, service) in resources.virtual_services() {
        for condition in conditions(service) {
            diagnostics.extend(gateways(object, service, &condition));
            diagnostics.extend(port(object, service, &condition, resources));
        }
    }
}

/// What a condition says of where a request has come in.
struct Condition<'v> {
    path: String,
    port: i64,
    gateways: &'v [String],
}

fn conditions(service: &VirtualService) -> Vec<Condition<'_>> {
    let mut all = Vec::new();
    for (index, route) in service.spec.http.iter().enumerate() {
        for (place, matches) in route.matches.iter().enumerate() {
            all.push(Condition {
                path: format!("spec.http[{index}].match[{place}]"),
                port: matches.port,
                gateways: &matches.gateways,
            });
        }
    }
    for (index, route) in service.spec.tcp.iter().enumerate() {
        for (place, matches) in route.matches.iter().enumerate() {
            all.push(Condition {
                path: format!("spec.tcp[{index}].match[{place}]"),
                port: matches.port,
                gateways: &matches.gateways,
            });
        }
    }
    all
}

/// Warns of Gateways that are none of the VirtualService's: names are completed with its own namespace.
fn gateways(
    object: &Object,
    service: &VirtualService,
    condition: &Condition<'_>,
) -> Vec<Diagnostic> {
    let namespace = &object.key.namespace;
    // One that others delegate to has the Gateways of those.
    if service.spec.hosts.is_empty() {
        return Vec::new();
    }
    let own: Vec<_> = service.spec.gateways.iter().collect();
    let mesh = own.is_empty() || own.iter().any(|name| *name == "mesh");
    let full: Vec<_> = own
        .iter()
        .filter_map(|name| gateway_reference(name, namespace))
        .collect();
    let strange =
        condition.gateways.iter().enumerate().filter(|(_, name)| {
            match gateway_reference(name, namespace) {
                None => !mesh,
                Some(wanted) => !full.contains(&wanted),
            }
        });
    let warning = |(index, name): (usize, &String)| {
        let wanted = gateway_reference(name, namespace);
        let message = match wanted {
            None => "`mesh` is not among spec.gateways, so this never holds".to_owned(),
            Some((namespace, name)) => format!(
                "Gateway {namespace}/{name} is not among spec.gateways, so this never holds there"
            ),
        };
        let meant = wanted.and_then(|(_, name)| full.iter().find(|(_, other)| *other == name));
        let fix = match meant {
            Some((namespace, name)) => format!("did you mean `{namespace}/{name}`?"),
            None => "name one of spec.gateways, or none".to_owned(),
        };
        let path = format!("{}.gateways[{index}]", condition.path);
        object.report(Severity::Warning, path, message, fix)
    };
    strange.map(warning).collect()
}

/// Warns of a port that is that of no server of the VirtualService's Gateways.
fn port(
    object: &Object,
    service: &VirtualService,
    condition: &Condition<'_>,
    resources: &Resources,
) -> Option<Diagnostic> {
    let wanted = condition.port;
    let names = &service.spec.gateways;
    let gateways = named(names, &object.key.namespace, resources);
    let mesh = names.iter().any(|name| name == "mesh");
    // What is not there may have any port.
    if wanted == 0 || mesh || gateways.is_empty() || gateways.len() < names.len() {
        return None;
    }
    let servers = gateways.iter().flat_map(|(_, _, of)| &of.spec.servers);
    let has: BTreeSet<_> = servers.map(|server| server.port.number).collect();
    if has.contains(&wanted) {
        return None;
    }
    let its: Vec<_> = has.iter().map(ToString::to_string).collect();
    let its = its.join(", ");
    let message = format!(
        "no server of the VirtualService's Gateways has port {wanted} (they have {its}), so this never holds"
    );
    let selectors: Vec<_> = gateways
        .iter()
        .map(|(_, _, of)| &of.spec.selector)
        .collect();
    let fix = match other_name(wanted, &has, &selectors, resources) {
        Some((what, port)) => format!("{wanted} is {what}: `port: {port}`"),
        None => format!("one of {its}"),
    };
    let path = format!("{}.port", condition.path);
    Some(object.report(Severity::Warning, path, message, fix))
}

/// What the number is for the port of a gateway's Service that a server has.
fn other_name(
    wanted: i64,
    servers: &BTreeSet<i64>,
    selectors: &[&BTreeMap<String, String>],
    resources: &Resources,
) -> Option<(String, i32)> {
    resources.services().find_map(|(object, service)| {
        let its = service.spec.as_ref()?.selector.as_ref();
        if !selectors.iter().any(|wanted| selects(wanted, its)) {
            return None;
        }
        let mut ports = ports(service).iter();
        ports.find_map(|port| {
            if !servers.contains(&i64::from(port.port)) {
                return None;
            }
            let target = match port.target_port {
                Some(IntOrString::Int(target)) => i64::from(target),
                _ => 0,
            };
            let what = if target == wanted {
                "the container's port"
            } else if port.node_port.map(i64::from) == Some(wanted) {
                "the node port"
            } else {
                return None;
            };
            Some((format!("{what} of {}", object.key), port.port))
        })
    })
}
