//! Who is meant: hosts, destinations, subsets, references to Gateways.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Service;

use super::{
    istio::{Destination, DestinationRule, Subset},
    manifest::nearest,
    object::{Body, Object},
};

/// What follows `name.namespace` in the host of a Service.
const SERVICES: &str = ".svc.cluster.local";

/// Istio's root namespace, whose DestinationRules are for everyone.
const ROOT_NAMESPACE: &str = "istio-system";

/// The full host: one without dots is a Service in `namespace`, any other is left as it is
/// (`ResolveShortnameToFQDN` of istio's pilot/pkg/model/config.go). Lower case.
pub fn full_host(host: &str, namespace: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host.contains('.') || host.starts_with('*') {
        host
    } else {
        service_host(namespace, &host)
    }
}

/// `name.namespace.svc.cluster.local`
pub fn service_host(namespace: &str, name: &str) -> String {
    format!("{name}.{namespace}{SERVICES}")
}

/// Namespace and name of the Service that a full host is about.
pub fn service_of(host: &str) -> Option<(&str, &str)> {
    let (name, namespace) = host.strip_suffix(SERVICES)?.split_once('.')?;
    Some((namespace, name))
}

/// Whether all hosts that `inner` stands for are among those of `outer` (`Name.SubsetOf` of istio's
/// pkg/config/host). `*.a` is about everything that ends in `.a`.
pub fn is_host_within(inner: &str, outer: &str) -> bool {
    match (inner.strip_prefix('*'), outer.strip_prefix('*')) {
        (Some(inner), Some(outer)) => inner.ends_with(outer),
        (Some(_), None) => false,
        (None, Some(outer)) => inner.ends_with(outer),
        (None, None) => inner == outer,
    }
}

/// Namespace and name of the Gateway that a VirtualService in `namespace` names (`resolveGatewayName`
/// of istio's pilot/pkg/model): `gw`, `ns/gw`, `./gw`, `gw.ns` or `gw.ns.svc.cluster.local`. None for
/// `mesh`, which is the sidecars.
pub fn gateway_reference<'n>(name: &'n str, namespace: &'n str) -> Option<(&'n str, &'n str)> {
    if name == "mesh" {
        return None;
    }
    if let Some((its_namespace, name)) = name.split_once('/') {
        let own = its_namespace == ".";
        return Some((if own { namespace } else { its_namespace }, name));
    }
    let Some((name, rest)) = name.split_once('.') else {
        return Some((namespace, name));
    };
    let its_namespace = rest.split_once('.').map_or(rest, |(first, _)| first);
    Some((its_namespace, name))
}

/// Whether an object in namespace `own` that says `exportTo` is seen from namespace `from`.
pub fn is_exported(export_to: &[String], own: &str, from: &str) -> bool {
    export_to.is_empty()
        || export_to.iter().any(|to| match to.as_str() {
            "*" => true,
            "." => own == from,
            to => to == from,
        })
}

/// Whether `labels` has all of `selector`.
pub fn selects(
    selector: &BTreeMap<String, String>,
    labels: Option<&BTreeMap<String, String>>,
) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// The objects that a destination may mean.
#[derive(Debug)]
pub struct Destinations<'r> {
    services: BTreeMap<(&'r str, &'r str), &'r Service>,
    /// Oldest first.
    rules: Vec<(&'r Object, &'r DestinationRule)>,
    /// Hosts of ServiceEntries.
    entries: Vec<String>,
}

/// Why a destination leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoDestination {
    /// Below `destination`: `host`, `port.number` or `subset`.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

// === impl Destinations ===

impl<'r> Destinations<'r> {
    /// What is among `objects`.
    pub fn of(objects: impl IntoIterator<Item = &'r Arc<Object>>) -> Self {
        let mut destinations = Self {
            services: BTreeMap::new(),
            rules: Vec::new(),
            entries: Vec::new(),
        };
        for object in objects {
            let key = &object.key;
            match &object.body {
                Body::Service(service) => {
                    let name = (key.namespace.as_str(), key.name.as_str());
                    destinations.services.insert(name, service);
                }
                Body::DestinationRule(rule) => destinations.rules.push((object, rule)),
                Body::ServiceEntry(entry) => {
                    let hosts = entry
                        .spec
                        .hosts
                        .iter()
                        .map(|host| host.to_ascii_lowercase());
                    destinations.entries.extend(hosts);
                }
                _ => {}
            }
        }
        destinations
            .rules
            .sort_by(|(a, _), (b, _)| a.age().cmp(&b.age()));
        destinations
    }

    /// The Service with this full host.
    pub fn service(&self, host: &str) -> Option<&'r Service> {
        self.services.get(&service_of(host)?).copied()
    }

    /// The subset of the destination `host` as a proxy in namespace `from` sees it: of the rules in
    /// its own namespace, else in the Service's, else in the root namespace (`destinationRule` of
    /// istio's `pilot/pkg/model/push_context.go`). Subsets of rules for the same host in one namespace
    /// are put together; the oldest rule's wins.
    pub fn subset(&self, host: &str, name: &str, from: &str) -> Option<&'r Subset> {
        let its_namespace = service_of(host).map_or("", |(namespace, _)| namespace);
        let rules = [from, its_namespace, ROOT_NAMESPACE]
            .into_iter()
            .map(|namespace| self.rules_in(namespace, host, from))
            .find(|rules| !rules.is_empty())?;
        rules
            .into_iter()
            .flat_map(|rule| &rule.spec.subsets)
            .find(|subset| subset.name == name)
    }

    /// The rules in `namespace` that are about `host`: those for exactly it, else those for the
    /// longest wildcard.
    fn rules_in(&self, namespace: &str, host: &str, from: &str) -> Vec<&'r DestinationRule> {
        let rules: Vec<_> = self
            .rules
            .iter()
            .filter(|(object, rule)| {
                let own = object.key.namespace.as_str();
                own == namespace && (own == from || is_exported(&rule.spec.export_to, own, from))
            })
            .map(|(_, rule)| (full_host(&rule.spec.host, namespace), *rule))
            .filter(|(pattern, _)| is_host_within(host, pattern))
            .collect();
        let best = |pattern: &str| (!pattern.starts_with('*'), pattern.len());
        let Some(most) = rules.iter().map(|(pattern, _)| best(pattern)).max() else {
            return Vec::new();
        };
        rules
            .into_iter()
            .filter(|(pattern, _)| best(pattern) == most)
            .map(|(_, rule)| rule)
            .collect()
    }

    /// Why a destination in a VirtualService of `namespace` leads nowhere; none if it leads somewhere.
    pub fn miss(&self, destination: &Destination, namespace: &str) -> Option<NoDestination> {
        let host = full_host(&destination.host, namespace);
        if self
            .entries
            .iter()
            .any(|entry| is_host_within(&host, entry))
        {
            return None;
        }
        let Some(service) = self.service(&host) else {
            return Some(self.no_host(&destination.host, &host, namespace));
        };
        let ports: Vec<i64> = service
            .spec
            .iter()
            .flat_map(|spec| spec.ports.iter().flatten())
            .map(|port| port.port.into())
            .collect();
        if let Some(port) = &destination.port
            && !ports.contains(&port.number)
        {
            let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
            return Some(NoDestination {
                field: "port.number",
                message: format!("the Service `{host}` has no port {}", port.number),
                fix: format!("its ports are {}", ports.join(", ")),
            });
        }
        if destination.subset.is_empty() {
            return None;
        }
        self.no_subset(&destination.subset, &host)
    }

    fn no_host(&self, host: &str, full: &str, namespace: &str) -> NoDestination {
        let short = !host.contains('.');
        let own = self
            .services
            .keys()
            .filter(|(its, _)| *its == namespace)
            .map(|(_, name)| *name);
        let near = if short { nearest(host, own) } else { None };
        let near = near.or_else(|| {
            // `name.namespace` is not completed by Istio, and a short name only in its own namespace.
            let wanted = if short { host } else { host.split('.').next()? };
            let everywhere = self
                .services
                .keys()
                .map(|(its, name)| service_host(its, name));
            nearest(&format!("{host}{SERVICES}"), everywhere.clone())
                .or_else(|| nearest(full, everywhere.clone()))
                .or_else(|| {
                    everywhere
                        .into_iter()
                        .find(|host| host.split('.').next() == Some(wanted))
                })
        });
        NoDestination {
            field: "host",
            message: format!("no Service has the host `{full}`"),
            fix: match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => "create the Service, or name one that there is".into(),
            },
        }
    }

    fn no_subset(&self, subset: &str, host: &str) -> Option<NoDestination> {
        let mut names = Vec::new();
        for (object, rule) in &self.rules {
            let pattern = full_host(&rule.spec.host, &object.key.namespace);
            if is_host_within(host, &pattern) {
                names.extend(rule.spec.subsets.iter().map(|subset| subset.name.as_str()));
            }
        }
        if names.contains(&subset) {
            return None;
        }
        Some(NoDestination {
            field: "subset",
            message: format!("no DestinationRule for `{host}` has a subset `{subset}`"),
            fix: if names.is_empty() {
                format!("create a DestinationRule for `{host}` with this subset")
            } else {
                format!("its subsets are {}", names.join(", "))
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_without_dots_are_completed() {
        let full = "nginx.simple.svc.cluster.local";
        assert_eq!(full_host("nginx", "simple"), full);
        assert_eq!(full_host("Nginx", "simple"), full);
        assert_eq!(full_host("nginx.simple", "x"), "nginx.simple");
        assert_eq!(full_host("*", "x"), "*");
        assert_eq!(service_of(full), Some(("simple", "nginx")));
        assert_eq!(service_of("nginx.simple"), None);
    }

    #[test]
    fn wildcards_hold_what_ends_like_them() {
        for (inner, outer, within) in [
            ("a.x", "a.x", true),
            ("a.x", "*", true),
            ("*", "*", true),
            ("a.b.x", "*.x", true),
            ("*.b.x", "*.x", true),
            ("*.x", "*.b.x", false),
            ("*.x", "a.x", false),
            ("x", "*.x", false),
            ("a-b.x", "*-b.x", true),
        ] {
            assert_eq!(is_host_within(inner, outer), within, "{inner} {outer}");
        }
    }

    #[test]
    fn gateways_are_named_in_five_ways() {
        for name in ["gw", "ns/gw", "./gw", "gw.ns", "gw.ns.svc.cluster.local"] {
            assert_eq!(gateway_reference(name, "ns"), Some(("ns", "gw")), "{name}");
        }
        assert_eq!(gateway_reference("other/gw", "ns"), Some(("other", "gw")));
        assert_eq!(gateway_reference("mesh", "ns"), None);
    }

    #[test]
    fn export_is_to_all_by_default() {
        let to = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(is_exported(&to(&[]), "a", "b"));
        assert!(is_exported(&to(&["*"]), "a", "b"));
        assert!(!is_exported(&to(&["."]), "a", "b"));
        assert!(is_exported(&to(&["."]), "a", "a"));
        assert!(is_exported(&to(&["c", "b"]), "a", "b"));
        assert!(!is_exported(&to(&["~"]), "a", "b"));
    }
}
