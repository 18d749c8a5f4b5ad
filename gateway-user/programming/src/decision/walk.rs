//! The way through kube-proxy's chains to the same end as a decision's.

use std::net::SocketAddr;

use gateway_common::{
    decide::{Masquerade, Reason},
    event::{Event, Hook},
    maps::Service,
};
use nodegate_iptables::chains;
use nodegate_model::service::{Protocol, ServicePortName};

/// The chains in which a rule matches. One that is called in vain is not among them.
pub(super) fn walk(
    name: &ServicePortName,
    protocol: Protocol,
    event: &Event,
    backend: Option<SocketAddr>,
) -> Vec<String> {
    let has = |flag| event.flags & flag != 0;
    let is_external = has(Service::FLAG_EXTERNAL);
    // These are in the table filter, and nothing in nat matches.
    let refusing = match Reason::from_number(event.reason) {
        // It comes first, and takes all that nothing in nat has translated.
        Some(Reason::NoLocalEndpoints) if has(Service::FLAG_SOURCE_RANGES) => {
            Some("KUBE-PROXY-FIREWALL")
        }
        Some(Reason::NoEndpoints | Reason::NoLocalEndpoints) if is_external => {
            Some("KUBE-EXTERNAL-SERVICES")
        }
        Some(Reason::SourceRange) => Some("KUBE-PROXY-FIREWALL"),
        _ => None,
    };
    if let Some(chain) = refusing {
        return vec![chain.to_owned()];
    }
    let mut walk = vec!["KUBE-SERVICES".to_owned()];
    let Some(backend) = backend else {
        return walk;
    };
    if has(Service::FLAG_NODE_PORT) {
        walk.push("KUBE-NODEPORTS".to_owned());
    }
    if has(Service::FLAG_SOURCE_RANGES) {
        walk.push(chains::firewall(name, protocol));
    }
    if is_external {
        walk.push(chains::external(name, protocol));
    }
    // A jump that comes back: KUBE-EXT makes it before KUBE-SVC, which makes it for cluster IPs.
    let masquerade = Masquerade::from_number(event.masquerade)
        .is_some_and(Masquerade::by_kube_proxy)
        .then(|| "KUBE-MARK-MASQ".to_owned());
    // External traffic of the node and of pods takes all endpoints, whatever the policy.
    let from_outside = event.hook == Hook::Ingress as u8;
    let service = if has(Service::FLAG_LOCAL) && (from_outside || !is_external) {
        chains::service_local(name, protocol)
    } else {
        chains::service(name, protocol)
    };
    if is_external {
        walk.extend(masquerade);
        walk.push(service);
    } else {
        walk.push(service);
        walk.extend(masquerade);
    }
    walk.push(chains::endpoint(name, protocol, backend));
    walk
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use gateway_common::{
        TCP,
        conntrack::BUCKETS,
        decide::{Flow, Origin, Verdict},
        maps::{SCHEMA, Settings},
    };
    use nodegate_iptables::{
        config::{FamilyConfig, KubeProxyConfig, LocalDetector},
        normal,
        render::render,
        walk::{FirstPacket, PacketFate, walk as rules_walk},
    };
    use nodegate_model::{
        selection::NodeTopology,
        service::{Endpoint, IpFamily, ServicePort, SourceRanges, TrafficPolicy},
    };

    use super::*;
    use crate::{
        address::{from_map, to_map},
        desired::{Desired, ExternalIps, Policy},
        node::NodeFacts,
        tables::{MirrorTables, filled},
    };

    const NODE: &str = "192.168.170.11";
    const OUTSIDE: &str = "192.0.2.1";
    const POD: &str = "10.10.1.9";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn service(endpoint: Option<&str>, policy: TrafficPolicy) -> ServicePort {
        let name = ServicePortName {
            namespace: "ns".into(),
            name: "web".into(),
            port: "http".into(),
        };
        let is_here = |address: &str| address.starts_with("10.10.1.");
        ServicePort {
            cluster_ips: vec![ip("10.96.0.1")],
            node_port: Some(30080),
            external_ips: vec![ip("198.51.100.1")],
            load_balancer_ips: vec![ip("203.0.113.1")],
            source_ranges: SourceRanges::parse(&["192.0.2.0/24", "10.10.0.0/16", NODE]),
            external_policy: policy,
            internal_policy: policy,
            endpoints: endpoint
                .map(|address| Endpoint::ready(ip(address), 8080, is_here(address)))
                .into_iter()
                .collect(),
            ..ServicePort::new(name, Protocol::Tcp, 80)
        }
    }

    /// The chains that kube-proxy's rules take a packet through.
    fn by_rules(service: &ServicePort, client: &str, to: SocketAddr) -> (PacketFate, Vec<String>) {
        let config = KubeProxyConfig {
            masquerade_mark: 0x4000,
            v4: FamilyConfig {
                node_ip: Some(ip(NODE)),
                local: Some(LocalDetector::Cidr("10.10.0.0/16".parse().unwrap())),
                ..FamilyConfig::default()
            },
            ..KubeProxyConfig::default()
        };
        let services = std::slice::from_ref(service);
        let rules = normal::dump(&render(services, IpFamily::V4, &config));
        let packet = FirstPacket {
            source: ip(client),
            destination: to,
            protocol: Protocol::Tcp,
            interface: (client != NODE).then(|| "eth0".to_owned()),
        };
        let way = rules_walk(&rules, &packet, &[ip(NODE)]).remove(0);
        let nat = way.steps.iter().filter(|step| step.table == "nat");
        let jumps = nat.filter_map(|step| step.jump.clone());
        let mut chains: Vec<String> = jumps.filter(|to| to != "KUBE-POSTROUTING").collect();
        if way.fate != PacketFate::Accept {
            chains = way
                .steps
                .last()
                .map(|step| step.chain.clone())
                .into_iter()
                .collect();
        }
        (way.fate, chains)
    }

    /// Those that a trace shows.
    fn traced(service: &ServicePort, client: &str, to: SocketAddr) -> (u8, Vec<String>) {
        let (origin, hook) = match client {
            NODE => (Origin::NodeSocket, Hook::Connect4),
            POD => (Origin::PodSocket, Hook::Connect4),
            _ => (Origin::Packet, Hook::Ingress),
        };
        let facts = NodeFacts {
            addresses: [ip(NODE)].into(),
        };
        let policy = Policy {
            external_ips: ExternalIps::Any,
            pod_networks: vec!["10.10.0.0/16".parse().unwrap()],
            ..Policy::default()
        };
        let services = std::slice::from_ref(service);
        let desired = Desired::new(services, &NodeTopology::default(), &facts, &policy);
        let (mirror, _) = filled(&desired);
        let settings = Settings {
            schema: SCHEMA,
            trace: 0,
            flags: Settings::FLAG_KNOWS_PODS,
            buckets: BUCKETS,
            host_netns: 0,
            generation: 1,
            node_v4: to_map(ip(NODE)),
            node_v6: [0; 16],
            seed: 0,
        };
        let flow = Flow {
            client: to_map(ip(client)),
            destination: to_map(to.ip()),
            port: to.port(),
            protocol: TCP,
            origin,
        };
        let decision = MirrorTables::new(&mirror, settings).outcomes(&flow)[0].decision;
        let event = Event {
            time: 0,
            netns: 0,
            cookie: 0,
            source: flow.client,
            destination: flow.destination,
            backend_address: decision.address,
            source_port: 50_000,
            destination_port: flow.port,
            backend_port: decision.port,
            protocol: TCP,
            hook: hook as u8,
            verdict: decision.verdict as u8,
            reason: decision.reason as u8,
            masquerade: decision.masquerade as u8,
            reserved: 0,
            flags: decision.flags,
            service: decision.service,
            backend: decision.backend,
            pid: 0,
            interface: 0,
        };
        let backend = (decision.backend != 0)
            .then(|| SocketAddr::new(from_map(decision.address), decision.port));
        let chains = walk(&service.name, Protocol::Tcp, &event, backend);
        (event.verdict, chains)
    }

    #[test]
    fn a_trace_shows_the_chains_of_the_rules_for_every_verdict() {
        let mut verdicts = std::collections::BTreeMap::new();
        let endpoints = [None, Some("10.10.1.4"), Some("10.10.2.4")];
        for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
            for endpoint in endpoints {
                let service = service(endpoint, policy);
                for client in [OUTSIDE, "100.64.0.1", POD, NODE] {
                    for to in [
                        "10.96.0.1:80",
                        "192.168.170.11:30080",
                        "198.51.100.1:80",
                        "203.0.113.1:80",
                    ] {
                        let to = to.parse().unwrap();
                        let (fate, rules) = by_rules(&service, client, to);
                        let (verdict, chains) = traced(&service, client, to);
                        let fate = match fate {
                            PacketFate::Accept => Verdict::Forward,
                            PacketFate::Reject => Verdict::Reject,
                            PacketFate::Drop => Verdict::Drop,
                        };
                        // What nodegate does otherwise on purpose is compared elsewhere.
                        if verdict == fate as u8 {
                            let what = (policy, endpoint, client, to);
                            assert_eq!(chains, rules, "{what:?}");
                            *verdicts.entry(verdict).or_insert(0) += 1;
                        }
                    }
                }
            }
        }
        let compared: i32 = verdicts.values().sum();
        assert!(verdicts.len() == 3 && compared > 80, "{verdicts:?}");
    }
}
