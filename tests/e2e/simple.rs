//! One host name, two paths: an HTTP server and nginx behind the ingress gateway.

use std::ffi::OsStr;

use nodegate_programs::Program;

use crate::{Case, one_node, same, scene::Scene};

const HOST: &str = "simple.baihl.io";
const NODE_PORT: &str = "192.168.170.137:31373";
const CLUSTER_IP: &str = "10.96.190.18";
const WELCOME: &str = "Welcome to nginx!";

pub(crate) const CASES: &[Case] = &[
    (
        "simple_node_port_and_cluster_ip_answer",
        one_node("s1"),
        answers,
    ),
    (
        "simple_cluster_ip_is_refused_from_outside",
        one_node("s1"),
        refused_outside,
    ),
    ("simple_paths_are_rewritten", one_node("s1"), rewrites),
    (
        "simple_port_in_host_is_ignored",
        one_node("s1"),
        port_in_host,
    ),
    (
        "simple_what_matches_nothing_is_an_empty_404",
        one_node("s1"),
        not_found,
    ),
    (
        "simple_decisions_are_traced_with_their_chains",
        one_node("s1"),
        traced,
    ),
    (
        "simple_requests_have_the_number_of_their_decision",
        one_node("s1"),
        joined,
    ),
    (
        "simple_traces_show_what_is_asked_for",
        one_node("s1"),
        filtered,
    ),
    ("simple_a_running_node_explains", one_node("s1"), explained),
    (
        "simple_a_running_node_knows_what_kube_proxy_would_write",
        one_node("s1"),
        rendered,
    ),
    (
        "simple_processes_see_the_service_address",
        one_node("s1"),
        peer_name,
    ),
    (
        "simple_the_gateway_pod_listens_on_its_target_port",
        one_node("s1"),
        listens,
    ),
    (
        "simple_maps_are_readable_with_bpftool",
        one_node("s1"),
        bpftool,
    ),
    (
        "simple_requests_reuse_the_connection_to_the_pod",
        one_node("s1"),
        keep_alive,
    ),
];

fn answers(scene: &Scene) -> anyhow::Result<()> {
    let (pod, _) = scene.pod("simple", "simple")?;
    for (host, address) in [
        ("client", NODE_PORT),
        ("node1", NODE_PORT),
        ("node1", CLUSTER_IP),
        ("node1", "127.0.0.1:31373"),
        (&pod, NODE_PORT),
        (&pod, CLUSTER_IP),
    ] {
        let nginx = scene.get(host, HOST, &format!("http://{address}/simple/nginx"))?;
        same!(nginx.status, 200, "nginx through {address} from {host}");
        anyhow::ensure!(nginx.body.contains(WELCOME), "{nginx:?}");
        let server = scene.get(host, HOST, &format!("http://{address}/simple/httpserver"))?;
        same!(
            server.status,
            200,
            "httpserver through {address} from {host}"
        );
        anyhow::ensure!(server.body.starts_with("hello from simple-"), "{server:?}");
    }
    Ok(())
}

fn refused_outside(scene: &Scene) -> anyhow::Result<()> {
    for url in [
        "http://10.96.190.18/simple/nginx",
        "http://10.96.190.18:31373/",
    ] {
        let answer = scene.get("client", HOST, url)?;
        same!((answer.exit, answer.status), (7, 0), "{url} from outside");
    }
    // On the node the address is known, and a port that the Service does not have is refused.
    let answer = scene.get("node1", HOST, "http://10.96.190.18:31373/")?;
    same!(
        (answer.exit, answer.status),
        (7, 0),
        "the node port on the cluster IP"
    );
    Ok(())
}

fn rewrites(scene: &Scene) -> anyhow::Result<()> {
    for (path, seen, status) in [
        ("/simple/httpserver", "/hello", 200),
        ("/simple/httpserver?a=1", "/hello?a=1", 200),
        ("/simple/nginx", "/", 200),
        ("/simple/nginx?a=1&b=2", "/?a=1&b=2", 200),
        ("/simple/nginx/x", "//x", 200),
        ("/simple/nginxfoo", "/foo", 200),
    ] {
        let answer = scene.get("client", HOST, &format!("http://{NODE_PORT}{path}"))?;
        same!(answer.status, status, "{path}");
        same!(answer.seen_path(), seen, "{path} as the pod sees it");
    }
    let url = format!("http://{NODE_PORT}/simple/nginx/x?json");
    let answer = scene.get("client", HOST, &url)?;
    let request: serde_json::Value = serde_json::from_str(&answer.body)?;
    let headers = &request["headers"];
    same!(
        headers["x-envoy-original-path"],
        "/simple/nginx/x?json",
        "the original path"
    );
    same!(headers["host"], HOST, "the host");
    same!(headers["x-forwarded-for"], "192.168.170.1", "the client");
    same!(headers["x-forwarded-proto"], "http", "the scheme");
    Ok(())
}

fn port_in_host(scene: &Scene) -> anyhow::Result<()> {
    for name in [
        "simple.baihl.io:31373",
        "simple.baihl.io:80",
        "SIMPLE.BAIHL.IO",
        HOST,
    ] {
        let answer = scene.get("client", name, &format!("http://{NODE_PORT}/simple/nginx"))?;
        same!(answer.status, 200, "Host: {name}");
    }
    Ok(())
}

fn not_found(scene: &Scene) -> anyhow::Result<()> {
    for (name, path) in [
        (HOST, "/"),
        (HOST, "/simple"),
        ("other.baihl.io", "/simple/nginx"),
    ] {
        let answer = scene.get("client", name, &format!("http://{NODE_PORT}{path}"))?;
        same!(
            (answer.status, answer.body.as_str()),
            (404, ""),
            "{name}{path}"
        );
        same!(
            answer.header("server"),
            Some("istio-envoy"),
            "{name}{path}: server"
        );
    }
    Ok(())
}

fn traced(scene: &Scene) -> anyhow::Result<()> {
    let node = scene.trace("node1")?;
    let gateway = scene.trace(&scene.gateway()?)?;
    scene.get("client", HOST, &format!("http://{NODE_PORT}/simple/nginx"))?;
    scene.get(
        "node1",
        HOST,
        &format!("http://{CLUSTER_IP}/simple/httpserver"),
    )?;

    let outside = node.wait_for(|line| line["hook"] == "ingress")?;
    same!(outside["destination"], NODE_PORT, "what was asked for");
    same!(
        outside["service"],
        "istio-system/istio-ingressgateway:http2",
        "the Service"
    );
    same!(outside["verdict"], "forward", "the verdict");
    same!(outside["backend"], "10.10.1.4:8080", "the backend");
    same!(outside["masquerade"], "elided", "the masquerade");
    let chains = [
        "KUBE-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-EXT-G6D3V5KS3PXPUEDS",
        "KUBE-MARK-MASQ",
        "KUBE-SVC-G6D3V5KS3PXPUEDS",
        "KUBE-SEP-LAV34IONK7IOT5SV",
    ];
    same!(outside["chains"], serde_json::json!(chains), "the chains");
    let client = outside["client"].as_str().unwrap_or_default();
    anyhow::ensure!(client.starts_with("192.168.170.1:"), "{outside}");

    let inside = node.wait_for(|line| line["hook"] == "connect4")?;
    same!(
        inside["destination"],
        "10.96.190.18:80",
        "what was asked for"
    );
    same!(inside["process"]["command"], "curl", "the process");
    let chains = [chains[0], chains[4], chains[3], chains[5]];
    same!(inside["chains"], serde_json::json!(chains), "the chains");

    let request = gateway.wait_for(|line| line["path"] == "/simple/nginx")?;
    same!(
        request["virtual_host"],
        "simple.baihl.io:80",
        "the virtual host"
    );
    same!(
        request["cluster"],
        "outbound|80||nginx.simple.svc.cluster.local",
        "the cluster"
    );
    same!(request["endpoint"], "10.10.1.14:80", "the endpoint");
    same!(request["status"], 200, "the status");

    scene.get("node1", HOST, "http://10.96.190.18:31373/")?;
    let refused = node.wait_for(|line| line["verdict"] == "reject")?;
    same!(refused["reason"], "no-such-port", "the reason");
    same!(refused["backend"], serde_json::Value::Null, "no backend");
    Ok(())
}

fn joined(scene: &Scene) -> anyhow::Result<()> {
    let gateway = scene.testbed.admin_socket(&scene.gateway()?)?;
    let gateway = gateway.to_str().unwrap_or_default();
    let trace = scene.trace_only("node1", &["--gateway-admin", gateway])?;
    let (client, _) = scene.pod("simple", "nginx")?;
    let url = |address: &str, path: &str| format!("http://{address}{path}");
    // A packet's decision, one of a socket on the node, and one of a socket in a pod.
    for (host, address, path) in [
        ("client", NODE_PORT, "/simple/nginx/a"),
        ("node1", CLUSTER_IP, "/simple/nginx/b"),
        (client.as_str(), CLUSTER_IP, "/simple/nginx/c"),
    ] {
        scene.get(host, HOST, &url(address, path))?;
        let request = trace.wait_for(|line| line["path"] == path)?;
        let number = &request["connection"];
        anyhow::ensure!(number.is_u64(), "of no decision: {request}");
        let decision =
            trace.wait_for(|line| line["connection"] == *number && line["hook"].is_string())?;
        let asked = if address == CLUSTER_IP {
            "10.96.190.18:80"
        } else {
            NODE_PORT
        };
        same!(decision["destination"], asked, "what {host} asked for");
        same!(request["status"], 200, "the answer to {host}");
    }
    // Two requests on one connection have one number.
    let first = url(NODE_PORT, "/simple/nginx/1");
    let second = url(NODE_PORT, "/simple/nginx/2");
    scene.get("client", HOST, &first)?;
    let host = format!("Host: {HOST}");
    scene.run(
        "client",
        Program::Curl,
        &["-s", "-H", &host, &first, &second],
    )?;
    let later = trace.wait_for(|line| line["path"] == "/simple/nginx/2")?;
    let all = trace.decisions()?;
    let both = all
        .iter()
        .filter(|line| line["connection"] == later["connection"] && line["path"].is_string());
    same!(both.count(), 2, "requests of the second connection");
    Ok(())
}

fn filtered(scene: &Scene) -> anyhow::Result<()> {
    let gateway = scene.testbed.admin_socket(&scene.gateway()?)?;
    let gateway = gateway.to_str().unwrap_or_default();
    let service = "istio-system/istio-ingressgateway";
    let outside = scene.trace_only(
        "node1",
        &[
            "--from",
            "192.168.170.1",
            "--service",
            service,
            "--gateway-admin",
            gateway,
        ],
    )?;
    let node = scene.trace_only("node1", &["--from", "node", "--to", "10.96.190.18:80"])?;
    let refused = scene.trace_only("node1", &["--verdict", "reject,drop"])?;
    let missing = scene.trace_only(&scene.gateway()?, &["--status", "4xx"])?;
    let get = |host, url: &str| scene.get(host, HOST, url);
    get("node1", "http://10.96.190.18:81/")?;
    get("node1", "http://10.96.190.18/simple/nginx")?;
    get("client", &format!("http://{NODE_PORT}/simple/nginx"))?;
    get("client", &format!("http://{NODE_PORT}/nothing"))?;

    outside.wait_for(|line| line["path"] == "/nothing")?;
    let lines = outside.decisions()?;
    let of = |key: &str| lines.iter().filter(|line| line[key].is_string()).count();
    same!(
        (of("hook"), of("path")),
        (2, 2),
        "lines about the client: {lines:?}"
    );
    node.wait_for(|line| line["destination"] == "10.96.190.18:80")?;
    same!(
        node.decisions()?.len(),
        1,
        "decisions about the node's process"
    );
    refused.wait_for(|line| line["verdict"] == "reject")?;
    same!(refused.decisions()?.len(), 1, "refusals");
    let missed = missing.wait_for(|line| line["path"] == "/nothing")?;
    same!(missed["status"], 404, "the status");
    same!(missing.decisions()?.len(), 1, "requests that missed");

    let gateway = scene.gateway()?;
    for (host, options, message) in [
        (
            gateway.as_str(),
            "--service simple/nginx",
            "this nodegate is a proxy only: --service is known where the redirector runs",
        ),
        (
            "node1",
            "--from nobody",
            "`nobody` is nobody (fix: `node`, an address",
        ),
        (
            "node1",
            "--verdict no",
            "`no` is no verdict (fix: one of pass, forward",
        ),
    ] {
        let arguments = ["trace", "--for", "1s"].into_iter();
        let arguments = arguments.chain(options.split_whitespace());
        let output = scene.testbed.exec(host, Program::Nodegate, arguments)?;
        let told = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(told.contains(message), "{options}: {told}");
        same!(output.status.code(), Some(2), "{options}: the status");
    }
    Ok(())
}

fn explained(scene: &Scene) -> anyhow::Result<()> {
    let explain = |host: &str, words: &str| -> anyhow::Result<(Option<i32>, String, String)> {
        let arguments = std::iter::once("explain").chain(words.split_whitespace());
        let output = scene.testbed.exec(host, Program::Nodegate, arguments)?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok((
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        ))
    };
    // What is explained and what happens are the same, from the node's port to the pod.
    let url = format!("http://{NODE_PORT}/simple/nginx");
    let (status, text, told) = explain("node1", &format!("external {url} --host {HOST} --wide"))?;
    same!(status, Some(0), "{text}{told}");
    let chains = "KUBE-EXT-G6D3V5KS3PXPUEDS > KUBE-MARK-MASQ > KUBE-SVC-G6D3V5KS3PXPUEDS";
    anyhow::ensure!(text.contains(chains), "{text}");
    let end = text.lines().next().unwrap_or_default();
    same!(end, "result      reaches 10.10.1.14:80", "the end");
    let (nginx, pod) = scene.pod("simple", "nginx")?;
    same!(
        pod.address.to_string(),
        "10.10.1.14",
        "the address of {nginx}"
    );
    let answer = scene.get("client", HOST, &url)?;
    same!(answer.status, 200, "what the client gets");

    let question = format!("external http://{NODE_PORT}/nothing --host {HOST} -o json");
    let (status, text, _) = explain("node1", &question)?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    same!(
        (status, &json["gateway"]["end"]["status"]),
        (Some(1), &404.into()),
        "{text}"
    );
    same!(json["node"], "node1", "the node");

    // The maps answer, not the manifests: without the daemon's knowledge there is nothing to ask.
    for (host, words, message) in [
        (
            "node1",
            "external 192.168.170.137",
            "`192.168.170.137` has no port",
        ),
        (
            "node1",
            "external 10.96.190.18:80 --node node9",
            "this is node node1, and knows nothing of node9's maps",
        ),
        (
            "node1",
            "external 10.96.190.18:80 --services all",
            "--services is about manifests, and there are none",
        ),
        (
            "client",
            "external 10.96.190.18:80",
            "no nodegate answers at",
        ),
    ] {
        let (status, _, told) = explain(host, words)?;
        anyhow::ensure!(told.contains(message), "{words}: {told}");
        same!(status, Some(2), "{words}: the status");
    }
    let gateway = scene.gateway()?;
    let (status, _, told) = explain(&gateway, "external 10.96.190.18:80")?;
    anyhow::ensure!(told.contains("this nodegate is a proxy only"), "{told}");
    same!(status, Some(2), "the status");
    Ok(())
}

fn rendered(scene: &Scene) -> anyhow::Result<()> {
    let manifests = scene.testbed.manifests();
    let manifests = manifests.to_str().unwrap_or_default();
    let render = ["iptables", "render", "--cluster-cidr", "10.10.0.0/16"];
    let running = scene.run("node1", Program::Nodegate, &render)?;
    let offline = ["--hostname-override", "node1", "--manifests", manifests];
    let offline = [&render[..], &offline[..]].concat();
    let offline = scene.run("node1", Program::Nodegate, &offline)?;
    same!(running, offline, "the rules");
    let endpoint = "-A KUBE-SEP-LAV34IONK7IOT5SV";
    anyhow::ensure!(running.contains(endpoint), "{running}");
    // There is no kube-proxy here, so that its rules are missing.
    let dump = tempfile::NamedTempFile::new()?;
    let saved = scene.run("node1", Program::IptablesSave, &[])?;
    std::fs::write(dump.path(), saved)?;
    let arguments = ["iptables", "diff", "--dump"].map(OsStr::new);
    let arguments = arguments.into_iter().chain([dump.path().as_os_str()]);
    let diff = scene.testbed.exec("node1", Program::Nodegate, arguments)?;
    let told = String::from_utf8_lossy(&diff.stdout);
    same!(diff.status.code(), Some(1), "{told}{:?}", diff.stderr);
    anyhow::ensure!(
        told.contains("istio-system/istio-ingressgateway:http2"),
        "{told}"
    );
    Ok(())
}

fn peer_name(scene: &Scene) -> anyhow::Result<()> {
    for (address, peer) in [(CLUSTER_IP, "10.96.190.18:80"), (NODE_PORT, NODE_PORT)] {
        let url = format!("http://{address}/simple/nginx");
        let host = format!("Host: {HOST}");
        let format = "%{remote_ip}:%{remote_port}";
        let arguments = ["-s", "-o", "/dev/null", "-w", format, "-H", &host, &url];
        // curl asks getpeername(); the connection goes to the gateway pod.
        same!(
            scene.run("node1", Program::Curl, &arguments)?,
            peer,
            "the peer of a socket to {address}"
        );
    }
    Ok(())
}

fn listens(scene: &Scene) -> anyhow::Result<()> {
    let sockets = scene.run(&scene.gateway()?, Program::Ss, &["-ltnpH"])?;
    let is_ours = |line: &&str| line.contains(":8080 ") && line.contains("nodegate");
    anyhow::ensure!(sockets.lines().any(|line| is_ours(&line)), "{sockets}");
    anyhow::ensure!(!sockets.contains(":80 "), "{sockets}");
    Ok(())
}

fn bpftool(scene: &Scene) -> anyhow::Result<()> {
    let pins = scene.testbed.pin_dir("node1");
    let dump = |map: &str| -> anyhow::Result<serde_json::Value> {
        let pin = pins.join(map);
        let pin = pin.to_str().unwrap_or_default();
        let text = scene.run(
            "node1",
            Program::Bpftool,
            &["-j", "map", "dump", "pinned", pin],
        )?;
        Ok(serde_json::from_str(&text)?)
    };
    let services = dump("services")?;
    let node_port = services
        .as_array()
        .into_iter()
        .flatten()
        .map(|element| &element["formatted"])
        .find(|element| element["key"]["port"] == 31373);
    let node_port = node_port.ok_or_else(|| anyhow::anyhow!("no node port in {services}"))?;
    same!(
        node_port["value"]["cluster"],
        1,
        "backends of the node port"
    );
    let backends = dump("backends")?;
    let ports: Vec<_> = backends
        .as_array()
        .into_iter()
        .flatten()
        .map(|element| element["formatted"]["value"]["port"].as_u64().unwrap_or(0))
        .collect();
    anyhow::ensure!(ports.contains(&8080), "{backends}");
    Ok(())
}

fn keep_alive(scene: &Scene) -> anyhow::Result<()> {
    let url = format!("http://{NODE_PORT}/simple/nginx");
    let host = format!("Host: {HOST}");
    let (_, nginx) = scene.pod("simple", "nginx")?;
    let trace = scene.trace("node1")?;
    let format = "%{http_code} %{num_connects}\n";
    let arguments = ["-s", "-H", &host, "-w", format, "-o", "/dev/null", &url]
        .into_iter()
        .chain(["-o", "/dev/null", &url, "-o", "/dev/null", &url]);
    let text = scene.run("client", Program::Curl, &arguments.collect::<Vec<_>>())?;
    same!(
        text,
        "200 1\n200 0\n200 0\n",
        "one connection for three requests"
    );
    trace.wait_for(|line| line["hook"] == "ingress")?;
    same!(trace.decisions()?.len(), 1, "decisions for one connection");
    let pooled = scene.run(
        &scene.gateway()?,
        Program::Ss,
        &["-tnH", "state", "established"],
    )?;
    let to_nginx = pooled
        .lines()
        .filter(|line| line.contains(&format!("{}:80", nginx.address)));
    same!(to_nginx.count(), 1, "connections kept to the pod");
    Ok(())
}
