//! What Istio's webhook refuses of objects that can be served all the same.
//!
//! Such an object is not admitted. One that is in force already, from a directory or from before there was a webhook,
//! is served as it stands, as with Istio. (`Validate…` of istio's pkg/config/validation, in the order of that file.)

mod header_value;
mod http;
mod policy;

use std::net::IpAddr;

use super::Findings;
use crate::{
    istio::{
        Gateway, L4Match, Opaque, Server, ServiceEntry, VirtualService, VirtualServiceSpec,
        Workload, WorkloadEntry,
        words::{ServerProtocol, is_protocol_name},
    },
    names,
    object::Body,
};

/// Looks an object over.
pub(super) fn check(body: &Body, findings: &mut Findings<'_>) {
    match body {
        Body::Gateway(gateway) => of_gateway(gateway, findings),
        Body::VirtualService(service) => virtual_service(service, findings),
        Body::DestinationRule(rule) => {
            let has_selector = rule.spec.workload_selector.is_some();
            policy::check(&rule.spec, findings);
            export_to(
                &rule.spec.export_to,
                Exported::Rule { has_selector },
                findings,
            );
        }
        Body::ServiceEntry(entry) => service_entry(entry, findings),
        Body::WorkloadEntry(workload) => of_workload(workload, findings),
        _ => {}
    }
}

impl Findings<'_> {
    /// What is not admitted, and is served where it is in force already.
    pub(super) fn not_admitted(&mut self, path: impl Into<String>, message: &str, fix: &str) {
        let message = format!("{message}; such an object is not admitted, as with Istio");
        self.add(
            nodegate_values::diagnostic::Severity::Error,
            path,
            message,
            fix,
        );
    }
}

// Gateways.

fn of_gateway(gateway: &Gateway, findings: &mut Findings<'_>) {
    let servers = &gateway.spec.servers;
    for (index, server) in servers.iter().enumerate() {
        let path = format!("spec.servers[{index}]");
        let name = &server.port.name;
        let mut before = servers[..index].iter();
        if !name.is_empty() && before.any(|other| other.port.name == *name) {
            let message = format!("the name `{name}` is that of another server's port");
            let fix = "rename one of them";
            findings.not_admitted(format!("{path}.port.name"), &message, fix);
        }
        one_server(server, &path, findings);
    }
}

fn one_server(server: &Server, path: &str, findings: &mut Findings<'_>) {
    let bind = server.bind.as_deref().unwrap_or_default();
    if !bind.is_empty() && !bind.starts_with("unix://") && bind.parse::<IpAddr>().is_err() {
        let message = format!("`{bind}` is not an IP address");
        findings.not_admitted(format!("{path}.bind"), &message, "remove it");
    }
    for (index, host) in server.hosts.iter().enumerate() {
        let domain = host
            .split_once('/')
            .map_or(host.as_str(), |(_, domain)| domain);
        let fix = "`web.example.com`, `*.example.com` or `*`";
        let path = format!("{path}.hosts[{index}]");
        if domain != "*" && !domain.contains('.') {
            findings.not_admitted(path, &format!("`{domain}` has only one label"), fix);
        } else if domain.starts_with('*') && domain != "*" && !domain.starts_with("*.") {
            let message = format!("`{domain}` has a wildcard that is only part of a label");
            findings.not_admitted(path, &message, fix);
        } else if is_lax(domain) {
            findings.not_admitted(path, &format!("`{domain}` is no domain"), fix);
        }
    }
    let is_tls = matches!(
        server.port.protocol(),
        Ok(ServerProtocol::Https | ServerProtocol::Tls)
    );
    if let Some(tls) = server.tls.as_ref().filter(|_| !is_tls)
        && (tls.mode().is_err()
            || !tls.certificate_files().is_empty()
            || !tls.ca_certificates.is_empty())
    {
        let message = "only HTTPS and TLS have more than `httpsRedirect` here";
        let fix = "remove it, or change the port's protocol";
        findings.not_admitted(format!("{path}.tls"), message, fix);
    }
}

// VirtualServices.

fn virtual_service(service: &VirtualService, findings: &mut Findings<'_>) {
    let spec = &service.spec;
    gateways(&spec.gateways, "spec.gateways", findings);
    hosts(spec, findings);
    for (index, route) in spec.http.iter().enumerate() {
        http::check(route, &format!("spec.http[{index}]"), findings);
    }
    for (index, route) in spec.tcp.iter().enumerate() {
        let path = format!("spec.tcp[{index}]");
        for (number, given) in route.matches.iter().enumerate() {
            tcp_match(given, &format!("{path}.match[{number}]"), findings);
        }
        for (number, route) in route.route.iter().enumerate() {
            let path = format!("{path}.route[{number}].destination");
            http::destination(&route.destination, &path, findings);
        }
    }
    export_to(&spec.export_to, Exported::Other, findings);
}

/// `validateGatewayNames`, which looks no further than the first name without a namespace.
fn gateways(given: &[String], path: &str, findings: &mut Findings<'_>) {
    for (index, name) in given.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let message = format!("`{name}` is no name of a Gateway");
        let fix = "`name`, or `namespace/name`";
        let Some((namespace, name)) = name.split_once('/') else {
            if !names::is_domain(name) {
                findings.not_admitted(path, &message, fix);
            }
            return;
        };
        if !names::is_dns_label(namespace) || !names::is_dns_label(name) {
            findings.not_admitted(path, &message, fix);
        }
    }
}

fn hosts(spec: &VirtualServiceSpec, findings: &mut Findings<'_>) {
    // Sidecars apply it as well (`isGateway`).
    let in_mesh = spec.gateways.iter().any(|gateway| gateway == "mesh");
    for (index, host) in spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        let mut before = spec.hosts[..index].iter();
        if is_lax(host) {
            let fix = "`web.example.com`, `*.example.com` or `*`";
            findings.not_admitted(path, &format!("`{host}` is no domain"), fix);
        } else if let Some(other) = before.find(|other| overlap(other, host)) {
            let message = format!("`{host}` and `{other}` have hosts in common");
            findings.not_admitted(path, &message, "keep the one that is meant");
        } else if host == "*" && in_mesh {
            let message = "`*` is for gateways alone, and not for `mesh`";
            findings.not_admitted(path, message, "leave out `mesh`, or name the hosts");
        }
    }
}

/// Whether a host can be served, and is neither a domain nor an address to Istio.
fn is_lax(host: &str) -> bool {
    names::is_lax_host(host) && host.parse::<IpAddr>().is_err()
}

/// Whether there is a host that both stand for (`Name.Matches` of istio's pkg/config/host).
fn overlap(one: &str, other: &str) -> bool {
    match (one.strip_prefix('*'), other.strip_prefix('*')) {
        (Some(one), Some(other)) => one.ends_with(other) || other.ends_with(one),
        (Some(one), None) => other.ends_with(one),
        (None, Some(other)) => one.ends_with(other),
        (None, None) => one == other,
    }
}

/// `validateTCPMatch`
fn tcp_match(given: &L4Match, path: &str, findings: &mut Findings<'_>) {
    let subnets = given
        .destination_subnets
        .iter()
        .filter_map(Opaque::as_sequence);
    let subnets = subnets.flatten().chain(&given.source_subnet);
    for subnet in subnets.filter_map(Opaque::as_str) {
        if !is_subnet(subnet) {
            let message = format!("`{subnet}` is no network");
            findings.not_admitted(path, &message, "such as 10.0.0.0/8");
        }
    }
    gateways(&given.gateways, &format!("{path}.gateways"), findings);
}

/// An address, or a network of them (`ValidateIPSubnet`).
fn is_subnet(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || text.parse::<ipnet::IpNet>().is_ok()
}

// What several kinds have.

/// Whose `exportTo` it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exported {
    Rule { has_selector: bool },
    Entry,
    Other,
}

/// `validateExportTo`
fn export_to(given: &[String], of: Exported, findings: &mut Findings<'_>) {
    let own = findings.object.key.namespace.clone();
    let full = |name: &String| {
        if name == "." {
            own.clone()
        } else {
            name.clone()
        }
    };
    let all: Vec<String> = given.iter().map(full).collect();
    for (index, name) in all.iter().enumerate() {
        let path = format!("spec.exportTo[{index}]");
        if all[..index].contains(name) {
            let message = format!("`{name}` is there already");
            findings.not_admitted(path, &message, "keep one of them");
        } else if name == "~" && of != Exported::Entry {
            let fix = "only a ServiceEntry may be seen by nobody";
            findings.not_admitted(path, "`~` is no namespace", fix);
        } else if !matches!(name.as_str(), "*" | "~") && !names::is_dns_label(name) {
            let message = format!("`{name}` is no namespace");
            findings.not_admitted(path, &message, "`.`, `*`, or the name of one");
        }
    }
    if all.len() > 1 && all.iter().any(|name| name == "*") {
        let message = "`*` is all namespaces, with those that are named";
        findings.not_admitted("spec.exportTo", message, "`*` alone, or the others");
    }
    let elsewhere = all.iter().any(|name| *name != own);
    if of == (Exported::Rule { has_selector: true }) && elsewhere {
        let message = "with a workloadSelector this is for pods of its own namespace";
        findings.not_admitted("spec.exportTo", message, "`.`, or nothing");
    }
}

/// Labels, as they may stand on objects (`Instance.Validate` of istio's pkg/config/labels).
fn labels<'l>(
    given: impl IntoIterator<Item = (&'l String, &'l String)>,
    path: &str,
    findings: &mut Findings<'_>,
) {
    for (name, value) in given {
        if !names::is_label_key(name) || !names::is_label_value(value) {
            let message = format!("`{name}: {value}` is no label");
            let fix = "letters, digits, `-`, `_` and `.`, at most 63";
            findings.not_admitted(format!("{path}.{name}"), &message, fix);
        }
    }
}

// ServiceEntries.

fn service_entry(entry: &ServiceEntry, findings: &mut Findings<'_>) {
    let spec = &entry.spec;
    for (index, host) in spec.hosts.iter().enumerate() {
        if names::is_lax_host(host) {
            let path = format!("spec.hosts[{index}]");
            let fix = "`web.example.com` or `*.example.com`";
            findings.not_admitted(path, &format!("`{host}` is no domain"), fix);
        }
    }
    for (index, address) in spec.addresses.iter().enumerate() {
        if !is_subnet(address) {
            let message = format!("`{address}` is no address");
            let path = format!("spec.addresses[{index}]");
            findings.not_admitted(path, &message, "such as 10.0.0.1 or 10.0.0.0/8");
        }
    }
    for (index, port) in spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        if !port.name.is_empty() && !names::is_dns_label(&port.name) {
            let message = format!("`{}` is no name of a port", port.name);
            let fix = "letters, digits and `-`";
            findings.not_admitted(format!("{path}.name"), &message, fix);
        }
        if !port.protocol.is_empty() && !is_protocol_name(&port.protocol) {
            let message = format!("`{}` is not a protocol", port.protocol);
            let fix = "HTTP, HTTP2, GRPC, HTTPS, TLS or TCP";
            findings.not_admitted(format!("{path}.protocol"), &message, fix);
        }
    }
    let resolution = spec.resolution.as_deref().unwrap_or("NONE");
    if matches!(resolution, "NONE" | "DYNAMIC_DNS") && !spec.endpoints.is_empty() {
        let message = format!("with resolution {resolution} there are none");
        findings.not_admitted("spec.endpoints", &message, "`resolution: STATIC`, or DNS");
    } else {
        for (index, endpoint) in spec.endpoints.iter().enumerate() {
            let path = format!("spec.endpoints[{index}]");
            endpoint_words(endpoint, &path, findings);
        }
    }
    export_to(&spec.export_to, Exported::Entry, findings);
}

fn of_workload(workload: &Workload, findings: &mut Findings<'_>) {
    endpoint_words(&workload.spec, "spec", findings);
}

fn endpoint_words(endpoint: &WorkloadEntry, path: &str, findings: &mut Findings<'_>) {
    for name in endpoint.ports.keys() {
        if !names::is_dns_label(name) {
            let message = format!("`{name}` is no name of a port");
            let path = format!("{path}.ports.{name}");
            findings.not_admitted(path, &message, "letters, digits and `-`");
        }
    }
    labels(&endpoint.labels, &format!("{path}.labels"), findings);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_overlap_where_wildcards_reach() {
        for (one, other, wanted) in [
            ("*.x.test", "also.x.test", true),
            ("also.x.test", "*.x.test", true),
            ("*.test", "*.x.test", true),
            ("*", "a.b", true),
            ("*.x.test", "x.test", false),
            ("a.test", "b.test", false),
        ] {
            assert_eq!(overlap(one, other), wanted, "{one} {other}");
        }
    }
}
