use super::*;
use crate::service::{Protocol, ServicePortName};

fn node() -> NodeTopology {
    NodeTopology {
        name: "node-a".into(),
        zone: Some("zone-a".into()),
    }
}

/// `address flags…`: `l`ocal, not `r`eady, not `s`erving, `t`erminating, `z=`one hint, `n=`ode hint.
fn endpoint(text: &str) -> Endpoint {
    let mut words = text.split(' ');
    let address = words.next().unwrap().parse().unwrap();
    let mut endpoint = Endpoint::ready(address, 8080, false);
    for word in words {
        match word.split_once('=') {
            Some(("z", zone)) => _ = endpoint.hints.zones.insert(zone.into()),
            Some(("n", node)) => _ = endpoint.hints.nodes.insert(node.into()),
            _ => match word {
                "l" => endpoint.local = true,
                "r" => endpoint.ready = false,
                "s" => endpoint.serving = false,
                "t" => endpoint.terminating = true,
                _ => panic!("{word}"),
            },
        }
    }
    endpoint
}

fn port(endpoints: &[&str]) -> ServicePort {
    let name = ServicePortName {
        namespace: "ns".into(),
        name: "svc".into(),
        port: String::new(),
    };
    ServicePort {
        endpoints: endpoints.iter().map(|text| endpoint(text)).collect(),
        ..ServicePort::new(name, Protocol::Tcp, 80)
    }
}

fn external(endpoints: &[&str]) -> ServicePort {
    ServicePort {
        node_port: Some(30080),
        external_policy: TrafficPolicy::Local,
        ..port(endpoints)
    }
}

fn internal(endpoints: &[&str]) -> ServicePort {
    ServicePort {
        internal_policy: TrafficPolicy::Local,
        ..port(endpoints)
    }
}

/// The last numbers of the addresses: cluster, local, reachable.
fn lists(port: &ServicePort) -> [String; 3] {
    let selection = select(port, IpFamily::V4, &node());
    [&selection.cluster, &selection.local, &selection.reachable].map(|list| {
        let last = |endpoint: &&Endpoint| match endpoint.address {
            std::net::IpAddr::V4(address) => address.octets()[3].to_string(),
            std::net::IpAddr::V6(_) => "v6".into(),
        };
        list.iter().map(last).collect::<Vec<_>>().join(" ")
    })
}

fn has(port: &ServicePort) -> (bool, bool, bool) {
    let selection = select(port, IpFamily::V4, &node());
    (
        selection.has_endpoints,
        selection.has_internal(),
        selection.has_external(),
    )
}

#[test]
fn ready_endpoints_of_the_family_are_used() {
    let some = port(&["10.0.0.1", "10.0.0.2 r s", "fd00::1", "10.0.0.3 l"]);
    assert_eq!(lists(&some), ["1 3", "", "1 3"]);
    let selection = select(&some, IpFamily::V6, &node());
    assert_eq!(selection.cluster.len(), 1);
    assert_eq!(has(&some), (true, true, true));
    assert_eq!(has(&port(&["10.0.0.2 r s"])), (false, false, false));
}

#[test]
fn endpoints_that_end_are_the_last_resort() {
    let ending = ["10.0.0.1 r t", "10.0.0.2 r s t"];
    assert_eq!(lists(&port(&ending))[0], "1");
    assert_eq!(lists(&port(&["10.0.0.1 r t", "10.0.0.3"]))[0], "3");
    assert_eq!(has(&port(&["10.0.0.2 r s t"])), (false, false, false));
    // Ready counts, whatever else is said.
    assert_eq!(lists(&port(&["10.0.0.1 s t", "10.0.0.2"]))[0], "1 2");
}

#[test]
fn for_policy_local_that_is_decided_apart() {
    // Cluster has a ready one; here is only one that ends.
    let port = external(&["10.0.0.1 l r t", "10.0.0.2 l r s t", "10.0.0.3"]);
    assert_eq!(lists(&port), ["3", "1", "1 3"]);
    assert_eq!(has(&port), (true, true, true));
    let none_here = external(&["10.0.0.3 r t"]);
    assert_eq!(lists(&none_here), ["3", "", "3"]);
    assert_eq!(has(&none_here), (true, true, false));
    // Without a way in from outside there is no such policy.
    let closed = ServicePort {
        node_port: None,
        ..none_here
    };
    let selection = select(&closed, IpFamily::V4, &node());
    assert!(!selection.uses_local() && selection.uses_cluster());
    assert!(selection.has_internal());
}

#[test]
fn internal_policy_local_needs_no_remote_endpoints() {
    let only_local = internal(&["10.0.0.1 l", "10.0.0.2"]);
    assert_eq!(lists(&only_local), ["", "1", "1"]);
    let only_remote = internal(&["10.0.0.2"]);
    assert_eq!(lists(&only_remote), ["", "", ""]);
    assert_eq!(has(&only_remote), (true, false, true));
    // A node port has policy Cluster still.
    let both = ServicePort {
        node_port: Some(30080),
        ..only_local
    };
    assert_eq!(lists(&both), ["1 2", "1", "1 2"]);
}

#[test]
fn hints_count_when_every_ready_endpoint_has_one() {
    let zones = ["10.0.0.1 z=zone-a", "10.0.0.2 z=zone-b", "10.0.0.3 r s"];
    assert_eq!(lists(&port(&zones))[0], "1");
    let gap = ["10.0.0.1 z=zone-a", "10.0.0.2"];
    assert_eq!(lists(&port(&gap))[0], "1 2");
    let elsewhere = ["10.0.0.1 z=zone-c", "10.0.0.2 z=zone-b"];
    assert_eq!(lists(&port(&elsewhere))[0], "1 2");
}

#[test]
fn node_hints_come_before_zone_hints() {
    let both = ["10.0.0.1 z=zone-a n=node-b", "10.0.0.2 z=zone-b n=node-a"];
    assert_eq!(lists(&port(&both))[0], "2");
    let none_for_us = ["10.0.0.1 z=zone-a n=node-b", "10.0.0.2 z=zone-b n=node-c"];
    assert_eq!(lists(&port(&none_for_us))[0], "1");
    let nowhere = NodeTopology {
        zone: None,
        ..node()
    };
    let port = port(&both);
    assert_eq!(select(&port, IpFamily::V4, &nowhere).cluster.len(), 1);
}

#[test]
fn hints_do_not_count_for_policy_local_or_for_endpoints_that_end() {
    let local = external(&["10.0.0.1 l z=zone-b", "10.0.0.2 z=zone-a"]);
    assert_eq!(lists(&local), ["2", "1", "1 2"]);
    let ending = ["10.0.0.1 r t z=zone-b", "10.0.0.2 r t z=zone-a"];
    assert_eq!(lists(&port(&ending))[0], "1 2");
}
