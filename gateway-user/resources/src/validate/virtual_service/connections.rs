//! Routes for connections (`validateTCPRoute`, `validateTLSRoute` of istio's pkg/config/validation).

use std::net::IpAddr;

use super::{super::Findings, destinations, hosts};
use crate::{
    istio::{Opaque, RouteDestination, TcpRoute, TlsMatch, TlsRoute, VirtualServiceSpec},
    lookup::is_host_within,
};

pub(super) fn tcp(route: &TcpRoute, path: &str, findings: &mut Findings<'_>) {
    for (index, matches) in route.matches.iter().enumerate() {
        let path = format!("{path}.match[{index}]");
        if matches.port != 0 {
            findings.port(format!("{path}.port"), matches.port);
        }
        without_effect(
            [
                ("destinationSubnets", &matches.destination_subnets),
                ("sourceSubnet", &matches.source_subnet),
                ("sourceLabels", &matches.source_labels),
                ("sourceNamespace", &matches.source_namespace),
            ],
            &path,
            findings,
        );
    }
    leads(&route.route, path, findings);
}

pub(super) fn tls(
    route: &TlsRoute,
    spec: &VirtualServiceSpec,
    path: &str,
    findings: &mut Findings<'_>,
) {
    if route.matches.is_empty() {
        let message = "no condition: connections are told apart by the names that they ask for";
        let fix = "give it a `match` with `sniHosts`";
        findings.error(format!("{path}.match"), message, fix);
    }
    for (index, matches) in route.matches.iter().enumerate() {
        tls_match(matches, spec, &format!("{path}.match[{index}]"), findings);
    }
    leads(&route.route, path, findings);
}

fn tls_match(
    matches: &TlsMatch,
    spec: &VirtualServiceSpec,
    path: &str,
    findings: &mut Findings<'_>,
) {
    if matches.port != 0 {
        findings.port(format!("{path}.port"), matches.port);
    }
    if matches.sni_hosts.is_empty() {
        let fix = "name the hosts that clients ask for";
        findings.error(format!("{path}.sniHosts"), "no names", fix);
    }
    for (index, name) in matches.sni_hosts.iter().enumerate() {
        let path = format!("{path}.sniHosts[{index}]");
        let Ok(name) = hosts::host(name) else {
            let message = format!("`{name}` is not a host");
            findings.error(path, message, "`web.example.com` or `*.example.com`");
            continue;
        };
        // `validateSniHost`
        let is_address = name.parse::<IpAddr>().is_ok();
        if !is_address && !spec.read_hosts().any(|host| is_host_within(&name, &host)) {
            let message = format!("`{name}` is not within any of spec.hosts");
            findings.error(path, message, "add it to spec.hosts");
        }
    }
    without_effect(
        [
            ("destinationSubnets", &matches.destination_subnets),
            ("sourceLabels", &matches.source_labels),
            ("sourceNamespace", &matches.source_namespace),
        ],
        path,
        findings,
    );
}

/// `l4SingleMatch` of istio's gateway.go looks at port and gateways only.
fn without_effect<const N: usize>(
    fields: [(&str, &Option<Opaque>); N],
    path: &str,
    findings: &mut Findings<'_>,
) {
    for (field, given) in fields {
        if given.is_some() {
            let message = "has no effect on a gateway, in Istio neither; ignored";
            findings.warning(format!("{path}.{field}"), message, "");
        }
    }
}

fn leads(route: &[RouteDestination], path: &str, findings: &mut Findings<'_>) {
    if route.is_empty() {
        let fix = "give it a `route` with a destination";
        findings.error(path, "leads nowhere", fix);
    }
    destinations(route, path, findings);
    for (index, destination) in route.iter().enumerate() {
        if destination.headers.is_some() {
            let path = format!("{path}.route[{index}].headers");
            findings.error(path, "a connection has no headers", "remove it");
        }
    }
}
