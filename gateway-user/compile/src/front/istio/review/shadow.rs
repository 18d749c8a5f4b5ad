//! Routes that are never taken, because others stand before them and take all that they want.

mod earlier;

use std::collections::{BTreeMap, BTreeSet};

use nodegate_model::gateway::{
    HttpRoutes, Listener, ListenerProtocol, RouteKind, RouteMatch, VirtualHost,
};
use nodegate_resources::{
    ResourceKind, Resources,
    istio::{HttpMatch, TcpRoute, VirtualService},
    object::Object,
};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use crate::front::istio::http::condition;
use earlier::Earlier;

/// One of a rule's conditions.
struct Condition<'v> {
    /// The rule's place.
    rule: usize,
    /// None of a rule without any.
    place: Option<usize>,
    given: Option<&'v HttpMatch>,
    matches: RouteMatch,
}

/// Warns of rules of each VirtualService that others of the same stand before, whoever applies it
/// (`analyzeUnreachableHTTPRules` of istio's pkg/config/validation).
pub(super) fn within_objects(resources: &Resources, diagnostics: &mut Vec<Diagnostic>) {
    for (object, service) in resources.virtual_services() {
        http(object, service, diagnostics);
        tcp(object, &service.spec.tcp, diagnostics);
    }
}

fn http(object: &Object, service: &VirtualService, diagnostics: &mut Vec<Diagnostic>) {
    let mut earlier = Earlier::default();
    let mut seen: Vec<Condition<'_>> = Vec::new();
    for (rule, route) in service.spec.http.iter().enumerate() {
        let given: Vec<_> = match route.matches.as_slice() {
            [] => vec![(None, None)],
            matches => matches
                .iter()
                .enumerate()
                .map(|(place, matches)| (Some(place), Some(matches)))
                .collect(),
        };
        let mut covered = Vec::new();
        let first_of_rule = seen.len();
        for (place, given) in given {
            let Ok(matches) = condition::compile(given) else {
                continue;
            };
            let by = earlier.covering(&matches, |index| {
                let before: &Condition<'_> = &seen[index];
                is_everywhere(before.given, given)
            });
            covered.extend(by.map(|by| (place, by)));
            earlier.add(&matches, seen.len());
            seen.push(Condition {
                rule,
                place,
                given,
                matches,
            });
        }
        let all = seen.len() - first_of_rule;
        told(object, rule, all, &covered, &seen, diagnostics);
        if route.delegate.is_some() {
            // What its delegate does not want goes on to the next rule.
            earlier.forget(first_of_rule);
            seen.truncate(first_of_rule);
        }
    }
}

/// Says of a rule which of its conditions are `covered`, each by which one of those that were seen.
fn told(
    object: &Object,
    rule: usize,
    all: usize,
    covered: &[(Option<usize>, usize)],
    seen: &[Condition<'_>],
    diagnostics: &mut Vec<Diagnostic>,
) {
    let by_others = covered.iter().filter(|(_, by)| seen[*by].rule != rule);
    let by_others: Vec<_> = by_others.collect();
    if all > 0 && by_others.len() == all {
        let by = &seen[by_others[0].1];
        let what = if by.matches.is_catch_all() && is_everywhere(by.given, None) {
            "takes all there is".to_owned()
        } else {
            "takes all that it wants".to_owned()
        };
        let first = by.rule;
        let message = format!("never taken: http[{first}] {what}");
        let fix = format!("put it before http[{first}], or remove it");
        let path = format!("spec.http[{rule}]");
        diagnostics.push(object.report(Severity::Warning, path, message, fix));
        return;
    }
    for (place, by) in covered {
        let (Some(place), by) = (place, &seen[*by]) else {
            continue;
        };
        let where_ = match by.place {
            Some(before) if by.rule == rule => format!("match[{before}]"),
            _ => format!("http[{}]", by.rule),
        };
        let message = format!("has no effect: {where_} holds wherever this does");
        let path = format!("spec.http[{rule}].match[{place}]");
        let fix = "remove one of them".to_owned();
        diagnostics.push(object.report(Severity::Warning, path, message, fix));
    }
}

/// Whether a condition counts at every gateway and port at which another does.
fn is_everywhere(one: Option<&HttpMatch>, other: Option<&HttpMatch>) -> bool {
    let Some(one) = one else {
        return true;
    };
    let all = HttpMatch::default();
    let other = other.unwrap_or(&all);
    (one.port == 0 || one.port == other.port)
        && (one.gateways.is_empty() || one.gateways == other.gateways)
        && (one.source_labels.is_empty() || one.source_labels == other.source_labels)
        && (one.source_namespace.is_empty() || one.source_namespace == other.source_namespace)
}

fn tcp(object: &Object, routes: &[TcpRoute], diagnostics: &mut Vec<Diagnostic>) {
    for (index, route) in routes.iter().enumerate() {
        let before = &routes[..index];
        if let Some(first) = before.iter().position(TcpRoute::takes_all) {
            let message = format!("never taken: tcp[{first}] takes all there is");
            let fix = format!("put it before tcp[{first}], or remove it");
            let path = format!("spec.tcp[{index}]");
            diagnostics.push(object.report(Severity::Warning, path, message, fix));
            continue;
        }
        let twice: Vec<_> = route
            .matches
            .iter()
            .enumerate()
            .filter_map(|(place, matches)| {
                let first = before.iter().position(|it| it.matches.contains(matches))?;
                Some((place, first))
            })
            .collect();
        if !twice.is_empty() && twice.len() == route.matches.len() {
            let first = twice[0].1;
            let message = format!("never taken: tcp[{first}] takes all that it wants");
            let path = format!("spec.tcp[{index}]");
            let fix = "remove one of them".to_owned();
            diagnostics.push(object.report(Severity::Warning, path, message, fix));
            continue;
        }
        for (place, first) in twice {
            let message = format!("has no effect: tcp[{first}] holds wherever this does");
            let path = format!("spec.tcp[{index}].match[{place}]");
            let fix = "remove one of them".to_owned();
            diagnostics.push(object.report(Severity::Warning, path, message, fix));
        }
    }
}

/// Namespace and name of a VirtualService, and the place of its rule.
type Rule<'l> = (&'l str, &'l str, usize);

/// What stands before a rule: in which virtual hosts, and whether it is all of the rule there.
#[derive(Default)]
struct Before<'l> {
    hosts: BTreeSet<&'l str>,
    by: Option<Rule<'l>>,
    is_open: bool,
}

/// Warns of rules that those of other VirtualServices stand before wherever the gateway has them.
pub(super) fn between_objects(
    resources: &Resources,
    listeners: &[Listener],
    diagnostics: &mut Vec<Diagnostic>,
) {
    let mut rules: BTreeMap<Rule<'_>, Before<'_>> = BTreeMap::new();
    for listener in listeners {
        if let ListenerProtocol::Http(routes) = &listener.protocol {
            for host in &routes.virtual_hosts {
                in_host(host, &mut rules);
            }
            wildcards(resources, routes, diagnostics);
        }
    }
    for ((namespace, name, index), before) in rules {
        let (Some(by), false) = (before.by, before.is_open) else {
            continue;
        };
        let Some(object) = resources.get(ResourceKind::VirtualService, namespace, name) else {
            continue;
        };
        let hosts: Vec<_> = before.hosts.iter().map(|host| (*host).to_owned()).collect();
        let message = format!(
            "never taken for {}: http[{}] of VirtualService {}/{} takes all that it wants, and comes first",
            super::listed(&hosts),
            by.2,
            by.0,
            by.1
        );
        let fix = "put both into one VirtualService, in the order that is meant: among several the older comes \
                   first"
            .to_owned();
        let path = format!("spec.http[{index}]");
        diagnostics.push(object.report(Severity::Warning, path, message, fix));
    }
}

fn in_host<'l>(host: &'l VirtualHost, rules: &mut BTreeMap<Rule<'l>, Before<'l>>) {
    let mut earlier = Earlier::default();
    let rule = |index: usize| {
        let origin = &host.routes[index].origin;
        (
            origin.namespace.as_str(),
            origin.name.as_str(),
            origin.index,
        )
    };
    let mut several = host.routes.iter().map(|route| &route.origin);
    let first = several.next();
    if several.all(|origin| first.is_some_and(|first| first.name == origin.name)) {
        // Within one, the object itself is looked at.
        for index in 0..host.routes.len() {
            rules.entry(rule(index)).or_default().is_open = true;
        }
        return;
    }
    for (index, route) in host.routes.iter().enumerate() {
        if route.origin.kind != RouteKind::VirtualService {
            continue;
        }
        let own = rule(index);
        let is_others = |before: usize| (rule(before).0, rule(before).1) != (own.0, own.1);
        let by = earlier.covering(&route.matches, is_others);
        earlier.add(&route.matches, index);
        let before = rules.entry(own).or_default();
        before
            .hosts
            .insert(host.domains.first().map_or("", String::as_str));
        match by {
            Some(by) => before.by = before.by.or(Some(rule(by))),
            None => before.is_open = true,
        }
    }
}

/// Tells of VirtualServices for a wildcard whose routes a host among it does not have, since another has it.
fn wildcards(resources: &Resources, routes: &HttpRoutes, diagnostics: &mut Vec<Diagnostic>) {
    let origins = |host: &VirtualHost| -> BTreeSet<(String, String)> {
        let origins = host.routes.iter().map(|route| &route.origin);
        origins
            .map(|it| (it.namespace.clone(), it.name.clone()))
            .collect()
    };
    for wide in &routes.virtual_hosts {
        let Some(suffix) = wide
            .domains
            .first()
            .and_then(|domain| domain.strip_prefix('*'))
        else {
            continue;
        };
        if suffix.is_empty() {
            continue;
        }
        let within = routes.virtual_hosts.iter().filter(|host| {
            let domain = host.domains.first().map_or("", String::as_str);
            domain.ends_with(suffix) && domain != format!("*{suffix}")
        });
        let mut hidden: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        for host in within {
            let own = origins(host);
            for origin in origins(wide).difference(&own) {
                let hosts = hidden.entry(origin.clone()).or_default();
                hosts.extend(host.domains.first().cloned());
            }
        }
        for ((namespace, name), hosts) in hidden {
            let Some(object) = resources.get(ResourceKind::VirtualService, &namespace, &name)
            else {
                continue;
            };
            let message = format!(
                "`*{suffix}` does not include {}: a host that has routes of its own has no others",
                super::listed(&hosts)
            );
            diagnostics.push(object.report(Severity::Info, "spec.hosts", message, None));
        }
    }
}
