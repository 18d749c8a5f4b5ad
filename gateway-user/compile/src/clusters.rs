//! Destinations → clusters.

mod entry;
mod locality;
mod policy;
mod tls;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{self as core, Service};
use nodegate_model::{
    gateway::{Balancing, Cluster, Destination, DnsTarget, Endpoint, Locality},
    service::Protocol,
};
use nodegate_resources::{
    Resources,
    istio::{self, RouteDestination, Subset},
    lookup::{Client, Destinations, MergedRule, full_host, selects, service_of},
};
use nodegate_values::diagnostic::Diagnostic;

pub(super) use locality::Place;

use super::{
    GatewayIdentity,
    endpoints::{Endpoints, protocol},
};

/// The clusters that routes have asked for.
pub(super) struct Clusters<'r> {
    resources: &'r Resources,
    known: Destinations<'r>,
    endpoints: &'r Endpoints<'r>,
    /// The gateway pod, for the choice of DestinationRules.
    identity: &'r GatewayIdentity,
    /// Where it is.
    here: Place<'r>,
    found: BTreeMap<String, Arc<Cluster>>,
    /// Names that have been asked for and are not there.
    missing: BTreeSet<String>,
    /// TLS settings whose Secrets are not as they should be.
    lacking: Vec<tls::Lacking<'r>>,
}

/// Where a cluster's endpoints are.
#[derive(Default)]
struct Members<'r> {
    endpoints: Vec<(Place<'r>, Endpoint)>,
    names: Vec<(Place<'r>, DnsTarget)>,
    http2: bool,
}

// === impl Clusters ===

impl<'r> Clusters<'r> {
    pub(super) fn new(
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
            missing: BTreeSet::new(),
            lacking: Vec::new(),
        }
    }

    /// All clusters; and what is wrong about them.
    pub(super) fn finish(
        self,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> BTreeMap<String, Arc<Cluster>> {
        let namespace = &self.identity.namespace;
        tls::report(&self.lacking, self.resources, namespace, diagnostics);
        self.found
    }

    /// The destinations of a route in a VirtualService of `namespace`, on the Gateway server's port
    /// `server_port`; each with its place in the route.
    pub(super) fn of_route(
        &mut self,
        route: &[RouteDestination],
        namespace: &str,
        server_port: u16,
    ) -> Vec<(usize, Destination)> {
        if let [only] = route {
            // One destination gets everything, whatever its weight.
            let cluster = self.cluster(&only.destination, namespace, server_port);
            return vec![(0, Destination::new(cluster, 1))];
        }
        let weighted = route.iter().enumerate().filter_map(|(index, destination)| {
            let weight = u32::try_from(destination.weight)
                .ok()
                .filter(|weight| *weight > 0)?;
            let cluster = self.cluster(&destination.destination, namespace, server_port);
            Some((index, Destination::new(cluster, weight)))
        });
        weighted.collect()
    }

    /// The name of the destination's cluster, which is now among `found` if there is such a thing.
    pub(super) fn cluster(
        &mut self,
        destination: &istio::Destination,
        namespace: &str,
        server_port: u16,
    ) -> String {
        let named = full_host(&destination.host, namespace);
        let port = self.port(destination, &named, server_port);
        let host = self.known.meant(named);
        // `BuildSubsetKey` of istio's pilot/pkg/model.
        let name = format!("outbound|{port}|{}|{host}", destination.subset);
        if !self.found.contains_key(&name) && !self.missing.contains(&name) {
            match self.make(name.clone(), &host, port, &destination.subset) {
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

    /// Whether the cluster's endpoints are found by a key of the request.
    pub(super) fn is_hashed(&self, name: &str) -> bool {
        self.found.get(name).is_some_and(|cluster| {
            matches!(cluster.policy.balancing, Balancing::ConsistentHash { .. })
        })
    }

    /// Without a port in the destination it is the Service's only one, else that of the Gateway's
    /// server (`GetDestinationCluster` of istio's pilot/pkg/networking/core/route).
    fn port(&self, destination: &istio::Destination, host: &str, server_port: u16) -> i64 {
        if let Some(port) = &destination.port {
            return port.number;
        }
        let only = match self.known.service(host) {
            Some(service) => match ports(service) {
                [only] => Some(i64::from(only.port)),
                _ => None,
            },
            None => match self.entry(host).map(|entry| entry.spec.ports.as_slice()) {
                Some([only]) => Some(only.number),
                _ => None,
            },
        };
        only.unwrap_or_else(|| server_port.into())
    }

    fn entry(&self, host: &str) -> Option<&'r istio::ServiceEntry> {
        self.known.entry(host, &self.identity.namespace)
    }

    /// None if there is no such destination, port or subset.
    fn make(&mut self, name: String, host: &str, port: i64, subset: &str) -> Option<Cluster> {
        let rule = self.known.rule(
            host,
            Client {
                namespace: &self.identity.namespace,
                labels: &self.identity.labels,
            },
        );
        let subset = match subset {
            "" => None,
            subset => Some(rule.as_ref()?.subset(subset)?),
        };
        let service = self.known.service(host);
        let entry = match service {
            Some(_) => None,
            None => Some(self.entry(host)?),
        };
        let mut members = match (service, entry) {
            (Some(service), _) => self.behind_service(service, host, port, subset)?,
            (None, entry) => entry::members(entry?, host, port, subset)?,
        };
        let mut lacking = None;
        let policy = policy::of(
            rule.as_ref().and_then(MergedRule::policy),
            subset.and_then(|subset| subset.traffic_policy.as_ref()),
            port,
            |given| {
                let subject = tls::Subject {
                    resources: self.resources,
                    namespace: &self.identity.namespace,
                    cluster: &name,
                    entry_names: entry.map_or(&[], |entry| &entry.spec.subject_alt_names),
                };
                let tls = tls::of(given, &subject)?;
                lacking = tls.lacks().map(|(_, lack)| (given, lack));
                Some(tls)
            },
        );
        self.lacking.extend(lacking);
        let shares = match &policy.locality {
            Some(near) => locality::apply(near, &self.here, &mut members),
            None => Vec::new(),
        };
        let mut endpoints: Vec<_> = members.endpoints.into_iter().map(|(_, one)| one).collect();
        endpoints.sort_unstable();
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        let rule = rule.map(|rule| {
            let key = &rule.object.key;
            format!("{}.{}", key.name, key.namespace)
        });
        Some(Cluster {
            name,
            endpoints,
            names: members.names.into_iter().map(|(_, one)| one).collect(),
            shares,
            http2: members.http2,
            rule,
            policy,
        })
    }

    fn behind_service(
        &self,
        service: &'r Service,
        host: &str,
        port: i64,
        subset: Option<&Subset>,
    ) -> Option<Members<'r>> {
        let (namespace, name) = service_of(host)?;
        let port = ports(service).iter().find(|candidate| {
            i64::from(candidate.port) == port
                && protocol(candidate.protocol.as_deref()) == Protocol::Tcp
        })?;
        let targets = self.endpoints.behind(namespace, name, port);
        let endpoints = targets.into_iter().filter(|(target, _)| {
            target.is_ready()
                && subset.is_none_or(|subset| {
                    let labels = target.pod.and_then(|pod| pod.metadata.labels.as_ref());
                    selects(&subset.labels, labels)
                })
        });
        Some(Members {
            endpoints: endpoints
                .map(|(target, port)| {
                    let place = self.endpoints.place(&target);
                    let endpoint = Endpoint {
                        locality: place.locality.clone(),
                        ..Endpoint::new((target.address, port).into())
                    };
                    (place, endpoint)
                })
                .collect(),
            names: Vec::new(),
            http2: speaks_http2(port.app_protocol.as_deref(), port.name.as_deref()),
        })
    }
}

impl Members<'_> {
    /// The priorities of all, and where each is.
    fn priorities(&mut self) -> impl Iterator<Item = (&Place<'_>, &mut u32)> {
        let endpoints = self.endpoints.iter_mut();
        let endpoints = endpoints.map(|(place, endpoint)| (&*place, &mut endpoint.priority));
        let names = self.names.iter_mut();
        endpoints.chain(names.map(|(place, name)| (&*place, &mut name.priority)))
    }

    /// What they weigh, and where.
    fn weights(&self) -> impl Iterator<Item = (&Locality, u32)> {
        let endpoints = self.endpoints.iter();
        let endpoints = endpoints.map(|(place, endpoint)| (&place.locality, endpoint.weight));
        let names = self.names.iter();
        endpoints.chain(names.map(|(place, name)| (&place.locality, name.weight)))
    }

    /// Leaves out those that are elsewhere.
    fn keep(&mut self, is_meant: impl Fn(&Locality) -> bool) {
        self.endpoints
            .retain(|(place, _)| is_meant(&place.locality));
        self.names.retain(|(place, _)| is_meant(&place.locality));
    }
}

fn ports(service: &Service) -> &[core::ServicePort] {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    ports.map_or(&[], Vec::as_slice)
}

/// Whether a port's `appProtocol`, or else its name, is up to the first hyphen of a protocol over HTTP/2
/// (`ConvertProtocol` of istio's pkg/config/kube; `Instance.IsHTTP2` of its pkg/config/protocol).
fn speaks_http2(app_protocol: Option<&str>, name: Option<&str>) -> bool {
    // As a name it is none that a port could have.
    if app_protocol == Some("kubernetes.io/h2c") {
        return true;
    }
    let protocol = app_protocol.or(name).unwrap_or_default();
    let first = protocol.split('-').next().unwrap_or_default();
    ["http2", "grpc"]
        .iter()
        .any(|http2| first.eq_ignore_ascii_case(http2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_is_known_by_protocol_or_name() {
        for (app_protocol, name, wanted) in [
            (None, Some("http"), false),
            (None, Some("http2"), true),
            (None, Some("http2-web"), true),
            (None, Some("http2web"), false),
            (None, Some("grpc-web-x"), true),
            (Some("kubernetes.io/h2c"), Some("http"), true),
            (Some("http"), Some("grpc"), false),
            (Some("grpc-web"), None, true),
            (Some("HTTP2-x"), Some("http"), true),
            (None, None, false),
        ] {
            assert_eq!(
                speaks_http2(app_protocol, name),
                wanted,
                "{app_protocol:?} {name:?}"
            );
        }
    }
}
