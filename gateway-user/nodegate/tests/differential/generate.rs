//! Services to compare: random ones, and those that tests choose by hand.

use std::net::IpAddr;

use nodegate_model::service::{
    Endpoint, IpFamily, Protocol, ServicePort, ServicePortName, ServiceType,
};

use crate::{
    flows::{self, Flow},
    random::{Generator, NODE, address, numbered, pod},
    sides::Load,
};

pub(crate) use crate::random::config;

/// Some sets of Services, and some of the flows to each. A quarter of the flows are astray.
pub(crate) fn load(
    generator: &mut Generator,
    sets: usize,
    flows_of_each: usize,
) -> (Load, Vec<Flow>) {
    let mut services = Vec::new();
    let mut flows = Vec::new();
    for _ in 0..sets {
        let set = generator.set();
        let mut all: Vec<_> = set
            .iter()
            .enumerate()
            .flat_map(|(index, service)| flows::flows(service, services.len() + index))
            .collect();
        generator.random.shuffle(&mut all);
        let (real, astray): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|flow| set.iter().any(|service| flow.is_for(service)));
        let quarter = flows_of_each / 4;
        flows.extend(real.into_iter().take(flows_of_each - quarter));
        flows.extend(astray.into_iter().take(quarter));
        services.extend(set);
    }
    let load = Load {
        services,
        config: generator.config(),
        rules: None,
    };
    (load, flows)
}

/// A Service port with the addresses that tests choose by hand.
pub(crate) fn service(name: &str, number: u32, endpoints: Vec<Endpoint>) -> ServicePort {
    let families = IpFamily::ALL;
    ServicePort {
        kind: ServiceType::LoadBalancer,
        node_port: Some(32_100 + number as u16),
        cluster_ips: families
            .map(|family| numbered(family, 1, 60_000 + number))
            .into(),
        load_balancer_ips: families
            .map(|family| numbered(family, 2, 60_000 + number))
            .into(),
        endpoints,
        ..ServicePort::new(
            ServicePortName {
                namespace: "chosen".into(),
                name: name.into(),
                port: "p".into(),
            },
            Protocol::Tcp,
            80,
        )
    }
}

/// So many local and remote endpoints in each family.
pub(crate) fn endpoints(local: u8, remote: u8) -> Vec<Endpoint> {
    let mut all = Vec::new();
    for family in IpFamily::ALL {
        all.extend((0..local).map(|i| Endpoint::ready(pod(family, 0, 10 + i), 8080, true)));
        all.extend((0..remote).map(|i| Endpoint::ready(pod(family, 1, 10 + i), 8080, false)));
    }
    all.sort_by_cached_key(|endpoint| format!("{}:", endpoint.address));
    all
}

/// The node's first address of a family.
pub(crate) fn node(family: IpFamily) -> IpAddr {
    address(NODE, family)
}
