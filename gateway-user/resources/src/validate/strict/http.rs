//! HTTP routes that Istio's webhook refuses, and that can be served.

use super::{Findings, gateways, header_value, labels};
use crate::{
    istio::{
        CorsPolicy, Destination, HeaderChanges, Headers, HttpMatch, HttpRoute, Redirect, Retries,
    },
    names,
};

/// Methods that CORS may name (`supportedCORSMethods`).
const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*",
];

pub(super) fn check(route: &HttpRoute, path: &str, findings: &mut Findings<'_>) {
    for (index, given) in route.matches.iter().enumerate() {
        condition(given, &format!("{path}.match[{index}]"), findings);
    }
    if let Some(given) = &route.headers {
        headers(given, &format!("{path}.headers"), findings);
    }
    if let Some(cors) = &route.cors_policy {
        cors_policy(cors, &format!("{path}.corsPolicy"), findings);
    }
    if let Some(given) = &route.redirect {
        redirect(given, &format!("{path}.redirect"), findings);
    }
    if let Some(given) = &route.retries {
        retries(given, &format!("{path}.retries"), findings);
    }
    let regex = route
        .rewrite
        .iter()
        .flat_map(|rewrite| &rewrite.uri_regex_rewrite);
    for regex in regex {
        if regex.rewrite.is_empty() {
            let path = format!("{path}.rewrite.uriRegexRewrite.rewrite");
            findings.not_admitted(path, "empty", "`/` is the shortest path");
        }
    }
    if route.timeout.is_some_and(|timeout| timeout.0.is_zero()) {
        let message = "0, which is no timeout";
        findings.not_admitted(format!("{path}.timeout"), message, "remove it");
    }
    let mirrors = route.mirrors.iter().map(|mirror| &mirror.destination);
    for given in route.mirror.iter().chain(mirrors) {
        destination(given, &format!("{path}.mirror"), findings);
    }
    for (index, given) in route.route.iter().enumerate() {
        let path = format!("{path}.route[{index}]");
        destination(&given.destination, &format!("{path}.destination"), findings);
        if let Some(given) = &given.headers {
            headers(given, &format!("{path}.headers"), findings);
        }
    }
}

/// `validateDestination`
pub(super) fn destination(given: &Destination, path: &str, findings: &mut Findings<'_>) {
    if names::is_lax_host(&given.host) {
        let message = format!("`{}` is no domain", given.host);
        findings.not_admitted(format!("{path}.host"), &message, "the name of a Service");
    }
    if !given.subset.is_empty() && !names::is_dns_label(&given.subset) {
        let message = format!("`{}` is no name of a subset", given.subset);
        let fix = "letters, digits and `-`";
        findings.not_admitted(format!("{path}.subset"), &message, fix);
    }
}

/// `validateHTTPRouteMatchRequest`
fn condition(given: &HttpMatch, path: &str, findings: &mut Findings<'_>) {
    gateways(&given.gateways, &format!("{path}.gateways"), findings);
    labels(
        &given.source_labels,
        &format!("{path}.sourceLabels"),
        findings,
    );
    let namespace = &given.source_namespace;
    if !namespace.is_empty() && !names::is_dns_label(namespace) {
        let message = format!("`{namespace}` is no namespace");
        let fix = "letters, digits and `-`";
        findings.not_admitted(format!("{path}.sourceNamespace"), &message, fix);
    }
}

fn headers(given: &Headers, path: &str, findings: &mut Findings<'_>) {
    changes(&given.request, &format!("{path}.request"), findings);
    changes(&given.response, &format!("{path}.response"), findings);
}

fn changes(given: &HeaderChanges, path: &str, findings: &mut Findings<'_>) {
    for (field, values) in [("set", &given.set), ("add", &given.add)] {
        for (name, value) in values {
            let path = format!("{path}.{field}.{name}");
            if let Err(error) = header_value::check(value) {
                findings.not_admitted(path, error, "only variables without a suffix");
            }
        }
    }
}

/// `validateCORSPolicy`
fn cors_policy(cors: &CorsPolicy, path: &str, findings: &mut Findings<'_>) {
    for (index, origin) in cors.allow_origins.iter().flatten().enumerate() {
        if origin.exact.as_deref() == Some("") {
            let path = format!("{path}.allowOrigins[{index}].exact");
            findings.not_admitted(path, "empty", "such as `https://web.example.com`");
        }
    }
    for (index, method) in cors.allow_methods.iter().enumerate() {
        if !METHODS.contains(&method.as_str()) {
            let message = format!("`{method}` is not a method that browsers ask for");
            let path = format!("{path}.allowMethods[{index}]");
            findings.not_admitted(path, &message, &format!("some of {}", METHODS.join(", ")));
        }
    }
    for (field, names) in [
        ("allowHeaders", &cors.allow_headers),
        ("exposeHeaders", &cors.expose_headers),
    ] {
        for (index, name) in names.iter().enumerate() {
            if name != "*" && name.parse::<::http::HeaderName>().is_err() {
                let message = format!("`{name}` is not the name of a header");
                let path = format!("{path}.{field}[{index}]");
                findings.not_admitted(path, &message, "letters, digits and `-`");
            }
        }
    }
    if cors.max_age.is_some_and(|age| age.0.is_zero()) {
        findings.not_admitted(format!("{path}.maxAge"), "0", "1s or more");
    }
}

/// `validateHTTPRedirect`
fn redirect(given: &Redirect, path: &str, findings: &mut Findings<'_>) {
    let texts = [&given.uri, &given.authority, &given.scheme];
    let has_port = given.port.is_some() || given.derive_port.is_some();
    if texts.iter().all(|text| text.is_empty()) && !has_port {
        let message = "leads to where the request came to";
        findings.not_admitted(
            path,
            message,
            "give it `uri`, `authority`, `scheme` or `port`",
        );
    }
    if !matches!(given.scheme.as_str(), "" | "http" | "https") {
        let message = format!("`{}` is no scheme of HTTP", given.scheme);
        findings.not_admitted(format!("{path}.scheme"), &message, "http or https");
    }
}

/// `validateHTTPRetry`
fn retries(given: &Retries, path: &str, findings: &mut Findings<'_>) {
    let mut words = given.retry_on.split(',');
    if !given.retry_on.is_empty() && words.any(|word| word.is_empty() || word.trim() != word) {
        let message = "there are spaces, or nothing, between its commas";
        let fix = "such as `5xx,reset`";
        findings.not_admitted(format!("{path}.retryOn"), message, fix);
    }
}
