use nodegate_values::diagnostic::{Diagnostic, Severity};

use crate::manifest::Manifest;

/// All messages about the objects of `text`, without severity, file and object.
fn all(text: &str) -> Vec<String> {
    let manifest = Manifest::parse("x.yaml".into(), text);
    assert_eq!(manifest.diagnostics, []);
    let found = manifest
        .objects
        .iter()
        .flat_map(|object| super::validate(object).diagnostics);
    found
        .map(|found| {
            let letter = match found.severity {
                Severity::Info => "I",
                Severity::Warning => "W",
                Severity::Error => "E",
            };
            let line = found.location.as_ref().unwrap().line;
            let field = found.field.unwrap_or_default();
            format!("{letter} {line} {field}: {}", found.message)
        })
        .collect()
}

fn service(spec: &str) -> Vec<String> {
    let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec:\n{spec}");
    all(&text)
}

fn istio(kind: &str, spec: &str) -> Vec<String> {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: web}}\nspec:\n{spec}"
    );
    all(&text)
}

#[test]
fn ports_of_services() {
    assert_eq!(
        service("  type: NodePort\n"),
        ["E 5 spec.ports: no ports".replace('5', "4")]
    );
    let ports = "  ports:\n  - port: 70000\n    name: a\n  - port: 80\n    name: A\n    protocol: HTTP\n  - port: 81\n    nodePort: 30001\n  - port: 82\n    name: a\n    targetPort: 0x\n  - port: 82\n    name: b\n    targetPort: -1\n";
    assert_eq!(
        service(ports),
        [
            "E 6 spec.ports[0].port: 70000 is not a port",
            "E 9 spec.ports[1].name: `A` is not a port's name",
            "E 10 spec.ports[1].protocol: `HTTP` is not a protocol",
            "E 12 spec.ports[2].nodePort: a Service of type ClusterIP has no node ports",
            "E 11 spec.ports[2].name: missing: a Service with several ports needs a name for each",
            "E 14 spec.ports[3].name: the name `a` is taken by another port",
            "E 18 spec.ports[4].targetPort: -1 is not a port",
            "E 16 spec.ports[4].port: TCP 82 is there already",
        ]
    );
    let ports = "  type: NodePort\n  ports:\n  - {name: a, port: 53, nodePort: 30053}\n  - {name: b, port: 53, nodePort: 30053, protocol: UDP}\n  - {name: c, port: 54, nodePort: 30053}\n  - {name: d, port: 55, nodePort: 80}\n";
    assert_eq!(
        service(ports),
        [
            "E 9 spec.ports[2].nodePort: 30053 is there already",
            "E 10 spec.ports[3].nodePort: 80 is not a node port",
        ]
    );
}

#[test]
fn addresses_of_services() {
    let spec = "  type: Loadbalancer\n  clusterIP: 10.96.0\n  externalIPs:\n  - 192.168.96.50\n  - 127.0.0.1\n  - web\n  ports: [{port: 80}]\n";
    assert_eq!(
        service(spec),
        [
            "E 5 spec.type: `Loadbalancer` is not a type of Service",
            "E 6 spec.clusterIP: `10.96.0` is not an IP address",
            "E 9 spec.externalIPs[1]: 127.0.0.1 cannot be reached from outside",
            "E 10 spec.externalIPs[2]: `web` is not an IP address",
        ]
    );
    let pending =
        "  type: LoadBalancer\n  clusterIP: 10.96.0.1\n  ports: [{port: 80, nodePort: 30001}]\n";
    assert_eq!(
        service(pending),
        [
            "I 5 spec.type: load balancer address pending: no provider; reachable through node port 30001, cluster IP 10.96.0.1"
        ]
    );
    assert_eq!(service("  clusterIP: None\n"), [""; 0]);
}

#[test]
fn names_of_objects() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: 1web\n  namespace: My\nspec: {ports: [{port: 80}]}\n";
    assert_eq!(
        all(text),
        [
            "E 5 metadata.namespace: `My` is not a namespace",
            "E 4 metadata.name: `1web` is not a Service's name",
        ]
    );
}

#[test]
fn gateways() {
    assert_eq!(
        istio("Gateway", "  selector: {a: b}\n"),
        ["E 4 spec.servers: no servers"]
    );
    let servers = "  servers:\n  - port: {number: 0, protocol: HTTQ}\n  - port: {number: 80, name: http, protocol: http}\n    bind: 10.0.0.1\n    hosts: ['*/*.x', 'a b', 'ns/', a.*]\n";
    assert_eq!(
        istio("Gateway", servers),
        [
            "E 6 spec.servers[0].port.number: 0 is not a port; this server is left out",
            "E 6 spec.servers[0].port.protocol: `HTTQ` is not a protocol; this server is left out",
            "E 6 spec.servers[0].port.name: missing; this server is left out",
            "E 6 spec.servers[0].hosts: no hosts; this server is left out",
            "E 9 spec.servers[1].hosts[1]: `a b` is not a host; this host is left out",
            "E 9 spec.servers[1].hosts[2]: `ns/` is not a host; this host is left out",
            "E 9 spec.servers[1].hosts[3]: `a.*` is not a host; this host is left out",
            "W 8 spec.servers[1].bind: not supported by this version; this server is left out",
        ]
    );
}

#[test]
fn virtual_services() {
    assert_eq!(
        istio("VirtualService", "  gateways: [g]\n"),
        ["E 4 spec.hosts: no hosts", "E 4 spec: no routes",]
    );
    let http = "  hosts: ['a.*', A.x, a.x]\n  gateways: [g]\n  http:\n  - match: [{uri: {}}, {uri: {prefix: a}, port: 99999}]\n  - route:\n    - {destination: {host: ''}, weight: -1}\n    - {destination: {host: '*.x'}}\n  - redirect: {uri: /}\n  - route:\n    - destination: {host: a}\n    - destination: {host: b}\n    mirror: {host: c}\n";
    assert_eq!(
        istio("VirtualService", http),
        [
            "E 5 spec.hosts[0]: `a.*` is not a host; this host is left out",
            "W 5 spec.hosts[2]: `a.x` is there already",
            "E 8 spec.http[0]: leads nowhere",
            "W 8 spec.http[0].match[0].uri: says nothing, and matches every path",
            "W 8 spec.http[0].match[1].uri.prefix: `a` matches no request: every path begins with `/`",
            "E 8 spec.http[0].match[1].port: 99999 is not a port",
            "E 10 spec.http[1].route[0].destination.host: missing",
            "E 10 spec.http[1].route[0].weight: -1 is not a weight",
            "E 13 spec.http[3].route: all weights are 0: nothing would get any traffic",
        ]
    );
    let any = "  hosts: [a]\n  gateways: [g, '*', 'n/*']\n  http: [{redirect: {uri: /}}]\n";
    assert_eq!(
        istio("VirtualService", any),
        [
            "W 6 spec.gateways[1]: `*` names no Gateway: each is named by itself",
            "W 6 spec.gateways[2]: `n/*` names no Gateway: each is named by itself",
        ]
    );
    // Istio reads names up to the first without a namespace.
    let named = "  hosts: [a]\n  gateways: ['n/*', g, '']\n  http: [{redirect: {uri: /}}]\n";
    assert_eq!(
        istio("VirtualService", named),
        [
            "W 6 spec.gateways[0]: `n/*` names no Gateway: each is named by itself",
            "W 6 spec.gateways[2]: `` names no Gateway: each is named by itself",
            "E 6 spec.gateways[0]: `n/*` is no name of a Gateway; such an object is not admitted, as with Istio",
        ]
    );
    let mesh = "  hosts: ['*']\n  gateways: [g, mesh]\n  http: [{redirect: {uri: /}}]\n";
    assert_eq!(
        istio("VirtualService", mesh),
        [
            "E 5 spec.hosts[0]: `*` is for gateways alone, and not for `mesh`; such an object is not admitted, as with Istio",
        ]
    );
    let tcp = "  hosts: [a]\n  tls: [{match: [{sniHosts: [a]}], route: [{destination: {host: a}}]}]\n  tcp:\n  - match: [{port: 1, sourceSubnet: 10.0.0.0/8}]\n    route: [{destination: {host: a}}]\n";
    assert_eq!(
        istio("VirtualService", tcp),
        [
            "I 4 spec.gateways: names no Gateway, so no gateway applies it: traffic between pods is not routed by this version",
            "W 8 spec.tcp[0].match[0].sourceSubnet: has no effect on a gateway, in Istio neither; ignored",
        ]
    );
}

#[test]
fn destination_rules() {
    let spec = "  trafficPolicy: {}\n  subsets:\n  - name: v1\n  - name: v1\n  - {}\n";
    assert_eq!(
        istio("DestinationRule", spec),
        [
            "E 4 spec.host: missing",
            "E 8 spec.subsets[1].name: the subset `v1` is there already; this subset is left out",
            "E 9 spec.subsets[2].name: `` is not a subset's name; this subset is left out",
        ]
    );
}

#[test]
fn retries_elsewhere_are_not_silently_left_out() {
    let retries = |given: bool| {
        let route = "route: [{destination: {host: b}}]";
        let spec = format!(
            "  hosts: [a]\n  gateways: [g]\n  http:\n  - {route}\n    retries: {{attempts: 1, retryRemoteLocalities: {given}}}\n"
        );
        istio("VirtualService", &spec)
    };
    let wanted =
        "W 9 spec.http[0].retries.retryRemoteLocalities: not supported by this version; ignored";
    assert_eq!(retries(true), [wanted]);
    assert_eq!(retries(false), [""; 0]);
}

/// What is said about one HTTP route, but for what this version does not do yet.
fn http_route(route: &str) -> Vec<String> {
    let spec = format!("  hosts: [a]\n  gateways: [g]\n  http:\n  - {route}\n");
    let all = istio("VirtualService", &spec).into_iter();
    all.filter(|message| !message.contains("not supported by this version"))
        .map(|message| {
            let (_, said) = message.split_once(" spec.http[0]").unwrap();
            format!("{} {}", &message[..1], said.trim_start_matches('.'))
        })
        .collect()
}

const TO: &str = "route: [{destination: {host: a}}]";

#[test]
fn conditions_of_routes() {
    for (conditions, wanted) in [
        (
            "uri: {regex: '/(?=a)'}",
            "E match[0].uri.regex: `/(?=a)` is not a regular expression as RE2 has them: after `(?` RE2 has the flags i, m, s and U, and no look-around",
        ),
        (
            "uri: {regex: '*'}",
            "E match[0].uri.regex: `*` is not a regular expression as RE2 has them: repetition operator missing expression",
        ),
        (
            "uri: {exact: /a, prefix: /b}",
            "E match[0].uri: says more than one thing",
        ),
        (
            "uri: {prefix: '/a?b'}",
            "W match[0].uri.prefix: matches no request: the query is no part of the path",
        ),
        (
            "headers: {':paht': {exact: a}}",
            "E match[0].headers.:paht: `:paht` is not a header",
        ),
        (
            "withoutHeaders: {':status': {}}",
            "W match[0].withoutHeaders.:status: no request has a status: it counts as missing",
        ),
        (
            "headers: {a b: {}}",
            "E match[0].headers.a b: `a b` is not the name of a header",
        ),
        (
            "withoutHeaders: {uri: {}}",
            "W match[0].withoutHeaders.uri: is about a header of the name `uri`",
        ),
        (
            "queryParams: {q: {regex: '('}}",
            "E match[0].queryParams.q.regex: `(` is not a regular expression as RE2 has them: unclosed group",
        ),
        (
            "method: {exact: get}",
            "W match[0].method.exact: `get` matches no usual request: methods are in upper case",
        ),
        (
            "headers: {x: {prefix: ''}}",
            "E match[0].headers.x.prefix: empty",
        ),
    ] {
        let said = http_route(&format!("match: [{{{conditions}}}]\n    {TO}"));
        assert_eq!(said, [wanted], "{conditions}");
    }
    let fine = "match: [{headers: {x: {}, y: {regex: '*'}, ':path': {exact: '/a?b'}, ':method': {}}, withoutHeaders: {z: {exact: ''}}, scheme: {exact: https}}]";
    assert_eq!(http_route(&format!("{fine}\n    {TO}")), [""; 0]);
    // A claim of a token is not a header, and to leave the condition out would let everybody in.
    let claim = "  hosts: [a]\n  gateways: [g]\n  http:\n  - match: [{headers: {'@request.auth.claims.x': {exact: y}}}]\n    route: [{destination: {host: a}}]\n";
    assert_eq!(
        istio("VirtualService", claim),
        [
            "E 8 spec.http[0].match[0].headers.@request.auth.claims.x: not supported by this version, and without it the route would match too much"
        ]
    );
}

#[test]
fn actions_of_routes() {
    for (route, wanted) in [
        ("timeout: 1us", "E timeout: is too short"),
        (
            "redirect: {redirectCode: 300}",
            "E redirect.redirectCode: 300 is not a redirection",
        ),
        (
            "redirect: {port: 1, derivePort: FROM_REQUEST_PORT}",
            "E redirect.derivePort: the port is given already",
        ),
        (
            "redirect: {uri: /}\n    rewrite: {uri: /}",
            "E rewrite: nothing is passed on by a route with `redirect`",
        ),
        (
            "redirect: {uri: /}\n    directResponse: {status: 200}",
            "E directResponse: a route has either `redirect` or `directResponse`",
        ),
        (
            "directResponse: {status: 99}",
            "E directResponse.status: 99 is not a status of an answer",
        ),
        (
            "directResponse: {status: 200, body: {bytes: '!'}}",
            "E directResponse.body.bytes: not base64: invalid length at 0",
        ),
        ("rewrite: {}", "E rewrite: rewrites nothing"),
        (
            "rewrite: {uriRegexRewrite: {match: 'a', rewrite: '\\1'}}",
            "E rewrite.uriRegexRewrite.rewrite: `\\1` is about a group that the pattern does not have; it has 0",
        ),
        (
            "retries: {attempts: 1, retryOn: 'connect_failure,503'}",
            "E retries.retryOn: `connect_failure` is neither a condition nor a status",
        ),
        (
            "retries: {perTryTimeout: 2s}",
            "E retries.attempts: 0, or absent: nothing is tried again, and the rest has no effect; such an object is not admitted, as with Istio",
        ),
        (
            "fault: {abort: {httpStatus: 500}}",
            "W fault.abort.percentage: missing: no request is aborted",
        ),
        (
            "fault: {abort: {httpStatus: 500, percentage: {value: 101}}}",
            "E fault.abort.percentage.value: 101 is not a percentage",
        ),
        (
            "fault: {delay: {percentage: {value: 1}}}",
            "W fault.delay.fixedDelay: missing: no request is delayed",
        ),
        (
            "headers: {request: {set: {x: '100%'}}}",
            "E headers.request.set.x: the `%` at `%` has no end; a `%` that is meant is written `%%`",
        ),
        (
            "headers: {request: {add: {x: '%NOPE%'}}}",
            "E headers.request.add.x: `%NOPE%` is not a variable",
        ),
        (
            "headers: {request: {add: {x: 'a%UPSTREAM_PROTOCOL%'}}}",
            "W headers.request.add.x: `%UPSTREAM_PROTOCOL%` is always empty in this version",
        ),
        (
            "headers: {request: {set: {x-envoy-retry-on: 5xx}}}",
            "W headers.request.set.x-envoy-retry-on: is read by Envoy's router, and has no effect here",
        ),
        (
            "headers: {response: {set: {Host: x}}}",
            "E headers.response.set.Host: `Host` cannot be changed here, and is left alone; such an object is not admitted, as with Istio",
        ),
        (
            "headers: {request: {set: {':AUTHORITY': x}}}\n    rewrite: {authority: y}",
            "E headers.request: the host is rewritten more than once",
        ),
        (
            "headers: {request: {set: {host: x}}}\n    rewrite: {authority: y}",
            "E headers.request: the host is rewritten more than once",
        ),
        (
            "corsPolicy: {allowOrigins: [{}]}",
            "E corsPolicy.allowOrigins[0]: says nothing",
        ),
        (
            "corsPolicy: {unmatchedPreflights: DROP}",
            "E corsPolicy.unmatchedPreflights: `DROP` is not among what is known",
        ),
        ("mirror: {host: ''}", "E mirror.host: missing"),
        (
            "mirrors: [{destination: {host: a}, percentage: {value: -1}}]",
            "E mirrors[0].percentage.value: -1 is not a percentage",
        ),
    ] {
        let acts = ["redirect", "directResponse", "delegate"];
        let route = if acts.iter().any(|action| route.starts_with(action)) {
            route.to_owned()
        } else {
            format!("{route}\n    {TO}")
        };
        assert_eq!(http_route(&route), [wanted], "{route}");
    }
}

#[test]
fn what_others_delegate_to_has_no_hosts_and_delegates_no_further() {
    let leaf = "  http:\n  - match: [{uri: {regex: /a}}]\n    route: [{destination: {host: a}}]\n  - delegate: {name: x}\n";
    assert_eq!(
        istio("VirtualService", leaf),
        ["E 8 spec.http[1].delegate: what others delegate to cannot delegate any further"]
    );
}

#[test]
fn policies_of_destinations() {
    for (policy, wanted) in [
        (
            "loadBalancer: {simple: FASTEST}",
            "E loadBalancer.simple: `FASTEST` is not among what is known",
        ),
        (
            "loadBalancer: {consistentHash: {}}",
            "W loadBalancer.consistentHash: says no key: requests go to endpoints by chance",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}}",
            "E loadBalancer.consistentHash.maglev.tableSize: 100 is not a prime up to 5000011",
        ),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {a: 50}}]}}",
            "E loadBalancer.localityLbSetting.distribute[0].to: the shares sum up to 50",
        ),
        (
            "connectionPool: {tcp: {maxConnections: -1}}",
            "E connectionPool.tcp.maxConnections: -1 is not a limit",
        ),
        (
            "connectionPool: {tcp: {connectTimeout: 1.5ms}}",
            "E connectionPool.tcp.connectTimeout: is finer than a millisecond",
        ),
        (
            "retryBudget: {percent: 101}",
            "E retryBudget.percent: 101 is not a percentage",
        ),
        (
            "retryBudget: {minRetryConcurrency: -1}",
            "E retryBudget.minRetryConcurrency: -1 is not a limit",
        ),
        (
            "loadBalancer: {consistentHash: {httpCookie: {name: a, ttl: 0s, attributes: [{name: 'a;b'}]}}}",
            "E loadBalancer.consistentHash.httpCookie.attributes[0]: `a;b` cannot stand in a cookie",
        ),
        (
            "loadBalancer: {consistentHash: {httpCookie: {name: a, attributes: [{name: Secure}]}}}",
            "W loadBalancer.consistentHash.httpCookie.attributes: without a ttl no cookie is made",
        ),
        (
            "outlierDetection: {maxEjectionPercent: 101}",
            "E outlierDetection.maxEjectionPercent: 101 is not a percentage",
        ),
        (
            "outlierDetection: {consecutiveErrors: 1}",
            "W outlierDetection.consecutiveErrors: has no effect, in Istio neither; ignored",
        ),
        (
            "portLevelSettings: [{}]",
            "E portLevelSettings[0].port: missing",
        ),
        (
            "tls: {mode: TLS}",
            "E tls.mode: `TLS` is not among what is known",
        ),
    ] {
        let spec = format!("  host: a\n  trafficPolicy:\n    {policy}\n");
        let said = istio("DestinationRule", &spec).into_iter();
        let said: Vec<_> = said
            .filter(|message| !message.contains("not supported by this version"))
            .map(|message| message.replacen(" 7 spec.trafficPolicy.", " ", 1))
            .collect();
        assert_eq!(said, [wanted], "{policy}");
    }
}

#[test]
fn service_entries() {
    let spec = "  hosts: ['*', a.x, '::1']\n  resolution: STATIC\n  ports:\n  - {number: 80, name: http}\n  - {number: 80, name: http2}\n  endpoints:\n  - {address: b.x}\n  - {address: 192.0.2.1, ports: {https: 1}}\n";
    assert_eq!(
        istio("ServiceEntry", spec),
        [
            "E 5 spec.hosts[0]: `*` would be everything; this host is left out",
            "E 5 spec.hosts[2]: `::1` is an address, and not a name; this host is left out",
            "E 9 spec.ports[1].number: 80 is there already; this port is left out",
            "E 11 spec.endpoints[0].address: `b.x` is not an address; this endpoint is left out",
            "E 12 spec.endpoints[1].ports.https: there is no port `https` in spec.ports; such an object is not admitted, as with Istio",
        ]
    );
    let nowhere = "  hosts: [a.x]\n  resolution: STATIC\n  ports: [{number: 80, name: http}]\n";
    assert_eq!(
        istio("ServiceEntry", nowhere),
        ["I 4 spec.endpoints: no endpoints: requests to its hosts are answered with 503"]
    );
    let wildcard = "  hosts: ['*.x']\n  resolution: DNS\n  ports: [{number: 80, name: http}]\n";
    assert_eq!(
        istio("ServiceEntry", wildcard),
        ["E 5 spec.hosts[0]: `*.x` cannot be resolved"]
    );
}

/// An error about one of several takes down that one; the last takes the object with it.
#[test]
fn one_bad_item_does_not_take_down_its_neighbours() {
    let gateway = |host: &str| {
        let port = "port: {number: 80, name: http, protocol: HTTP}";
        format!("  servers: [{{{port}, hosts: [{host}]}}]\n")
    };
    let route = |hosts: &str| {
        format!(
            "  hosts: [{hosts}]\n  gateways: [g]\n  http: [{{route: [{{destination: {{host: a}}}}]}}]\n"
        )
    };
    let entry = |hosts: &str, addresses: &str| {
        format!(
            "  hosts: [{hosts}]\n  resolution: STATIC\n  ports: [{{number: 80, name: http}}]\n  endpoints: [{addresses}]\n"
        )
    };
    let (good, bad) = ("{address: 192.0.2.1}", "{address: a b}");
    let both = format!("{good}, {bad}");
    let odd = "trafficPolicy: {loadBalancer: {simple: FASTEST}}";
    for (kind, some, none) in [
        ("Gateway", gateway("a.x, ~/x"), gateway("~/x")),
        ("VirtualService", route("a.x, a b"), route("a b")),
        (
            "DestinationRule",
            format!("  host: a\n  subsets: [{{name: a}}, {{name: b, {odd}}}]\n"),
            format!("  host: a\n  {odd}\n  subsets: [{{name: b, {odd}}}]\n"),
        ),
        ("ServiceEntry", entry("a.x, a b", good), entry("a b", good)),
        ("ServiceEntry", entry("a.x", &both), entry("a.x", bad)),
    ] {
        for (spec, refused) in [(some, false), (none, true)] {
            let text = format!(
                "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: web}}\nspec:\n{spec}"
            );
            let manifest = Manifest::parse("x.yaml".into(), &text);
            let verdict = super::validate(&manifest.objects[0]);
            assert_eq!(verdict.refused, refused, "{text}");
            let left_out = |found: &&Diagnostic| found.message.ends_with("is left out");
            let left_out = verdict.diagnostics.iter().filter(left_out);
            assert_eq!(left_out.count(), 1, "{text}");
        }
    }
}

#[test]
fn workload_entries() {
    let all = |spec: &str| istio("WorkloadEntry", spec);
    assert_eq!(all("  address: 192.0.2.1\n  ports: {http: 1}\n"), [""; 0]);
    assert_eq!(all("  address: vm.x\n"), [""; 0]);
    assert_eq!(
        all("  address: unix:///run/x\n  ports: {http: 0}\n  network: n\n"),
        [
            "E 5 spec.address: `unix:///run/x`: sockets of files are not supported by this version",
            "E 6 spec.ports.http: 0 is not a port",
            "W 7 spec.network: not supported by this version; ignored",
        ]
    );
    assert_eq!(all("  labels: {}\n"), ["E 4 spec.address: missing"]);
}

#[test]
fn servers_of_tls() {
    let server = |protocol: &str, tls: &str| {
        let spec = format!(
            "  selector: {{}}\n  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [a.x]}}, {{port: {{number: 443, name: https, protocol: {protocol}}}, hosts: [a.x], {tls}}}]\n"
        );
        istio("Gateway", &spec)
    };
    let good = "tls: {mode: MUTUAL, credentialName: web, minProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256], ecdhCurves: [X25519]}";
    assert_eq!(server("HTTPS", good), [""; 0]);
    for (protocol, tls, expected) in [
        (
            "HTTPS",
            "",
            "E 6 spec.servers[1].tls: missing, and HTTPS needs it; this server is left out",
        ),
        (
            "HTTPS",
            "tls: {mode: SECURE}",
            "E 6 spec.servers[1].tls.mode: `SECURE` is not among what is known; this server is left out",
        ),
        (
            "HTTPS",
            "tls: {mode: SIMPLE}",
            "E 6 spec.servers[1].tls.credentialName: there is no certificate; this server is left out",
        ),
        (
            "TLS",
            "tls: {mode: MUTUAL, serverCertificate: a, privateKey: b}",
            "E 6 spec.servers[1].tls.caCertificates: missing: who may sign clients' certificates?; this server is left out",
        ),
        (
            "TLS",
            "tls: {mode: PASSTHROUGH, credentialName: web}",
            "W 6 spec.servers[1].tls.credentialName: not used: TLS is passed on as it is (PASSTHROUGH)",
        ),
        (
            "HTTPS",
            "tls: {mode: SIMPLE, credentialName: web, maxProtocolVersion: TLSV1_1}",
            "E 6 spec.servers[1].tls.maxProtocolVersion: TLS 1.0 and 1.1 are not spoken: they are broken (RFC 8996); this server is left out",
        ),
        (
            "HTTPS",
            "tls: {mode: SIMPLE, credentialName: web, minProtocolVersion: TLSV1_0}",
            "W 6 spec.servers[1].tls.minProtocolVersion: TLS 1.0 and 1.1 are not spoken: they are broken (RFC 8996); it is TLS 1.2",
        ),
        (
            "HTTPS",
            "tls: {mode: SIMPLE, credentialName: web, cipherSuites: [AES128-SHA]}",
            "E 6 spec.servers[1].tls.cipherSuites: no cipher of these is spoken; this server is left out",
        ),
        (
            "HTTPS",
            "tls: {mode: SIMPLE, credentialName: web, subjectAltNames: [a]}",
            "W 6 spec.servers[1].tls.subjectAltNames: without effect: SIMPLE asks clients for no certificate",
        ),
        (
            "HTTP",
            "tls: {mode: SIMPLE, credentialName: web}",
            "E 6 spec.servers[1].tls: TLS is asked for on a port in the clear; this server is left out",
        ),
        (
            "HTTPS",
            "tls: {mode: ISTIO_MUTUAL, credentialName: web}",
            "E 6 spec.servers[1].tls.mode: ISTIO_MUTUAL has the mesh's own certificates, and takes no others; this server is left out",
        ),
    ] {
        assert_eq!(server(protocol, tls), [expected], "{protocol} {tls}");
    }
}

#[test]
fn routes_of_tls() {
    let told = |tls: &str| {
        let spec = format!("  hosts: [a.x, '*.b.x']\n  gateways: [g]\n  tls: [{tls}]\n");
        istio("VirtualService", &spec)
    };
    let route = "route: [{destination: {host: app}}]";
    let good = format!("{{match: [{{sniHosts: [a.x, '*.c.b.x', 10.0.0.1]}}], {route}}}");
    assert_eq!(told(&good), [""; 0]);
    assert_eq!(
        told("{}"),
        [
            "E 7 spec.tls[0].match: no condition: connections are told apart by the names that they ask for",
            "E 7 spec.tls[0]: leads nowhere",
        ]
    );
    assert_eq!(
        told(&format!("{{match: [{{sniHosts: [c.x]}}, {{}}], {route}}}")),
        [
            "E 7 spec.tls[0].match[0].sniHosts[0]: `c.x` is not within any of spec.hosts",
            "E 7 spec.tls[0].match[1].sniHosts: no names",
        ]
    );
}
