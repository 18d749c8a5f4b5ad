//! Manifests as people have published them.

use super::*;

const GATEWAY_LABELS: &str = "app: istio-ingressgateway, istio: ingressgateway";

/// The gateway pod, behind these ports of its Service.
fn gateway_pod(cluster: &mut Cluster, address: &str, ports: &[(&str, u16)]) {
    let ports: Vec<_> = ports
        .iter()
        .map(|(name, port)| ("istio-ingressgateway", *name, *port))
        .collect();
    let pod = "istio-system/istio-ingressgateway-0";
    cluster.pod(pod, address, "node1", GATEWAY_LABELS, &ports);
}

#[test]
fn a_gateway_in_another_namespace_with_an_unnamed_service_port() {
    let mut cluster = Cluster::scenario(&["s0/ingressgateway.yaml", "s0/app.yaml"]);
    gateway_pod(
        &mut cluster,
        "10.244.1.4",
        &[("http2", 8080), ("https", 8443)],
    );
    for (index, node) in [(1, "node1"), (2, "node2"), (3, "node2")] {
        let address = format!("10.244.2.{index}");
        let pod = format!("wty-istio/wtyfft-deploy-{index}");
        cluster.pod(
            &pod,
            &address,
            node,
            "app: wtyfft-app",
            &[("wtyfft-svc", "", 8080)],
        );
    }
    let snapshot = cluster.snapshot(&ServiceScope::Gateway);
    assert_eq!(messages(&snapshot), [""; 0]);
    let fft = "outbound|8000||wtyfft-svc.wty-istio.svc.cluster.local";
    assert_eq!(
        listeners(&snapshot),
        [
            "8080 http.8080".to_owned(),
            format!("8080 *:80 [*] /fft* wty-istio/wtyfft-vs#0 -> {fft}*1"),
            format!("8080 *:80 [*] =/metrics wty-istio/wtyfft-vs#0 -> {fft}*1"),
        ]
    );
    let endpoints = ["10.244.2.1:8080", "10.244.2.2:8080", "10.244.2.3:8080"];
    assert_eq!(
        clusters(&snapshot),
        BTreeMap::from([(fft, endpoints.map(String::from).to_vec())])
    );
    let gateway = "istio-system/istio-ingressgateway";
    assert_eq!(
        services(&snapshot),
        [
            format!("{gateway}:http2 tcp 80/30001 [10.110.100.72] [] -> 10.244.1.4:8080!"),
            format!("{gateway}:https tcp 443/30477 [10.110.100.72] [] -> 10.244.1.4:8443!"),
            format!("{gateway}:status-port tcp 15021/30479 [10.110.100.72] [] ->"),
            format!("{gateway}:tcp tcp 31400/30465 [10.110.100.72] [] ->"),
            format!("{gateway}:tls tcp 15443/31772 [10.110.100.72] [] ->"),
        ]
    );
    let infos: Vec<_> = snapshot
        .diagnostics
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        infos,
        [
            "info: s0/app.yaml:6: Namespace wty-istio: metadata.labels.istio-injection: no sidecars are injected: traffic is handled on the node, with this label or without it",
            "info: s0/ingressgateway.yaml:62: Service istio-system/istio-ingressgateway: spec.type: load balancer address pending: no provider; reachable through node ports 30479, 30001, 30477, 30465, 31772, cluster IP 10.110.100.72",
        ]
    );

    let all = cluster.snapshot(&ServiceScope::All);
    assert_eq!(all.services.len(), 6);
    assert_eq!(
        services(&all)[5],
        "wty-istio/wtyfft-svc tcp 8000/0 [] [] -> 10.244.2.1:8080! 10.244.2.2:8080 10.244.2.3:8080"
    );
}

#[test]
fn one_host_and_two_paths_with_rewrites() {
    let mut cluster = Cluster::scenario(&[
        "s1/ingressgateway.yaml",
        "s1/simple.yaml",
        "s1/nginx.yaml",
        "s1/istio-specs.yaml",
    ]);
    gateway_pod(&mut cluster, "10.10.1.4", &[("http2", 8080)]);
    cluster.pod(
        "simple/simple-0",
        "10.10.1.13",
        "node1",
        "app: simple",
        &[("simple", "http", 80)],
    );
    cluster.pod(
        "simple/nginx-0",
        "10.10.1.14",
        "node1",
        "app: nginx",
        &[("nginx", "http", 80)],
    );
    let snapshot = cluster.snapshot(&ServiceScope::Gateway);
    assert_eq!(messages(&snapshot), [""; 0]);
    let host = "8080 simple.baihl.io:80 [simple.baihl.io]";
    let simple = "outbound|80||simple.simple.svc.cluster.local";
    let nginx = "outbound|80||nginx.simple.svc.cluster.local";
    assert_eq!(
        listeners(&snapshot),
        [
            "8080 http.8080".to_owned(),
            format!("{host} =/simple/httpserver => /hello simple/simple#0 -> {simple}*1"),
            format!("{host} /simple/nginx* => / simple/simple#1 -> {nginx}*1"),
        ]
    );
    assert_eq!(
        clusters(&snapshot),
        BTreeMap::from([
            (nginx, vec!["10.10.1.14:80".to_owned()]),
            (simple, vec!["10.10.1.13:80".to_owned()]),
        ])
    );
    assert_eq!(
        services(&snapshot),
        [
            "istio-system/istio-ingressgateway:http2 tcp 80/31373 [10.96.190.18] [] -> 10.10.1.4:8080!"
        ]
    );
}

/// The published manifests say no namespace; they were applied to one.
fn echo(route: &str) -> Cluster {
    let mut cluster = Cluster::scenario(&["s4/ingressgateway.yaml", "s4/tcp-echo-services.yaml"]);
    let mut routes = Cluster::scenario(&["s4/tcp-echo-all-v1.yaml"]);
    if route != "s4/tcp-echo-all-v1.yaml" {
        let kept = &mut routes.manifests[0].objects;
        kept.retain(|object| object.key.kind != "VirtualService");
        cluster
            .manifests
            .extend(Cluster::scenario(&[route]).manifests);
    }
    cluster.manifests.extend(routes.manifests);
    gateway_pod(&mut cluster, "10.244.1.4", &[("tcp", 31400)]);
    for (version, address) in [("v1", "10.244.1.11"), ("v2", "10.244.2.12")] {
        let pod = format!("default/tcp-echo-{version}");
        let labels = format!("app: tcp-echo, version: {version}");
        let ports = [("tcp-echo", "tcp", 9000), ("tcp-echo", "tcp-other", 9001)];
        cluster.pod(&pod, address, "node1", &labels, &ports);
    }
    cluster
}

const ECHO_V1: &str = "outbound|9000|v1|tcp-echo.default.svc.cluster.local";
const ECHO_V2: &str = "outbound|9000|v2|tcp-echo.default.svc.cluster.local";

#[test]
fn tcp_to_one_subset() {
    let snapshot = echo("s4/tcp-echo-all-v1.yaml").snapshot(&ServiceScope::Gateway);
    assert_eq!(messages(&snapshot), [""; 0]);
    assert_eq!(
        listeners(&snapshot),
        [format!("31400 tcp default/tcp-echo#0 -> {ECHO_V1}*1")]
    );
    let v1 = vec!["10.244.1.11:9000".to_owned()];
    assert_eq!(clusters(&snapshot), BTreeMap::from([(ECHO_V1, v1)]));
    assert_eq!(
        services(&snapshot)[3],
        "istio-system/istio-ingressgateway:tcp tcp 31400/32432 [10.106.130.216] [192.168.96.50] -> 10.244.1.4:31400!"
    );
}

#[test]
fn tcp_by_weight() {
    let snapshot = echo("s4-80-20/tcp-echo-20-v2.yaml").snapshot(&ServiceScope::Gateway);
    assert_eq!(messages(&snapshot), [""; 0]);
    assert_eq!(
        listeners(&snapshot),
        [format!(
            "31400 tcp default/tcp-echo#0 -> {ECHO_V1}*80 {ECHO_V2}*20"
        )]
    );
    assert_eq!(
        clusters(&snapshot),
        BTreeMap::from([
            (ECHO_V1, vec!["10.244.1.11:9000".to_owned()]),
            (ECHO_V2, vec!["10.244.2.12:9000".to_owned()]),
        ])
    );
}
