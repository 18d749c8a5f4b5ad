//! Why something does not end well: the first lines of an answer, and what is noted below.

use super::{STATE, Scenario};

const RULES: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r, namespace: simple}\nspec:";

/// A Gateway for more hosts.
const WIDE: &str = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: wide, namespace: simple}\nspec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.baihl.io']}]}\n";

fn with(more: &str) -> Scenario {
    Scenario::with_state(&format!("{STATE}\n---\n{WIDE}---\n{more}"))
}

fn routes(name: &str, hosts: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: simple}}\nspec: {{hosts: [{hosts}], gateways: [wide], http: [{http}]}}\n"
    )
}

/// The answer to a request for `host`.
fn answer(scenario: &Scenario, host: &str, path: &str, options: &str) -> String {
    let words = format!("external http://192.168.170.137:31373{path} --host {host} {options}");
    scenario.run(&words).1
}

#[test]
fn the_result_comes_first_and_alone_if_that_is_wanted() {
    let scenario = Scenario::new();
    let brief = "result      reaches 10.10.1.14:80\nwhy         http[1] of VirtualService simple/simple takes it\n";
    assert_eq!(
        answer(&scenario, "simple.baihl.io", "/simple/nginx", "--brief"),
        brief
    );
    let whole = answer(&scenario, "simple.baihl.io", "/simple/nginx", "");
    assert!(whole.starts_with(brief), "{whole}");
    assert!(whole.contains("kube-proxy  KUBE-SERVICES > "), "{whole}");
}

#[test]
fn a_secret_that_is_missing_is_no_end_at_a_pod() {
    let rule = format!(
        "{RULES} {{host: nginx, trafficPolicy: {{tls: {{mode: SIMPLE, credentialName: upstream}}}}}}\n"
    );
    let text = answer(&with(&rule), "simple.baihl.io", "/simple/nginx", "--brief");
    assert!(
        text.starts_with("result      503 UF: outbound|80||nginx.simple.svc.cluster.local: no connection can be made: Secret upstream is not in the gateway's namespace (fix: create it in istio-system"),
        "{text}"
    );
}

#[test]
fn a_subset_that_the_gateway_does_not_see_is_named_with_its_rule() {
    let rule = format!(
        "{RULES} {{host: nginx, exportTo: [foo], subsets: [{{name: v1, labels: {{a: b}}}}]}}\n"
    );
    let to = routes(
        "sub",
        "sub.baihl.io",
        "{route: [{destination: {host: nginx, subset: v1}}]}",
    );
    let text = answer(
        &with(&format!("{rule}---\n{to}")),
        "sub.baihl.io",
        "/",
        "--brief",
    );
    assert!(
        text.starts_with("result      503 NC: outbound|80|v1|nginx.simple.svc.cluster.local: `v1` is a subset of DestinationRule simple/r, which does not count at the gateway in istio-system: it is exported to foo alone"),
        "{text}"
    );
}

#[test]
fn conditions_that_never_hold_and_hosts_of_no_server_are_why() {
    let never = routes(
        "onport",
        "on.baihl.io",
        "{match: [{port: 8080}], route: [{destination: {host: nginx}}]}",
    );
    let text = answer(&with(&never), "on.baihl.io", "/", "--brief");
    assert!(text.starts_with("result      404 NR: "), "{text}");
    let why = text.lines().nth(1).unwrap();
    assert!(
        why.contains("spec.http[0].match[0].port: no server of"),
        "{text}"
    );

    let lost = routes(
        "lost",
        "lost.example",
        "{route: [{destination: {host: nginx}}]}",
    );
    let text = answer(&with(&lost), "lost.example", "/", "");
    assert!(
        text.contains("VirtualService simple/lost: spec.hosts[0]: no server of Gateway"),
        "{text}"
    );
    // Which host a refused one was for, nobody knows.
    let refused = routes("bad", "bad.baihl.io", "{redirect: {redirectCode: 200}}");
    let text = answer(&with(&refused), "bad.baihl.io", "/", "");
    assert!(
        text.contains("error: ") && text.contains("VirtualService simple/bad"),
        "{text}"
    );
}

#[test]
fn a_route_behind_the_one_that_is_taken_is_shown() {
    let late = routes(
        "late",
        "simple.baihl.io",
        "{match: [{uri: {prefix: /simple/nginx/deep}}], route: [{destination: {host: nginx}}]}",
    )
    .replace(
        "name: late,",
        "name: zz-late, creationTimestamp: \"2030-01-01T00:00:00Z\",",
    );
    let text = answer(&with(&late), "simple.baihl.io", "/simple/nginx/deep", "");
    assert!(
        text.contains(
            "http[0] of VirtualService simple/zz-late would take it, too, and comes later"
        ),
        "{text}"
    );
}

#[test]
fn a_service_without_endpoints_says_whose_labels_nobody_has() {
    let lost = "apiVersion: v1\nkind: Service\nmetadata: {name: lost, namespace: simple}\nspec: {clusterIP: 10.96.7.7, selector: {app: nobody}, ports: [{port: 80}]}\n";
    let (status, text) = with(lost).run("node 10.96.7.7:80");
    assert_eq!(status, 1);
    assert!(
        text.starts_with("result      refused: the Service has no endpoints\n"),
        "{text}"
    );
    assert!(
        text.contains("no Pod in simple has the labels of its selector, app=nobody (fix: "),
        "{text}"
    );
    for (others, said) in [
        ("", "simple/late: its only endpoint is not ready (fix: "),
        (
            ", {addresses: [10.10.9.8], conditions: {ready: false}}",
            "simple/late: none of its 2 endpoints is ready (fix: ",
        ),
    ] {
        let late = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: late, namespace: simple}}\nspec: {{clusterIP: 10.96.7.9, ports: [{{port: 80}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: late-1, namespace: simple, labels: {{kubernetes.io/service-name: late}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [10.10.9.7], conditions: {{ready: false}}}}{others}]\n"
        );
        let (_, text) = with(&late).run("node 10.96.7.9:80");
        assert!(text.contains(said), "{text}");
    }
    let alias = "apiVersion: v1\nkind: Service\nmetadata: {name: alias, namespace: simple}\nspec: {clusterIP: 10.96.7.8, ports: [{port: 80}]}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: alias-1, namespace: simple, labels: {kubernetes.io/service-name: alias}}\naddressType: IPv4\nports: [{port: 80}]\nendpoints: [{addresses: [10.96.190.18]}]\n";
    let (_, text) = with(alias).run("node 10.96.7.8:80");
    assert!(
        text.contains("the endpoint 10.96.190.18:80 is the cluster IP of Service istio-system/istio-ingressgateway"),
        "{text}"
    );
}
