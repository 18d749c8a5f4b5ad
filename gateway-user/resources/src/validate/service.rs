//! Services (`ValidateService` of kubernetes pkg/apis/core/validation).

use std::ops::RangeInclusive;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Findings, names};

/// The API server's default `--service-node-port-range`.
pub(crate) const NODE_PORTS: RangeInclusive<i32> = 30000..=32767;

pub(super) fn check(service: &Service, findings: &mut Findings<'_>) {
    let name = findings.object.key.name.clone();
    if names::is_subdomain(&name) && !names::is_service_name(&name) {
        findings.error(
            "metadata.name",
            format!("`{name}` is not a Service's name"),
            "a letter, then lower-case letters, digits and `-`, at most 63",
        );
    }
    let default = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    if !["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"].contains(&kind) {
        let message = format!("`{kind}` is not a type of Service");
        findings.error(
            "spec.type",
            message,
            "ClusterIP, NodePort, LoadBalancer or ExternalName",
        );
    }
    ports(spec, kind, findings);
    addresses(spec, findings);
    pending(service, spec, kind, findings);
}

fn ports(spec: &ServiceSpec, kind: &str, findings: &mut Findings<'_>) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        findings.error("spec.ports", "no ports", "name at least one");
    }
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        one_port(port, kind, &path, findings);
        if ports.len() > 1 && port.name.as_deref().unwrap_or_default().is_empty() {
            findings.error(
                format!("{path}.name"),
                "missing: a Service with several ports needs a name for each",
                "give it a name, such as `http`",
            );
        }
        for other in &ports[..index] {
            twice(port, other, &path, findings);
        }
    }
}

fn one_port(port: &ServicePort, kind: &str, path: &str, findings: &mut Findings<'_>) {
    findings.port(format!("{path}.port"), port.port.into());
    if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty())
        && !names::is_label(name)
    {
        let message = format!("`{name}` is not a port's name");
        findings.error(
            format!("{path}.name"),
            message,
            "lower-case letters, digits and `-`, at most 63",
        );
    }
    if let Some(protocol) = port.protocol.as_deref()
        && !["TCP", "UDP", "SCTP"].contains(&protocol)
    {
        let message = format!("`{protocol}` is not a protocol");
        findings.error(format!("{path}.protocol"), message, "TCP, UDP or SCTP");
    }
    match &port.target_port {
        Some(IntOrString::Int(number)) => {
            findings.port(format!("{path}.targetPort"), (*number).into());
        }
        // IANA service name (RFC 6335 §5.1).
        Some(IntOrString::String(name))
            if name.len() > 15 || !names::is_label(name) || !name.contains(char::is_alphabetic) =>
        {
            let message = format!("`{name}` is not the name of a container's port");
            findings.error(
                format!("{path}.targetPort"),
                message,
                "a number, or up to 15 lower-case letters, digits and `-`",
            );
        }
        Some(IntOrString::String(_)) | None => {}
    }
    let Some(node_port) = port.node_port.filter(|port| *port != 0) else {
        return;
    };
    let path = format!("{path}.nodePort");
    if !matches!(kind, "NodePort" | "LoadBalancer") {
        let message = format!("a Service of type {kind} has no node ports");
        findings.error(path, message, "remove it, or say `type: NodePort`");
    } else if !NODE_PORTS.contains(&node_port) {
        let message = format!("{node_port} is not a node port");
        let fix = format!("{} to {}", NODE_PORTS.start(), NODE_PORTS.end());
        findings.error(path, message, &fix);
    }
}

/// What two ports of one Service must not have in common.
fn twice(port: &ServicePort, other: &ServicePort, path: &str, findings: &mut Findings<'_>) {
    let protocol = |port: &ServicePort| port.protocol.clone().unwrap_or_else(|| "TCP".into());
    if port.name.is_some() && port.name == other.name {
        let name = port.name.as_deref().unwrap_or_default();
        let message = format!("the name `{name}` is taken by another port");
        findings.error(format!("{path}.name"), message, "give each port its own");
    }
    if protocol(port) != protocol(other) {
        return;
    }
    if port.port == other.port {
        let message = format!("{} {} is there already", protocol(port), port.port);
        findings.error(format!("{path}.port"), message, "remove one of them");
    }
    if port.node_port.is_some_and(|port| port != 0) && port.node_port == other.node_port {
        let message = format!("{} is there already", port.node_port.unwrap_or_default());
        findings.error(
            format!("{path}.nodePort"),
            message,
            "another number, or none",
        );
    }
}

fn addresses(spec: &ServiceSpec, findings: &mut Findings<'_>) {
    let is_address = |text: &&str| !matches!(*text, "" | "None");
    if let Some(address) = spec.cluster_ip.as_deref().filter(is_address) {
        findings.address("spec.clusterIP", address);
    }
    for (index, address) in spec.cluster_ips.iter().flatten().enumerate() {
        let path = format!("spec.clusterIPs[{index}]");
        if is_address(&address.as_str()) {
            findings.address(path.as_str(), address);
        }
        if index == 0
            && spec
                .cluster_ip
                .as_ref()
                .is_some_and(|first| first != address)
        {
            findings.error(
                path,
                "differs from spec.clusterIP",
                "make them equal, or leave one out",
            );
        }
    }
    for (index, address) in spec.external_ips.iter().flatten().enumerate() {
        let path = format!("spec.externalIPs[{index}]");
        if let Some(ip) = findings.address(path.as_str(), address)
            && (ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || is_link_local(ip))
        {
            let message = format!("{ip} cannot be reached from outside");
            findings.error(path, message, "an address that is routed to a node");
        }
    }
}

fn is_link_local(ip: std::net::IpAddr) -> bool {
    match ip {
        std::net::IpAddr::V4(ip) => ip.is_link_local(),
        std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Tells where a Service of type `LoadBalancer` is reached that no load balancer has taken up.
fn pending(service: &Service, spec: &ServiceSpec, kind: &str, findings: &mut Findings<'_>) {
    let given = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|balancer| balancer.ingress.as_ref())
        .is_some_and(|ingress| !ingress.is_empty());
    if kind != "LoadBalancer" || given {
        return;
    }
    let node_ports: Vec<_> = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| port.node_port.filter(|port| *port != 0))
        .map(|port| port.to_string())
        .collect();
    let mut ways = match node_ports.as_slice() {
        [] => Vec::new(),
        [only] => vec![format!("node port {only}")],
        several => vec![format!("node ports {}", several.join(", "))],
    };
    let cluster_ip = spec
        .cluster_ip
        .as_ref()
        .filter(|ip| !matches!(ip.as_str(), "" | "None"));
    ways.extend(cluster_ip.map(|ip| format!("cluster IP {ip}")));
    ways.extend(
        spec.external_ips
            .iter()
            .flatten()
            .map(|ip| format!("external IP {ip}")),
    );
    let ways = if ways.is_empty() {
        "not reachable yet".to_owned()
    } else {
        format!("reachable through {}", ways.join(", "))
    };
    findings.info(
        "spec.type",
        format!("load balancer address pending: no provider; {ways}"),
        "",
    );
}
