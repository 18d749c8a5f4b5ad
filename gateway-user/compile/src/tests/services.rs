use super::*;
use nodegate_model::service::{ServiceType, TrafficPolicy};

fn slice(name: &str, service: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{ports}]\nendpoints: [{endpoints}]\n"
    )
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

#[test]
fn endpoints_are_found_by_port_name_and_protocol() {
    let snapshot = Cluster::with(&[
        &service("dns", "clusterIP: 10.96.0.10, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]"),
        &slice(
            "dns-1",
            "dns",
            "{name: dns, port: 5353, protocol: UDP}, {name: dns-tcp, port: 5354}, {name: other, port: 1}",
            "{addresses: [10.0.0.9, 10.0.0.8], nodeName: node1}, {addresses: [10.0.0.10], nodeName: node2, conditions: {ready: false}}, {addresses: [10.0.0.2], conditions: {ready: true}}",
        ),
        &slice("dns-2", "dns", "{name: dns, port: 5353}", "{addresses: [10.0.0.3]}"),
        &slice(
            "dns-3",
            "dns",
            "{name: dns-tcp, port: 5354}",
            "{addresses: [10.0.0.2]}, {addresses: [127.0.0.1]}, {addresses: [169.254.169.254]}, {addresses: [x]}",
        ),
    ])
    .snapshot(&ServiceScope::All);
    assert_eq!(
        services(&snapshot),
        [
            "default/dns:dns udp 53/0 [10.96.0.10] [] -> 10.0.0.10:5353? 10.0.0.2:5353 10.0.0.9:5353!",
            "default/dns:dns-tcp tcp 53/0 [10.96.0.10] [] -> 10.0.0.10:5354? 10.0.0.2:5354 10.0.0.9:5354!",
        ]
    );
    assert_eq!(
        messages(&snapshot),
        [
            "warning: 1.yaml:5: EndpointSlice default/dns-1: ports[2].name: Service default/dns has no port `other` (TCP); no connection gets to these endpoints by it (fix: its ports are `dns` (UDP), `dns-tcp` (TCP))",
            "warning: 2.yaml:5: EndpointSlice default/dns-2: ports[0].name: Service default/dns has no port `dns` (TCP); no connection gets to these endpoints by it (fix: its ports are `dns` (UDP), `dns-tcp` (TCP))",
            "warning: 3.yaml:6: EndpointSlice default/dns-3: endpoints[1].addresses[0]: `127.0.0.1` is no address of a pod; left out",
            "warning: 3.yaml:6: EndpointSlice default/dns-3: endpoints[2].addresses[0]: `169.254.169.254` is no address of a pod; left out",
            "warning: 3.yaml:6: EndpointSlice default/dns-3: endpoints[3].addresses[0]: `x` is no address of a pod; left out",
        ]
    );
}

#[test]
fn fault_addresses_that_no_pod_can_have_are_left_out() {
    let bad = |family: &str, texts: &[&str]| {
        let endpoints: Vec<_> = texts
            .iter()
            .map(|text| format!("{{addresses: ['{text}']}}"))
            .collect();
        slice("a-1", "a", "{port: 8080}", &endpoints.join(", ")).replace("IPv4", family)
    };
    for (family, good, texts) in [
        (
            "IPv4",
            "10.0.0.1",
            &[
                "fd00::1",
                "::ffff:10.0.0.2",
                "010.0.0.3",
                "10.0.0.4/32",
                "127.0.0.1",
                "0.0.0.0",
                "224.0.0.1",
                "169.254.1.1",
                "",
            ][..],
        ),
        (
            "IPv6",
            "fd00::1",
            &[
                "10.0.0.1",
                "::ffff:10.0.0.2",
                "::ffff:127.0.0.1",
                "::1",
                "::",
                "ff02::1",
                "fe80::1",
            ],
        ),
    ] {
        let all = [&[good], texts].concat();
        let snapshot = Cluster::with(&[&service("a", "ports: [{port: 80}]"), &bad(family, &all)])
            .snapshot(&ServiceScope::All);
        let found: Vec<_> = snapshot.services[0]
            .endpoints
            .iter()
            .map(|endpoint| endpoint.address.to_string())
            .collect();
        assert_eq!(found, [good]);
        let told = messages(&snapshot);
        assert_eq!(told.len(), texts.len(), "{told:?}");
        for text in texts {
            let one = format!("`{text}` is no address of a pod; left out");
            assert!(
                told.iter().any(|message| message.ends_with(&one)),
                "{text}: {told:?}"
            );
        }
    }
}

#[test]
fn fault_a_slice_waits_for_its_service() {
    let early = slice("a-1", "a", "{port: 8080}", "{addresses: [10.0.0.1]}");
    let mut cluster = Cluster::with(&[&early]);
    let snapshot = cluster.snapshot(&ServiceScope::All);
    assert_eq!(services(&snapshot), [""; 0]);
    assert_eq!(messages(&snapshot), [""; 0]);
    cluster.add(&service("a", "ports: [{port: 80}]"));
    assert_eq!(
        services(&cluster.snapshot(&ServiceScope::All)),
        ["default/a tcp 80/0 [] [] -> 10.0.0.1:8080"]
    );
}

#[test]
fn fault_a_port_without_a_number_or_of_another_name_has_no_endpoints() {
    let snapshot = Cluster::with(&[
        &service("a", "ports: [{name: http, port: 80}]"),
        &slice("a-1", "a", "{name: http}", "{addresses: [10.0.0.1]}"),
        &slice(
            "a-2",
            "a",
            "{name: https, port: 8443}",
            "{addresses: [10.0.0.2]}",
        ),
        &slice(
            "a-3",
            "a",
            "{name: http, port: 0}",
            "{addresses: [10.0.0.3]}",
        ),
        &slice("a-4", "a", "", "{addresses: [10.0.0.4]}"),
    ])
    .snapshot(&ServiceScope::All);
    assert_eq!(services(&snapshot), ["default/a:http tcp 80/0 [] [] ->"]);
}

/// `:` comes after the digits.
#[test]
fn endpoints_are_in_the_order_of_their_text() {
    let snapshot = Cluster::with(&[
        &service("a", "ports: [{port: 80}]"),
        &slice(
            "a-1",
            "a",
            "{port: 8080}",
            "{addresses: [10.0.1.2]}, {addresses: [10.0.1.100]}, {addresses: [10.0.1.9]}, {addresses: [10.0.1.10]}",
        ),
        &slice("a-2", "a", "{port: 80}", "{addresses: [10.0.1.10]}"),
    ])
    .snapshot(&ServiceScope::All);
    assert_eq!(
        services(&snapshot),
        [
            "default/a tcp 80/0 [] [] -> 10.0.1.100:8080 10.0.1.10:80 10.0.1.10:8080 10.0.1.2:8080 10.0.1.9:8080"
        ]
    );
}

#[test]
fn an_address_in_two_slices_is_one_endpoint() {
    let ending = "conditions: {ready: false, serving: true, terminating: true}";
    let snapshot = Cluster::with(&[
        &service("a", "ports: [{port: 80}]"),
        &slice(
            "a-1",
            "a",
            "{port: 8080}",
            &format!("{{addresses: [10.0.0.1]}}, {{addresses: [10.0.0.2], {ending}}}, {{addresses: [10.0.0.3]}}"),
        ),
        &slice(
            "a-2",
            "a",
            "{port: 8080}",
            &format!("{{addresses: [10.0.0.1], {ending}}}, {{addresses: [10.0.0.2]}}, {{addresses: [10.0.0.3], nodeName: node1}}"),
        ),
    ])
    .snapshot(&ServiceScope::All);
    assert_eq!(
        services(&snapshot),
        ["default/a tcp 80/0 [] [] -> 10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080!"]
    );
    let terminating = |endpoint: &nodegate_model::service::Endpoint| endpoint.terminating;
    assert!(!snapshot.services[0].endpoints.iter().any(terminating));
}

#[test]
fn slices_that_kube_proxy_does_not_read() {
    let with_label =
        |text: &str, label: &str| text.replace("labels: {", &format!("labels: {{{label}: x, "));
    let ports = "{port: 8080}";
    let headless = "service.kubernetes.io/headless";
    let snapshot = Cluster::with(&[
        // The label counts on slices only.
        &service("a", "ports: [{port: 80}]")
            .replace("name: a", &format!("name: a, labels: {{{headless}: x}}")),
        &with_label(
            &slice("a-1", "a", ports, "{addresses: [10.0.0.1]}"),
            headless,
        ),
        &slice("a-2", "a", ports, "{addresses: [h.example.com]}").replace("IPv4", "FQDN"),
        &slice("a-3", "a", "{name: ''}", "{addresses: [10.0.0.3]}"),
        &slice("a-4", "other", ports, "{addresses: [10.0.0.4]}"),
        // This label counts on Services only.
        &with_label(
            &slice("a-5", "a", ports, "{addresses: [10.0.0.5]}"),
            "service.kubernetes.io/service-proxy-name",
        ),
    ])
    .snapshot(&ServiceScope::All);
    assert_eq!(messages(&snapshot), [""; 0]);
    assert_eq!(
        services(&snapshot),
        ["default/a tcp 80/0 [] [] -> 10.0.0.5:8080"]
    );
}

#[test]
fn a_load_balancers_addresses_ranges_and_policies() {
    let text = service(
        "lb",
        "type: LoadBalancer, clusterIP: 10.96.0.1, externalTrafficPolicy: Local, internalTrafficPolicy: Local, healthCheckNodePort: 32000, sessionAffinity: ClientIP, loadBalancerSourceRanges: [' 172.16.0.0/12 ', x], ports: [{port: 80, nodePort: 30080}]",
    ) + "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: 192.0.2.2, ipMode: VIP}, {ip: 192.0.2.3, ipMode: Proxy}, {hostname: x.example.com}]}}\n";
    let snapshot = Cluster::with(&[&text]).snapshot(&ServiceScope::All);
    let port = &snapshot.services[0];
    let text = |ips: &[std::net::IpAddr]| format!("{ips:?}");
    assert_eq!(text(&port.load_balancer_ips), "[192.0.2.1, 192.0.2.2]");
    assert_eq!(port.kind, ServiceType::LoadBalancer);
    assert_eq!(port.external_policy, TrafficPolicy::Local);
    assert_eq!(port.internal_policy, TrafficPolicy::Local);
    assert_eq!(port.health_check_node_port, Some(32000));
    assert_eq!(port.affinity, Some(10800));
    assert!(port.source_ranges.admit("172.16.0.1".parse().unwrap()));
    assert!(!port.source_ranges.admit("10.0.0.1".parse().unwrap()));
    assert_eq!(
        messages(&snapshot),
        [
            "warning: 0.yaml:4: Service default/lb: spec.loadBalancerSourceRanges[1]: `x` is not a network; it is ignored (fix: a network such as 192.168.0.0/16)"
        ]
    );
}

#[test]
fn a_cluster_ip_service_has_no_external_policy() {
    let snapshot = Cluster::with(&[
        &service("a", "externalTrafficPolicy: Local, healthCheckNodePort: 32000, ports: [{port: 80}]"),
        &service("b", "externalTrafficPolicy: Local, externalIPs: [192.0.2.1], ports: [{port: 80}]"),
        &service("c", "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 30}}, loadBalancerSourceRanges: [x], ports: [{port: 80}]"),
    ])
    .snapshot(&ServiceScope::All);
    let [a, b, c] = &snapshot.services[..] else {
        panic!()
    };
    assert_eq!(
        (a.external_policy, a.health_check_node_port),
        (TrafficPolicy::Cluster, None)
    );
    assert_eq!(b.external_policy, TrafficPolicy::Local);
    assert_eq!(c.affinity, Some(30));
    assert!(!c.source_ranges.admit("10.0.0.1".parse().unwrap()));
}

#[test]
fn the_node_is_where_its_label_says() {
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node1, labels: {topology.kubernetes.io/zone: zone-a}}\n";
    let snapshot = Cluster::with(&[node]).snapshot(&ServiceScope::All);
    assert_eq!(snapshot.node.name, "node1");
    assert_eq!(snapshot.node.zone.as_deref(), Some("zone-a"));
    assert_eq!(
        Cluster::with(&[]).snapshot(&ServiceScope::All).node.zone,
        None
    );
}

#[test]
fn kube_proxy_gives_an_address_to_all_who_claim_it() {
    let resources = Cluster::with(&[
        &service(
            "a",
            "clusterIP: 10.96.0.1, externalIPs: [192.0.2.1, 192.0.2.1], ports: [{port: 443}]",
        ),
        &service(
            "b",
            "clusterIP: 10.96.0.2, externalIPs: [10.96.0.1, 192.0.2.1], ports: [{port: 443}]",
        ),
    ])
    .resources();
    let mut diagnostics = Vec::new();
    let ports = crate::kube_proxy(&resources, &NodeIdentity::default(), &mut diagnostics);
    let external: Vec<_> = ports
        .iter()
        .map(|port| format!("{:?}", port.external_ips))
        .collect();
    assert_eq!(
        external,
        ["[192.0.2.1, 192.0.2.1]", "[10.96.0.1, 192.0.2.1]"]
    );
    assert_eq!(diagnostics, []);
}

#[test]
fn what_kube_proxy_leaves_alone_is_left_alone() {
    let snapshot = Cluster::with(&[
        &service("headless", "clusterIP: None, ports: [{port: 80}]"),
        &service("elsewhere", "type: ExternalName, externalName: example.com"),
        &service("others", "ports: [{port: 80}]").replace(
            "name: others",
            "name: others, labels: {service.kubernetes.io/service-proxy-name: x}",
        ),
        &service("mine", "ports: [{port: 80}]"),
    ])
    .snapshot(&ServiceScope::All);
    assert_eq!(messages(&snapshot), [""; 0]);
    assert_eq!(services(&snapshot), ["default/mine tcp 80/0 [] [] ->"]);
}

#[test]
fn an_external_ip_cannot_take_over_another_address() {
    let snapshot = Cluster::with(&[
        &service("a", "clusterIP: 10.96.0.1, ports: [{port: 443}]"),
        &service("b", "clusterIP: 10.96.0.2, externalIPs: [10.96.0.1, 10.96.0.2, 192.168.96.50], ports: [{port: 443}]"),
        &service("c", "externalIPs: [192.168.96.50], ports: [{name: a, port: 443}, {name: b, port: 80}]"),
    ])
    .snapshot(&ServiceScope::All);
    assert_eq!(
        services(&snapshot),
        [
            "default/a tcp 443/0 [10.96.0.1] [] ->",
            "default/b tcp 443/0 [10.96.0.2] [10.96.0.2, 192.168.96.50] ->",
            "default/c:a tcp 443/0 [] [] ->",
            "default/c:b tcp 80/0 [] [192.168.96.50] ->",
        ]
    );
    assert_eq!(
        messages(&snapshot),
        [
            "error: 1.yaml:4: Service default/b: spec.externalIPs[0]: 10.96.0.1 is the cluster IP of Service default/a; it does not lead here (fix: choose another address)",
            "error: 2.yaml:4: Service default/c: spec.externalIPs[0]: 192.168.96.50 port 443 leads to Service default/b already (fix: choose another address)",
        ]
    );
}

#[test]
fn an_external_ip_that_is_a_nodes_takes_no_node_port_and_is_told() {
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n}\nstatus: {addresses: [{type: InternalIP, address: 192.168.96.50}]}\n";
    let gateway = service(
        "gateway",
        "type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30801}]",
    );
    let evil = service(
        "evil",
        "clusterIP: 10.96.0.2, externalIPs: [192.168.96.50, 203.0.113.1], ports: [{name: a, port: 30801}, {name: b, port: 22}]",
    );
    let snapshot = Cluster::with(&[node, &gateway, &evil]).snapshot(&ServiceScope::All);
    assert_eq!(
        services(&snapshot)[..2],
        [
            "default/evil:a tcp 30801/0 [10.96.0.2] [203.0.113.1] ->",
            "default/evil:b tcp 22/0 [10.96.0.2] [192.168.96.50, 203.0.113.1] ->",
        ]
    );
    let told: Vec<_> = snapshot
        .diagnostics
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        told,
        [
            "error: 2.yaml:4: Service default/evil: spec.externalIPs[0]: 192.168.96.50 is an address of Node n, and 30801 is a node port of Service default/gateway; it does not lead here (fix: another port)",
            "info: 2.yaml:4: Service default/evil: spec.externalIPs[0]: 192.168.96.50 is an address of Node n: what listens at its port 22 is reached from elsewhere no more",
        ]
    );
}

#[test]
fn the_scope_chooses() {
    let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  selector: {role: edge}\n  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]\n";
    let mut cluster = Cluster::with(&[
        gateway,
        &service("app", "selector: {app: app}, ports: [{port: 80}]"),
        &service("bare", "ports: [{port: 80}]"),
        // Before there is any pod.
        &service(
            "early",
            "selector: {istio: ingressgateway, app: x}, ports: [{port: 80}]",
        ),
        &service("edge", "selector: {tier: front}, ports: [{port: 80}]"),
        &service("marked", "selector: {app: app}, ports: [{port: 80}]")
            .replace("name: marked", "name: marked, labels: {proxy: nodegate}"),
    ]);
    cluster.pod(
        "default/edge-0",
        "10.0.0.1",
        "node1",
        "role: edge, tier: front",
        &[],
    );
    cluster.pod("default/app-0", "10.0.0.2", "node1", "app: app", &[]);
    let names = |scope| -> Vec<_> {
        let snapshot = cluster.snapshot(&scope);
        snapshot
            .services
            .iter()
            .map(|service| service.name.name.clone())
            .collect()
    };
    assert_eq!(names(ServiceScope::Gateway), ["early", "edge"]);
    assert_eq!(
        names(ServiceScope::All),
        ["app", "bare", "early", "edge", "marked"]
    );
    let selector = BTreeMap::from([("proxy".into(), "nodegate".into())]);
    assert_eq!(names(ServiceScope::Selector(selector)), ["marked"]);
}
