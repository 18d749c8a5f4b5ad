//! The destinations that a VirtualService names.

use super::gateway_reference;
use crate::{
    istio::{Destination, RouteDestination, VirtualService},
    object::Object,
};

/// All destinations, each with its path.
pub fn named_destinations(
    service: &VirtualService,
) -> impl Iterator<Item = (String, &Destination)> {
    let mut found = Vec::new();
    for (index, route) in service.spec.http.iter().enumerate() {
        let path = format!("spec.http[{index}]");
        found.extend(of_route(&route.route, &path));
        let mirror = route.mirror.iter();
        found.extend(mirror.map(|mirror| (format!("{path}.mirror"), mirror)));
        for (index, mirror) in route.mirrors.iter().enumerate() {
            let path = format!("{path}.mirrors[{index}].destination");
            found.push((path, &mirror.destination));
        }
    }
    for (index, route) in service.spec.tls.iter().enumerate() {
        found.extend(of_route(&route.route, &format!("spec.tls[{index}]")));
    }
    for (index, route) in service.spec.tcp.iter().enumerate() {
        found.extend(of_route(&route.route, &format!("spec.tcp[{index}]")));
    }
    found.into_iter()
}

/// Whether a gateway may apply a VirtualService. What others delegate to is applied where they are.
pub fn is_for_gateways(object: &Object, service: &VirtualService) -> bool {
    let mut names = service.spec.gateways.iter();
    service.spec.hosts.is_empty()
        || names.any(|name| gateway_reference(name, &object.key.namespace).is_some())
}

/// What comes of it where the destination at this path leads nowhere.
pub fn consequence(path: &str) -> &'static str {
    if path.starts_with("spec.tcp") || path.starts_with("spec.tls") {
        "connections to it are closed"
    } else if path.contains(".mirror") {
        "no copies are sent"
    } else {
        "requests to it are answered with 503"
    }
}

fn of_route<'v>(
    route: &'v [RouteDestination],
    path: &str,
) -> impl Iterator<Item = (String, &'v Destination)> {
    route.iter().enumerate().map(move |(index, route)| {
        (
            format!("{path}.route[{index}].destination"),
            &route.destination,
        )
    })
}
