//! Destinations → clusters.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use super::endpoints::{Endpoints, protocol};
use crate::{
    model::{
        gateway::{Cluster, Destination},
        service::Protocol,
    },
    resources::{
        istio::{self, RouteDestination},
        lookup::{Destinations, full_host, selects, service_of},
    },
};

/// The clusters that routes have asked for.
pub(super) struct Clusters<'r> {
    known: Destinations<'r>,
    endpoints: &'r Endpoints<'r>,
    /// The gateway pod's namespace, for the choice of DestinationRules.
    namespace: &'r str,
    pub(super) found: BTreeMap<String, Arc<Cluster>>,
}

// === impl Clusters ===

impl<'r> Clusters<'r> {
    pub(super) fn new(
        known: Destinations<'r>,
        endpoints: &'r Endpoints<'r>,
        namespace: &'r str,
    ) -> Self {
        Self {
            known,
            endpoints,
            namespace,
            found: BTreeMap::new(),
        }
    }

    /// The destinations of a route in a VirtualService of `namespace`, on the Gateway server's port
    /// `server_port`.
    pub(super) fn of_route(
        &mut self,
        route: &[RouteDestination],
        namespace: &str,
        server_port: u16,
    ) -> Vec<Destination> {
        if let [only] = route {
            // One destination gets everything, whatever its weight.
            let cluster = self.cluster(&only.destination, namespace, server_port);
            return vec![Destination::new(cluster, 1)];
        }
        let weighted = route.iter().filter_map(|destination| {
            let weight = u32::try_from(destination.weight)
                .ok()
                .filter(|weight| *weight > 0)?;
            let cluster = self.cluster(&destination.destination, namespace, server_port);
            Some(Destination::new(cluster, weight))
        });
        weighted.collect()
    }

    /// The name of the destination's cluster, which is now among `found` if there is such a thing.
    fn cluster(
        &mut self,
        destination: &istio::Destination,
        namespace: &str,
        server_port: u16,
    ) -> String {
        let host = full_host(&destination.host, namespace);
        let port = self.port(destination, &host, server_port);
        // `BuildSubsetKey` of istio's pilot/pkg/model.
        let name = format!("outbound|{port}|{}|{host}", destination.subset);
        if !self.found.contains_key(&name)
            && let Some(endpoints) = self.endpoints(&host, port, &destination.subset)
        {
            let cluster = Cluster::new(name.clone(), endpoints);
            self.found.insert(name.clone(), Arc::new(cluster));
        }
        name
    }

    /// Without a port in the destination it is the Service's only one, else that of the Gateway's
    /// server (`GetDestinationCluster` of istio's pilot/pkg/networking/core/route).
    fn port(&self, destination: &istio::Destination, host: &str, server_port: u16) -> i64 {
        if let Some(port) = &destination.port {
            return port.number;
        }
        let spec = self
            .known
            .service(host)
            .and_then(|service| service.spec.as_ref());
        match spec.and_then(|spec| spec.ports.as_deref()) {
            Some([only]) => only.port.into(),
            _ => server_port.into(),
        }
    }

    /// None if there is no such Service, port or subset.
    fn endpoints(&self, host: &str, port: i64, subset: &str) -> Option<Vec<SocketAddr>> {
        let (namespace, name) = service_of(host)?;
        let spec = self.known.service(host)?.spec.as_ref()?;
        let port = spec.ports.iter().flatten().find(|candidate| {
            i64::from(candidate.port) == port
                && protocol(candidate.protocol.as_deref()) == Protocol::Tcp
        })?;
        let subset = match subset {
            "" => None,
            subset => Some(self.known.subset(host, subset, self.namespace)?),
        };
        let mut endpoints: Vec<_> = self
            .endpoints
            .behind(namespace, name, port)
            .into_iter()
            .filter(|(ready, _)| {
                subset.is_none_or(|subset| {
                    let labels = ready.pod.and_then(|pod| pod.metadata.labels.as_ref());
                    selects(&subset.labels, labels)
                })
            })
            .map(|(ready, target)| SocketAddr::new(ready.address, target))
            .collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        Some(endpoints)
    }
}
