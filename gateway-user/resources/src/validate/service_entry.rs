//! ServiceEntries (`ValidateServiceEntry` of istio's pkg/config/validation).
//!
//! A host, a port or an endpoint that cannot be read is left out, and the others are served. A ServiceEntry
//! without hosts is refused, and so is one of whose endpoints none is left.

use std::net::Ipv6Addr;

use nodegate_values::port::port as port_number;

use super::Findings;
use crate::istio::{
    ServiceEntry, WorkloadEntry, hosts,
    words::{EntryLocation, Resolution},
};

pub(super) fn check(entry: &ServiceEntry, findings: &mut Findings<'_>) {
    let spec = &entry.spec;
    for (index, host) in spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        if host == "*" {
            let message = "`*` would be everything";
            findings.left_out(path, "host", message, "a name or `*.example.com`");
        } else if host.parse::<Ipv6Addr>().is_ok() {
            let message = format!("`{host}` is an address, and not a name");
            findings.left_out(path, "host", &message, "put it into `addresses`");
        } else if let Err(error) = hosts::host(host) {
            let fix = "`web.example.com` or `*.example.com`";
            findings.left_out(path, "host", &error.to_string(), fix);
        }
    }
    if spec.read_hosts().next().is_none() {
        let message = if spec.hosts.is_empty() {
            "no hosts"
        } else {
            "no host is left"
        };
        findings.error("spec.hosts", message, "name at least one");
    }
    ports(entry, findings);
    let resolution = spec.resolution.as_deref().unwrap_or("NONE");
    findings.one_of::<Resolution>("spec.resolution", resolution);
    if let Some(location) = &spec.location {
        findings.one_of::<EntryLocation>("spec.location", location);
    }
    if matches!(resolution, "NONE" | "DYNAMIC_DNS") {
        findings.warning(
            "spec.resolution",
            format!(
                "{resolution} is not supported by this version; requests to its hosts are answered with 503"
            ),
            "STATIC, with addresses, or DNS",
        );
    }
    let mut addresses = spec.addresses.iter();
    if spec.is_resolved() && addresses.any(|address| address.contains('/')) {
        let message = "networks go with STATIC or NONE alone";
        findings.error(
            "spec.addresses",
            message,
            "addresses, or another resolution",
        );
    }
    if spec.workload_selector.is_some() && !spec.endpoints.is_empty() {
        let message = "endpoints are given already";
        findings.error("spec.workloadSelector", message, "remove one of them");
    }
    endpoints(entry, resolution, findings);
}

fn ports(entry: &ServiceEntry, findings: &mut Findings<'_>) {
    let ports = &entry.spec.ports;
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let mut left_out = |field: &str, message: &str, fix: &str| {
            findings.left_out(format!("{path}.{field}"), "port", message, fix);
        };
        if let Err(error) = port_number(port.number) {
            left_out("number", &error.to_string(), "1 to 65535");
        }
        if let Err(error) = port_number(port.target_port)
            && port.target_port != 0
        {
            left_out("targetPort", &error.to_string(), "1 to 65535");
        }
        if port.name.is_empty() {
            left_out("name", "missing", "give it a name, such as `http`");
        }
        for other in &ports[..index] {
            if other.number == port.number {
                let message = format!("{} is there already", port.number);
                left_out("number", &message, "remove one of them");
            } else if other.name == port.name && !port.name.is_empty() {
                let message = format!("the name `{}` is taken by another port", port.name);
                left_out("name", &message, "rename one of them");
            }
        }
    }
}

fn endpoints(entry: &ServiceEntry, resolution: &str, findings: &mut Findings<'_>) {
    let spec = &entry.spec;
    let selected = spec.workload_selector.is_some();
    if resolution == "STATIC" && spec.endpoints.is_empty() && !selected {
        findings.info(
            "spec.endpoints",
            "no endpoints: requests to its hosts are answered with 503",
            "name at least one address",
        );
    }
    if resolution == "DNS_ROUND_ROBIN" && spec.endpoints.len() > 1 {
        let message = "only one endpoint is used at a time";
        findings.error("spec.endpoints", message, "keep one, or use DNS");
    }
    if spec.is_resolved() && spec.endpoints.is_empty() && !selected {
        for (index, host) in spec.hosts.iter().enumerate() {
            if host.starts_with('*') && host != "*" {
                let message = format!("`{host}` cannot be resolved");
                let path = format!("spec.hosts[{index}]");
                findings.error(path, message, "name endpoints, or a full host");
            }
        }
    }
    let mut is_one_left = false;
    for (index, endpoint) in spec.endpoints.iter().enumerate() {
        let path = format!("spec.endpoints[{index}]");
        is_one_left |= one_endpoint(entry, endpoint, &path, findings);
    }
    if !is_one_left && !spec.endpoints.is_empty() {
        let fix = "name at least one address";
        findings.error("spec.endpoints", "no endpoint is left", fix);
    }
}

/// Gives whether it is one.
fn one_endpoint(
    entry: &ServiceEntry,
    endpoint: &WorkloadEntry,
    path: &str,
    findings: &mut Findings<'_>,
) -> bool {
    let spec = &entry.spec;
    let is_good = endpoint.is_somewhere(spec.is_resolved());
    if !is_good {
        let message = format!("`{}` is not an address", endpoint.address);
        let fix = if spec.is_resolved() {
            "an IP address or a name"
        } else {
            "an IP address, or `resolution: DNS`"
        };
        findings.left_out(format!("{path}.address"), "endpoint", &message, fix);
    }
    for (name, number) in &endpoint.ports {
        let path = format!("{path}.ports.{name}");
        if let Err(error) = port_number(*number) {
            findings.left_out(&path, "endpoint", &error.to_string(), "1 to 65535");
        }
        if !spec.ports.iter().any(|port| port.name == *name) {
            let message = format!("there is no port `{name}` in spec.ports");
            findings.not_admitted(path, &message, "rename or remove it");
        }
    }
    findings.ignored(format!("{path}.network"), endpoint.network.is_some());
    is_good
}
