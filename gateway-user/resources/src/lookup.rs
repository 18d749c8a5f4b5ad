//! Who is meant: hosts, destinations, subsets, references to Gateways.

mod hidden;
mod missing;
mod named;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Service;

use super::{
    istio::{DestinationRule, ServiceEntry, Subset, TrafficPolicy, Workload},
    object::{Body, Object},
    validate::is_good_subset,
};

pub use missing::NoDestination;
pub use named::{consequence, is_for_gateways, named_destinations};

/// What follows `name.namespace` in the host of a Service.
const SERVICES: &str = ".svc.cluster.local";

/// Istio's root namespace, whose DestinationRules are for everyone.
pub(crate) const ROOT_NAMESPACE: &str = "istio-system";

/// The full host: one without dots is a Service in `namespace`, any other is left as it is
/// (`ResolveShortnameToFQDN` of istio's pilot/pkg/model/config.go). Lower case.
pub fn full_host(host: &str, namespace: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host.contains('.') || host.starts_with(['*', '[']) {
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

/// Says to which namespaces a Service is exported, as an Istio object says it in `exportTo`.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// The namespaces that see a Service (`ConvertService` of istio's pilot/pkg/serviceregistry/kube).
fn exports(service: &Service) -> Vec<String> {
    let annotations = service.metadata.annotations.as_ref();
    let to = annotations.and_then(|annotations| annotations.get(EXPORT_TO));
    let names = to.into_iter().flat_map(|to| to.split(','));
    let names = names.map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
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
    /// By the rule's namespace and full host; oldest first.
    rules: BTreeMap<&'r str, BTreeMap<String, Vec<Rule<'r>>>>,
    /// ServiceEntries by host; oldest first.
    entries: BTreeMap<String, Vec<Entry<'r>>>,
    /// WorkloadEntries by namespace, sorted by name.
    workloads: BTreeMap<&'r str, Vec<&'r Workload>>,
}

type Rule<'r> = (&'r Object, &'r DestinationRule);

type Entry<'r> = (&'r Object, &'r ServiceEntry);

/// The ServiceEntries of one host.
#[derive(Clone, Debug, Default)]
pub struct HostEntries<'r> {
    /// Those whose endpoints are the host's, oldest first.
    pub together: Vec<Entry<'r>>,
    /// Those that the proxy sees, too, and whose endpoints are not used.
    pub apart: Vec<Entry<'r>>,
}

/// The proxy that a DestinationRule is looked up for.
#[derive(Clone, Copy, Debug)]
pub struct RuleUser<'c> {
    /// Its namespace.
    pub namespace: &'c str,
    /// Its labels.
    pub labels: &'c BTreeMap<String, String>,
}

/// What the DestinationRules for a destination say together.
#[derive(Clone, Debug)]
pub struct MergedRule<'r> {
    /// The oldest of them.
    pub object: &'r Object,
    rules: Vec<Rule<'r>>,
}

/// Which of a namespace's DestinationRules are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visibility {
    Any,
    /// Those that are exported to their own namespace alone.
    Private,
    /// Those that are exported to the namespace of the proxy.
    Exported,
}

// === impl Destinations ===

impl<'r> Destinations<'r> {
    /// What is among `objects`.
    pub fn of(objects: impl IntoIterator<Item = &'r Arc<Object>>) -> Self {
        let mut destinations = Self {
            services: BTreeMap::new(),
            rules: BTreeMap::new(),
            entries: BTreeMap::new(),
            workloads: BTreeMap::new(),
        };
        for object in objects {
            let key = &object.key;
            match &object.body {
                Body::Service(service) => {
                    let name = (key.namespace.as_str(), key.name.as_str());
                    destinations.services.insert(name, service);
                }
                Body::DestinationRule(rule) => {
                    let host = full_host(&rule.spec.host, &key.namespace);
                    let in_namespace = destinations.rules.entry(&key.namespace).or_default();
                    in_namespace.entry(host).or_default().push((object, rule));
                }
                Body::ServiceEntry(entry) => {
                    for host in entry.spec.read_hosts() {
                        let of_host = destinations.entries.entry(host);
                        of_host.or_default().push((object, entry));
                    }
                }
                Body::WorkloadEntry(workload) => {
                    let in_namespace = destinations.workloads.entry(&key.namespace).or_default();
                    in_namespace.push(workload);
                }
                _ => {}
            }
        }
        for rules in destinations
            .rules
            .values_mut()
            .flat_map(BTreeMap::values_mut)
        {
            rules.sort_by(|(a, _), (b, _)| a.age().cmp(&b.age()));
        }
        for entries in destinations.entries.values_mut() {
            entries.sort_by(|(a, _), (b, _)| a.age().cmp(&b.age()));
        }
        destinations
    }

    /// Whether there is a Service, or a host of a ServiceEntry, among those that a wildcard stands for.
    pub fn is_any_within(&self, wildcard: &str) -> bool {
        let services = self.services.keys();
        let mut services = services.map(|(namespace, name)| service_host(namespace, name));
        services.any(|host| is_host_within(&host, wildcard))
            || self
                .entries
                .keys()
                .any(|host| is_host_within(host, wildcard))
    }

    /// The Service with this full host.
    pub fn service(&self, host: &str) -> Option<&'r Service> {
        self.services.get(&service_of(host)?).copied()
    }

    /// The Service with this full host, if it is exported to proxies in namespace `from`.
    pub fn service_for(&self, host: &str, from: &str) -> Option<&'r Service> {
        let (own, _) = service_of(host)?;
        let service = self.service(host)?;
        is_exported(&exports(service), own, from).then_some(service)
    }

    /// The host that is meant by a full host: a Service of type `ExternalName` is another name for one
    /// (`GetDestinationCluster` of istio's pilot/pkg/networking/core/route, which asks once).
    pub fn meant(&self, host: String) -> String {
        let spec = self.service(&host).and_then(|of| of.spec.as_ref());
        let alias = spec.filter(|spec| spec.type_.as_deref() == Some("ExternalName"));
        match alias.and_then(|spec| spec.external_name.as_ref()) {
            Some(name) => name.to_ascii_lowercase(),
            None => host,
        }
    }

    /// The ServiceEntries with this host that a proxy in namespace `from` is given together: the oldest that
    /// it sees, which says what there is, and all others of that one's namespace, whose endpoints are added.
    /// A Service with the host stands before all entries, and those of its namespace add to it
    /// (`initServiceRegistry` of istio's `pilot/pkg/model/push_context.go`; endpoints are kept by host and
    /// namespace, `EndpointIndex`).
    pub fn entries(&self, host: &str, from: &str) -> HostEntries<'r> {
        let all = self.entries.get(host).map(Vec::as_slice);
        let all = all.unwrap_or_default();
        let namespace = match self.service_for(host, from).and(service_of(host)) {
            Some((namespace, _)) => Some(namespace),
            None => all
                .iter()
                .find(|(object, entry)| {
                    is_exported(&entry.spec.export_to, &object.key.namespace, from)
                })
                .map(|(object, _)| object.key.namespace.as_str()),
        };
        let is_here = |(object, _): &&Entry<'_>| Some(object.key.namespace.as_str()) == namespace;
        // What is resolved and what is not can't be one cluster.
        let first = all.iter().find(is_here);
        let is_resolved = self.service_for(host, from).is_none()
            && first.is_some_and(|(_, entry)| entry.spec.is_resolved());
        let (together, others): (Vec<_>, Vec<_>) = all
            .iter()
            .copied()
            .partition(|one| is_here(&one) && one.1.spec.is_resolved() == is_resolved);
        let seen = |(object, entry): &Entry<'_>| {
            is_exported(&entry.spec.export_to, &object.key.namespace, from)
        };
        HostEntries {
            together,
            apart: others.into_iter().filter(seen).collect(),
        }
    }

    /// The WorkloadEntries of a namespace that have all labels of a selector and take traffic, each with its
    /// labels.
    pub fn workloads(
        &self,
        namespace: &str,
        selector: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = (&'r Workload, BTreeMap<String, String>)> {
        let all = self.workloads.get(namespace).into_iter().flatten();
        all.filter_map(|workload| {
            let labels = workload.labels();
            let meant = selects(selector, Some(&labels)) && workload.is_healthy();
            meant.then_some((*workload, labels))
        })
    }

    /// What is said about the destination `host` to a proxy: by the rules in its own namespace, else
    /// in the destination's, else in the root namespace. What a proxy in the root namespace finds there
    /// first is what is for that namespace alone: rules for the whole mesh are no opinion about a
    /// destination that has its own (`destinationRule` of istio's `pilot/pkg/model/push_context.go`).
    pub fn rule(&self, host: &str, client: RuleUser<'_>) -> Option<MergedRule<'r>> {
        let its_namespace = match service_of(host) {
            Some((namespace, _)) => namespace,
            None => self
                .entries
                .get(host)
                .and_then(|entries| entries.first())
                .map_or("", |(object, _)| object.key.namespace.as_str()),
        };
        let own = if client.namespace == ROOT_NAMESPACE {
            Visibility::Private
        } else {
            Visibility::Any
        };
        [
            (client.namespace, own),
            (its_namespace, Visibility::Exported),
            (ROOT_NAMESPACE, Visibility::Exported),
        ]
        .into_iter()
        .find_map(|(namespace, visibility)| self.rule_in(namespace, visibility, host, client))
    }

    /// The rules in `namespace` that are about `host`: those for exactly it, else those for the
    /// longest wildcard.
    fn rule_in(
        &self,
        namespace: &str,
        visibility: Visibility,
        host: &str,
        client: RuleUser<'_>,
    ) -> Option<MergedRule<'r>> {
        let in_namespace = self.rules.get(namespace)?;
        let wildcards = host
            .char_indices()
            .filter(|(index, _)| *index > 0)
            .map(|(index, _)| format!("*{}", &host[index..]));
        std::iter::once(host.to_owned())
            .chain(wildcards)
            .chain([String::from("*")])
            .find_map(|pattern| merged(in_namespace.get(&pattern)?, visibility, client))
    }
}

/// The rules that the proxy sees. One for its own labels stands above those for everyone.
fn merged<'r>(
    rules: &[Rule<'r>],
    visibility: Visibility,
    client: RuleUser<'_>,
) -> Option<MergedRule<'r>> {
    let seen = |(object, rule): &&Rule<'r>| {
        let own = object.key.namespace.as_str();
        let to = rule.spec.export_to.as_slice();
        let private = matches!(to, [only] if only == "." || only == own);
        match visibility {
            Visibility::Any => true,
            Visibility::Private => private,
            Visibility::Exported => !private && is_exported(to, own, client.namespace),
        }
    };
    let (selecting, general): (Vec<_>, Vec<_>) = rules
        .iter()
        .filter(seen)
        .partition(|(_, rule)| rule.spec.workload_selector.is_some());
    let mut selecting = selecting.into_iter().filter(|(object, rule)| {
        let labels = rule.spec.workload_selector.as_ref();
        object.key.namespace == client.namespace
            && labels.is_some_and(|wanted| selects(&wanted.match_labels, Some(client.labels)))
    });
    let chosen = match selecting.next() {
        Some(one) => vec![one],
        None => general,
    };
    let (object, _) = chosen.first()?;
    Some(MergedRule {
        object,
        rules: chosen,
    })
}

// === impl MergedRule ===

impl<'r> MergedRule<'r> {
    /// The subset of that name; of the oldest rule that has it (`mergeDestinationRule`). One that cannot be
    /// served is left out.
    pub fn subset(&self, name: &str) -> Option<&'r Subset> {
        let mut named = self.rules.iter().filter_map(|(object, rule)| {
            let mut subsets = rule.spec.subsets.iter();
            Some((object, subsets.find(|subset| subset.name == name)?))
        });
        let (object, subset) = named.next()?;
        is_good_subset(object, subset).then_some(subset)
    }

    /// The policy for all subsets; of the oldest rule that has one.
    pub fn policy(&self) -> Option<&'r TrafficPolicy> {
        self.rules
            .iter()
            .find_map(|(_, rule)| rule.spec.traffic_policy.as_ref())
    }

    /// The rule whose policy counts.
    pub fn policy_of(&self) -> &'r Object {
        let mut rules = self.rules.iter();
        let has_one = rules.find(|(_, rule)| rule.spec.traffic_policy.is_some());
        has_one.map_or(self.object, |(object, _)| object)
    }

    /// Whether a rule is one of them.
    pub fn has(&self, object: &Object) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|(rule, _)| rule.key == object.key)
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
