//! VirtualServices (`ValidateVirtualService` of istio's pkg/config/validation).
//!
//! A condition or an action that cannot be read makes the VirtualService an error: leaving it out
//! would send requests elsewhere. A host that cannot be read is no request's, and is left out.

mod actions;
mod conditions;
mod connections;

use super::{Findings, names};
use crate::istio::{Destination, HttpRoute, RouteDestination, VirtualService, hosts};

pub(super) fn check(service: &VirtualService, findings: &mut Findings<'_>) {
    let spec = &service.spec;
    // A VirtualService without hosts is one that others delegate to (`ValidateVirtualService`).
    let delegate = spec.hosts.is_empty() && spec.gateways.is_empty() && !spec.http.is_empty();
    if delegate {
        for (field, given) in [("tcp", !spec.tcp.is_empty()), ("tls", !spec.tls.is_empty())] {
            if given {
                let message =
                    "without hosts this is for others to delegate to, which only HTTP can";
                findings.error(
                    format!("spec.{field}"),
                    message,
                    "give it hosts, or remove it",
                );
            }
        }
    } else {
        own_hosts(service, findings);
    }
    if spec.http.is_empty() && spec.tcp.is_empty() && spec.tls.is_empty() {
        findings.error("spec", "no routes", "give it `http`, `tls` or `tcp` routes");
    }
    let on_gateway = spec.gateways.iter().any(|gateway| gateway != "mesh");
    if !on_gateway && !delegate {
        findings.info(
            "spec.gateways",
            "names no Gateway, so no gateway applies it: traffic between pods is not routed by this version",
            "",
        );
    }
    for (index, route) in spec.http.iter().enumerate() {
        http(route, delegate, &format!("spec.http[{index}]"), findings);
    }
    for (index, route) in spec.tcp.iter().enumerate() {
        connections::tcp(route, &format!("spec.tcp[{index}]"), findings);
    }
    for (index, route) in spec.tls.iter().enumerate() {
        connections::tls(route, spec, &format!("spec.tls[{index}]"), findings);
    }
}

fn own_hosts(service: &VirtualService, findings: &mut Findings<'_>) {
    let spec = &service.spec;
    if spec.read_hosts().next().is_none() {
        let message = if spec.hosts.is_empty() {
            "no hosts"
        } else {
            "no host is left"
        };
        findings.error("spec.hosts", message, "name at least one; `*` is any");
    }
    let on_gateway = spec.gateways.iter().any(|gateway| gateway != "mesh");
    for (index, host) in spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        let mut before = spec.hosts[..index].iter();
        if let Err(error) = hosts::host(host) {
            let fix = "`web.example.com`, `*.example.com` or `*`";
            findings.left_out(path, "host", &error.to_string(), fix);
        } else if before.any(|other| other != host && other.eq_ignore_ascii_case(host)) {
            let message = format!("`{host}` is there already");
            findings.warning(path, message, "remove one of them");
        } else if host == "*" && !on_gateway {
            let message = "`*` needs a gateway: without one this is about traffic between pods";
            findings.error(path, message, "name the Gateway in spec.gateways");
        }
    }
    // Names that select nothing. Which of them Istio refuses is said elsewhere.
    for (index, gateway) in spec.gateways.iter().enumerate() {
        if gateway.is_empty() || gateway.contains('*') {
            let message = format!("`{gateway}` names no Gateway: each is named by itself");
            let path = format!("spec.gateways[{index}]");
            findings.warning(path, message, "`namespace/name`");
        }
    }
}

fn http(route: &HttpRoute, delegate: bool, path: &str, findings: &mut Findings<'_>) {
    actions::check(route, delegate, path, findings);
    for (index, matches) in route.matches.iter().enumerate() {
        let path = format!("{path}.match[{index}]");
        conditions::check(matches, &path, findings);
    }
    destinations(&route.route, path, findings);
    for (index, destination) in route.route.iter().enumerate() {
        if let Some(headers) = &destination.headers {
            actions::headers(headers, &format!("{path}.route[{index}].headers"), findings);
        }
    }
}

fn destinations(route: &[RouteDestination], path: &str, findings: &mut Findings<'_>) {
    for (index, route) in route.iter().enumerate() {
        let path = format!("{path}.route[{index}]");
        destination(&route.destination, &format!("{path}.destination"), findings);
        if let Err(error) = route.weight() {
            findings.error(format!("{path}.weight"), error.to_string(), "0 or more");
        }
    }
    if route.len() > 1 && route.iter().all(|route| route.weight == 0) {
        findings.error(
            format!("{path}.route"),
            "all weights are 0: nothing would get any traffic",
            "give at least one destination a weight",
        );
    }
}

fn destination(destination: &Destination, path: &str, findings: &mut Findings<'_>) {
    let host = &destination.host;
    if host.is_empty() {
        findings.error(format!("{path}.host"), "missing", "name a Service");
    } else if host == "*" || !names::is_host(&host.to_ascii_lowercase()) {
        let message = format!("`{host}` is not a host");
        findings.error(format!("{path}.host"), message, "the name of a Service");
    }
    if let Some(given) = &destination.port {
        findings.port(format!("{path}.port.number"), given.number);
    }
}
