//! What is served otherwise than its author may think.

use super::{
    gateway::{HTTP, gateway, routes, service},
    *,
};

/// Warnings and errors, and notes where they are asked for, without the place in the file.
fn told(texts: &[&str]) -> Vec<String> {
    all(texts, Severity::Warning)
}

fn all(texts: &[&str], least: Severity) -> Vec<String> {
    let app = service("app", "{port: 80}");
    let texts: Vec<_> = texts.iter().copied().chain([app.as_str()]).collect();
    let snapshot = Cluster::with(&texts).snapshot(&ServiceScope::All);
    let told = snapshot.diagnostics.iter();
    let told = told.filter(|it| it.severity >= least).map(|it| {
        let mut it = it.clone();
        it.location = None;
        it.to_string()
    });
    told.collect()
}

fn http(rules: &[&str]) -> String {
    let rules: Vec<_> = rules
        .iter()
        .map(|rule| format!("  - {{route: [{{destination: {{host: app}}}}]{rule}}}\n"))
        .collect();
    format!("  http:\n{}", rules.concat())
}

fn rules(rules: &[&str]) -> Vec<String> {
    let told = told(&[&gateway("g", HTTP), &routes("v", "'*'", "g", &http(rules))]);
    let short = |text: String| text.replace("warning: VirtualService default/v: spec.", "");
    told.into_iter().map(short).collect()
}

#[test]
fn a_host_that_no_server_has_is_told_and_a_gateway_without_any() {
    let server = "{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.io, other/c.io]}";
    let one = gateway("g", server);
    assert_eq!(
        told(&[&one, &routes("v", "b.io, a.io, c.io", "g", &http(&[""]))]),
        [
            "warning: VirtualService default/v: spec.hosts[0]: no server of Gateway default/g (they have `a.io`, `other/c.io`) has `b.io`: requests for it are answered with 404 (fix: did you mean `a.io`? Else add it to a server of the Gateway)",
            "warning: VirtualService default/v: spec.hosts[2]: no server of Gateway default/g (they have `a.io`, `other/c.io`) has `c.io`: requests for it are answered with 404 (fix: its `other/c.io` is for VirtualServices of another namespace: `*/c.io` is for all)",
        ]
    );
    // With two Gateways of which one has it, and both serve.
    let two = gateway("h", &server.replace("a.io", "x.io").replace("80", "90"));
    assert_eq!(
        told(&[&one, &two, &routes("v", "a.io", "g, h", &http(&[""]))]),
        [
            "warning: VirtualService default/v: spec.gateways[1]: no server of Gateway default/h has any of the hosts (they have `x.io`, `other/c.io`): there these routes are not (fix: add a host to a server there, or leave this Gateway out)"
        ]
    );
    let wild = gateway("g", &server.replace("a.io", "'*.io'"));
    let fine = routes("v", "b.io", "g", &http(&[""]));
    assert_eq!(told(&[&wild, &fine]), [""; 0]);
}

#[test]
fn conditions_on_ports_and_gateways_that_never_hold() {
    let front = "apiVersion: v1\nkind: Service\nmetadata: {name: front, namespace: istio-system}\nspec: {type: NodePort, selector: {istio: ingressgateway}, ports: [{port: 80, targetPort: 8080, nodePort: 31380}]}\n";
    let found = |matches: &str| {
        let text = http(&[&format!(", match: [{matches}]")]);
        let service = routes("v", "'*'", "far/g", &text);
        let gateway = gateway("g", HTTP).replace("name: g}", "name: g, namespace: far}");
        told(&[&gateway, front, &service])
    };
    let at = "warning: VirtualService default/v: spec.http[0].match[0]";
    for (matches, expected) in [
        (
            "{port: 8080}",
            "port: no server of the VirtualService's Gateways has port 8080 (they have 80), so this never holds (fix: 8080 is the container's port of Service istio-system/front: `port: 80`)",
        ),
        (
            "{port: 31380}",
            "port: no server of the VirtualService's Gateways has port 31380 (they have 80), so this never holds (fix: 31380 is the node port of Service istio-system/front: `port: 80`)",
        ),
        (
            "{port: 7}",
            "port: no server of the VirtualService's Gateways has port 7 (they have 80), so this never holds (fix: one of 80)",
        ),
        (
            "{gateways: [g]}",
            "gateways[0]: Gateway default/g is not among spec.gateways, so this never holds there (fix: did you mean `far/g`?)",
        ),
        (
            "{gateways: [mesh]}",
            "gateways[0]: `mesh` is not among spec.gateways, so this never holds (fix: name one of spec.gateways, or none)",
        ),
    ] {
        assert_eq!(found(matches), [format!("{at}.{expected}")], "{matches}");
    }
    for fine in ["{port: 80}", "{gateways: [far/g]}", "{gateways: [g.far]}"] {
        assert_eq!(found(fine), [""; 0], "{fine}");
    }
}

#[test]
fn rules_behind_one_that_takes_all_that_they_want() {
    for all in [
        "",
        ", match: [{uri: {prefix: /}}]",
        ", match: [{uri: {regex: .*}, name: x}]",
        ", match: [{uri: {exact: /a}}, {name: any}]",
    ] {
        let a = ", match: [{uri: {prefix: /a}}]";
        let expected = [
            "http[2]: never taken: http[1] takes all there is (fix: put it before http[1], or remove it)",
            "http[3]: never taken: http[1] takes all there is (fix: put it before http[1], or remove it)",
        ];
        let found = rules(&[a, all, "", ""]);
        assert_eq!(found[found.len() - 2..], expected, "{all}");
    }
    for (first, second) in [
        ("uri: {prefix: /a}", "uri: {prefix: /a/b}"),
        (
            "uri: {prefix: /a}",
            "uri: {exact: /ab}, method: {exact: GET}",
        ),
        ("uri: {regex: '/a.*'}", "uri: {exact: /abc}"),
        (
            "headers: {x: {prefix: v}}",
            "headers: {x: {exact: v1}, y: {}}",
        ),
        (
            "uri: {prefix: /a}, ignoreUriCase: true",
            "uri: {prefix: /Ab}",
        ),
        ("port: 80", "port: 80, uri: {prefix: /x}"),
    ] {
        let [first, second] = [first, second].map(|it| format!(", match: [{{{it}}}]"));
        assert_eq!(
            rules(&[&first, &second]),
            [
                "http[1]: never taken: http[0] takes all that it wants (fix: put it before http[0], or remove it)"
            ],
            "{second}"
        );
    }
    assert_eq!(
        rules(&[
            ", match: [{uri: {prefix: /a}}]",
            ", match: [{uri: {prefix: /b}}, {uri: {exact: /a/1}}, {uri: {prefix: /bc}}]",
        ]),
        [
            "http[1].match[1]: has no effect: http[0] holds wherever this does (fix: remove one of them)",
            "http[1].match[2]: has no effect: match[0] holds wherever this does (fix: remove one of them)",
        ]
    );
}

#[test]
fn rules_that_others_leave_something_are_not_told() {
    for some in [
        ", match: [{uri: {prefix: /a}}]",
        ", match: [{uri: {prefix: /}, method: {exact: GET}}]",
        ", match: [{port: 80}]",
        ", match: [{gateways: [g]}]",
        ", match: [{headers: {a: {exact: b}}}]",
        ", match: [{withoutHeaders: {a: {exact: b}}}]",
    ] {
        assert_eq!(rules(&[some, ""]), [""; 0], "{some}");
    }
    // What the delegate does not want goes on.
    let root = "  http:\n  - delegate: {name: leaf}\n  - route: [{destination: {host: app}}]\n";
    let leaf = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: leaf}\nspec: {http: [{match: [{uri: {prefix: /x}}], route: [{destination: {host: app}}]}]}\n";
    let found = told(&[&gateway("g", HTTP), &routes("v", "'*'", "g", root), leaf]);
    assert_eq!(found, [""; 0]);
}

#[test]
fn rules_that_another_virtual_service_stands_before() {
    let of_year = |name: &str, year: u32, host: &str, prefix: &str| {
        let rule = format!(", match: [{{uri: {{prefix: {prefix}}}}}]");
        let text = routes(name, host, "g", &http(&[&rule]));
        let with = format!("name: {name}, creationTimestamp: \"{year}-01-01T00:00:00Z\"");
        text.replacen(&format!("name: {name}"), &with, 1)
    };
    let edge = gateway("g", HTTP);
    assert_eq!(
        told(&[
            &edge,
            &of_year("web", 2024, "shop.io", "/demo/"),
            &of_year("api", 2025, "shop.io", "/demo/api/"),
            // Everything goes last, whatever its age.
            &of_year("rest", 2023, "shop.io", "/"),
        ]),
        [
            "warning: VirtualService default/api: spec.http[0]: never taken for shop.io: http[0] of VirtualService default/web takes all that it wants, and comes first (fix: put both into one VirtualService, in the order that is meant: among several the older comes first)"
        ]
    );
    // For another host it is taken.
    let both = of_year("api", 2025, "shop.io, other.io", "/demo/api/");
    assert_eq!(
        told(&[&edge, &of_year("web", 2024, "shop.io", "/demo/"), &both]),
        [""; 0]
    );
    let wide = of_year("wide", 2024, "'*.shop.io'", "/x");
    let narrow = of_year("narrow", 2024, "a.shop.io", "/y");
    assert_eq!(
        all(&[&edge, &wide, &narrow], Severity::Info),
        [
            "info: VirtualService default/wide: spec.hosts: `*.shop.io` does not include a.shop.io: a host that has routes of its own has no others"
        ]
    );
}

#[test]
fn of_tcp_routes_for_one_server_the_first_is_taken() {
    let tcp = "{port: {number: 90, name: tcp, protocol: TCP}, hosts: ['*']}";
    let route = "  tcp:\n  - match: [{port: 90}]\n    route: [{destination: {host: app}}]\n";
    let edge = gateway("g", tcp);
    assert_eq!(
        told(&[
            &edge,
            &routes("v", "'*'", "g", route),
            &routes("w", "'*'", "g", route)
        ]),
        [
            "warning: VirtualService default/w: spec.tcp[0]: never taken: the server of Gateway default/g for port 90 has tcp[0] of VirtualService default/v (fix: weights of one route share a port; else use another port)"
        ]
    );
    let twice = "  tcp:\n  - {route: [{destination: {host: app}}]}\n  - {match: [{port: 90}], route: [{destination: {host: app}}]}\n";
    assert_eq!(
        told(&[&edge, &routes("v", "'*'", "g", twice)]),
        [
            "warning: VirtualService default/v: spec.tcp[1]: never taken: tcp[0] takes all there is (fix: put it before tcp[0], or remove it)"
        ]
    );
}

#[test]
fn destinations_that_the_gateway_does_not_see() {
    let edge = gateway("g", HTTP);
    let to = |destination: &str| {
        let http = format!("  http:\n  - route: [{{destination: {{{destination}}}}}]\n");
        routes("v", "'*'", "g", &http)
    };
    let private = service("priv", "{port: 80}").replace(
        "name: priv}",
        "name: priv, annotations: {networking.istio.io/exportTo: '., x'}}",
    );
    let at = "warning: VirtualService default/v: spec.http[0].route[0].destination";
    assert_eq!(
        told(&[&edge, &private, &to("host: priv")]),
        [format!(
            "{at}.host: Service default/priv is exported to default, x alone, and the gateway is in istio-system; requests to it are answered with 503 (fix: add `istio-system` to its annotation networking.istio.io/exportTo)"
        )]
    );
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, namespace: other}\nspec: {exportTo: ['.'], hosts: [h.net], resolution: STATIC, ports: [{number: 80, name: http, protocol: HTTP}], endpoints: [{address: 10.0.0.9}]}\n";
    assert_eq!(
        told(&[&edge, entry, &to("host: h.net")]),
        [format!(
            "{at}.host: ServiceEntry other/e is exported to other alone, and the gateway is in istio-system; requests to it are answered with 503 (fix: add `istio-system` to its exportTo)"
        )]
    );
    let several = service("several", "{name: a, port: 8000}, {name: b, port: 8001}");
    assert_eq!(
        told(&[&edge, &several, &to("host: several")]),
        [format!(
            "{at}.port: `several` has several ports (8000, 8001), and none is named: that of the Gateway's server is taken, and 80 is none of them; requests to it are answered with 503 (fix: `port: {{number: 8000}}`)"
        )]
    );
    let hidden = routes(
        "v",
        "'*'",
        "g",
        &format!("  exportTo: [x]\n{}", http(&[""])),
    );
    assert_eq!(
        told(&[&edge, &hidden]),
        [
            "warning: VirtualService default/v: spec.exportTo: does not have istio-system, where the gateway is, so that no gateway there applies it (fix: add `istio-system`, or `*`)"
        ]
    );
}

#[test]
fn destination_rules_that_do_not_count() {
    let rule = |name: &str, namespace: &str, host: &str, more: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{host: {host}{more}}}\n"
        )
    };
    let found = |rules: &[String]| {
        let text = "  http:\n  - route: [{destination: {host: app}}]\n";
        let (edge, routes) = (gateway("g", HTTP), routes("v", "'*'", "g", text));
        let mut texts = vec![edge.as_str(), routes.as_str()];
        texts.extend(rules.iter().map(String::as_str));
        all(&texts, Severity::Info)
    };
    let full = "app.default.svc.cluster.local";
    let at = "does not count at the gateway in istio-system";
    for (texts, expected) in [
        (
            vec![rule("r", "default", "app", ", exportTo: [foo]")],
            format!("warning: DestinationRule default/r: spec.host: {at}: it is exported to foo alone"),
        ),
        (
            vec![rule("r", "third", full, "")],
            format!(
                "warning: DestinationRule third/r: spec.host: {at}: it is in third, and the gateway looks in istio-system, its own, in default, that of the destination, and in istio-system"
            ),
        ),
        (
            vec![rule("r", "default", "other", "")],
            "warning: DestinationRule default/r: spec.host: no Service has the host `other.default.svc.cluster.local` (fix: did you mean `app.default.svc.cluster.local`?)".into(),
        ),
        (
            vec![
                rule("a", "default", "app", ", trafficPolicy: {loadBalancer: {simple: RANDOM}}"),
                rule("b", "default", "app", ", trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}"),
            ],
            "warning: DestinationRule default/b: spec.trafficPolicy: DestinationRule default/a is for the same host, and is older: its policy counts, and not this one (fix: put both into one DestinationRule)".into(),
        ),
    ] {
        let found = found(&texts);
        let other = "info: DestinationRule default/r: spec.host: no route of a gateway leads to its host: it has no effect here";
        let found: Vec<_> = found.iter().filter(|text| *text != other).collect();
        assert_eq!(found, [&expected]);
    }
}
