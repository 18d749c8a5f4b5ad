//! Destinations of VirtualServices → clusters.

use nodegate_model::gateway::Destination;
use nodegate_resources::{
    istio::{self, RouteDestination},
    lookup::full_host,
};

use crate::clusters::Clusters;

/// Where a destination is named: what it leaves out is completed from here.
#[derive(Clone, Copy)]
pub(super) struct NamedIn<'p> {
    /// The namespace of the VirtualService, for short names of hosts.
    pub(super) namespace: &'p str,
    /// The port of the Gateway's server.
    pub(super) server_port: u16,
}

/// The destinations of a route; each with its place in the route.
pub(super) fn of_route(
    route: &[RouteDestination],
    named_in: NamedIn<'_>,
    clusters: &mut Clusters<'_>,
) -> Vec<(usize, Destination)> {
    if let [only] = route {
        // One destination gets everything, whatever its weight.
        let cluster = cluster(&only.destination, named_in, clusters);
        return vec![(0, Destination::new(cluster, 1))];
    }
    let weighted = route.iter().enumerate().filter_map(|(index, destination)| {
        // Validation has refused what is not a weight.
        let weight = destination.weight().ok().filter(|weight| *weight > 0)?;
        let cluster = cluster(&destination.destination, named_in, clusters);
        Some((index, Destination::new(cluster, weight)))
    });
    weighted.collect()
}

/// The name of the destination's cluster.
pub(super) fn cluster(
    destination: &istio::Destination,
    named_in: NamedIn<'_>,
    clusters: &mut Clusters<'_>,
) -> String {
    let named = full_host(&destination.host, named_in.namespace);
    // Without a port in the destination it is the Service's only one, else that of the Gateway's server
    // (`GetDestinationCluster` of istio's pilot/pkg/networking/core/route).
    let port = destination.port.as_ref().map(|port| port.number);
    let port = port
        .or_else(|| clusters.only_port(&named))
        .unwrap_or_else(|| named_in.server_port.into());
    let host = clusters.meant(named);
    clusters.cluster(&host, port, &destination.subset)
}
