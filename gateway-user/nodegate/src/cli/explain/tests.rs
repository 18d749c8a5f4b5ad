use std::{fs, path::Path};

use clap::Parser as _;
use serde_json::Value;

use super::*;
use crate::cli::{Cli, Command};

const STATE: &str = include_str!("state.yaml");

/// The published manifests, and where its pods are.
struct Scenario {
    directory: tempfile::TempDir,
}

impl Scenario {
    fn new() -> Self {
        Self::with_state(STATE)
    }

    fn with_state(state: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/manifests/s1");
        for file in ["ingressgateway", "simple", "nginx", "istio-specs"] {
            let file = format!("{file}.yaml");
            fs::copy(root.join(&file), directory.path().join(&file)).unwrap();
        }
        fs::write(directory.path().join("state.yaml"), state).unwrap();
        Self { directory }
    }

    fn try_run(&self, words: &str) -> anyhow::Result<(u8, String)> {
        let manifests = self.directory.path().to_str().unwrap();
        let words = ["nodegate", "explain", "--manifests", manifests]
            .into_iter()
            .chain(words.split_whitespace());
        let Command::Explain(command) = Cli::try_parse_from(words)?.command else {
            panic!("another command");
        };
        let mut out = Vec::new();
        let status = command.write(None, &mut out)?;
        let status = u8::from(status != ExitCode::SUCCESS);
        Ok((status, String::from_utf8(out)?))
    }

    fn run(&self, words: &str) -> (u8, String) {
        self.try_run(words).unwrap()
    }

    fn json(&self, words: &str) -> Value {
        let (_, text) = self.run(&format!("{words} -o json"));
        serde_json::from_str(&text).unwrap()
    }

    fn error(&self, words: &str) -> String {
        format!("{:#}", self.try_run(words).unwrap_err())
    }
}

/// How it ends: the first line.
fn result(text: &str) -> &str {
    text.lines().next().unwrap()
}

#[test]
fn a_node_port_and_a_cluster_ip_lead_to_one_chain_and_one_pod() {
    let scenario = Scenario::new();
    for (question, chains, hook) in [
        (
            "external 192.168.170.137:31373",
            "kube-proxy  KUBE-SERVICES > KUBE-NODEPORTS > KUBE-EXT-G6D3V5KS3PXPUEDS > KUBE-MARK-MASQ > KUBE-SVC-G6D3V5KS3PXPUEDS > KUBE-SEP-LAV34IONK7IOT5SV > DNAT 10.10.1.4:8080",
            "ingress",
        ),
        (
            "node 10.96.190.18:80",
            "kube-proxy  KUBE-SERVICES > KUBE-SVC-G6D3V5KS3PXPUEDS > KUBE-MARK-MASQ > KUBE-SEP-LAV34IONK7IOT5SV > DNAT 10.10.1.4:8080",
            "connect4",
        ),
        (
            "pod/simple/nginx-0 istio-system/istio-ingressgateway:http2",
            "kube-proxy  KUBE-SERVICES > KUBE-SVC-G6D3V5KS3PXPUEDS > KUBE-SEP-LAV34IONK7IOT5SV > DNAT 10.10.1.4:8080",
            "connect4",
        ),
    ] {
        let (status, text) = scenario.run(question);
        assert_eq!(status, 0, "{text}");
        assert!(text.lines().any(|line| line == chains), "{text}");
        assert!(
            text.contains(&format!("no rules: one lookup at {hook}.")),
            "{text}"
        );
        let rule = "-A KUBE-SEP-LAV34IONK7IOT5SV -p tcp -m comment --comment \"istio-system/istio-ingressgateway:http2\" -m tcp -j DNAT --to-destination 10.10.1.4:8080";
        assert!(text.lines().any(|line| line.trim() == rule), "{text}");
        assert!(text.contains("Pod istio-system/istio-ingressgateway-0 on this node"));
        assert!(!text.contains("difference"), "{text}");
        assert_eq!(result(&text), "result      reaches 10.10.1.4:8080");
    }
}

#[test]
fn a_request_goes_on_to_the_pod_that_answers() {
    let scenario = Scenario::new();
    for (question, end, path) in [
        (
            "external 192.168.170.137:31373 --host simple.baihl.io --path /simple/nginx",
            "10.10.1.14:80",
            "/",
        ),
        (
            "external 10.96.190.18:80 --host simple.baihl.io --path /simple/nginx",
            "10.10.1.14:80",
            "/",
        ),
        (
            "node http://10.96.190.18/simple/httpserver?a=1 --host Simple.baihl.io:80",
            "10.10.1.13:80",
            "/hello?a=1",
        ),
    ] {
        let (status, text) = scenario.run(question);
        assert_eq!(
            (status, result(&text)),
            (0, &*format!("result      reaches {end}"))
        );
        let rewritten = format!("path        {path} (rewritten)");
        assert!(text.lines().any(|line| line == rewritten), "{text}");
    }
}

#[test]
fn a_missing_route_is_told_with_the_nearest() {
    let scenario = Scenario::new();
    let base = "external 192.168.170.137:31373 --host simple.baihl.io";
    let (status, text) = scenario.run(&format!("{base} --path /simple/nginy"));
    assert_eq!(
        (status, result(&text)),
        (
            1,
            "result      404 NR: no route of the virtual host simple.baihl.io:80 matches; the nearest is http[1] of VirtualService simple/simple, which asks for a path that begins with /simple/nginx: /simple/nginy does not"
        )
    );
    let json = scenario.json(&format!("{base} --path /simple/httpserver/"));
    let routes = json["gateway"]["http"]["routes"].as_array().unwrap();
    assert_eq!(routes.len(), 2);
    assert_eq!(routes[0]["nearest"], true);
    assert_eq!(routes[0]["misses"], "/simple/httpserver/ goes on after it");
    assert_eq!(json["gateway"]["end"]["status"], 404);
    let (status, text) =
        scenario.run("external http://192.168.170.137:31373/ --host simple.bahl.io");
    assert_eq!(status, 1);
    assert!(
        result(&text).ends_with("did you mean simple.baihl.io?"),
        "{text}"
    );
}

#[test]
fn a_503_is_told_by_its_cluster() {
    let unready = STATE.replacen("{ready: true}", "{ready: keep}", 2);
    let unready = unready.replace("{ready: true}", "{ready: false}");
    let scenario = Scenario::with_state(&unready.replace("{ready: keep}", "{ready: true}"));
    let question = "external 192.168.170.137:31373 --host simple.baihl.io --path /simple/nginx";
    let (status, text) = scenario.run(question);
    assert_eq!(
        (status, result(&text)),
        (
            1,
            "result      503 UH: outbound|80||nginx.simple.svc.cluster.local: the only endpoint of Service simple/nginx:http is not ready (fix: see why the pod is not ready)"
        )
    );
    assert_eq!(
        text.matches("see why the pod is not ready").count(),
        1,
        "{text}"
    );
    let scenario = Scenario::new();
    fs::remove_file(scenario.directory.path().join("nginx.yaml")).unwrap();
    let (status, text) = scenario.run(question);
    assert_eq!(status, 1);
    assert!(
        result(&text)
            .starts_with("result      503 NC: outbound|80||nginx.simple.svc.cluster.local: "),
        "{text}"
    );
}

#[test]
fn where_nobody_answers() {
    let scenario = Scenario::with_state(STATE.split("---").next().unwrap());
    let node = "--node node1";
    let (status, text) = scenario.run(&format!("external 192.168.170.137:31373 {node}"));
    assert_eq!(
        (status, result(&text)),
        (1, "result      refused: the Service has no endpoints")
    );
    assert!(text.contains("has no endpoints\" -m addrtype --dst-type LOCAL -m tcp --dport 31373 -j REJECT --reject-with icmp-port-unreachable"), "{text}");
    let (status, text) = scenario.run("node 10.96.190.18:31373");
    assert_eq!(status, 1);
    assert!(text.contains("whose ports are 80 tcp"), "{text}");
    let (status, text) = scenario.run("external 192.168.170.137:31374");
    assert_eq!(status, 1);
    assert!(
        text.contains("31374 is no node port: they are 31373"),
        "{text}"
    );
}

#[test]
fn a_gateway_pod_that_does_not_listen_is_told_with_what_is_missing() {
    let question = "external 192.168.170.137:31373 --host simple.baihl.io";
    let told = |change: &dyn Fn(&str) -> String| {
        let scenario = Scenario::new();
        let file = scenario.directory.path().join("istio-specs.yaml");
        let changed = change(&fs::read_to_string(&file).unwrap());
        fs::write(&file, changed).unwrap();
        let (status, text) = scenario.run(question);
        assert_eq!(status, 1, "{text}");
        result(&text).replace(
            "result      refused: the gateway pod istio-system/istio-ingressgateway-0 does not listen on 8080: ",
            "",
        )
    };
    assert_eq!(
        told(&|_| String::new()),
        "no Gateway selects it (fix: a Gateway with the selector istio: ingressgateway and a server for port 80)"
    );
    assert_eq!(
        told(&|text| text.replacen("number: 80", "number: 81", 1)),
        "no Gateway has a server for port 80 (fix: a server for port 80 in Gateway simple/simple-gateway)"
    );
    assert_eq!(
        told(&|text| text.replacen("protocol: HTTP", "protocol: HTTPS", 1)),
        "the server of Gateway simple/simple-gateway for port 80 is not served (fix: `nodegate check` says why)"
    );
    let (status, text) = Scenario::new().run("external http://192.168.170.137:31373/");
    assert_eq!(status, 1);
    assert!(
        result(&text).ends_with("(fix: --host with one of them)"),
        "{text}"
    );
}

#[test]
fn all_of_it_for_programs() {
    let json = Scenario::new().json("external 192.168.170.137:31373");
    assert_eq!(json["node"], "node1");
    assert_eq!(json["from"]["kind"], "external");
    let connection = &json["connection"];
    assert_eq!(connection["nodegate"]["verdict"], "forward");
    assert_eq!(
        connection["nodegate"]["service"],
        "istio-system/istio-ingressgateway:http2"
    );
    assert_eq!(connection["backends"][0]["address"], "10.10.1.4:8080");
    assert_eq!(connection["backends"][0]["masquerade"], "elided");
    assert_eq!(connection["backends"][0]["kube_proxy_masquerade"], true);
    let steps = connection["kube_proxy"]["steps"].as_array().unwrap();
    let first = &steps[0];
    assert_eq!(
        (&first["table"], &first["chain"]),
        (&"nat".into(), &"PREROUTING".into())
    );
    assert_eq!(
        json["pods"]["10.10.1.4:8080"]["pod"],
        "istio-system/istio-ingressgateway-0"
    );
    assert_eq!(json["gateway"]["end"]["end"], "unasked");
    assert_eq!(json["result"]["good"], true);
}

#[test]
fn without_a_node_object_its_address_must_be_given() {
    let state = STATE.split_once("---").unwrap().1;
    let scenario = Scenario::with_state(state);
    let question = "external 192.168.170.137:31373";
    assert_eq!(
        scenario.error(question),
        "there is no Node node1 among the manifests, so nothing says what its addresses are (fix: add the Node object, or --node-address IP)"
    );
    let (status, text) = scenario.run(&format!(
        "{question} --node-address 192.168.170.137 --cluster-cidr 10.10.0.0/16"
    ));
    assert_eq!(
        (status, result(&text)),
        (0, "result      reaches 10.10.1.4:8080")
    );
}

#[test]
fn questions_that_make_no_sense_say_what_would() {
    let scenario = Scenario::new();
    for (question, message) in [
        (
            "nobody 10.96.190.18:80",
            "`nobody` is nobody (fix: `external`, `node`, `pod/NAMESPACE/NAME` or an address)",
        ),
        (
            "pod/nginx 10.96.190.18:80",
            "a pod is written pod/NAMESPACE/NAME",
        ),
        (
            "node 10.96.190.18",
            "`10.96.190.18` has no port (fix: 10.96.190.18:80, or another port)",
        ),
        (
            "node fd00::1",
            "`fd00::1` has no port (fix: [fd00::1]:80, or another port)",
        ),
        ("node https://10.96.190.18/", "only http:// is understood"),
        ("node what?", "`what?` is nothing to connect to"),
        (
            "node simple/nginx:443",
            "Service simple/nginx has no port 443 (fix: simple/nginx:http)",
        ),
        (
            "node simple/nginx",
            "Service simple/nginx has no cluster IP",
        ),
        (
            "node other/nginx:80",
            "there is no Service other/nginx among the manifests (fix: simple/nginx)",
        ),
        (
            "node simple/ngnix:80",
            "there is no Service simple/ngnix among the manifests (fix: simple/nginx)",
        ),
        (
            "node http://simple.baihl.io/",
            "(fix: http://ADDRESS:PORT/PATH --host simple.baihl.io)",
        ),
        (
            "pod/simple/nginx 10.96.190.18:80",
            "there is no Pod simple/nginx among the manifests (fix: pod/simple/nginx-0)",
        ),
        (
            "pod/simple/nginx-0 [fd00::1]:80",
            "Pod simple/nginx-0 has no IPv6 address",
        ),
        (
            "external 127.0.0.1:31373",
            "127.0.0.1 is the client's own machine",
        ),
        ("192.0.2.1 [fd00::1]:80", "192.0.2.1 cannot send to fd00::1"),
        (
            "node 10.96.190.18:80 --node node9",
            "there is no node node9: neither a Node nor an endpoint names it (fix: --node NAME; there are node1)",
        ),
        (
            "node 10.96.190.18:80 --path simple",
            "a path begins with a slash (fix: /simple)",
        ),
        (
            "node 10.96.190.18:80 --header x",
            "`x` is no header (fix: NAME:VALUE, such as x-user:jason)",
        ),
    ] {
        let error = scenario.error(question);
        assert!(error.contains(message), "{question}: {error}");
    }
}

#[test]
fn who_asks_by_address() {
    let scenario = Scenario::new();
    let asker = |from: &str| scenario.json(&format!("{from} 10.96.190.18:80"))["from"].clone();
    assert_eq!(asker("192.168.170.137")["kind"], "node");
    assert_eq!(asker("10.10.1.14")["pod"], "simple/nginx-0");
    assert_eq!(asker("203.0.113.9")["kind"], "external");
}

#[test]
fn several_backends_have_their_rules_and_shares() {
    let more = STATE.replacen(
        "- addresses: [10.10.1.4]",
        "- {addresses: [10.10.2.4], nodeName: node2, conditions: {ready: true}}\n- addresses: [10.10.1.4]",
        1,
    );
    let scenario = Scenario::with_state(&more);
    let (status, text) = scenario.run("external 192.168.170.137:31373");
    assert_eq!(status, 0);
    assert!(
        text.contains("KUBE-SVC-G6D3V5KS3PXPUEDS > one of 2"),
        "{text}"
    );
    assert_eq!(text.matches(" 50.0 %  ").count(), 2, "{text}");
    assert!(text.contains("--probability 0.50000000000"), "{text}");
    // What all have in common stands there once.
    assert_eq!(text.matches("-j MASQUERADE").count(), 1, "{text}");
    assert_eq!(text.matches("-j KUBE-SEP-").count(), 2, "{text}");
    // The one on this node sees the client, the other does not.
    assert!(
        text.contains("masqueraded: the backend sees this node's address"),
        "{text}"
    );
    assert!(
        text.contains("kube-proxy would masquerade; here there is no need"),
        "{text}"
    );
}

mod reasons;
