//! TCP routes that are nothing but weights: who follows them.

use nodegate_model::service::{
    IpFamily, ServicePort,
    shift::{Shift, Way},
};
use nodegate_values::diagnostic::Severity;

use super::Cluster;
use crate::{NodeIdentity, ServiceScope, TcpShifting, compile};

const GATEWAY: &str = "\
apiVersion: v1
kind: Service
metadata: {name: gate, namespace: istio-system}
spec:
  type: NodePort
  clusterIP: 10.96.0.9
  selector: {istio: ingressgateway}
  ports: [{name: tcp, port: 31400, nodePort: 32432}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: tcp, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 31400, name: tcp, protocol: TCP}, hosts: ['*']}]
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: shop}
spec: {clusterIP: 10.96.0.10, ports: [{name: tcp, port: 9000}]}
";

const ROUTE: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo, namespace: shop, annotations: {}}
spec:
  hosts: ['*']
  gateways: [tcp]
  tcp: [{route: [{destination: {host: echo, subset: v1}, weight: 80}, {destination: {host: echo, subset: v2}, weight: 20}]}]
";

const RULE: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo, namespace: shop}
spec: {host: echo, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
";

/// Two endpoints of v1, one of v2, and a gateway.
fn cluster(texts: &[&str]) -> Cluster {
    let mut cluster = Cluster::with(texts);
    let labels = "istio: ingressgateway, app: gate";
    let gate = [("gate", "tcp", 31400)];
    cluster.pod("istio-system/gate-0", "10.0.0.1", "node1", labels, &gate);
    for (name, address, node, version) in [
        ("shop/echo-0", "10.0.1.1", "node1", "version: v1"),
        ("shop/echo-1", "10.0.1.2", "node2", "version: v1"),
        ("shop/echo-2", "10.0.1.3", "node2", "version: v2"),
    ] {
        cluster.pod(name, address, node, version, &[("echo", "tcp", 9000)]);
    }
    cluster
}

fn with(mode: TcpShifting, cluster: &Cluster) -> (ServicePort, Vec<String>) {
    let node = NodeIdentity {
        tcp_shifting: mode,
        ..NodeIdentity::named("node1")
    };
    let compiled = compile(&cluster.resources(), &node, None, &ServiceScope::Gateway);
    let warnings = compiled.diagnostics.iter();
    let warnings = warnings.filter(|one| one.severity > Severity::Info);
    let warnings = warnings.map(ToString::to_string).collect();
    let [port] = &compiled.services[..] else {
        panic!("{:?} {:?}", compiled.services, compiled.diagnostics);
    };
    (ServicePort::clone(port), warnings)
}

fn shift(cluster: &Cluster) -> Option<Shift> {
    with(TcpShifting::Auto, cluster).0.shift
}

/// Why the proxy follows the route.
fn against(cluster: &Cluster) -> String {
    match shift(cluster).expect("a route").way {
        Way::Proxy(why) => why,
        Way::Kernel(shift) => panic!("the kernel does: {shift:?}"),
    }
}

#[test]
fn weights_and_subsets_are_for_the_kernel() {
    let (port, warnings) = with(TcpShifting::Auto, &cluster(&[GATEWAY, ROUTE, RULE]));
    let turns = port.turns(IpFamily::V4).expect("turns");
    let taken: Vec<_> = turns
        .iter()
        .map(|(_, endpoint)| endpoint.socket().to_string())
        .collect();
    let [a, b, c] = ["10.0.1.1:9000", "10.0.1.2:9000", "10.0.1.3:9000"];
    assert_eq!(taken, [a, b, c, a, b]);
    let local: Vec<_> = turns.iter().map(|(_, endpoint)| endpoint.local).collect();
    assert_eq!(local, [true, false, false, true, false]);
    assert_eq!(
        port.turns(IpFamily::V6).map(|turns| turns.order.len()),
        None
    );
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn what_only_a_proxy_can_do_is_named() {
    let rule = |policy: &str| {
        RULE.replace(
            "host: echo",
            &format!("host: echo, trafficPolicy: {policy}"),
        )
    };
    for (policy, word) in [
        (
            "{connectionPool: {tcp: {maxConnections: 5}}}",
            "maxConnections",
        ),
        (
            "{connectionPool: {tcp: {connectTimeout: 1s}}}",
            "connectTimeout",
        ),
        ("{connectionPool: {tcp: {idleTimeout: 5s}}}", "idleTimeout"),
        (
            "{connectionPool: {tcp: {maxConnectionDuration: 5s}}}",
            "maxConnectionDuration",
        ),
        (
            "{connectionPool: {tcp: {tcpKeepalive: {time: 5s}}}}",
            "tcpKeepalive",
        ),
        ("{outlierDetection: {}}", "outlierDetection"),
        (
            "{loadBalancer: {consistentHash: {useSourceIp: true}}}",
            "consistentHash",
        ),
        ("{tls: {mode: SIMPLE}}", "TLS"),
    ] {
        let why = against(&cluster(&[GATEWAY, ROUTE, &rule(policy)]));
        assert!(why.contains(word) && why.contains("echo.shop"), "{why}");
    }
    // What is of HTTP alone makes no difference.
    let http = rule(
        "{connectionPool: {http: {http1MaxPendingRequests: 1}}, loadBalancer: {simple: RANDOM}}",
    );
    let shift = shift(&cluster(&[GATEWAY, ROUTE, &http])).expect("a route");
    assert!(matches!(shift.way, Way::Kernel(_)), "{shift:?}");
}

#[test]
fn policies_and_missing_endpoints_are_named() {
    let local = GATEWAY.replace(
        "clusterIP: 10.96.0.9",
        "clusterIP: 10.96.0.9\n  externalTrafficPolicy: Local",
    );
    let why = against(&cluster(&[&local, ROUTE, RULE]));
    assert!(why.starts_with("externalTrafficPolicy Local"), "{why}");

    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: nobody, namespace: istio-system}\nspec: {}\n";
    let why = against(&cluster(&[GATEWAY, ROUTE, RULE, policy]));
    assert!(why.contains("nobody"), "{why}");

    let other = ROUTE.replace("subset: v2", "subset: v3");
    let rule = RULE.replace(
        "{name: v2, labels: {version: v2}}",
        "{name: v3, labels: {version: v3}}",
    );
    let why = against(&cluster(&[GATEWAY, &other, &rule]));
    assert!(why.contains("|v3|") && why.contains("no endpoint"), "{why}");
    let why = against(&cluster(&[GATEWAY, &other, RULE]));
    assert!(
        why.contains("|v3|") && why.contains("does not exist"),
        "{why}"
    );
}

#[test]
fn addresses_that_no_slice_has_are_for_the_gateway() {
    let own = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: own, namespace: shop}
spec:
  hosts: [own.example]
  resolution: STATIC
  ports: [{name: tcp, number: 9000, protocol: TCP}]
  endpoints: [{address: 127.0.0.1}]
";
    let to_own = ROUTE.replace("{host: echo, subset: v2}", "{host: own.example}");
    let why = against(&cluster(&[GATEWAY, &to_own, RULE, own]));
    assert!(
        why.contains("own.example has endpoints that are of no Service"),
        "{why}"
    );
    // Beside those of a Service, too.
    let beside = own.replace("own.example", "echo.shop.svc.cluster.local");
    let beside = beside.replace(
        "{address: 127.0.0.1}",
        "{address: 127.0.0.1, labels: {version: v2}}",
    );
    let why = against(&cluster(&[GATEWAY, ROUTE, RULE, &beside]));
    assert!(why.contains("of no Service"), "{why}");
}

#[test]
fn gateways_that_differ_are_not_passed_by() {
    let mut two = cluster(&[GATEWAY, ROUTE, RULE]);
    let labels = "istio: other, app: gate";
    two.pod(
        "istio-system/gate-1",
        "10.0.0.2",
        "node2",
        labels,
        &[("gate", "tcp", 31400)],
    );
    let why = against(&two);
    assert!(why.contains("other routes"), "{why}");
}

#[test]
fn other_ports_have_no_route() {
    assert_eq!(shift(&cluster(&[GATEWAY, RULE])), None, "no VirtualService");
    let http = GATEWAY.replace("protocol: TCP", "protocol: HTTP");
    assert_eq!(
        shift(&cluster(&[&http, ROUTE, RULE])),
        None,
        "a server of HTTP"
    );
}

#[test]
fn a_virtual_service_decides_for_itself() {
    let annotated = |word: &str| {
        let annotations = format!("annotations: {{nodegate.io/tcp-shifting: {word}}}");
        ROUTE.replace("annotations: {}", &annotations)
    };
    let by_kernel = |mode, route: &str, rule: &str| {
        let (port, warnings) = with(mode, &cluster(&[GATEWAY, route, rule]));
        let way = port.shift.expect("a route").way;
        (matches!(way, Way::Kernel(_)), warnings)
    };
    let none: [&str; 0] = [];
    let (is_so, warnings) = by_kernel(TcpShifting::Proxy, ROUTE, RULE);
    assert_eq!((is_so, &warnings[..]), (false, &none.map(String::from)[..]));
    assert!(by_kernel(TcpShifting::Proxy, &annotated("kernel"), RULE).0);
    assert!(!by_kernel(TcpShifting::Kernel, &annotated("proxy"), RULE).0);
    // Who asks for the kernel hears of it if that can't be.
    let limited = RULE.replace(
        "host: echo",
        "host: echo, trafficPolicy: {connectionPool: {tcp: {maxConnections: 5}}}",
    );
    assert_eq!(by_kernel(TcpShifting::Auto, ROUTE, &limited).1, none);
    for (mode, route) in [
        (TcpShifting::Kernel, ROUTE),
        (TcpShifting::Auto, &annotated("kernel")),
    ] {
        let (is_so, warnings) = by_kernel(mode, route, &limited);
        let [warning] = &warnings[..] else {
            panic!("{warnings:?}");
        };
        assert!(!is_so && warning.contains("maxConnections"), "{warning}");
    }
    let (is_so, warnings) = by_kernel(TcpShifting::Auto, &annotated("kernal"), RULE);
    assert!(
        is_so && warnings[0].contains("`kernal` is none of"),
        "{warnings:?}"
    );
}
