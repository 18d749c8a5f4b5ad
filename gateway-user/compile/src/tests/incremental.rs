//! Whatever changes, the outcome is that of a compilation of all that there is; and one endpoint costs one
//! Service.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf, sync::Arc};

use nodegate_model::{
    Snapshot,
    service::{ServicePort, shift::Way},
};
use nodegate_resources::{Resources, admission::Store, manifest::Manifest};

use crate::{
    Compiled, Compiler, GatewayIdentity, NodeIdentity, Publisher, ServiceScope, Work, compile,
};

/// One of some.
fn any<'t>(of: &[&'t str]) -> &'t str {
    of[fastrand::usize(0..of.len())]
}

fn service(name: u8) -> String {
    let ports = any(&[
        "{name: http, port: 80}",
        "{name: http, port: 80, nodePort: 30080}, {name: dns, port: 53, protocol: UDP}",
        "{port: 80}",
        "{name: grpc, port: 80}, {name: http, port: 81}",
    ]);
    let more = any(&[
        "clusterIP: 10.96.0.1",
        "clusterIPs: [10.96.0.2]",
        "clusterIP: None",
        "externalIPs: [192.0.2.1]",
        "selector: {app: gate}",
        "type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerSourceRanges: [x]",
    ]);
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: s{name}, labels: {{tier: {}}}}}\nspec: {{ports: [{ports}], {more}}}\n",
        any(&["front", "back"])
    )
}

fn slice(service: u8, number: u8) -> String {
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: shop, name: e{number}, labels: {{{}: s{service}{}}}}}\naddressType: IPv4\nports: [{}]\nendpoints:\n",
        any(&[
            "kubernetes.io/service-name",
            "kubernetes.io/service-name",
            "kubernetes.io/service-name",
            "other"
        ]),
        any(&["", "", "", ", service.kubernetes.io/headless: ''"]),
        any(&[
            "{name: http, port: 8080}",
            "{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}",
            "{name: http, port: 31400}",
            "{port: 8080}",
            "{name: strange, port: 1}",
        ]),
    );
    for _ in 0..fastrand::u8(1..4) {
        writeln!(
            text,
            "- addresses: [{}]\n  nodeName: {}\n  conditions: {{ready: {}}}\n  targetRef: {{kind: {}, name: p{}}}",
            any(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "127.0.0.1"]),
            any(&["n1", "n2"]),
            any(&["true", "true", "false"]),
            any(&["Pod", "Pod", "Node"]),
            fastrand::u8(0..5),
        )
        .unwrap();
    }
    text
}

fn pod(number: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: p{number}, labels: {{version: {}{}}}}}\n",
        any(&["v1", "v2"]),
        any(&[
            "",
            "",
            "",
            ", istio-locality: eu.a.1",
            ", istio-locality: us",
            ", istio: ingressgateway, app: gate"
        ]),
    )
}

/// The gateway's own Pod.
fn own_pod() -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: istio-system, name: gateway-0, labels: {{istio: ingressgateway, zone: {}}}}}\nspec: {{nodeName: {}, containers: []}}\n",
        any(&["a", "b"]),
        any(&["n1", "n2"]),
    )
}

fn node(number: u8) -> String {
    let region = any(&["eu", "us"]);
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: n{number}, labels: {{topology.kubernetes.io/region: {region}, topology.kubernetes.io/zone: {region}-a}}}}\n"
    )
}

fn gateway() -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{namespace: shop, name: web}}\nspec:\n  selector: {{{}}}\n  servers:\n  - port: {{number: 80, name: http, protocol: HTTP}}\n    hosts: ['*']\n  - port: {{number: 31400, name: tcp, protocol: TCP}}\n    hosts: ['*']\n",
        any(&[
            "istio: ingressgateway",
            "istio: ingressgateway",
            "app: gate"
        ]),
    )
}

fn virtual_service(number: u8) -> String {
    let to = |number: u8| {
        format!(
            "{{destination: {{host: s{number}, port: {{number: {}}}{}}}, weight: 50}}",
            any(&["80", "80", "81"]),
            any(&["", ", subset: v1", ", subset: v2"]),
        )
    };
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{namespace: shop, name: v{number}}}\nspec:\n  hosts: [{}]\n  gateways: [web]\n  http:\n  - route: [{}, {}]\n  tcp:\n  - route: [{}]\n",
        any(&["a.example", "b.example", "'*'"]),
        to(number),
        to((number + 1) % 5),
        to(number),
    )
}

fn destination_rule(number: u8) -> String {
    let policy = any(&[
        "{loadBalancer: {simple: ROUND_ROBIN}}",
        "{outlierDetection: {consecutive5xxErrors: 3}}",
        "{outlierDetection: {consecutive5xxErrors: 3}, loadBalancer: {localityLbSetting: {failoverPriority: [version, topology.kubernetes.io/region]}}}",
        "{loadBalancer: {localityLbSetting: {distribute: [{from: 'eu/*', to: {'eu/*': 80, 'us/*': 20}}]}}}",
        "{loadBalancer: {consistentHash: {useSourceIp: true}}}",
        "{tls: {mode: SIMPLE, credentialName: authorities}}",
    ]);
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{namespace: shop, name: d{number}}}\nspec:\n  host: s{number}\n  trafficPolicy: {policy}\n  subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]\n"
    )
}

fn secret() -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{namespace: istio-system, name: authorities}}\nstringData: {{{}: x}}\n",
        any(&["ca.crt", "other"])
    )
}

/// Endpoints beside those of a Service's slices.
fn service_entry(number: u8) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{namespace: shop, name: e{number}}}\nspec:\n  hosts: [s{number}.shop.svc.cluster.local]\n  resolution: STATIC\n  ports: [{{name: http, number: 80, protocol: HTTP}}]\n  {}\n",
        any(&[
            "endpoints: [{address: 192.0.2.1, labels: {version: v1}, locality: us}]",
            "workloadSelector: {labels: {tier: back}}",
        ]),
    )
}

fn workload_entry(number: u8) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{namespace: shop, name: w{number}, labels: {{version: {}}}}}\nspec: {{address: 192.0.2.{}, labels: {{{}}}}}\n",
        any(&["v1", "v2"]),
        10 + number,
        any(&["tier: back", "app: gate"]),
    )
}

/// An object of some name: mostly one that endpoints come with.
fn some_object() -> (String, String) {
    let number = fastrand::u8(0..5);
    match fastrand::u8(0..62) {
        0..30 => {
            let name = fastrand::u8(0..12);
            (format!("slice{name}"), slice(number, name))
        }
        30..42 => (format!("pod{number}"), pod(number)),
        42..46 => (format!("service{number}"), service(number)),
        46..49 => (format!("route{number}"), virtual_service(number)),
        49..52 => (format!("rule{number}"), destination_rule(number)),
        52..54 => (format!("node{}", number % 2), node(1 + number % 2)),
        54 => ("own".into(), own_pod()),
        55 => ("secret".into(), secret()),
        57 => (format!("entry{number}"), service_entry(number)),
        58 => (format!("workload{number}"), workload_entry(number)),
        56 => (
            "namespace".into(),
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n".into(),
        ),
        _ => ("gateway".into(), gateway()),
    }
}

/// A gateway with a TCP server, behind a Service of its own.
const TCP_GATEWAY: &str = "\
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: gate, labels: {tier: front}}
spec: {clusterIP: 10.96.0.9, selector: {app: gate}, ports: [{name: tcp, port: 31400}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: gate-0, labels: {istio: ingressgateway, app: gate}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: shop, name: gate, labels: {kubernetes.io/service-name: gate}}
addressType: IPv4
ports: [{name: tcp, port: 31400}]
endpoints: [{addresses: [10.0.0.9], targetRef: {kind: Pod, name: gate-0}}]
";

fn identity(resources: &Resources) -> GatewayIdentity {
    let own = resources.pod("istio-system", "gateway-0");
    let usual = BTreeMap::from([("istio".into(), "ingressgateway".into())]);
    GatewayIdentity {
        namespace: "istio-system".into(),
        name: "gateway-0".into(),
        labels: own.map_or(usual, |pod| pod.metadata.labels.clone().unwrap_or_default()),
        ..GatewayIdentity::default()
    }
}

fn on_node() -> NodeIdentity {
    NodeIdentity::named("n1")
}

fn same(compiled: &Compiled, expected: &Compiled, when: &str) {
    assert_eq!(compiled.node, expected.node, "{when}");
    assert_eq!(compiled.services, expected.services, "{when}");
    assert_eq!(compiled.gateway, expected.gateway, "{when}");
    assert_eq!(compiled.diagnostics, expected.diagnostics, "{when}");
}

#[test]
fn the_outcome_is_that_of_the_whole() {
    let (mut whole, mut taken_on, mut with_changes, mut with_messages) = (0, 0, 0, 0);
    // States in which the kernel follows a TCP route, and in which it could not; those that came of a change
    // that was taken on.
    let mut shifted = [0, 0];
    for seed in 0..16 {
        fastrand::seed(seed);
        let scopes = [
            ServiceScope::All,
            ServiceScope::Gateway,
            ServiceScope::Selector([("tier".into(), "front".into())].into()),
        ];
        let scope = &scopes[[0, 0, 1, 2][seed as usize % 4]];
        let is_gateway = seed % 4 != 3;
        let tcp_gateway = Manifest::parse(PathBuf::from("gate.yaml"), TCP_GATEWAY);
        let mut files = BTreeMap::from([("gate".to_owned(), tcp_gateway)]);
        let mut store = Store::default();
        let (mut compiler, mut publisher) = (Compiler::default(), Publisher::default());
        let mut before: Option<Arc<Snapshot>> = None;
        for turn in 0..110 {
            for _ in 0..if turn == 0 { 60 } else { fastrand::u8(1..3) } {
                let (name, text) = some_object();
                let file = PathBuf::from(format!("{name}.yaml"));
                match fastrand::u8(0..5) {
                    0 if turn > 0 => drop(files.remove(&name)),
                    _ => drop(files.insert(name, Manifest::parse(file, &text))),
                }
            }
            let resources = store.admit(files.values(), Vec::new());
            let gateway = is_gateway.then(|| identity(&resources));
            let compiled = compiler.compile(&resources, &on_node(), gateway.as_ref(), scope);
            let expected = compile(&resources, &on_node(), gateway.as_ref(), scope);
            let work = compiler.work();
            same(&compiled, &expected, &format!("{seed} {turn} {work:?}"));

            if !work.whole {
                for shift in compiled.services.iter().filter_map(|it| it.shift.as_ref()) {
                    shifted[usize::from(matches!(shift.way, Way::Proxy(_)))] += 1;
                }
            }
            let snapshot = publisher.publish(compiled);
            if let Some(before) = before.replace(Arc::clone(&snapshot)) {
                shares(&before, &snapshot);
                let is_new = before.generation != snapshot.generation;
                let has_new_messages = !before.diagnostics.is(&snapshot.diagnostics);
                with_changes += usize::from(!work.whole && is_new);
                with_messages += usize::from(!work.whole && has_new_messages);
            }
            if work.whole {
                whole += 1;
            } else {
                taken_on += 1;
            }
        }
    }
    // Each of both ways has been gone often, and not for nothing.
    assert!(whole > 100 && taken_on > 200, "{whole} {taken_on}");
    assert!(shifted[0] > 10 && shifted[1] > 10, "{shifted:?}");
    assert!(
        with_changes > 60 && with_messages > 20,
        "{with_changes} {with_messages}"
    );
}

/// What says the same is the same, down to the pointer.
fn shares(before: &Snapshot, after: &Snapshot) {
    for service in &after.services {
        let key = |service: &ServicePort| (service.name.clone(), service.protocol);
        let mut old = before.services.iter();
        if let Some(old) = old.find(|old| key(old) == key(service)) {
            assert_eq!(
                old == service,
                Arc::ptr_eq(old, service),
                "{}",
                service.name
            );
        }
    }
    for (name, cluster) in &after.gateway.clusters {
        if let Some(old) = before.gateway.clusters.get(name) {
            assert_eq!(old == cluster, Arc::ptr_eq(old, cluster), "{name}");
        }
    }
    let (old, new) = (&before.gateway.listeners, &after.gateway.listeners);
    assert_eq!(old == new, Arc::ptr_eq(old, new));
}

/// A cluster in which each Service has a slice, and each of the first has a route.
fn large(services: usize, routes: usize) -> Vec<Manifest> {
    let parse = |name: String, text: &str| Manifest::parse(PathBuf::from(name), text);
    let gateway = parse(
        "gateway".into(),
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {namespace: shop, name: web}\nspec:\n  selector: {istio: ingressgateway}\n  servers:\n  - port: {number: 80, name: http, protocol: HTTP}\n    hosts: ['*']\n",
    );
    let service = |number: usize| {
        parse(
            format!("service{number}"),
            &format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: s{number}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n"
            ),
        )
    };
    let route = |number: usize| {
        parse(
            format!("route{number}"),
            &format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{namespace: shop, name: v{number}}}\nspec:\n  hosts: [h{number}.example]\n  gateways: [web]\n  http:\n  - route: [{{destination: {{host: s{number}}}}}]\n"
            ),
        )
    };
    let slices = (0..services).map(|number| one_slice(number, 1));
    let all = (0..services).map(service).chain(slices);
    all.chain((0..routes).map(route)).chain([gateway]).collect()
}

fn one_slice(number: usize, last: u8) -> Manifest {
    let text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: shop, name: e{number}, labels: {{kubernetes.io/service-name: s{number}}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:\n- addresses: [10.0.0.{last}]\n- addresses: [10.0.1.{last}]\n"
    );
    Manifest::parse(PathBuf::from(format!("slice{number}")), &text)
}

#[test]
fn one_endpoint_costs_its_service() {
    const SERVICES: usize = 3000;
    const ROUTES: usize = 1000;
    let mut files = large(SERVICES, ROUTES);
    let mut store = Store::default();
    let (mut compiler, mut publisher) = (Compiler::default(), Publisher::default());
    let mut publish = |resources: &Arc<Resources>| {
        let gateway = identity(resources);
        let compiled = compiler.compile(resources, &on_node(), Some(&gateway), &ServiceScope::All);
        (publisher.publish(compiled), compiler.work())
    };
    let (before, work) = publish(&store.admit(&files, Vec::new()));
    let all = Work {
        whole: true,
        services: SERVICES,
        clusters: ROUTES,
    };
    assert_eq!((work, &*before.diagnostics), (all, &[][..]));

    let at = SERVICES + 77;
    for turn in 2..5 {
        let after = one_slice(77, turn);
        let amendment = nodegate_resources::admission::Amendment {
            before: Some(&files[at]),
            after: Some(&after),
        };
        let resources = store.amend(&[amendment]).unwrap();
        files[at] = after;
        let (after, work) = publish(&resources);
        let one = Work {
            whole: false,
            services: 1,
            clusters: 1,
        };
        assert_eq!((work, after.generation), (one, u64::from(turn)));
        // All routes, all messages and all other Services and clusters are those of the first Snapshot.
        assert!(Arc::ptr_eq(
            &before.gateway.listeners,
            &after.gateway.listeners
        ));
        assert!(before.diagnostics.is(&after.diagnostics));
        let services = before.services.iter().zip(&after.services);
        let changed = services.filter(|(old, new)| !Arc::ptr_eq(old, new));
        let changed: Vec<_> = changed.map(|(_, new)| new.name.to_string()).collect();
        assert_eq!(changed, ["shop/s77:http"]);
        let clusters = after
            .gateway
            .clusters
            .changes_since(&before.gateway.clusters);
        let changed: Vec<_> = clusters.map(|change| change.key.as_str()).collect();
        assert_eq!(changed, ["outbound|80||s77.shop.svc.cluster.local"]);
    }
}
