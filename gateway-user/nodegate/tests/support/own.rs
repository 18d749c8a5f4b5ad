//! What rules let in of their own accord.

use nodegate_iptables::services::{Frontend, Services};

/// Without the load balancer IPs that kube-proxy lets in beside the source ranges, where the node is
/// among those.
pub(crate) fn without_own(mut services: Services) -> Services {
    for service in services.values_mut() {
        let own = service
            .frontends
            .keys()
            .filter_map(|frontend| match frontend {
                Frontend::External { address } => Some(ipnet::IpNet::from(address.ip())),
                _ => None,
            });
        let own: Vec<_> = own.collect();
        for path in service.frontends.values_mut() {
            if let Some(sources) = &mut path.sources {
                sources.retain(|source| !own.contains(source));
            }
        }
    }
    services
}
