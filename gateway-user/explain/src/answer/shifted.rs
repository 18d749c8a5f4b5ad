//! The TCP route that takes over a Service port's connections.

use std::{fmt, sync::Arc};

use nodegate_model::{
    gateway::RouteOrigin,
    service::{IpFamily, ServicePort, shift::Way},
};
use serde::Serialize;

use crate::{connection::Connection, request::Place};

/// A TCP route, and who follows it.
#[derive(Clone, Debug, Serialize)]
pub struct Shifted {
    /// The route.
    pub route: RouteOrigin,
    /// Why the gateway's proxy follows it; none: the kernel does.
    pub against_kernel: Option<String>,
    /// Where the kernel sends connections; empty if the proxy follows the route.
    pub destinations: Vec<ShiftedShare>,
}

/// What a destination gets.
#[derive(Clone, Debug, Serialize)]
pub struct ShiftedShare {
    /// Name of its cluster.
    pub cluster: String,
    /// Of all connections; 0 to 1.
    pub share: f64,
}

// === impl Shifted ===

impl Shifted {
    /// That of the Service port that a connection is for.
    pub(super) fn of(services: &[Arc<ServicePort>], connection: &Connection) -> Option<Self> {
        let name = connection.nodegate.service.as_ref()?;
        let mut services = services.iter();
        let service = services.find(|service| {
            service.protocol == connection.protocol && service.name.to_string() == *name
        })?;
        let shift = service.shift.as_ref()?;
        let family = IpFamily::of(connection.destination.ip());
        let route = shift.route.clone();
        let Some(turns) = service.turns(family) else {
            let why = match &shift.way {
                Way::Proxy(why) => why.clone(),
                Way::Kernel(_) => format!("not all destinations have an {family} endpoint"),
            };
            return Some(Self {
                route,
                against_kernel: Some(why),
                destinations: Vec::new(),
            });
        };
        let all = turns.order.len();
        let destinations = turns.destinations.iter().enumerate();
        let destinations = destinations.map(|(place, destination)| {
            let its = turns.order.iter().filter(|turn| turn.destination == place);
            ShiftedShare {
                cluster: destination.cluster.clone(),
                share: its.count() as f64 / all as f64,
            }
        });
        Some(Self {
            route,
            against_kernel: None,
            destinations: destinations.collect(),
        })
    }

    /// Whether connections don't get to the gateway.
    pub(super) fn by_kernel(&self) -> bool {
        self.against_kernel.is_none()
    }

    /// Where the route stands.
    pub(super) fn place(&self) -> impl fmt::Display {
        Place::tcp(&self.route)
    }
}
