//! What becomes of DestinationRules and ServiceEntries.

use std::time::Duration;

use nodegate_model::gateway::{
    Balancing, Cluster as ModelCluster, ClusterPolicy, DnsTarget, HashKey, HashTable, Locality,
    RetryBudget,
};
use nodegate_values::percentage::Percentage;

use super::gateway::{HTTP, gateway, routes, snapshot};

fn rule(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec:\n{spec}"
    )
}

fn entry(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: out}}\nspec:\n{spec}"
    )
}

/// The cluster of the destination `to`, with other objects around.
fn cluster(to: &str, texts: &[&str]) -> Option<ModelCluster> {
    let http = format!("  http:\n  - route: [{{destination: {{{to}}}}}]\n");
    let around = [gateway("g", HTTP), routes("v", "'*'", "g", &http)];
    let all: Vec<_> = around
        .iter()
        .map(String::as_str)
        .chain(texts.iter().copied())
        .collect();
    let snapshot = snapshot(&all);
    let clusters = snapshot.gateway.clusters.values().next();
    clusters.map(|cluster| (**cluster).clone())
}

fn policy(to: &str, spec: &str) -> ClusterPolicy {
    cluster(to, &[&rule("r", spec)]).unwrap().policy
}

#[test]
fn the_nearest_policy_counts_and_that_of_a_port_replaces_all() {
    let spec = "  host: app\n  trafficPolicy:\n    loadBalancer: {simple: ROUND_ROBIN}\n    connectionPool: {tcp: {maxConnections: 7}}\n    portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {maxConnections: 8}}}]\n  subsets:\n  - {name: plain, labels: {}}\n  - {name: own, labels: {}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}\n  - {name: port, labels: {}, trafficPolicy: {loadBalancer: {simple: RANDOM}, portLevelSettings: [{port: {number: 80}}]}}\n  - {name: elsewhere, labels: {}, trafficPolicy: {portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: RANDOM}}]}}\n";
    for (subset, balancing, connections) in [
        // The whole destination's balancing is gone: its settings for the port say nothing of it.
        ("", Balancing::LeastRequest, Some(8)),
        ("plain", Balancing::LeastRequest, Some(8)),
        ("own", Balancing::Random, Some(8)),
        ("port", Balancing::LeastRequest, None),
        ("elsewhere", Balancing::LeastRequest, Some(8)),
    ] {
        let policy = policy(&format!("host: app, subset: '{subset}'"), spec);
        assert_eq!(policy.balancing, balancing, "{subset}");
        assert_eq!(policy.limits.max_connections, connections, "{subset}");
    }
}

#[test]
fn of_several_rules_the_oldest_policy_and_all_subsets() {
    let first = rule("a", "  host: app\n  subsets: [{name: one, labels: {}}]\n");
    let second = rule(
        "b",
        "  host: app\n  trafficPolicy: {loadBalancer: {simple: RANDOM}}\n  subsets: [{name: two, labels: {}}]\n",
    );
    let third = rule(
        "c",
        "  host: app\n  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}\n",
    );
    let found = cluster("host: app, subset: two", &[&third, &second, &first]).unwrap();
    assert_eq!(found.policy.balancing, Balancing::Random);
    assert_eq!(found.rule.as_deref(), Some("a.default"));
}

#[test]
fn exact_hosts_go_before_wildcards_and_rules_for_others_do_not_count() {
    let wide = rule(
        "a",
        "  host: '*.svc.cluster.local'\n  trafficPolicy: {loadBalancer: {simple: RANDOM}}\n",
    );
    let narrow = rule(
        "b",
        "  host: '*.default.svc.cluster.local'\n  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}\n",
    );
    let other = rule(
        "c",
        "  host: app\n  workloadSelector: {matchLabels: {app: x}}\n  trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}\n",
    );
    let found = cluster("host: app", &[&wide, &narrow, &other]).unwrap();
    assert_eq!(found.policy.balancing, Balancing::RoundRobin);
    assert_eq!(
        cluster("host: app", &[]).unwrap().policy,
        ClusterPolicy::default()
    );
}

#[test]
fn consistent_hashing_has_a_key_and_a_table() {
    for (hash, key, table) in [
        (
            "httpHeaderName: X-User",
            HashKey::Header("x-user".parse().unwrap()),
            HashTable::Ring(1024),
        ),
        (
            "httpCookie: {name: c, ttl: 0s, path: /, attributes: [{name: SameSite, value: Lax}, {name: Secure}]}, minimumRingSize: 5",
            HashKey::Cookie {
                name: "c".into(),
                path: Some("/".into()),
                ttl: Some(Duration::ZERO),
                attributes: vec![
                    ("SameSite".into(), "Lax".into()),
                    ("Secure".into(), String::new()),
                ],
            },
            HashTable::Ring(5),
        ),
        (
            "useSourceIp: true, maglev: {}",
            HashKey::SourceIp,
            HashTable::Maglev(65_537),
        ),
        (
            "httpQueryParameterName: q, maglev: {tableSize: 101}",
            HashKey::Query("q".into()),
            HashTable::Maglev(101),
        ),
    ] {
        let spec = format!(
            "  host: app\n  trafficPolicy: {{loadBalancer: {{consistentHash: {{{hash}}}}}}}\n"
        );
        assert_eq!(
            policy("host: app", &spec).balancing,
            Balancing::ConsistentHash { key, table }
        );
    }
}

#[test]
fn pools_outliers_and_warm_up() {
    let spec = "  host: app\n  trafficPolicy:\n    loadBalancer: {warmup: {duration: 60s, aggression: 1.5}}\n    connectionPool: {tcp: {connectTimeout: 30ms, idleTimeout: 5s}, http: {http1MaxPendingRequests: 1, http2MaxRequests: 2, maxRetries: 0, maxRequestsPerConnection: 3, h2UpgradePolicy: UPGRADE}}\n    outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 7, interval: 5m, baseEjectionTime: 15m, minHealthPercent: 50}\n";
    let policy = policy("host: app", spec);
    let limits = &policy.limits;
    assert_eq!(limits.connect_timeout, Duration::from_millis(30));
    assert_eq!(limits.idle_timeout, Duration::from_secs(5));
    assert_eq!(limits.max_pending_requests, Some(1));
    assert_eq!(limits.max_requests, Some(2));
    assert_eq!(limits.max_retries, None);
    assert_eq!(limits.max_requests_per_connection, Some(3));
    assert!(limits.upgrade_to_http2);
    let outliers = policy.outliers.unwrap();
    assert_eq!(outliers.consecutive_5xx, None);
    assert_eq!(outliers.consecutive_gateway_errors, Some(7));
    assert_eq!(outliers.base_ejection, Duration::from_mins(15));
    assert_eq!(outliers.max_ejection, Duration::from_mins(15));
    assert_eq!(
        (outliers.max_ejection_percent, outliers.min_health_percent),
        (10, 50)
    );
    let warmup = policy.warmup.unwrap();
    assert_eq!(
        (warmup.minimum_percent, warmup.aggression_milli),
        (10, 1500)
    );
    // Where failures are noticed, near endpoints are preferred.
    assert!(policy.locality.is_some());
}

#[test]
fn a_static_entry_has_its_endpoints() {
    let spec = "  hosts: [Api.Example.com]\n  resolution: STATIC\n  ports: [{name: http, number: 80, protocol: HTTP, targetPort: 8080}, {name: grpc, number: 81, protocol: GRPC}]\n  endpoints:\n  - {address: 192.0.2.2, labels: {v: a}, locality: eu/a, weight: 3}\n  - {address: 192.0.2.1, labels: {v: b}, ports: {http: 9}}\n";
    let found = cluster("host: api.example.com, port: {number: 80}", &[&entry(spec)]).unwrap();
    assert_eq!(found.name, "outbound|80||api.example.com");
    let endpoints: Vec<_> = found
        .endpoints
        .iter()
        .map(|to| (to.address.to_string(), to.weight))
        .collect();
    assert_eq!(
        endpoints,
        [("192.0.2.1:9".into(), 1), ("192.0.2.2:8080".to_owned(), 3)]
    );
    assert_eq!(found.endpoints[1].locality.zone, "a");
    assert!(!found.http2);

    let subset = rule(
        "r",
        "  host: api.example.com\n  subsets: [{name: a, labels: {v: a}}]\n",
    );
    let to = "host: api.example.com, subset: a, port: {number: 81}";
    let found = cluster(to, &[&entry(spec), &subset]).unwrap();
    assert_eq!(found.endpoints.len(), 1);
    assert_eq!(found.endpoints[0].address, "192.0.2.2:81".parse().unwrap());
    assert!(found.http2);
    // Two ports, none named: that of the server.
    let found = cluster("host: api.example.com", &[&entry(spec)]).unwrap();
    assert_eq!(found.name, "outbound|80||api.example.com");
}

#[test]
fn a_dns_entry_has_names() {
    let spec = "  hosts: [api.example.com]\n  resolution: DNS\n  ports: [{name: http, number: 443, protocol: HTTPS, targetPort: 8443}]\n";
    let target = |host: &str, port| DnsTarget {
        host: host.into(),
        port,
        weight: 1,
        all: true,
        locality: Locality::default(),
        priority: 0,
    };
    let found = cluster("host: api.example.com", &[&entry(spec)]).unwrap();
    assert_eq!(found.name, "outbound|443||api.example.com");
    assert_eq!(found.names, [target("api.example.com", 8443)]);
    let others = format!(
        "{spec}  endpoints: [{{address: One.example}}, {{address: 192.0.2.7, ports: {{http: 1}}}}]\n"
    );
    let found = cluster("host: api.example.com", &[&entry(&others)]).unwrap();
    assert_eq!(found.names, [target("one.example", 8443)]);
    assert_eq!(found.endpoints[0].address, "192.0.2.7:1".parse().unwrap());
    // Seen only where it is exported to.
    let hidden = format!("{spec}  exportTo: ['.']\n");
    assert_eq!(cluster("host: api.example.com", &[&entry(&hidden)]), None);
}

#[test]
fn what_is_near_the_gateway_s_node_comes_first() {
    let node = |name: &str, region: &str, zone: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/region: {region}, topology.kubernetes.io/zone: {zone}}}}}\n"
        )
    };
    let nodes = [
        node("n1", "eu", "a"),
        node("n2", "eu", "b"),
        node("n3", "us", "a"),
    ];
    let gateway = "apiVersion: v1\nkind: Pod\nmetadata: {namespace: istio-system, name: istio-ingressgateway-0}\nspec: {nodeName: n2, containers: []}\n";
    let spec = "  hosts: [api.example.com]\n  resolution: STATIC\n  ports: [{name: http, number: 80, protocol: HTTP}]\n  endpoints:\n  - {address: 192.0.2.1, locality: eu/a}\n  - {address: 192.0.2.2, locality: eu/b}\n  - {address: 192.0.2.3, locality: us/a}\n";
    let found = |policy: &str| {
        let rule = rule(
            "r",
            &format!("  host: api.example.com\n  trafficPolicy: {policy}\n"),
        );
        let mut objects = vec![gateway];
        objects.extend(nodes.iter().map(String::as_str));
        let entry = entry(spec);
        objects.extend([entry.as_str(), rule.as_str()]);
        cluster("host: api.example.com", &objects).unwrap()
    };
    let priorities = |found: &nodegate_model::gateway::Cluster| {
        let endpoints = found.endpoints.iter();
        endpoints
            .map(|endpoint| endpoint.priority)
            .collect::<Vec<_>>()
    };
    let near = found("{outlierDetection: {}}");
    assert_eq!(priorities(&near), [1, 0, 2]);
    let off = "{outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}}";
    assert_eq!(priorities(&found(off)), [0, 0, 0]);
    let shares = found(
        "{loadBalancer: {localityLbSetting: {distribute: [{from: eu/b/*, to: {'eu/*': 70, 'us/a': 30}}]}}}",
    );
    assert_eq!(priorities(&shares), [0, 0, 0]);
    let shares: Vec<_> = shares.shares.iter().map(|(_, share)| *share).collect();
    assert_eq!(shares, [35, 35, 30]);
}

#[test]
fn secrets_that_are_not_as_they_should_be_are_named() {
    let entry = entry(
        "  hosts: [web.example]\n  ports: [{number: 443, name: tls, protocol: TLS}, {number: 444, name: b, protocol: TLS}]\n  resolution: STATIC\n  endpoints: [{address: 192.0.2.1}]\n",
    );
    let rule = rule(
        "r",
        "  host: web.example\n  trafficPolicy:\n    tls: {mode: SIMPLE, credentialName: ours}\n    portLevelSettings:\n    - port: {number: 444}\n      tls: {mode: MUTUAL, credentialName: kubernetes://pair}\n",
    );
    let http = "  http:\n  - {match: [{uri: {exact: /}}], route: [{destination: {host: web.example, port: {number: 444}}}]}\n  - route: [{destination: {host: web.example, port: {number: 443}}}]\n";
    let secret = |namespace: &str, name: &str, keys: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\nstringData: {{{keys}}}\n"
        )
    };
    let found = |secrets: &[String]| -> Vec<String> {
        let around = [gateway("g", HTTP), routes("v", "'*'", "g", http)];
        let all = around.iter().chain([&entry, &rule]).chain(secrets);
        let all: Vec<_> = all.map(String::as_str).collect();
        let snapshot = snapshot(&all);
        let about = snapshot.diagnostics.iter();
        let about = about.filter(|one| one.message.contains("Secret"));
        about.map(ToString::to_string).collect()
    };
    let wanted = [
        "warning: 3.yaml:7: DestinationRule default/r: spec.trafficPolicy.tls.credentialName: Secret istio-system/ours is not in the gateway's namespace: there will be no connections to web.example (fix: kubectl create secret generic ours -n istio-system --from-file=ca.crt)",
        "warning: 3.yaml:10: DestinationRule default/r: spec.trafficPolicy.portLevelSettings[0].tls.credentialName: Secret istio-system/pair has no tls.crt and tls.key: there will be no connections to web.example (fix: kubectl create secret generic pair -n istio-system --from-file=tls.crt --from-file=tls.key --from-file=ca.crt)",
    ];
    let elsewhere = secret("default", "ours", "ca.crt: x");
    let half = secret("istio-system", "pair", "ca.crt: x");
    assert_eq!(found(&[elsewhere, half]), wanted);
    let whole = secret("istio-system", "pair", "tls.crt: x, tls.key: x, ca.crt: x");
    let ours = secret("istio-system", "ours", "ca.crt: x");
    assert_eq!(found(&[whole, ours]), [""; 0]);
}

#[test]
fn a_retry_budget_has_istio_s_defaults_and_none_for_ports() {
    let budget = |given: &str, subset: &str| {
        let to = format!("host: app{subset}");
        policy(&to, &format!("  host: app\n{given}"))
            .limits
            .retry_budget
    };
    let is = |percent: f64, min_concurrency| {
        Some(RetryBudget {
            percent: Percentage::of_percent(percent).unwrap(),
            min_concurrency,
        })
    };
    let all = |budget: &str| format!("  trafficPolicy: {{retryBudget: {budget}}}\n");
    assert_eq!(budget("", ""), None);
    assert_eq!(budget(&all("{}"), ""), is(20.0, 3));
    assert_eq!(
        budget(&all("{percent: 12.5, minRetryConcurrency: 1}"), ""),
        is(12.5, 1)
    );
    let of_port = "  trafficPolicy: {retryBudget: {}, portLevelSettings: [{port: {number: 80}}]}\n";
    assert_eq!(budget(of_port, ""), None);
    let subsets = all("{}")
        + "  subsets: [{name: own, labels: {}, trafficPolicy: {retryBudget: {minRetryConcurrency: 9}}}, {name: port, labels: {}, trafficPolicy: {portLevelSettings: [{port: {number: 80}}]}}]\n";
    assert_eq!(budget(&subsets, ", subset: own"), is(20.0, 9));
    assert_eq!(budget(&subsets, ", subset: port"), is(20.0, 3));
}

#[test]
fn a_subset_whose_policy_is_none_takes_down_no_other() {
    let spec = "  host: app\n  subsets:\n  - {name: good, labels: {}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}\n  - {name: bad, labels: {}, trafficPolicy: {loadBalancer: {simple: FASTEST}}}\n";
    let found = cluster("host: app, subset: good", &[&rule("r", spec)]).unwrap();
    assert_eq!(found.policy.balancing, Balancing::Random);
    assert_eq!(cluster("host: app, subset: bad", &[&rule("r", spec)]), None);
    // For all of it there would be no balancing that its author wants.
    let whole = spec.replacen(
        "  subsets",
        "  trafficPolicy: {loadBalancer: {simple: FASTEST}}\n  subsets",
        1,
    );
    assert_eq!(
        cluster("host: app, subset: good", &[&rule("r", &whole)]),
        None
    );
}
