//! What the routes of a listener have counted, for a new configuration to go on from.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
};

use nodegate_model::gateway::{
    Destination, HttpRoute, RouteMatch, RouteOrigin, TcpRoute, VirtualHost,
};

use crate::counters::Counters;

/// A route, known by what it says: a route of a new configuration that says the same goes on where the
/// old one was, so that an endpoint's coming or going doesn't start the sequences over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RouteName<'a> {
    /// Of an HTTP route: its virtual host and its condition.
    http: Option<(&'a str, &'a RouteMatch)>,
    origin: &'a RouteOrigin,
}

/// Turns go on for as long as the weights stay the same.
type Turns<'a> = (RouteName<'a>, Vec<(&'a str, u32)>);

/// What the routes of a listener have counted.
#[derive(Debug, Default)]
pub(super) struct History<'a> {
    positions: HashMap<Turns<'a>, Arc<AtomicU64>>,
    counters: HashMap<RouteName<'a>, Arc<Counters>>,
}

impl<'a> RouteName<'a> {
    pub(super) fn of_http(host: &'a VirtualHost, route: &'a HttpRoute) -> Self {
        Self {
            http: Some((&host.name, &route.matches)),
            origin: &route.origin,
        }
    }

    pub(super) fn of_tcp(route: &'a TcpRoute) -> Self {
        Self {
            http: None,
            origin: &route.origin,
        }
    }
}

impl<'a> History<'a> {
    /// Notes what a route has counted.
    pub(super) fn note(
        &mut self,
        name: RouteName<'a>,
        destinations: &'a [Destination],
        position: &Arc<AtomicU64>,
        counters: &Arc<Counters>,
    ) {
        let turns = (name, weights(destinations));
        self.positions.insert(turns, Arc::clone(position));
        self.counters.insert(name, Arc::clone(counters));
    }

    /// Where a route goes on. Routes that say the same share their turns.
    pub(super) fn position(
        &mut self,
        name: RouteName<'a>,
        destinations: &'a [Destination],
    ) -> Arc<AtomicU64> {
        let turns = self.positions.entry((name, weights(destinations)));
        Arc::clone(turns.or_default())
    }

    /// What a route goes on counting with.
    pub(super) fn counters(&mut self, name: RouteName<'a>) -> Arc<Counters> {
        Arc::clone(self.counters.entry(name).or_default())
    }
}

fn weights(destinations: &[Destination]) -> Vec<(&str, u32)> {
    destinations
        .iter()
        .map(|destination| (destination.cluster.as_str(), destination.weight))
        .collect()
}
