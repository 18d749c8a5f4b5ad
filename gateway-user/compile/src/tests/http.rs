//! HTTP routes: conditions, actions, delegates.

use serde_json::{Value, json};

use super::{
    gateway::{HTTP, gateway, routes, snapshot},
    *,
};

/// The routes of the only virtual host, as JSON without what is the same for all.
fn compiled(http: &str) -> Vec<Value> {
    compiled_with(http, &[])
}

fn compiled_with(http: &str, more: &[&str]) -> Vec<Value> {
    let texts = [gateway("g", HTTP), routes("v", "'*'", "g", http)];
    let texts: Vec<_> = texts
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    let snapshot = snapshot(&texts);
    let errors: Vec<_> = messages(&snapshot)
        .into_iter()
        .filter(|message| message.starts_with("error"))
        // What is not admitted is served where it is in force.
        .filter(|message| !message.contains("such an object is not admitted"))
        .collect();
    assert_eq!(errors, [""; 0]);
    let json = serde_json::to_value(&snapshot.gateway.listeners[0].protocol).unwrap();
    let routes = json["http"]["virtual_hosts"][0]["routes"]
        .as_array()
        .unwrap();
    routes.clone()
}

fn rule(conditions: &str) -> String {
    format!("  http:\n  - match: [{conditions}]\n    route: [{{destination: {{host: app}}}}]\n")
}

#[test]
fn every_condition_arrives() {
    let conditions = "{uri: {prefix: /A}, ignoreUriCase: true, scheme: {exact: http}, method: {regex: 'GET|PUT'}, authority: {prefix: a.}, headers: {X-b: {exact: '1'}, x-a: {}, ':path': {prefix: '/A?'}}, withoutHeaders: {x-c: {regex: '*'}, x-d: {prefix: y}}, queryParams: {q: {regex: '[0-9]+'}, p: {}}}";
    let routes = compiled(&rule(conditions));
    assert_eq!(
        routes[0]["match"],
        json!({
            "path": {"prefix": "/A"},
            "ignoreCase": true,
            "scheme": {"exact": "http"},
            "method": {"regex": "GET|PUT"},
            "authority": {"prefix": "a."},
            "headers": [
                {"name": ":path", "value": {"prefix": "/A?"}},
                {"name": "x-a", "value": "present"},
                {"name": "x-b", "value": {"exact": "1"}},
                {"name": "x-c", "value": "present", "invert": true},
                {"name": "x-d", "value": {"prefix": "y"}, "invert": true},
            ],
            "query": [
                {"name": "p", "value": "present"},
                {"name": "q", "value": {"regex": "[0-9]+"}},
            ],
        })
    );
}

#[test]
fn a_condition_on_a_header_makes_no_catch_all() {
    let http = "  http:\n  - match: [{uri: {prefix: /}, headers: {x: {}}}, {uri: {regex: '.*'}, queryParams: {x: {}}}]\n    route: [{destination: {host: app}}]\n  - match: [{uri: {regex: '.*'}}]\n    route: [{destination: {host: app}}]\n  - match: [{uri: {exact: /never}}]\n    route: [{destination: {host: app}}]\n";
    assert_eq!(compiled(http).len(), 3);
}

#[test]
fn a_path_of_which_nothing_is_said_is_any_path() {
    let http = rule("{uri: {}}")
        + "  - match: [{uri: {exact: /never}}]\n    route: [{destination: {host: app}}]\n";
    let routes = compiled(&http);
    assert_eq!(routes.len(), 1, "{routes:?}");
    assert_eq!(routes[0]["match"], json!({"path": {"prefix": "/"}}));
}

#[test]
fn a_route_forwards_with_everything_beside() {
    let http = "  http:\n  - rewrite: {authority: new.example, uriRegexRewrite: {match: '^/(.)', rewrite: '/\\1\\1'}}\n    timeout: 2s\n    retries: {attempts: 3, perTryTimeout: 500ms, retryOn: 'gateway-error, 503,reset', backoff: 10ms}\n    fault: {delay: {percentage: {value: 0.1}, fixedDelay: 5s}, abort: {httpStatus: 418, percentage: {value: 100}}}\n    mirror: {host: app}\n    mirrorPercentage: {value: 0.5}\n    corsPolicy: {allowOrigins: [{exact: 'https://a.x'}, {regex: '.*b'}], allowMethods: [GET, PUT], allowHeaders: [x-a], maxAge: 24h, allowCredentials: true, unmatchedPreflights: IGNORE}\n    route: [{destination: {host: app}}]\n";
    let routes = compiled(http);
    let app = "outbound|80||app.default.svc.cluster.local";
    assert_eq!(
        routes[0]["action"]["forward"],
        json!({
            "destinations": [{"cluster": app, "weight": 1}],
            "rewrite": {"regex": {"pattern": "^/(.)", "substitution": "/\\1\\1"}},
            "authority": "new.example",
            "timeout": {"secs": 2, "nanos": 0},
            "retry": {
                "attempts": 3,
                "perTryTimeout": {"secs": 0, "nanos": 500_000_000},
                "on": ["gateway-error", "reset", "retriable-status-codes"],
                "statusCodes": [503],
                "baseBackoff": {"secs": 0, "nanos": 10_000_000},
                "ignorePreviousHosts": true,
            },
            "mirrors": [{"cluster": app, "percentage": 5000}],
        })
    );
    assert_eq!(
        routes[0]["fault"],
        json!({
            "delay": {"percentage": 1000, "duration": {"secs": 5, "nanos": 0}},
            "abort": {"percentage": 1_000_000, "status": {"http": 418}},
        })
    );
    assert_eq!(
        routes[0]["cors"],
        json!({
            "allowOrigins": [{"exact": "https://a.x"}, {"regex": ".*b"}],
            "allowMethods": "GET,PUT",
            "allowHeaders": "x-a",
            "exposeHeaders": "",
            "maxAge": 86400,
            "allowCredentials": true,
            "forwardUnmatchedPreflights": false,
        })
    );
}

#[test]
fn without_a_policy_two_retries_and_no_timeout() {
    let routes = compiled(&rule("{uri: {prefix: /a}}"));
    let forward = &routes[0]["action"]["forward"];
    assert_eq!(forward.get("timeout"), None);
    assert_eq!(
        forward["retry"],
        json!({
            "attempts": 2,
            "on": ["connect-failure", "refused-stream", "retriable-status-codes", "cancelled", "unavailable"],
            "baseBackoff": {"secs": 0, "nanos": 25_000_000},
            "ignorePreviousHosts": true,
        })
    );
    let none = "  http:\n  - retries: {attempts: 0}\n    timeout: 0s\n    route: [{destination: {host: app}}]\n";
    let forward = &compiled(none)[0]["action"]["forward"];
    assert_eq!((forward.get("retry"), forward.get("timeout")), (None, None));
    // As long as all tries together: without effect.
    let equal = "  http:\n  - retries: {attempts: 1, perTryTimeout: 2s}\n    timeout: 2s\n    route: [{destination: {host: app}}]\n";
    let retry = &compiled(equal)[0]["action"]["forward"]["retry"];
    assert_eq!(retry.get("perTryTimeout"), None);
}

#[test]
fn without_a_percentage_nothing_fails_and_all_is_mirrored() {
    let http = "  http:\n  - fault: {abort: {grpcStatus: UNAVAILABLE}}\n    mirrors: [{destination: {host: app}}, {destination: {host: app}, percentage: {value: 0}}]\n    route: [{destination: {host: app}}]\n";
    let routes = compiled(http);
    assert_eq!(
        routes[0]["fault"],
        json!({"abort": {"percentage": 0, "status": {"grpc": 14}}})
    );
    let mirrors = &routes[0]["action"]["forward"]["mirrors"];
    assert_eq!(mirrors.as_array().unwrap().len(), 1);
    assert_eq!(mirrors[0]["percentage"], 1_000_000);
}

const HEADERS: &str = "headers: {request: {set: {x-b: '1', x-a: '%PROTOCOL%', Host: by.set}, add: {x-a: '2', ':path': /x}, remove: [x-c, host]}, response: {remove: [server]}}";

#[test]
fn header_operations_of_a_single_destination_follow_those_of_the_route() {
    let http = format!(
        "  http:\n  - {HEADERS}\n    route:\n    - destination: {{host: app}}\n      headers: {{request: {{set: {{x-z: '9', ':authority': by.destination}}, remove: [x-y]}}}}\n"
    );
    let routes = compiled(&http);
    assert_eq!(
        routes[0]["headers"],
        json!({
            "request": {
                "remove": ["x-c", "x-y"],
                "add": [
                    {"name": "x-a", "value": "%PROTOCOL%", "append": false},
                    {"name": "x-b", "value": "1", "append": false},
                    {"name": "x-a", "value": "2", "append": true},
                    {"name": "x-z", "value": "9", "append": false},
                ],
            },
            "response": {"remove": ["server"]},
        })
    );
    let forward = &routes[0]["action"]["forward"];
    assert_eq!(forward["authority"], "by.set");
    assert_eq!(forward["destinations"][0].get("headers"), None);
}

#[test]
fn header_operations_of_several_destinations_are_their_own() {
    let http = "  http:\n  - route:\n    - {destination: {host: app}, weight: 0}\n    - {destination: {host: app}, weight: 3, headers: {request: {add: {x: '1', Host: one}}}}\n    - {destination: {host: app}, weight: 1}\n";
    let destinations = &compiled(http)[0]["action"]["forward"]["destinations"];
    assert_eq!(destinations.as_array().unwrap().len(), 2);
    assert_eq!(destinations[0]["weight"], 3);
    assert_eq!(destinations[0]["authority"], "one");
    assert_eq!(
        destinations[0]["headers"],
        json!({"request": {"add": [{"name": "x", "value": "1", "append": true}]}})
    );
    assert_eq!(destinations[1].get("headers"), None);
}

#[test]
fn delegates_take_part() {
    let root = "  http:\n  - name: root\n    match: [{uri: {prefix: /a}, headers: {x: {exact: '1'}}}]\n    delegate: {name: leaf, namespace: other}\n    timeout: 3s\n  - name: gone\n    delegate: {name: nobody}\n  - match: [{uri: {prefix: /z}}]\n    route: [{destination: {host: app}}]\n";
    let leaf = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: leaf, namespace: other}\nspec:\n  http:\n  - name: one\n    match: [{uri: {exact: /a/b}}, {uri: {prefix: /ab}, queryParams: {q: {}}}]\n    route: [{destination: {host: app}}]\n  - match: [{uri: {prefix: /b}}]\n    route: [{destination: {host: app}}]\n  - timeout: 1s\n    route: [{destination: {host: app.default.svc.cluster.local}}]\n";
    let routes = compiled_with(root, &[leaf]);
    let brief: Vec<_> = routes
        .iter()
        .map(|route| {
            let forward = &route["action"]["forward"];
            format!(
                "{} {} {}#{} {} {}",
                route["name"].as_str().unwrap(),
                route["match"]["path"],
                route["origin"]["name"].as_str().unwrap(),
                route["origin"]["index"],
                forward["destinations"][0]["cluster"].as_str().unwrap(),
                forward["timeout"]["secs"],
            )
        })
        .collect();
    let other = "outbound|80||app.other.svc.cluster.local";
    let app = "outbound|80||app.default.svc.cluster.local";
    assert_eq!(
        brief,
        [
            format!(r#"root-one {{"exact":"/a/b"}} v#0 {other} 3"#),
            format!(r#"root-one {{"prefix":"/ab"}} v#0 {other} 3"#),
            format!(r#"root {{"prefix":"/a"}} v#0 {app} 1"#),
            format!(r#" {{"prefix":"/z"}} v#2 {app} null"#),
        ]
    );
    assert_eq!(routes[0]["match"]["headers"][0]["name"], "x");
}

#[test]
fn delegates_that_are_not_there_or_contradict_are_reported() {
    let root = "  http:\n  - match: [{uri: {exact: /a}}]\n    delegate: {name: leaf}\n  - delegate: {name: nobody}\n  - delegate: {name: hidden, namespace: other}\n  - delegate: {name: v}\n";
    let leaf = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: leaf}\nspec:\n  http:\n  - match: [{uri: {prefix: /a}}]\n    route: [{destination: {host: app}}]\n";
    let hidden = leaf
        .replace("name: leaf", "name: hidden, namespace: other")
        .replace("spec:\n", "spec:\n  exportTo: ['.']\n");
    let snapshot = snapshot(&[
        &gateway("g", HTTP),
        &routes("v", "'*'", "g", root),
        leaf,
        &hidden,
    ]);
    let said: Vec<_> = messages(&snapshot)
        .into_iter()
        .filter(|message| message.contains("left out"))
        .collect();
    assert_eq!(
        said,
        [
            "warning: 1.yaml:10: VirtualService default/v: spec.http[1].delegate: there is no VirtualService default/nobody; the route is left out (fix: create it, or name one that there is)",
            "warning: 1.yaml:11: VirtualService default/v: spec.http[2].delegate: VirtualService other/hidden is not exported to default; the route is left out (fix: add the namespace to its exportTo)",
            "warning: 1.yaml:12: VirtualService default/v: spec.http[3].delegate: VirtualService default/v has hosts, and so nobody can delegate to it; the route is left out (fix: remove its hosts and gateways)",
            "warning: 2.yaml:6: VirtualService default/leaf: spec.http[0].match: its conditions contradict those of VirtualService default/v, which delegates to it; the route is left out",
        ]
    );
}

#[test]
fn https_redirect_is_for_hosts_of_the_server_and_with_a_namespace_for_its_virtual_services() {
    let server = "{port: {number: 80, name: http, protocol: HTTP}, tls: {httpsRedirect: true}, hosts: [a.x, '*/c.x', 'other/b.x', 'default/d.x']}, {port: {number: 81, name: http-81, protocol: HTTP}, hosts: ['*']}";
    let snapshot = snapshot(&[
        &gateway("g", server),
        &routes("v", "a.x", "g", &rule("{uri: {prefix: /a}}")),
        &routes("w", "d.x", "g", &rule("{uri: {prefix: /d}}")),
    ]);
    assert_eq!(messages(&snapshot), [""; 0]);
    let hosts: Vec<_> = snapshot
        .gateway
        .listeners
        .iter()
        .flat_map(|listener| match &listener.protocol {
            ListenerProtocol::Http(routes) => routes.virtual_hosts.clone(),
            _ => panic!("only HTTP here"),
        })
        .map(|host| (host.name, host.require_tls, host.routes.len()))
        .collect();
    assert_eq!(
        hosts,
        [
            ("a.x:80".into(), true, 1),
            ("c.x:80".into(), true, 0),
            ("d.x:80".into(), true, 1),
            ("a.x:81".to_owned(), false, 1),
            ("d.x:81".into(), false, 1),
        ]
    );
}

#[test]
fn a_server_for_all_of_all_namespaces_is_for_nothing_narrower() {
    let server = "{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.x, '*/*']}";
    let snapshot = snapshot(&[
        &gateway("g", server),
        &routes("v", "'*.x'", "g", &rule("{uri: {prefix: /a}}")),
    ]);
    assert_eq!(
        listeners(&snapshot)[1..],
        ["80 *.x:80 [*.x] /a* default/v#0 -> outbound|80||app.default.svc.cluster.local*1"]
    );
}

/// A regex can't be put together with another condition on the same thing, but with others it can
/// (`stringMatchConflict`).
#[test]
fn a_delegated_route_that_contradicts_its_root_takes_no_other_with_it() {
    let root = "  http:\n  - match: [{uri: {regex: /a.*}, sourceNamespace: istio-system}]\n    delegate: {name: leaf}\n  - route: [{destination: {host: app}}]\n";
    let leaf = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: leaf}\nspec:\n  http:\n  - match: [{uri: {prefix: /ab}, sourceNamespace: istio-system}]\n    directResponse: {status: 200}\n  - match: [{headers: {x-a: {}}, sourceNamespace: istio-system, gateways: [g]}]\n    directResponse: {status: 201}\n  - match: [{withoutHeaders: {x-a: {exact: b}}}]\n    directResponse: {status: 202}\n  - directResponse: {status: 203}\n";
    let routes = compiled_with(root, &[leaf]);
    let brief: Vec<_> = routes
        .iter()
        .map(|route| {
            let status = &route["action"]["directResponse"]["status"];
            format!("{} {status}", route["match"]["path"])
        })
        .collect();
    assert_eq!(
        brief,
        [
            r#"{"regex":"/a.*"} 201"#,
            r#"{"regex":"/a.*"} 203"#,
            r#"{"prefix":"/"} null"#,
        ]
    );
}
