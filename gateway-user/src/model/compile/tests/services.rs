use super::*;

fn slice(name: &str, service: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{ports}]\nendpoints: [{endpoints}]\n"
    )
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

#[test]
fn endpoints_are_those_that_are_ready_by_port_name_and_protocol() {
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
            "default/dns:dns udp 53/0 [10.96.0.10] [] -> 10.0.0.2:5353 10.0.0.9:5353!",
            "default/dns:dns-tcp tcp 53/0 [10.96.0.10] [] -> 10.0.0.2:5354 10.0.0.9:5354!",
        ]
    );
    assert_eq!(
        messages(&snapshot),
        [
            "warning: 3.yaml:6: EndpointSlice default/dns-3: endpoints[1].addresses[0]: `127.0.0.1` is no address of a pod; left out",
            "warning: 3.yaml:6: EndpointSlice default/dns-3: endpoints[2].addresses[0]: `169.254.169.254` is no address of a pod; left out",
            "warning: 3.yaml:6: EndpointSlice default/dns-3: endpoints[3].addresses[0]: `x` is no address of a pod; left out",
        ]
    );
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
