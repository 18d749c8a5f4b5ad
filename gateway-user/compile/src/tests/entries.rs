//! Hosts that several objects have: their endpoints come together.

use super::gateway::{HTTP, gateway, routes, snapshot};

fn entry(name: &str, host: &str, rest: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{{name}}}\nspec:\n  hosts: [{host}]\n  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}]\n{rest}"
    )
}

fn at(addresses: &str) -> String {
    format!("  resolution: STATIC\n  endpoints: [{addresses}]\n")
}

fn workload(metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{{metadata}}}\nspec: {{{spec}}}\n"
    )
}

/// The endpoints and names behind the destination `to`, and what is said about ServiceEntries; none if there
/// is no cluster.
fn behind(to: &str, objects: &[String]) -> (Option<Vec<String>>, Vec<String>) {
    let http = format!("  http:\n  - route: [{{destination: {{{to}}}}}]\n");
    let around = [gateway("g", HTTP), routes("v", "'*'", "g", &http)];
    let all: Vec<_> = around.iter().chain(objects).map(String::as_str).collect();
    let snapshot = snapshot(&all);
    let cluster = snapshot.gateway.clusters.values().next();
    let behind = cluster.map(|cluster| {
        let endpoints = cluster.endpoints.iter();
        let endpoints = endpoints.map(|endpoint| endpoint.address.to_string());
        let names = cluster.names.iter();
        let names = names.map(|name| format!("{}:{}", name.host, name.port));
        endpoints.chain(names).collect()
    });
    let said = snapshot.diagnostics.iter();
    let said = said.filter(|said| {
        let object = said.object.as_ref();
        object.is_some_and(|object| object.kind.ends_with("Entry"))
    });
    (behind, said.map(|said| said.message.clone()).collect())
}

fn found(endpoints: &[&str]) -> (Option<Vec<String>>, Vec<String>) {
    let endpoints = endpoints.iter().map(ToString::to_string).collect();
    (Some(endpoints), Vec::new())
}

const HOST: &str = "host: api.example";

#[test]
fn entries_of_one_host_are_one_destination() {
    let first = entry("name: a", "api.example", &at("{address: 192.0.2.1}"));
    let second = entry(
        "name: b",
        "API.example, other.x",
        &at("{address: 192.0.2.2}"),
    );
    let both = [second.clone(), first.clone()];
    assert_eq!(
        behind(HOST, &both),
        found(&["192.0.2.1:8080", "192.0.2.2:8080"])
    );
    // The ports are those of the oldest, and what is added is behind ports of the same name.
    let other_port = second.replace("name: http", "name: web");
    assert_eq!(
        behind(HOST, &[first.clone(), other_port]),
        found(&["192.0.2.1:8080"])
    );
    // Names and addresses, and other namespaces, are not put together, and that is said.
    let message = "another namespace, or another resolution, has one of these hosts already; the endpoints of this one are not used for it";
    let resolved = entry("name: c", "api.example", "  resolution: DNS\n");
    let elsewhere = entry(
        "name: d, namespace: other",
        "api.example",
        &at("{address: 192.0.2.3}"),
    );
    for apart in [resolved.clone(), elsewhere.clone()] {
        let (endpoints, said) = behind(HOST, &[first.clone(), apart]);
        assert_eq!(endpoints, found(&["192.0.2.1:8080"]).0);
        assert_eq!(said, [message]);
    }
    let unseen = elsewhere + "  exportTo: ['.']\n";
    assert_eq!(behind(HOST, &[first, unseen]), found(&["192.0.2.1:8080"]));
    // A name is resolved once.
    let again = resolved.replace("name: c", "name: e");
    assert_eq!(
        behind(HOST, &[resolved, again]),
        found(&["api.example:8080"])
    );
}

#[test]
fn an_entry_adds_to_a_service() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{name: http, port: 80}]}\n".to_owned();
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{name: http, port: 9001}]\nendpoints: [{addresses: [10.0.0.1]}]\n".to_owned();
    let more = entry(
        "name: more",
        "web.default.svc.cluster.local",
        &at("{address: 192.0.2.1, labels: {v: a}}"),
    );
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r}\nspec: {host: web, subsets: [{name: a, labels: {v: a}}]}\n".to_owned();
    let all = [service, slice, more, rule];
    assert_eq!(
        behind("host: web", &all),
        found(&["10.0.0.1:9001", "192.0.2.1:8080"])
    );
    assert_eq!(
        behind("host: web, subset: a", &all),
        found(&["192.0.2.1:8080"])
    );
}

#[test]
fn a_selector_finds_workloads() {
    let selecting = entry(
        "name: a",
        "api.example",
        "  resolution: STATIC\n  workloadSelector: {labels: {app: api}}\n",
    );
    let all = [
        selecting.clone(),
        workload("name: one, labels: {app: api}", "address: 192.0.2.1"),
        workload(
            "name: two",
            "address: 192.0.2.2, labels: {app: api}, ports: {http: 7}",
        ),
        workload("name: other", "address: 192.0.2.3, labels: {app: x}"),
        // Metadata says it last.
        workload(
            "name: said, labels: {app: x}",
            "address: 192.0.2.4, labels: {app: api}",
        ),
        workload(
            "name: far, namespace: far, labels: {app: api}",
            "address: 192.0.2.5",
        ),
        workload("name: dns, labels: {app: api}", "address: vm.example"),
        workload(
            "name: ill, labels: {app: api}, annotations: {proxy.istio.io/health-checks-enabled: 'true'}",
            "address: 192.0.2.6",
        ),
        workload(
            "name: well, labels: {app: api}, annotations: {proxy.istio.io/health-checks-enabled: 'true'}",
            "address: 192.0.2.7",
        ) + "status: {conditions: [{type: Healthy, status: 'True'}]}\n",
    ];
    assert_eq!(
        behind(HOST, &all),
        found(&["192.0.2.1:8080", "192.0.2.2:7", "192.0.2.7:8080"])
    );
    // Names are for a host that is resolved.
    let resolved = selecting.replace("STATIC", "DNS");
    assert_eq!(
        behind(HOST, &[resolved, all[6].clone()]),
        found(&["vm.example:8080"])
    );
    // Nobody: there is a destination, and nothing behind it.
    let (endpoints, said) = behind(HOST, &all[..1]);
    assert_eq!(endpoints, Some(Vec::new()));
    assert_eq!(
        said,
        [
            "no WorkloadEntry in its namespace has these labels and is healthy; pods are not looked for"
        ]
    );
}

#[test]
fn a_service_selects_workloads_as_it_selects_pods() {
    let service = |port: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{selector: {{app: web}}, ports: [{{name: http, port: 80{port}}}]}}\n"
        )
    };
    let plain = workload("name: vm, labels: {app: web}", "address: 192.0.2.1");
    let own_ports = workload(
        "name: vm, labels: {app: web}",
        "address: 192.0.2.1, ports: {http: 7, web: 8}",
    );
    for (port, workload, wanted) in [
        ("", &plain, Some("192.0.2.1:80")),
        (", targetPort: 81", &plain, Some("192.0.2.1:81")),
        (", targetPort: 81", &own_ports, Some("192.0.2.1:7")),
        (", targetPort: web", &own_ports, Some("192.0.2.1:8")),
        (", targetPort: web", &plain, None),
    ] {
        let wanted = Vec::from_iter(wanted);
        let all = [service(port), workload.clone()];
        assert_eq!(behind("host: web", &all), found(&wanted), "{port}");
    }
}

#[test]
fn an_entry_without_endpoints_is_a_destination_without_endpoints() {
    let nowhere = entry("name: a", "api.example", "  resolution: STATIC\n");
    let (endpoints, said) = behind(HOST, &[nowhere]);
    assert_eq!(endpoints, Some(Vec::new()));
    assert_eq!(
        said,
        ["no endpoints: requests to its hosts are answered with 503"]
    );
}

#[test]
fn what_cannot_be_read_is_left_out_and_the_rest_is_served() {
    let odd = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n  hosts: [a b, '*', api.example]\n  ports: [{number: 80, name: http, targetPort: 8080}, {number: 81, name: http}, {number: 0, name: x}]\n  resolution: STATIC\n  endpoints: [{address: x y}, {address: 192.0.2.1}]\n".to_owned();
    let (endpoints, said) = behind(
        "host: api.example, port: {number: 80}",
        std::slice::from_ref(&odd),
    );
    assert_eq!(endpoints, found(&["192.0.2.1:8080"]).0);
    assert_eq!(said.len(), 5, "{said:?}");
    let (endpoints, _) = behind("host: api.example, port: {number: 81}", &[odd]);
    assert_eq!(endpoints, None);
}
