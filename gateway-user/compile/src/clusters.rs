//! Destinations → clusters.

mod behind;
mod entry;
mod locality;
mod members;
mod placed;
mod policy;
mod protocol;
mod selected;
mod tls;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use nodegate_model::{
    gateway::{Balancing, Cluster},
    service::Protocol,
};
use nodegate_resources::{
    Resources,
    istio::ServiceEntry,
    lookup::{Destinations, HostEntries, MergedRule, RuleUser},
    object::Object,
};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use entry::EntryHost;
use placed::Placed;

use crate::{
    endpoints::Endpoints,
    identity::GatewayIdentity,
    placement::Placement,
    ports::{ports, protocol as transport},
};

pub(crate) use behind::Behind;

/// The clusters that routes have asked for.
pub(crate) struct Clusters<'r> {
    resources: &'r Resources,
    known: Destinations<'r>,
    endpoints: &'r Endpoints<'r>,
    /// The gateway pod, for the choice of DestinationRules.
    identity: &'r GatewayIdentity,
    /// Where it is.
    here: Placement<'r>,
    found: BTreeMap<String, Arc<Cluster>>,
    /// What is behind those that are of Services.
    behind: Vec<Behind>,
    /// Names that have been asked for and are not there.
    missing: BTreeSet<String>,
    /// TLS settings whose Secrets are not as they should be.
    lacking: Vec<tls::Lacking<'r>>,
    /// ServiceEntries whose endpoints are not used, because something else has their host.
    unused: Vec<(&'r Object, &'r ServiceEntry)>,
    /// ServiceEntries that select nobody.
    alone: Vec<&'r Object>,
}

// === impl Clusters ===

impl<'r> Clusters<'r> {
    pub(crate) fn new(
        resources: &'r Resources,
        known: Destinations<'r>,
        endpoints: &'r Endpoints<'r>,
        identity: &'r GatewayIdentity,
    ) -> Self {
        Self {
            resources,
            known,
            endpoints,
            identity,
            here: endpoints.place_of(resources, identity),
            found: BTreeMap::new(),
            behind: Vec::new(),
            missing: BTreeSet::new(),
            lacking: Vec::new(),
            unused: Vec::new(),
            alone: Vec::new(),
        }
    }

    /// All clusters, and what is behind those of Services; and what is wrong about them.
    pub(crate) fn finish(
        self,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> (BTreeMap<String, Arc<Cluster>>, Vec<Behind>) {
        let namespace = &self.identity.namespace;
        tls::report(&self.lacking, self.resources, namespace, diagnostics);
        for (object, _) in &self.unused {
            let message = "another namespace, or another resolution, has one of these hosts already; the \
                           endpoints of this one are not used for it";
            let fix = "name the endpoints there".to_owned();
            diagnostics.push(object.report(Severity::Warning, "spec.hosts", message, fix));
        }
        for object in &self.alone {
            let message = "no WorkloadEntry in its namespace has these labels and is healthy; pods are not \
                           looked for";
            let fix = "label a WorkloadEntry so, or name pods behind a Service".to_owned();
            let path = "spec.workloadSelector";
            diagnostics.push(object.report(Severity::Warning, path, message, fix));
        }
        (self.found, self.behind)
    }

    /// The name of the cluster for a subset (empty: all) of what is behind a port of `host`. The cluster is
    /// among `found` from now on, if there is such a thing.
    pub(crate) fn cluster(&mut self, host: &str, port: i64, subset: &str) -> String {
        // `BuildSubsetKey` of istio's pilot/pkg/model.
        let name = format!("outbound|{port}|{subset}|{host}");
        if !self.found.contains_key(&name) && !self.missing.contains(&name) {
            match self.make(name.clone(), host, port, subset) {
                Some(cluster) => {
                    self.found.insert(name.clone(), Arc::new(cluster));
                }
                None => {
                    self.missing.insert(name.clone());
                }
            }
        }
        name
    }

    /// The port of what is at `host`, if it has one and no other.
    pub(crate) fn only_port(&self, host: &str) -> Option<i64> {
        let from = &self.identity.namespace;
        if let Some(service) = self.known.service_for(host, from) {
            return match ports(service) {
                [only] => Some(i64::from(only.port)),
                _ => None,
            };
        }
        let entries = self.entries(host);
        let (_, first) = entries.together.first()?;
        let mut ports = first.spec.read_ports();
        let only = ports.next()?;
        ports.next().is_none().then_some(only.number)
    }

    /// The host that is meant by one that a route names.
    pub(crate) fn meant(&self, named: String) -> String {
        self.known.meant(named)
    }

    /// Whether the cluster's endpoints are found by a key of the request.
    pub(crate) fn is_hashed(&self, name: &str) -> bool {
        self.found.get(name).is_some_and(|cluster| {
            matches!(cluster.policy.balancing, Balancing::ConsistentHash { .. })
        })
    }

    fn entries(&self, host: &str) -> HostEntries<'r> {
        self.known.entries(host, &self.identity.namespace)
    }

    /// None if there is no such destination, port or subset.
    fn make(&mut self, name: String, host: &str, port: i64, subset: &str) -> Option<Cluster> {
        let rule = self.known.rule(
            host,
            RuleUser {
                namespace: &self.identity.namespace,
                labels: &self.identity.labels,
            },
        );
        let subset = match subset {
            "" => None,
            subset => Some(rule.as_ref()?.subset(subset)?),
        };
        let entries = self.entries(host);
        let wanted = EntryHost {
            known: &self.known,
            host,
            subset,
        };
        let service = self.known.service_for(host, &self.identity.namespace);
        let mut behind = None;
        let members = match service {
            None => entry::members(&entries, port, wanted)?,
            Some(service) => {
                let of_service = port_of(service, port)?;
                let name_of_port = of_service.name.as_deref().unwrap_or_default();
                let mut beside = entry::beside(&entries, name_of_port, wanted);
                selected::add(&mut beside, service, of_service, wanted);
                let it = Behind::new(&name, host, of_service, subset, beside)?;
                let http2 = protocol::of_port(of_service);
                behind.insert(it).members(self.endpoints, http2)
            }
        };
        // A Service's own certificates are not an entry's business.
        let entry = entries.together.first().filter(|_| service.is_none());
        let entry_names: &[String] = entry.map_or(&[], |(_, entry)| &entry.spec.subject_alt_names);
        let mut lacking = None;
        let policy = policy::of(
            rule.as_ref().and_then(MergedRule::policy),
            subset.and_then(|subset| subset.traffic_policy.as_ref()),
            port,
            |given| {
                let subject = tls::TlsSubject {
                    resources: self.resources,
                    namespace: &self.identity.namespace,
                    cluster: &name,
                    entry_names,
                };
                let tls = tls::of(given, &subject)?;
                lacking = tls.lacks().map(|(_, lack)| (given, lack));
                Some(tls)
            },
        );
        let http2 = members.http2;
        let Placed {
            endpoints,
            names,
            shares,
        } = Placed::new(members, &policy, &self.here);
        self.lacking.extend(lacking);
        self.behind.extend(behind);
        self.alone
            .extend(entries.together.iter().filter_map(|(object, entry)| {
                let selector = entry.spec.workload_selector.as_ref()?;
                let namespace = &object.key.namespace;
                let mut selected = self.known.workloads(namespace, &selector.labels);
                selected.next().is_none().then_some(*object)
            }));
        self.unused.extend(entries.apart);
        let rule = rule.map(|rule| {
            let key = &rule.object.key;
            format!("{}.{}", key.name, key.namespace)
        });
        Some(Cluster {
            name,
            endpoints,
            names,
            shares,
            http2,
            rule,
            policy,
        })
    }
}

/// The port of a Service that a cluster may be of.
fn port_of(service: &Service, port: i64) -> Option<&ServicePort> {
    ports(service).iter().find(|candidate| {
        i64::from(candidate.port) == port
            && transport(candidate.protocol.as_deref()) == Protocol::Tcp
    })
}
