//! Routes that leave the rest to another VirtualService (`mergeVirtualServicesIfNeeded` of istio's
//! pilot/pkg/model/virtualservice.go).

use std::{borrow::Cow, collections::BTreeMap};

use nodegate_resources::{
    ResourceKind,
    istio::{Delegate, HttpMatch, HttpRoute, StringMatch},
    lookup::{gateway_reference, is_exported},
    object::{Body, Object},
};
use nodegate_values::diagnostic::Severity;

use crate::front::istio::context::GatewayContext;

/// The routes of the VirtualService that `root`, the route of that index in `object`, delegates to;
/// each together with what `root` says, and its namespace. One that contradicts `root` is left out.
pub(super) fn routes<'r>(
    object: &'r Object,
    index: usize,
    root: &'r HttpRoute,
    to: &'r Delegate,
    context: &mut GatewayContext<'r>,
) -> Vec<(Cow<'r, HttpRoute>, &'r str)> {
    let own = object.key.namespace.as_str();
    let namespace = if to.namespace.is_empty() {
        own
    } else {
        &to.namespace
    };
    let found = context
        .resources
        .get(ResourceKind::VirtualService, namespace, &to.name);
    let Some((delegate, Body::VirtualService(service))) =
        found.map(|object| (object, &object.body))
    else {
        let message = format!("there is no VirtualService {namespace}/{}", to.name);
        complain(
            context,
            object,
            index,
            &message,
            "create it, or name one that there is",
        );
        return Vec::new();
    };
    let namespace = delegate.key.namespace.as_str();
    if !service.spec.hosts.is_empty() {
        let message = format!(
            "{} has hosts, and so nobody can delegate to it",
            delegate.key
        );
        complain(
            context,
            object,
            index,
            &message,
            "remove its hosts and gateways",
        );
        return Vec::new();
    }
    if !is_exported(&service.spec.export_to, namespace, own) {
        let message = format!("{} is not exported to {own}", delegate.key);
        complain(
            context,
            object,
            index,
            &message,
            "add the namespace to its exportTo",
        );
        return Vec::new();
    }
    let mut routes = Vec::new();
    for (place, route) in service.spec.http.iter().enumerate() {
        if let Some(route) = merged(root, route, (own, namespace)) {
            routes.push((Cow::Owned(route), namespace));
            continue;
        }
        let message = format!(
            "its conditions contradict those of {}, which delegates to it; the route is left out",
            object.key
        );
        let path = format!("spec.http[{place}].match");
        let report = delegate.report(Severity::Warning, path, message, None);
        context.diagnostics.push(report);
    }
    routes
}

fn complain(
    context: &mut GatewayContext<'_>,
    object: &Object,
    index: usize,
    message: &str,
    fix: &str,
) {
    let path = format!("spec.http[{index}].delegate");
    let message = format!("{message}; the route is left out");
    let report = object.report(Severity::Warning, path, message, fix.to_owned());
    context.diagnostics.push(report);
}

/// `mergeHTTPRoute`: what the delegate does not say is what the root says. `namespaces` are those of the
/// root and of the delegate.
fn merged(root: &HttpRoute, delegate: &HttpRoute, namespaces: (&str, &str)) -> Option<HttpRoute> {
    let full = |matches: &[HttpMatch], namespace| -> Vec<HttpMatch> {
        let full = |one: &HttpMatch| with_full_names(one, namespace);
        matches.iter().map(full).collect()
    };
    let mut route = delegate.clone();
    route.matches = matches(
        &full(&root.matches, namespaces.0),
        &full(&delegate.matches, namespaces.1),
    )?;
    route.name = joined(&root.name, &delegate.name);
    route.rewrite = route.rewrite.or_else(|| root.rewrite.clone());
    route.timeout = route.timeout.or(root.timeout);
    route.retries = route.retries.or_else(|| root.retries.clone());
    route.fault = route.fault.or_else(|| root.fault.clone());
    route.mirror = route.mirror.or_else(|| root.mirror.clone());
    if route.mirrors.is_empty() {
        route.mirrors.clone_from(&root.mirrors);
    }
    route.mirror_percent = route.mirror_percent.or(root.mirror_percent);
    route.mirror_percentage = route.mirror_percentage.or(root.mirror_percentage);
    route.cors_policy = route.cors_policy.or_else(|| root.cors_policy.clone());
    route.headers = route.headers.or_else(|| root.headers.clone());
    Some(route)
}

/// `mergeHTTPMatchRequests`: each of the delegate's must agree with one of the root's at least.
fn matches(root: &[HttpMatch], delegate: &[HttpMatch]) -> Option<Vec<HttpMatch>> {
    if root.is_empty() {
        return Some(delegate.to_vec());
    }
    if delegate.is_empty() {
        return Some(root.to_vec());
    }
    let mut all = Vec::new();
    for leaf in delegate {
        let before = all.len();
        all.extend(root.iter().filter_map(|root| both(root, leaf)));
        if all.len() == before {
            return None;
        }
    }
    Some(all)
}

/// The condition with its Gateways' names in full: they are compared, and mean what they mean where they are
/// written (`ResolveVirtualServiceShortnames`).
fn with_full_names(given: &HttpMatch, namespace: &str) -> HttpMatch {
    let full = |name: &String| match gateway_reference(name, namespace) {
        Some((namespace, name)) => format!("{namespace}/{name}"),
        None => name.clone(),
    };
    HttpMatch {
        gateways: given.gateways.iter().map(full).collect(),
        ..given.clone()
    }
}

/// Both together; none if that is impossible (`hasConflict`, `mergeHTTPMatchRequest`).
fn both(root: &HttpMatch, leaf: &HttpMatch) -> Option<HttpMatch> {
    let pairs = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let agree = pairs
        .into_iter()
        .all(|(root, leaf)| narrows(root.as_ref(), leaf.as_ref()))
        && all_narrow(&root.headers, &leaf.headers)
        && all_narrow(&root.without_headers, &leaf.without_headers)
        && all_narrow(&root.query_params, &leaf.query_params)
        && root.ignore_uri_case == leaf.ignore_uri_case
        && (root.port == 0 || leaf.port == 0 || root.port == leaf.port)
        && are_of_one_proxy(root, leaf);
    let or = |leaf: &String, root: &String| if leaf.is_empty() { root } else { leaf }.clone();
    agree.then(|| HttpMatch {
        name: joined(&root.name, &leaf.name),
        uri: leaf.uri.clone().or_else(|| root.uri.clone()),
        scheme: leaf.scheme.clone().or_else(|| root.scheme.clone()),
        method: leaf.method.clone().or_else(|| root.method.clone()),
        authority: leaf.authority.clone().or_else(|| root.authority.clone()),
        headers: together(&root.headers, &leaf.headers),
        without_headers: together(&root.without_headers, &leaf.without_headers),
        query_params: together(&root.query_params, &leaf.query_params),
        port: if leaf.port == 0 { root.port } else { leaf.port },
        source_labels: together(&root.source_labels, &leaf.source_labels),
        source_namespace: or(&leaf.source_namespace, &root.source_namespace),
        gateways: if leaf.gateways.is_empty() {
            root.gateways.clone()
        } else {
            leaf.gateways.clone()
        },
        ..leaf.clone()
    })
}

/// Whether there can be a proxy of which both speak.
fn are_of_one_proxy(root: &HttpMatch, leaf: &HttpMatch) -> bool {
    let namespace = &root.source_namespace;
    let labels = leaf.source_labels.iter().all(|(label, value)| {
        let of_root = root.source_labels.get(label);
        of_root.is_none_or(|of_root| of_root == value)
    });
    let gateways = root.gateways.is_empty()
        || leaf
            .gateways
            .iter()
            .all(|name| root.gateways.contains(name));
    labels && gateways && (namespace.is_empty() || *namespace == leaf.source_namespace)
}

/// All of both; what both say is as the leaf says.
fn together<V: Clone>(
    root: &BTreeMap<String, V>,
    leaf: &BTreeMap<String, V>,
) -> BTreeMap<String, V> {
    let mut all = root.clone();
    all.extend(leaf.clone());
    all
}

fn all_narrow(root: &BTreeMap<String, StringMatch>, leaf: &BTreeMap<String, StringMatch>) -> bool {
    leaf.iter()
        .all(|(name, leaf)| narrows(root.get(name), Some(leaf)))
}

/// Whether whatever `leaf` matches is matched by `root` (the opposite of `stringMatchConflict`, to which an empty text
/// is none).
fn narrows(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    let (Some(root), Some(leaf)) = (root, leaf) else {
        return true;
    };
    if root.regex.is_some() || leaf.regex.is_some() {
        return false;
    }
    let [root_exact, root_prefix, exact, prefix] =
        [&root.exact, &root.prefix, &leaf.exact, &leaf.prefix]
            .map(|text| text.as_deref().filter(|text| !text.is_empty()));
    match (root_exact, root_prefix, exact, prefix) {
        (Some(root), _, Some(leaf), None) => root == leaf,
        (None, Some(root), Some(leaf), None) | (None, Some(root), None, Some(leaf)) => {
            leaf.starts_with(root)
        }
        _ => false,
    }
}

fn joined(root: &str, delegate: &str) -> String {
    match (root, delegate) {
        ("", name) | (name, "") => name.into(),
        (root, delegate) => format!("{root}-{delegate}"),
    }
}
