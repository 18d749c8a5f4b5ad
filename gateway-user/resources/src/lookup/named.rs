//! The destinations that a VirtualService names.

use crate::istio::{Destination, RouteDestination, VirtualService};

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
