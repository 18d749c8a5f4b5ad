use std::net::Ipv4Addr;

use nodegate_compile::{GatewayIdentity, NodeIdentity, ServiceScope, compile};
use nodegate_resources::{admission::Store, manifest::Manifest};

use super::*;

const MANIFESTS: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g}
spec:
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}
  - {port: {number: 31400, name: tcp, protocol: TCP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec:
  hosts: [a.x]
  gateways: [g]
  http:
  - match: [{uri: {regex: '/a/[0-9]+'}, method: {exact: GET}, withoutHeaders: {x: {exact: '1'}, y: {}}}]
    rewrite: {uri: /b}
    headers: {request: {set: {x-a: '%PROTOCOL%'}, remove: [x-b]}}
    route:
    - {destination: {host: a.x}, weight: 3, headers: {response: {add: {x-c: c}}}}
    - {destination: {host: gone}, weight: 1}
  tcp:
  - route: [{destination: {host: a.x}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e}
spec:
  hosts: [a.x]
  resolution: STATIC
  ports: [{name: http, number: 80, protocol: HTTP}]
  endpoints: [{address: 192.0.2.1}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: r}
spec:
  host: a.x
  trafficPolicy:
    loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 1.5s, attributes: [{name: Secure}]}}}
    outlierDetection: {consecutiveGatewayErrors: 3}
";

fn exported() -> Value {
    exported_with(false)
}

fn exported_with(extended_connect: bool) -> Value {
    let manifest = Manifest::parse("x.yaml".into(), MANIFESTS);
    let resources = Store::default().admit([&manifest], Vec::new());
    let identity = GatewayIdentity {
        namespace: "istio-system".into(),
        name: "gateway".into(),
        ..GatewayIdentity::default()
    };
    let node = NodeIdentity::default();
    let compiled = compile(&resources, &node, Some(&identity), &ServiceScope::Gateway);
    let options = ExportOptions {
        listen: Ipv4Addr::LOCALHOST.into(),
        admin_port: 15000,
        extended_connect,
    };
    bootstrap(&compiled.gateway, options)
}

#[test]
fn routes_say_the_same_in_envoys_words() {
    let bootstrap = exported();
    let listeners = &bootstrap["static_resources"]["listeners"];
    let manager = &listeners[0]["filter_chains"][0]["filters"][0]["typed_config"];
    let host = &manager["route_config"]["virtual_hosts"][0];
    assert_eq!(host["domains"], json!(["a.x"]));
    let route = &host["routes"][0];
    assert_eq!(
        route["match"],
        json!({
            "safe_regex": {"regex": "/a/[0-9]+"},
            "case_sensitive": true,
            "headers": [
                {
                    "name": "x",
                    "string_match": {"exact": "1"},
                    "invert_match": true,
                    "treat_missing_header_as_empty": true,
                },
                {"name": "y", "present_match": true, "invert_match": true},
                {"name": ":method", "string_match": {"exact": "GET"}},
            ],
            "query_parameters": [],
        })
    );
    assert_eq!(
        route["request_headers_to_add"],
        json!([{
            "header": {"key": "x-a", "value": "%PROTOCOL%"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }])
    );
    assert_eq!(route["request_headers_to_remove"], json!(["x-b"]));
    let action = &route["route"];
    assert_eq!(action["prefix_rewrite"], "/b");
    assert_eq!(action["timeout"], "0s");
    assert_eq!(action["retry_policy"]["num_retries"], 2);
    assert_eq!(
        action["hash_policy"],
        json!([{"cookie": {
            "name": "c",
            "ttl": "1.500000000s",
            "attributes": [{"name": "Secure", "value": ""}],
        }}])
    );
    let clusters = &action["weighted_clusters"]["clusters"];
    assert_eq!(clusters[0]["weight"], 3);
    assert_eq!(
        clusters[0]["response_headers_to_add"][0]["header"]["key"],
        "x-c"
    );
    assert_eq!(
        clusters[1]["name"],
        "outbound|80||gone.default.svc.cluster.local"
    );
    let tcp = &listeners[1]["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(tcp["cluster"], "outbound|80||a.x");
}

#[test]
fn clusters_have_endpoints_and_policies() {
    let bootstrap = exported();
    let clusters = bootstrap["static_resources"]["clusters"]
        .as_array()
        .unwrap();
    assert_eq!(clusters.len(), 1);
    let cluster = &clusters[0];
    assert_eq!(cluster["type"], "STATIC");
    assert_eq!(cluster["lb_policy"], "RING_HASH");
    assert_eq!(
        cluster["outlier_detection"]["enforcing_consecutive_gateway_failure"],
        100
    );
    let endpoint = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    assert_eq!(
        endpoint["address"]["socket_address"],
        json!({"address": "192.0.2.1", "port_value": 80})
    );
    assert_eq!(
        cluster["circuit_breakers"]["thresholds"][0]["max_requests"],
        u32::MAX
    );
}

#[test]
fn websockets_over_http2_are_for_those_who_ask() {
    let options = |extended_connect| {
        let bootstrap = exported_with(extended_connect);
        let filter = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
        let filter = bootstrap.pointer(filter).unwrap();
        filter.get("http2_protocol_options").cloned()
    };
    assert_eq!(options(false), None);
    assert_eq!(options(true), Some(json!({"allow_connect": true})));
}
