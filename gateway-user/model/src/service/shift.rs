//! TCP routes that are nothing but weights: a Service port's connections can go straight to the destinations,
//! without the gateway that is behind it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Endpoint, IpFamily};
use crate::gateway::RouteOrigin;

/// The TCP route that gateways have for a Service port's connections, and who follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shift {
    /// The route.
    pub route: RouteOrigin,
    /// Who follows it.
    pub way: Way,
}

/// Who follows a TCP route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// The kernel: it translates to the destinations' endpoints.
    Kernel(KernelShift),
    /// The gateway's proxy; why.
    Proxy(String),
}

/// Destinations between which the kernel divides connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelShift {
    /// In the order of the route, without those of weight 0.
    pub destinations: Vec<ShiftDestination>,
    /// For each family in which all destinations have endpoints: whose turn it is, again and again. In every
    /// window of this length each destination has exactly its share.
    pub order: BTreeMap<IpFamily, Vec<Turn>>,
}

/// A destination that the kernel divides connections to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShiftDestination {
    /// Name of its cluster, such as `outbound|9000|v1|tcp-echo.default.svc.cluster.local`.
    pub cluster: String,
    /// Its share of the sum of weights.
    pub weight: u32,
    /// Those that take traffic.
    pub endpoints: Vec<Endpoint>,
}

/// A connection's endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Place among the destinations.
    pub destination: usize,
    /// Place among the destination's endpoints.
    pub endpoint: usize,
}

/// The turns of one family.
#[derive(Clone, Copy, Debug)]
pub struct Turns<'s> {
    /// See [`KernelShift::destinations`].
    pub destinations: &'s [ShiftDestination],
    /// See [`KernelShift::order`].
    pub order: &'s [Turn],
}

// === impl Turns ===

impl<'s> Turns<'s> {
    /// The destination and the endpoint of each turn.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &'s Endpoint)> + use<'s> {
        let destinations = self.destinations;
        self.order.iter().filter_map(move |turn| {
            let endpoints = &destinations.get(turn.destination)?.endpoints;
            Some((turn.destination, endpoints.get(turn.endpoint)?))
        })
    }
}
