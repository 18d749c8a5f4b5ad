use super::*;
use crate::{
    config::{FamilyConfig, KubeProxyConfig, LocalDetector},
    normal,
    render::render,
};
use nodegate_model::service::{Endpoint, IpFamily, ServicePort, ServicePortName, TrafficPolicy};

const NODE: &str = "192.168.170.137";

fn gateway() -> ServicePort {
    let name = ServicePortName {
        namespace: "istio-system".into(),
        name: "istio-ingressgateway".into(),
        port: "http2".into(),
    };
    ServicePort {
        node_port: Some(31373),
        cluster_ips: vec!["10.96.190.18".parse().unwrap()],
        endpoints: vec![Endpoint::ready("10.10.1.4".parse().unwrap(), 8080, true)],
        ..ServicePort::new(name, Protocol::Tcp, 80)
    }
}

fn ways(
    service: &ServicePort,
    interface: Option<&str>,
    source: &str,
    destination: &str,
) -> Vec<RuleWay> {
    let config = KubeProxyConfig {
        masquerade_mark: 0x4000,
        v4: FamilyConfig {
            node_ip: Some(NODE.parse().unwrap()),
            local: Some(LocalDetector::Cidr("10.10.0.0/16".parse().unwrap())),
            localhost_node_ports: true,
            ..FamilyConfig::default()
        },
        ..KubeProxyConfig::default()
    };
    let services = std::slice::from_ref(service);
    let rules = normal::dump(&render(services, IpFamily::V4, &config));
    let packet = FirstPacket {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: Protocol::Tcp,
        interface: interface.map(str::to_owned),
    };
    walk(&rules, &packet, &[NODE.parse().unwrap()])
}

fn chains(way: &RuleWay) -> Vec<&str> {
    let nat = way.steps.iter().filter(|step| step.table == "nat");
    nat.filter_map(|step| step.jump.as_deref()).collect()
}

#[test]
fn a_node_port_from_outside() {
    let ways = ways(
        &gateway(),
        Some("eth0"),
        "192.0.2.1",
        "192.168.170.137:31373",
    );
    let [way] = &ways[..] else {
        panic!("{ways:#?}");
    };
    assert_eq!(
        chains(way),
        [
            "KUBE-SERVICES",
            "KUBE-NODEPORTS",
            "KUBE-EXT-G6D3V5KS3PXPUEDS",
            "KUBE-MARK-MASQ",
            "KUBE-SVC-G6D3V5KS3PXPUEDS",
            "KUBE-SEP-LAV34IONK7IOT5SV",
            "KUBE-POSTROUTING",
        ]
    );
    assert_eq!(way.translated, Some("10.10.1.4:8080".parse().unwrap()));
    assert!(way.masqueraded);
    assert_eq!(way.fate, PacketFate::Accept);
    let last = way.steps.iter().find(|step| step.rule.contains("-j DNAT"));
    assert_eq!(
        last.unwrap().rule,
        "-A KUBE-SEP-LAV34IONK7IOT5SV -p tcp -m comment --comment \"istio-system/istio-ingressgateway:http2\" -m tcp -j DNAT --to-destination 10.10.1.4:8080"
    );
    let node_ports = &way.steps[1];
    assert_eq!(node_ports.chain, "KUBE-SERVICES");
    assert_eq!(
        node_ports.why,
        ["192.168.170.137 is an address of this node"]
    );
    assert_eq!(node_ports.passed, 1);
}

#[test]
fn a_cluster_ip_is_masqueraded_for_others_than_pods() {
    let service = gateway();
    for (interface, source, masqueraded) in [
        (None, NODE, true),
        (Some("eth0"), "192.0.2.1", true),
        (Some("veth1"), "10.10.1.13", false),
        // A pod that reaches itself.
        (Some("veth0"), "10.10.1.4", true),
    ] {
        let ways = ways(&service, interface, source, "10.96.190.18:80");
        assert_eq!(ways.len(), 1);
        assert_eq!(ways[0].masqueraded, masqueraded, "{source}");
        let steps = chains(&ways[0]);
        assert_eq!(&steps[..2], ["KUBE-SERVICES", "KUBE-SVC-G6D3V5KS3PXPUEDS"]);
    }
}

#[test]
fn each_endpoint_is_as_likely_as_the_others() {
    let mut service = gateway();
    service.affinity = Some(600);
    service.endpoints = (1..=7)
        .map(|number| Endpoint::ready([10, 10, 1, number].into(), 8080, true))
        .collect();
    let ways = ways(&service, None, NODE, "10.96.190.18:80");
    assert_eq!(ways.len(), 7);
    for way in &ways {
        assert!((way.probability - 1.0 / 7.0).abs() < 1e-8, "{way:?}");
        assert_eq!(way.affinity, Some(600));
    }
}

#[test]
fn where_there_is_nobody() {
    let mut service = gateway();
    service.endpoints.clear();
    let outside =
        |service: &ServicePort| ways(service, Some("eth0"), "192.0.2.1", "192.168.170.137:31373");
    let rejected = outside(&service);
    assert_eq!(rejected[0].fate, PacketFate::Reject);
    assert_eq!(
        rejected[0].steps.last().unwrap().rule,
        "-A KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment \"istio-system/istio-ingressgateway:http2 has no endpoints\" -m addrtype --dst-type LOCAL -m tcp --dport 31373 -j REJECT --reject-with icmp-port-unreachable"
    );
    // A process of the node meets it when the packet comes back in.
    let own = ways(&service, None, NODE, "192.168.170.137:31373");
    assert_eq!(own[0].fate, PacketFate::Reject);
    let cluster_ip = ways(&service, None, NODE, "10.96.190.18:80");
    assert_eq!(cluster_ip[0].fate, PacketFate::Reject);

    service.endpoints = vec![Endpoint::ready("10.10.2.4".parse().unwrap(), 8080, false)];
    service.external_policy = TrafficPolicy::Local;
    assert_eq!(outside(&service)[0].fate, PacketFate::Drop);
}

#[test]
fn who_is_let_in() {
    use nodegate_model::service::SourceRanges;
    let service = ServicePort {
        load_balancer_ips: vec!["203.0.113.1".parse().unwrap()],
        source_ranges: SourceRanges::parse(&["198.51.100.0/24"]),
        ..gateway()
    };
    let from = |source| ways(&service, Some("eth0"), source, "203.0.113.1:80").remove(0);
    let way = from("198.51.100.7");
    assert!(chains(&way).contains(&"KUBE-FW-G6D3V5KS3PXPUEDS"));
    assert_eq!(way.translated, Some("10.10.1.4:8080".parse().unwrap()));
    let way = from("192.0.2.1");
    assert_eq!((way.translated, way.fate), (None, PacketFate::Drop));
    assert_eq!(way.steps.last().unwrap().chain, "KUBE-PROXY-FIREWALL");
}
