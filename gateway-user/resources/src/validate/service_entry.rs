//! ServiceEntries (`ValidateServiceEntry` of istio's pkg/config/validation).

use std::net::IpAddr;

use super::{Findings, names};
use crate::istio::{
    ServiceEntry,
    words::{EntryLocation, Resolution},
};

pub(super) fn check(entry: &ServiceEntry, findings: &mut Findings<'_>) {
    let spec = &entry.spec;
    if spec.hosts.is_empty() {
        findings.error("spec.hosts", "no hosts", "name at least one");
    }
    for (index, host) in spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        if host == "*" {
            findings.error(path, "`*` would be everything", "a name or `*.example.com`");
        } else if !names::is_host(&host.to_ascii_lowercase()) {
            let message = format!("`{host}` is not a host");
            findings.error(path, message, "`web.example.com` or `*.example.com`");
        }
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
    if spec.workload_selector.is_some() {
        if spec.endpoints.is_empty() {
            findings.ignored("spec.workloadSelector", true);
        } else {
            let message = "endpoints are given already";
            findings.error("spec.workloadSelector", message, "remove one of them");
        }
    }
    endpoints(entry, resolution, findings);
}

fn ports(entry: &ServiceEntry, findings: &mut Findings<'_>) {
    let ports = &entry.spec.ports;
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        findings.port(format!("{path}.number"), port.number);
        if port.target_port != 0 {
            findings.port(format!("{path}.targetPort"), port.target_port);
        }
        if port.name.is_empty() {
            findings.error(
                format!("{path}.name"),
                "missing",
                "give it a name, such as `http`",
            );
        }
        for other in &ports[..index] {
            if other.number == port.number {
                let message = format!("{} is there already", port.number);
                findings.error(format!("{path}.number"), message, "remove one of them");
            } else if other.name == port.name && !port.name.is_empty() {
                let message = format!("the name `{}` is taken by another port", port.name);
                findings.error(format!("{path}.name"), message, "rename one of them");
            }
        }
    }
}

fn endpoints(entry: &ServiceEntry, resolution: &str, findings: &mut Findings<'_>) {
    let spec = &entry.spec;
    let dns = matches!(resolution, "DNS" | "DNS_ROUND_ROBIN");
    let selected = spec.workload_selector.is_some();
    if resolution == "STATIC" && spec.endpoints.is_empty() && !selected {
        findings.error(
            "spec.endpoints",
            "no endpoints",
            "name at least one address",
        );
    }
    if resolution == "DNS_ROUND_ROBIN" && spec.endpoints.len() > 1 {
        let message = "only one endpoint is used at a time";
        findings.error("spec.endpoints", message, "keep one, or use DNS");
    }
    if dns && spec.endpoints.is_empty() {
        for (index, host) in spec.hosts.iter().enumerate() {
            if host.starts_with('*') {
                let message = format!("`{host}` cannot be resolved");
                let path = format!("spec.hosts[{index}]");
                findings.error(path, message, "name endpoints, or a full host");
            }
        }
    }
    for (index, endpoint) in spec.endpoints.iter().enumerate() {
        let path = format!("spec.endpoints[{index}]");
        let address = endpoint.address.as_str();
        let is_address = address.parse::<IpAddr>().is_ok();
        let is_name = names::is_host(&address.to_ascii_lowercase()) && !address.starts_with('*');
        if !(is_address || dns && is_name) {
            let message = format!("`{address}` is not an address");
            let fix = if dns {
                "an IP address or a name"
            } else {
                "an IP address, or `resolution: DNS`"
            };
            findings.error(format!("{path}.address"), message, fix);
        }
        for (name, number) in &endpoint.ports {
            findings.port(format!("{path}.ports.{name}"), *number);
            if !spec.ports.iter().any(|port| port.name == *name) {
                let message = format!("there is no port `{name}` in spec.ports");
                findings.error(
                    format!("{path}.ports.{name}"),
                    message,
                    "rename or remove it",
                );
            }
        }
        findings.ignored(format!("{path}.network"), endpoint.network.is_some());
    }
}
