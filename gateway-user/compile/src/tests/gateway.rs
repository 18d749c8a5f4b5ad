use super::*;
use nodegate_model::gateway::Balancing;

pub(super) const HTTP: &str = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}";

pub(super) fn gateway(name: &str, servers: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  selector: {{istio: ingressgateway}}\n  servers: [{servers}]\n"
    )
}

pub(super) fn service(name: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{ports}]}}\n"
    )
}

/// A VirtualService in `default`.
pub(super) fn routes(name: &str, hosts: &str, gateways: &str, routes: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{hosts}]\n  gateways: [{gateways}]\n{routes}"
    )
}

pub(super) fn to(path: &str) -> String {
    format!(
        "  - match: [{{uri: {{prefix: {path}}}}}]\n    route: [{{destination: {{host: app}}}}]\n"
    )
}

pub(super) fn snapshot(texts: &[&str]) -> std::sync::Arc<Snapshot> {
    let app = service("app", "{port: 80}");
    let texts: Vec<_> = texts.iter().copied().chain([app.as_str()]).collect();
    Cluster::with(&texts).snapshot(&ServiceScope::All)
}

/// Without the cluster's name, which is always the same.
fn short(snapshot: &Snapshot) -> Vec<String> {
    let lines = listeners(snapshot).into_iter();
    lines
        .map(|line| line.replace(" -> outbound|80||app.default.svc.cluster.local*1", ""))
        .collect()
}

#[test]
fn of_server_hosts_and_route_hosts_the_narrower_is_served() {
    let server = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.x.io', default/own.io, other/no.io, ./dot.io, '*/Any.io']}";
    let hosts = "a.x.io, '*.b.x.io', own.io, no.io, dot.io, any.io, y.io, short";
    let snapshot = snapshot(&[
        &gateway("g", server),
        &routes("v", hosts, "g", &format!("  http:\n{}", to("/"))),
        &routes("wide", "'*.io'", "g", &format!("  http:\n{}", to("/wide"))),
    ]);
    assert_eq!(
        short(&snapshot),
        [
            "80 http.80",
            "80 *.b.x.io:80 [*.b.x.io] /* default/v#0",
            "80 *.x.io:80 [*.x.io] /wide* default/wide#0",
            "80 a.x.io:80 [a.x.io] /* default/v#0",
            "80 any.io:80 [any.io] /wide* default/wide#0",
            "80 any.io:80 [any.io] /* default/v#0",
            "80 dot.io:80 [dot.io] /wide* default/wide#0",
            "80 dot.io:80 [dot.io] /* default/v#0",
            "80 own.io:80 [own.io] /wide* default/wide#0",
            "80 own.io:80 [own.io] /* default/v#0",
        ]
    );
}

#[test]
fn routes_of_several_are_joined_by_age_and_what_matches_all_goes_last() {
    let created = |text: String, name: &str, year: u32| {
        let with = format!("name: {name}, creationTimestamp: \"{year}-01-01T00:00:00Z\"");
        text.replacen(&format!("name: {name}"), &with, 1)
    };
    let old = routes(
        "z",
        "'*'",
        "g",
        &format!(
            "  http:\n{}{}",
            to("/z"),
            "  - route: [{destination: {host: app}}]\n"
        ),
    );
    let new = routes(
        "a",
        "'*'",
        "g",
        &format!("  http:\n{}{}{}", to("/a"), to("/"), to("/never")),
    );
    let snapshot = snapshot(&[
        &gateway("g", HTTP),
        &created(new, "a", 2022),
        &created(old, "z", 2021),
    ]);
    assert_eq!(
        short(&snapshot),
        [
            "80 http.80",
            "80 *:80 [*] /z* default/z#0",
            "80 *:80 [*] /a* default/a#0",
            "80 *:80 [*] /* default/z#1",
            "80 *:80 [*] /* default/a#1",
        ]
    );
}

#[test]
fn a_match_is_about_the_servers_port_and_gateway() {
    let servers =
        format!("{HTTP}, {{port: {{number: 8081, name: alt, protocol: HTTP}}, hosts: ['*']}}");
    let http = "  http:\n  - name: r\n    match:\n    - {name: m, port: 80, uri: {exact: /a}}\n    - {port: 8081, uri: {exact: /b}}\n    - {gateways: [other], uri: {exact: /c}}\n    - {gateways: [default/g], uri: {exact: /d}}\n    - {sourceLabels: {istio: ingressgateway}, sourceNamespace: istio-system, uri: {exact: /e}}\n    - {sourceLabels: {istio: egressgateway}, uri: {exact: /f}}\n    route: [{destination: {host: app}}]\n";
    let snapshot = snapshot(&[
        &gateway("g", &servers),
        &routes("v", "'*'", "g.default", http),
    ]);
    assert_eq!(
        short(&snapshot),
        [
            "80 http.80",
            "80 *:80 [*] =/a (r.m) default/v#0",
            "80 *:80 [*] =/d (r) default/v#0",
            "80 *:80 [*] =/e (r) default/v#0",
            "8081 http.8081",
            "8081 *:8081 [*] =/b (r) default/v#0",
            "8081 *:8081 [*] =/d (r) default/v#0",
            "8081 *:8081 [*] =/e (r) default/v#0",
        ]
    );
}

#[test]
fn without_routes_http_answers_and_tcp_is_closed() {
    let servers = format!(
        "{HTTP}, {{port: {{number: 31400, name: tcp, protocol: TCP}}, hosts: ['*']}}, {{port: {{number: 443, name: https, protocol: HTTPS}}, tls: {{}}, hosts: ['*']}}"
    );
    let mesh_only = routes("v", "x", "", &format!("  http:\n{}", to("/")));
    let snapshot = snapshot(&[&gateway("g", &servers), &mesh_only]);
    assert_eq!(short(&snapshot), ["80 http.80"]);
    assert_eq!(
        messages(&snapshot),
        [
            "warning: 0.yaml:6: Gateway default/g: spec.servers[1].port.number: no VirtualService has a tcp route for this server, so the port is closed (fix: bind a VirtualService with a tcp route to this Gateway)",
            "warning: 0.yaml:6: Gateway default/g: spec.servers[2].port.number: no VirtualService has a tls route for this server, so its connections are closed (fix: bind a VirtualService with a tls route to this Gateway)",
        ]
    );
}

#[test]
fn a_port_has_one_protocol_and_one_tcp_server() {
    let tcp = "{port: {number: 80, name: tcp, protocol: TCP}, hosts: ['*']}";
    let tcp_route = "  tcp:\n  - match: [{port: 80}]\n    route: [{destination: {host: app}}]\n";
    let texts = [
        gateway("b", HTTP),
        gateway("a", tcp),
        gateway("c", tcp),
        routes("v", "'*'", "a, b, c", tcp_route),
    ];
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let snapshot = snapshot(&texts);
    assert_eq!(short(&snapshot), ["80 tcp default/v#0"]);
    assert_eq!(
        messages(&snapshot),
        [
            "error: 0.yaml:6: Gateway default/b: spec.servers[0].port.number: port 80 is taken by the TCP server of Gateway default/a (1.yaml:6); this HTTP server is left out (fix: use another port)",
            "error: 2.yaml:6: Gateway default/c: spec.servers[0].port.number: port 80 is taken by the TCP server of Gateway default/a (1.yaml:6); this TCP server is left out (fix: use another port)",
        ]
    );
}

#[test]
fn a_servers_port_is_the_port_of_the_service_in_front() {
    let front = "apiVersion: v1\nkind: Service\nmetadata: {name: front, namespace: istio-system}\nspec:\n  selector: {app: istio-ingressgateway}\n  ports: [{name: a, port: 80, targetPort: web}, {name: b, port: 81}, {name: c, port: 82, targetPort: gone}]\n";
    let elsewhere = front
        .replace("istio-system", "default")
        .replace("80, targetPort: web", "83, targetPort: 9");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: istio-ingressgateway-0, namespace: istio-system}\nspec:\n  containers: [{name: c, ports: [{name: web, containerPort: 8080}]}]\n";
    let server =
        |port| format!("{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}");
    let servers = [80, 81, 82, 83].map(server).join(", ");
    let snapshot = snapshot(&[front, &elsewhere, pod, &gateway("g", &servers)]);
    let ports: Vec<_> = snapshot
        .gateway
        .listeners
        .iter()
        .map(|listener| listener.port)
        .collect();
    assert_eq!(ports, [81, 82, 83, 8080]);
    assert_eq!(
        messages(&snapshot),
        [
            "warning: 3.yaml:6: Gateway default/g: spec.servers[2].port.number: Service istio-system/front leads port 82 to a container port that this pod does not name; 82 itself is bound (fix: name the container's port so, or give a number as targetPort)",
            "warning: 3.yaml:6: Gateway default/g: spec.servers[3].port.number: Service istio-system/front has no port 83 (it has 80, 81, 82), so nobody outside reaches this server; 83 itself is bound (fix: a port of the Service, not of the container)",
        ]
    );
}

#[test]
fn destinations_name_clusters_that_may_not_be_there() {
    let http = "  http:\n  - route:\n    - {destination: {host: app, port: {number: 81}}, weight: 3}\n    - {destination: {host: app}, weight: 0}\n    - {destination: {host: two}, weight: 1}\n    - {destination: {host: gone}, weight: 1}\n    - {destination: {host: app, subset: v1}, weight: 1}\n    - {destination: {host: app.default.svc.cluster.local}, weight: 1}\n    - {destination: {host: app.default}, weight: 1}\n";
    let two = service("two", "{name: a, port: 80}, {name: b, port: 81}");
    let snapshot = snapshot(&[&gateway("g", HTTP), &routes("v", "'*'", "g", http), &two]);
    assert_eq!(
        listeners(&snapshot)[1],
        "80 *:80 [*] /* default/v#0 -> outbound|81||app.default.svc.cluster.local*3 outbound|80||two.default.svc.cluster.local*1 outbound|80||gone.default.svc.cluster.local*1 outbound|80|v1|app.default.svc.cluster.local*1 outbound|80||app.default.svc.cluster.local*1 outbound|80||app.default*1"
    );
    let known: Vec<_> = snapshot.gateway.clusters.keys().collect();
    assert_eq!(
        known,
        [
            "outbound|80||app.default.svc.cluster.local",
            "outbound|80||two.default.svc.cluster.local"
        ]
    );
    let fixes: Vec<_> = messages(&snapshot);
    assert_eq!(fixes.len(), 4);
    assert!(
        fixes[3].ends_with("(fix: did you mean `app.default.svc.cluster.local`?)"),
        "{fixes:?}"
    );
}

#[test]
fn subsets_come_from_the_gateways_or_the_services_namespace() {
    let rule = |namespace: &str, name: &str, subset: &str, label: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  host: app.default.svc.cluster.local\n  subsets: [{{name: {subset}, labels: {{v: {label}}}}}]\n"
        )
    };
    let http = "  http:\n  - route:\n    - {destination: {host: app, subset: one}, weight: 1}\n    - {destination: {host: app, subset: two}, weight: 1}\n";
    let mut cluster = Cluster::with(&[
        &gateway("g", HTTP),
        &routes("v", "'*'", "g", http),
        &service("app", "{port: 80}"),
        &rule("default", "a", "one", "x"),
        &rule("default", "b", "two", "y"),
        &rule("default", "c", "one", "y"),
    ]);
    cluster.pod(
        "default/x",
        "10.0.0.1",
        "node1",
        "v: x",
        &[("app", "", 8080)],
    );
    cluster.pod(
        "default/y",
        "10.0.0.2",
        "node1",
        "v: y",
        &[("app", "", 8080)],
    );
    let one = "outbound|80|one|app.default.svc.cluster.local";
    let two = "outbound|80|two|app.default.svc.cluster.local";
    let snapshot = cluster.snapshot(&ServiceScope::All);
    assert_eq!(
        clusters(&snapshot),
        BTreeMap::from([
            (one, vec!["10.0.0.1:8080".to_owned()]),
            (two, vec!["10.0.0.2:8080".to_owned()]),
        ])
    );

    // A rule in the gateway's own namespace hides them all. The root namespace is no such one: what is
    // there for everybody is what counts last, also for a gateway that is there, too.
    let every = rule("istio-system", "own", "two", "x");
    cluster.add(&every);
    let snapshot = cluster.snapshot(&ServiceScope::All);
    assert_eq!(clusters(&snapshot)[two], ["10.0.0.2:8080"]);
    for to in ["'.'", "istio-system"] {
        cluster.manifests.pop();
        cluster.add(&format!("{every}  exportTo: [{to}]\n"));
        let snapshot = cluster.snapshot(&ServiceScope::All);
        assert_eq!(
            clusters(&snapshot),
            BTreeMap::from([(two, vec!["10.0.0.1:8080".to_owned()])]),
            "{to}"
        );
    }
    let namespace = "gateways";
    cluster.manifests.pop();
    cluster.add(&rule(namespace, "own", "one", "x"));
    let snapshot = cluster.snapshot_for(namespace, &ServiceScope::All);
    assert_eq!(
        clusters(&snapshot),
        BTreeMap::from([(one, vec!["10.0.0.1:8080".to_owned()])])
    );
}

#[test]
fn rules_for_the_whole_mesh_are_for_what_has_none() {
    let rule = |namespace: &str, host: &str, balancer: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r, namespace: {namespace}}}\nspec:\n  host: '{host}'\n  trafficPolicy: {{loadBalancer: {{simple: {balancer}}}}}\n"
        )
    };
    let snapshot = snapshot(&[
        &gateway("g", HTTP),
        &routes(
            "v",
            "'*'",
            "g",
            "  http:\n  - route:\n    - {destination: {host: app}, weight: 1}\n    - {destination: {host: bare.x.svc.cluster.local}, weight: 1}\n",
        ),
        &service("bare", "{port: 80}").replace("name: bare", "name: bare, namespace: x"),
        &rule("default", "app", "RANDOM"),
        &rule("istio-system", "*.local", "ROUND_ROBIN"),
    ]);
    let balancing = |host: &str| {
        let name = format!("outbound|80||{host}.svc.cluster.local");
        snapshot.gateway.clusters[&name].policy.balancing.clone()
    };
    assert_eq!(balancing("app.default"), Balancing::Random);
    assert_eq!(balancing("bare.x"), Balancing::RoundRobin);
}

#[test]
fn external_names_are_other_names() {
    let alias = |name: &str, to: &str, ports: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: ExternalName, externalName: {to}, ports: [{ports}]}}\n"
        )
    };
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec:\n  hosts: [web.example]\n  resolution: STATIC\n  ports: [{name: http, number: 8080, protocol: HTTP}]\n  endpoints: [{address: 192.0.2.1}]\n";
    let to = |host: &str| {
        format!(
            "  - route: [{{destination: {{host: {host}}}}}]\n    match: [{{uri: {{prefix: /{host}}}}}]\n"
        )
    };
    let http = format!(
        "  http:\n{}{}{}",
        to("inside"),
        to("outside"),
        to("nowhere")
    );
    let snapshot = snapshot(&[
        &gateway("g", HTTP),
        &routes("v", "'*'", "g", &http),
        &alias("inside", "app.default.svc.cluster.local", ""),
        &alias("outside", "Web.Example", "{port: 8080}"),
        &alias("nowhere", "elsewhere.example", "{port: 80}"),
        entry,
    ]);
    let found: Vec<_> = snapshot.gateway.clusters.keys().collect();
    assert_eq!(
        found,
        [
            "outbound|8080||web.example",
            "outbound|80||app.default.svc.cluster.local"
        ]
    );
    assert_eq!(
        messages(&snapshot),
        [
            "warning: 1.yaml:12: VirtualService default/v: spec.http[2].route[0].destination.host: `nowhere.default.svc.cluster.local` is another name for `elsewhere.example`, which neither a Service nor a ServiceEntry has; requests to it are answered with 503 (fix: create a ServiceEntry for `elsewhere.example`)"
        ]
    );
}

#[test]
fn only_gateways_for_this_pod_count() {
    let other = gateway("g", HTTP).replace("ingressgateway", "egressgateway");
    let egress = snapshot(&[
        &other,
        &routes("v", "'*'", "g", &format!("  http:\n{}", to("/"))),
    ]);
    assert_eq!(listeners(&egress), [""; 0]);
    let every = gateway("g", HTTP).replace("{istio: ingressgateway}", "{}");
    assert_eq!(short(&snapshot(&[&every])), ["80 http.80"]);
}

#[test]
fn an_unexported_route_is_for_its_own_namespace() {
    let route = routes(
        "v",
        "'*'",
        "g",
        &format!("  exportTo: ['.']\n  http:\n{}", to("/")),
    );
    let snapshot = snapshot(&[&gateway("g", HTTP), &route]);
    assert_eq!(short(&snapshot), ["80 http.80"]);
}

/// The others are served as if it were not there.
#[test]
fn a_host_or_a_server_that_is_none_is_left_out() {
    let server = "{port: {number: 80, name: http, protocol: HTTP}, hosts: [~/x, a.x, 'b b']}, {port: {number: 81, name: '', protocol: HTTP}, hosts: ['*']}, {port: {number: 82, name: http2, protocol: HTTP}, hosts: ['*']}";
    let snapshot = snapshot(&[
        &gateway("g", server),
        &routes("v", "a.x, x, a b", "g", &format!("  http:\n{}", to("/"))),
    ]);
    assert_eq!(
        short(&snapshot),
        [
            "80 http.80",
            "80 a.x:80 [a.x] /* default/v#0",
            "82 http.82",
            "82 a.x:82 [a.x] /* default/v#0",
            "82 x.default.svc.cluster.local:82 [x.default.svc.cluster.local] /* default/v#0",
        ]
    );
    let left_out = messages(&snapshot);
    assert_eq!(left_out.len(), 4, "{left_out:#?}");
    for said in left_out {
        assert!(
            said.starts_with("error: ") && said.contains(" is left out"),
            "{said}"
        );
    }
}

/// Gateways find the endpoints of headless Services in their slices, which kube-proxy does not even watch
/// (`convertResolution` of istio's pilot/pkg/networking/core: EDS for gateways).
#[test]
fn a_headless_service_is_served_from_its_slices() {
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: db-1, labels: {kubernetes.io/service-name: db, service.kubernetes.io/headless: ''}}\naddressType: IPv4\nports: [{name: '', port: 5432, protocol: TCP}]\nendpoints: [{addresses: [10.0.0.7]}]\n";
    let snapshot = snapshot(&[
        &gateway("g", HTTP),
        &routes(
            "v",
            "'*'",
            "g",
            "  http:\n  - route: [{destination: {host: db}}]\n",
        ),
        &service("db", "{port: 5432}").replace("ports:", "clusterIP: None, ports:"),
        slice,
    ]);
    assert_eq!(messages(&snapshot), [""; 0]);
    let found = &clusters(&snapshot)["outbound|5432||db.default.svc.cluster.local"];
    assert_eq!(*found, ["10.0.0.7:5432"]);
    assert!(snapshot.services.iter().all(|port| port.name.name != "db"));
}
