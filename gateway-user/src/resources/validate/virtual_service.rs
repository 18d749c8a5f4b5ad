//! VirtualServices (`ValidateVirtualService` of istio's pkg/config/validation).
//!
//! Of what this version cannot do yet, actions are left out with a warning, but a condition or an
//! action whose absence would send requests elsewhere makes the VirtualService an error.

use super::{Findings, names};
use crate::resources::istio::{
    Destination, HttpMatch, HttpRoute, RouteDestination, StringMatch, TcpRoute, VirtualService,
};

pub(super) fn check(service: &VirtualService, findings: &mut Findings<'_>) {
    let spec = &service.spec;
    if spec.hosts.is_empty() {
        findings.error("spec.hosts", "no hosts", "name at least one; `*` is any");
    }
    let on_gateway = spec.gateways.iter().any(|gateway| gateway != "mesh");
    for (index, host) in spec.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        let lower = host.to_ascii_lowercase();
        if !names::is_host(&lower) {
            let message = format!("`{host}` is not a host");
            findings.error(path, message, "`web.example.com`, `*.example.com` or `*`");
        } else if spec.hosts[..index]
            .iter()
            .any(|other| other.eq_ignore_ascii_case(host))
        {
            findings.error(
                path,
                format!("`{host}` is there already"),
                "remove one of them",
            );
        } else if lower == "*" && !on_gateway {
            let message = "`*` needs a gateway: without one this is about traffic between pods";
            findings.error(path, message, "name the Gateway in spec.gateways");
        }
    }
    for (index, gateway) in spec.gateways.iter().enumerate() {
        if gateway.is_empty() {
            findings.error(format!("spec.gateways[{index}]"), "empty", "name a Gateway");
        }
    }
    if spec.http.is_empty() && spec.tcp.is_empty() && spec.tls.is_empty() {
        findings.error("spec", "no routes", "give it `http` or `tcp` routes");
    }
    if !on_gateway {
        findings.info(
            "spec.gateways",
            "names no Gateway, so no gateway applies it: traffic between pods is not routed by this version",
            "",
        );
    }
    findings.ignored("spec.tls", !spec.tls.is_empty());
    for (index, route) in spec.http.iter().enumerate() {
        http(route, &format!("spec.http[{index}]"), findings);
    }
    for (index, route) in spec.tcp.iter().enumerate() {
        tcp(route, &format!("spec.tcp[{index}]"), findings);
    }
}

fn http(route: &HttpRoute, path: &str, findings: &mut Findings<'_>) {
    let elsewhere = "without it there is no answer to give";
    for (field, given) in [
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some()),
        ("delegate", route.delegate.is_some()),
    ] {
        findings.unsupported(format!("{path}.{field}"), given, elsewhere);
    }
    for (field, given) in [
        ("timeout", route.timeout.is_some()),
        ("retries", route.retries.is_some()),
        ("fault", route.fault.is_some()),
        ("mirror", route.mirror.is_some()),
        ("mirrors", route.mirrors.is_some()),
        ("mirrorPercent", route.mirror_percent.is_some()),
        ("mirrorPercentage", route.mirror_percentage.is_some()),
        ("corsPolicy", route.cors_policy.is_some()),
        ("headers", route.headers.is_some()),
    ] {
        findings.ignored(format!("{path}.{field}"), given);
    }
    if let Some(rewrite) = &route.rewrite {
        let path = format!("{path}.rewrite");
        findings.ignored(format!("{path}.authority"), rewrite.authority.is_some());
        findings.ignored(
            format!("{path}.uriRegexRewrite"),
            rewrite.uri_regex_rewrite.is_some(),
        );
    }
    let acts = [&route.redirect, &route.direct_response, &route.delegate];
    if route.route.is_empty() && acts.iter().all(|action| action.is_none()) {
        findings.error(
            path,
            "leads nowhere",
            "give it a `route` with a destination",
        );
    }
    for (index, matches) in route.matches.iter().enumerate() {
        http_match(matches, &format!("{path}.match[{index}]"), findings);
    }
    destinations(&route.route, path, findings);
}

fn http_match(matches: &HttpMatch, path: &str, findings: &mut Findings<'_>) {
    let everything = "without it the route would match too much";
    for (field, given) in [
        ("scheme", matches.scheme.is_some()),
        ("method", matches.method.is_some()),
        ("authority", matches.authority.is_some()),
        ("headers", matches.headers.is_some()),
        ("queryParams", matches.query_params.is_some()),
        ("withoutHeaders", matches.without_headers.is_some()),
    ] {
        findings.unsupported(format!("{path}.{field}"), given, everything);
    }
    let why = "without it the route would match too little";
    findings.unsupported(
        format!("{path}.ignoreUriCase"),
        matches.ignore_uri_case,
        why,
    );
    if let Some(uri) = &matches.uri {
        let path = format!("{path}.uri");
        findings.unsupported(format!("{path}.regex"), uri.regex.is_some(), everything);
        string_match(uri, &path, findings);
    }
    if matches.port != 0 {
        findings.port(format!("{path}.port"), matches.port);
    }
}

fn string_match(matches: &StringMatch, path: &str, findings: &mut Findings<'_>) {
    let StringMatch {
        exact,
        prefix,
        regex,
    } = matches;
    match [exact, prefix, regex].into_iter().flatten().count() {
        0 => findings.error(path, "says nothing", "give it `exact` or `prefix`"),
        1 => {}
        _ => findings.error(
            path,
            "says more than one thing",
            "only one of `exact`, `prefix`, `regex`",
        ),
    }
    if prefix.as_deref() == Some("") {
        findings.error(format!("{path}.prefix"), "empty", "`/` matches every path");
    }
    for (field, value) in [("exact", exact), ("prefix", prefix)] {
        if let Some(value) = value
            && !value.is_empty()
            && !value.starts_with('/')
        {
            let message = format!("`{value}` matches no request: every path begins with `/`");
            findings.warning(format!("{path}.{field}"), message, "begin with `/`");
        }
    }
}

fn tcp(route: &TcpRoute, path: &str, findings: &mut Findings<'_>) {
    if route.route.is_empty() {
        findings.error(
            path,
            "leads nowhere",
            "give it a `route` with a destination",
        );
    }
    for (index, matches) in route.matches.iter().enumerate() {
        let path = format!("{path}.match[{index}]");
        if matches.port != 0 {
            findings.port(format!("{path}.port"), matches.port);
        }
        // `l4SingleMatch` of istio's gateway.go looks at port and gateways only.
        for (field, given) in [
            ("destinationSubnets", matches.destination_subnets.is_some()),
            ("sourceSubnet", matches.source_subnet.is_some()),
            ("sourceLabels", matches.source_labels.is_some()),
            ("sourceNamespace", matches.source_namespace.is_some()),
        ] {
            if given {
                let message = "has no effect on a gateway, in Istio neither; ignored";
                findings.warning(format!("{path}.{field}"), message, "");
            }
        }
    }
    destinations(&route.route, path, findings);
}

fn destinations(route: &[RouteDestination], path: &str, findings: &mut Findings<'_>) {
    for (index, route) in route.iter().enumerate() {
        let path = format!("{path}.route[{index}]");
        destination(&route.destination, &format!("{path}.destination"), findings);
        if !(0..=i64::from(i32::MAX)).contains(&route.weight) {
            let message = format!("{} is not a weight", route.weight);
            findings.error(format!("{path}.weight"), message, "0 or more");
        }
        findings.ignored(format!("{path}.headers"), route.headers.is_some());
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
    } else if host.starts_with('*') || !names::is_host(&host.to_ascii_lowercase()) {
        let message = format!("`{host}` is not a host");
        findings.error(format!("{path}.host"), message, "the name of a Service");
    }
    if let Some(port) = &destination.port {
        findings.port(format!("{path}.port.number"), port.number);
    }
}
