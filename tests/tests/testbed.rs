//! The cluster itself, with a stand-in for nodegate: networks, pods, changes, and that nothing is
//! left behind. What nodegate does in it is the end-to-end tests' subject.

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
    thread,
    time::Duration,
};

use libtest_mimic::{Arguments, Failed, Trial};
use nodegate_testbed::{Binaries, Options, Outcome, Signal, Testbed, environment, ps::PodAddress};
use serde_json::{Value, json};

/// Makes this program a process that builds a testbed and waits, to be killed in the middle.
const VICTIM: &str = "TESTBED_TEST_VICTIM";

/// What a testbed asks of nodegate: `run` makes the admin socket and stays, `status --sync` says
/// that everything is applied.
const STAND_IN: &str = r#"#!/bin/sh
case $1 in
run) echo "arguments: $*"; test -z "$NODEGATE_PIN_DIR" || mkdir -p "$NODEGATE_PIN_DIR"; : > "$NODEGATE_ADMIN"; exec sleep 600 ;;
status) test -e "$NODEGATE_ADMIN" ;;
check) exit 1 ;;
esac
"#;

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{image: whoami}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}], externalIPs: [192.168.96.50, 192.168.96.51]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  template:
    metadata: {labels: {app: echo}}
    spec: {containers: [{image: istio/tcp-echo-server, args: ['9000', one]}]}
";

type Test = fn(&str) -> anyhow::Result<()>;

const TESTS: &[(&str, Test)] = &[
    (
        "pods_and_nodes_reach_pods_and_the_client_does_not",
        pods_and_nodes_reach_pods,
    ),
    (
        "the_client_reaches_nodes_and_the_external_ips_that_they_own",
        external_ips,
    ),
    (
        "nodes_in_different_subnets_reach_each_other",
        different_subnets,
    ),
    ("ipv6_leads_wherever_ipv4_does_without_delay", ipv6),
    ("udp_is_answered_on_both_families", udp),
    (
        "dual_stack_services_have_addresses_and_slices_of_both_families",
        dual_stack,
    ),
    (
        "readiness_and_termination_change_slices_and_no_pods",
        conditions,
    ),
    (
        "load_balancer_addresses_are_routed_and_no_nodes",
        load_balancer_ips,
    ),
    ("nodegate_is_killed_and_started_again", restarts),
    ("nodes_choose_how_nodegate_runs", node_options),
    ("processes_are_in_their_nodes_cgroup_and_namespace", cgroups),
    ("changes_start_replace_and_stop_pods", changes),
    (
        "requests_under_way_outlive_their_pods_endpoint",
        requests_under_way,
    ),
    ("testbeds_stand_side_by_side", side_by_side),
    ("an_existing_name_is_refused", existing_name),
    (
        "a_nodegate_that_ends_is_an_error_with_its_log",
        failing_nodegate,
    ),
    ("what_a_killed_up_leaves_goes_down", killed_up),
];

fn main() -> ExitCode {
    if let Some(name) = std::env::var_os(VICTIM) {
        return victim(&name.to_string_lossy());
    }
    let arguments = Arguments::from_args();
    let lacks = environment::check().err();
    if let Some(lacks) = &lacks {
        eprintln!("all trials are ignored: {lacks}");
    }
    let trials = TESTS
        .iter()
        .enumerate()
        .map(|(index, (name, test))| {
            // Short and its own: several runs may go on at the same time.
            let testbed = format!("t{}-{index}", std::process::id());
            Trial::test(*name, move || {
                test(&testbed)?;
                nothing_left(&testbed).map_err(Failed::from)
            })
            .with_ignored_flag(lacks.is_some())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A directory with a stand-in and manifests.
struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn new(nodegate: &str) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let scene = Self { directory };
        scene.write("nodegate", nodegate)?;
        fs::set_permissions(scene.path("nodegate"), fs::Permissions::from_mode(0o755))?;
        fs::create_dir(scene.path("manifests"))?;
        scene.write("manifests/web.yaml", WEB)?;
        Ok(scene)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        Ok(fs::write(self.path(name), text)?)
    }

    fn options(&self, name: &str) -> Options {
        let binaries = Binaries {
            nodegate: self.path("nodegate"),
            pod: env!("CARGO_BIN_EXE_testbed-pod").into(),
        };
        Options {
            nodes: Some(2),
            ..Options::new(name, binaries, vec![self.path("manifests")])
        }
    }
}

fn up(name: &str) -> anyhow::Result<(Scene, Testbed)> {
    let scene = Scene::new(STAND_IN)?;
    let testbed = Testbed::up(&scene.options(name))?;
    Ok((scene, testbed))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The only pod whose name begins so on a node.
fn row(testbed: &Testbed, prefix: &str, node: &str) -> anyhow::Result<PodAddress> {
    let pods = testbed.ps()?.pods;
    pods.into_iter()
        .find(|pod| pod.name.starts_with(prefix) && pod.node == node)
        .ok_or_else(|| anyhow::anyhow!("no {prefix} on {node}"))
}

fn address(testbed: &Testbed, prefix: &str, node: &str) -> anyhow::Result<String> {
    Ok(row(testbed, prefix, node)?.address.to_string())
}

fn pod_on(testbed: &Testbed, prefix: &str, node: &str) -> anyhow::Result<String> {
    let pod = row(testbed, prefix, node)?;
    Ok(format!("pod/{}/{}", pod.namespace, pod.name))
}

/// An object that nodegate sees, by the beginning of its file's name.
fn manifests(testbed: &Testbed, prefix: &str) -> anyhow::Result<Vec<Value>> {
    let mut files: Vec<PathBuf> = fs::read_dir(testbed.manifests())?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(prefix)
        })
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| Ok(serde_yaml::from_str(&fs::read_to_string(file)?)?))
        .collect()
}

fn pods_and_nodes_reach_pods(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    for node in ["node1", "node2"] {
        let url = format!("http://{}/x", address(&testbed, "web-", node)?);
        for from in ["node1", "node2", &pod_on(&testbed, "web-", "node1")?] {
            let answer = testbed.exec(from, ["curl", "-sSm", "3", &url])?;
            let said: Value = serde_json::from_slice(&answer.stdout)?;
            assert_eq!(said["node"], node, "from {from}");
        }
        let answer = testbed.exec("client", ["curl", "-sSm", "3", &url])?;
        assert!(!answer.status.success(), "the client reaches {url}");
    }
    let echo = testbed.ps()?;
    let echo = echo
        .pods_named("default", "echo-")
        .next()
        .expect("an echo pod")
        .address
        .to_string();
    let talk = format!("(printf 'a\\n'; sleep 0.2; printf b) | nc -N {echo} 9000");
    assert_eq!(
        text(&testbed.exec("node2", ["sh", "-c", &talk])?),
        "one a\none b"
    );
    testbed.down()
}

/// Whether a line from a listener on `server` arrives at `client` through an address.
fn listener_is_reached(
    testbed: &Testbed,
    server: &str,
    client: &str,
    at: &str,
) -> anyhow::Result<bool> {
    let listen = if at.contains(':') { "-6lN" } else { "-4lN" };
    let mut listener = testbed.spawn(server, ["nc", listen, "7000"])?;
    writeln!(listener.stdin.take().expect("a pipe"), "hello")?;
    thread::sleep(Duration::from_millis(150));
    let answer = testbed.exec(client, ["nc", "-w", "1", at, "7000"])?;
    listener.kill()?;
    listener.wait()?;
    Ok(text(&answer) == "hello\n")
}

fn external_ips(name: &str) -> anyhow::Result<()> {
    let scene = Scene::new(STAND_IN)?;
    scene.write(
        "manifests/testbed.yaml",
        "unownedExternalIPs: [192.168.96.51]\n",
    )?;
    let testbed = Testbed::up(&scene.options(name))?;
    for node in testbed.nodes()? {
        assert!(listener_is_reached(
            &testbed,
            &node.name,
            "client",
            &node.address.to_string()
        )?);
    }
    assert!(listener_is_reached(
        &testbed,
        "node1",
        "client",
        "192.168.96.50"
    )?);
    assert!(!listener_is_reached(
        &testbed,
        "node1",
        "client",
        "192.168.96.51"
    )?);
    let addresses = text(&testbed.exec("node1", ["ip", "-br", "addr"])?);
    assert!(addresses.contains("192.168.96.50/32") && !addresses.contains("192.168.96.51"));

    testbed.delete_object("Service", "default", "web")?;
    for host in ["node1", "client"] {
        let state = text(&testbed.exec(host, ["sh", "-c", "ip addr; ip route"])?);
        assert!(!state.contains("192.168.96."), "{host}: {state}");
    }
    testbed.down()
}

fn different_subnets(name: &str) -> anyhow::Result<()> {
    let scene = Scene::new(STAND_IN)?;
    scene.write(
        "manifests/testbed.yaml",
        "nodes: [{name: a, address: 10.1.1.1, addressV6: 'fd00:8::1'}, {name: b, address: 172.16.9.2, addressV6: 'fd00:9::2'}]\nclient: {address: 192.168.3.4, addressV6: 'fd00:7::3'}\n",
    )?;
    let testbed = Testbed::up(&scene.options(name))?;
    assert!(listener_is_reached(&testbed, "b", "client", "172.16.9.2")?);
    assert!(listener_is_reached(&testbed, "a", "b", "10.1.1.1")?);
    assert!(listener_is_reached(&testbed, "b", "client", "fd00:9::2")?);
    assert!(listener_is_reached(&testbed, "a", "b", "fd00:8::1")?);
    for ip in row(&testbed, "web-", "b")?.addresses {
        let url = format!("http://{}/", SocketAddr::new(ip, 80));
        let answer = testbed.exec(
            &pod_on(&testbed, "web-", "a")?,
            ["curl", "-sSfm", "3", &url],
        )?;
        assert!(answer.status.success(), "{answer:?}");
    }
    testbed.down()
}

fn ipv6(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    let near = row(&testbed, "web-", "node1")?;
    let from_pod = format!("pod/{}/{}", near.namespace, near.name);
    for node in testbed.nodes()? {
        let pod = row(&testbed, "web-", &node.name)?;
        let url = format!("http://{}/x", SocketAddr::new(pod.addresses[1], 80));
        for from in ["node1", "node2", &from_pod] {
            // At once: nobody has to ask for a neighbour, and no address is tentative.
            let answer = testbed.exec(from, ["curl", "-sSm", "0.5", &url])?;
            let said: Value = serde_json::from_slice(&answer.stdout)?;
            assert_eq!(said["node"], node.name.as_str(), "from {from}");
            if from == from_pod && node.name != "node1" {
                let peer: SocketAddr = said["peer"].as_str().unwrap_or_default().parse()?;
                assert_eq!(peer.ip(), near.addresses[1]);
            }
        }
        let answer = testbed.exec("client", ["curl", "-sSm", "2", &url])?;
        assert!(!answer.status.success(), "the client reaches {url}");
        let at = node.address_v6.to_string();
        assert!(listener_is_reached(&testbed, &node.name, "client", &at)?);
    }
    let client = testbed.client_v6()?.to_string();
    assert!(listener_is_reached(&testbed, "client", "node2", &client)?);
    for host in ["client", "node1", &from_pod] {
        let addresses = text(&testbed.exec(host, ["ip", "-6", "addr"])?);
        for unwanted in ["tentative", "fe80:"] {
            assert!(!addresses.contains(unwanted), "{host}: {addresses}");
        }
    }
    testbed.down()
}

fn udp(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    testbed.apply_text(
        "apiVersion: v1
kind: Pod
metadata:
  name: dns
  annotations: {testbed.nodegate.io/node: node2, testbed.nodegate.io/address: '10.10.2.53,fd00:10:0:2::53'}
spec: {containers: [{image: dns, ports: [{containerPort: 5353, protocol: UDP}]}]}
",
    )?;
    for at in ["10.10.2.53", "fd00:10:0:2::53"] {
        for from in ["node1", "node2", &pod_on(&testbed, "web-", "node1")?] {
            let ask = format!("printf what | nc -u -W 1 -w 2 {at} 5353");
            let answer = testbed.exec(from, ["sh", "-c", &ask])?;
            assert_eq!(text(&answer), "dns what", "{at} from {from}");
        }
    }
    testbed.down()
}

const DUAL: &str = "
apiVersion: v1
kind: Service
metadata: {name: dual}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  trafficDistribution: PreferSameZone
  ports: [{name: http, port: 80}, {name: sctp, port: 132, protocol: SCTP}]
";

fn dual_stack(name: &str) -> anyhow::Result<()> {
    let scene = Scene::new(STAND_IN)?;
    scene.write(
        "manifests/testbed.yaml",
        "nodes: [{name: node1, zone: z1}, {name: node2, zone: z2}]\n",
    )?;
    scene.write("manifests/dual.yaml", DUAL)?;
    let testbed = Testbed::up(&scene.options(name))?;
    let ps = testbed.ps()?;
    let service = ps.service("default", "dual").expect("the Service");
    let families: Vec<bool> = service.cluster_ips.iter().map(IpAddr::is_ipv6).collect();
    assert_eq!(families, [false, true]);
    assert_eq!(service.cluster_ip, service.cluster_ips[0].to_string());
    let seen = &manifests(&testbed, "service_default_dual")?[0]["spec"];
    assert_eq!(seen["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(seen["clusterIPs"], json!(service.cluster_ips));

    let slices = manifests(&testbed, "endpointslice.discovery.k8s.io_default_dual")?;
    let mut types: Vec<&str> = slices
        .iter()
        .filter_map(|slice| slice["addressType"].as_str())
        .collect();
    types.sort_unstable();
    assert_eq!(types, ["IPv4", "IPv6"]);
    for slice in &slices {
        let endpoints = slice["endpoints"].as_array().expect("endpoints");
        assert_eq!(endpoints.len(), 2);
        for endpoint in endpoints {
            let pod = ps
                .pods
                .iter()
                .find(|pod| endpoint["targetRef"]["name"] == pod.name.as_str());
            let pod = pod.expect("the endpoint's pod");
            let index = usize::from(slice["addressType"] == "IPv6");
            assert_eq!(endpoint["addresses"], json!([pod.addresses[index]]));
            let zone = pod.node.replace("node", "z");
            assert_eq!(endpoint["zone"], zone.as_str());
            assert_eq!(endpoint["hints"], json!({"forZones": [{"name": zone}]}));
        }
        assert_eq!(slice["ports"][1]["protocol"], "SCTP");
    }
    // Others stay single-stack.
    let web = manifests(&testbed, "endpointslice.discovery.k8s.io_default_web")?;
    assert_eq!(web.len(), 1);

    // The family goes, and its slices with it.
    testbed.apply_text(&DUAL.replace("RequireDualStack", "SingleStack"))?;
    let slices = manifests(&testbed, "endpointslice.discovery.k8s.io_default_dual")?;
    assert_eq!(slices.len(), 1);
    let ps = testbed.ps()?;
    let ips = &ps
        .service("default", "dual")
        .expect("the Service")
        .cluster_ips;
    assert_eq!(*ips, service.cluster_ips[..1]);
    testbed.down()
}

fn conditions(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    let before = testbed.ps()?.pods;
    // In the order of ready, serving and terminating.
    let shown = || -> anyhow::Result<Vec<[bool; 3]>> {
        let slices = manifests(&testbed, "endpointslice.discovery.k8s.io_default_web")?;
        let endpoints = slices[0]["endpoints"].as_array().cloned();
        let mut all: Vec<[bool; 3]> = endpoints
            .unwrap_or_default()
            .iter()
            .map(|endpoint| {
                ["ready", "serving", "terminating"].map(|name| endpoint["conditions"][name] == true)
            })
            .collect();
        all.sort_unstable();
        Ok(all)
    };
    assert_eq!(shown()?, [[true, true, false]; 2]);
    let annotate = |annotations: &str| {
        let labels = "labels: {app: web}";
        let more = format!("{labels}, annotations: {{{annotations}}}");
        testbed.apply_text(&WEB.replace(labels, &more))
    };
    annotate("testbed.nodegate.io/ready: 'false,true'")?;
    assert_eq!(shown()?, [[false, false, false], [true, true, false]]);
    annotate("testbed.nodegate.io/terminating: 'true', testbed.nodegate.io/ready: 'false,true'")?;
    assert_eq!(shown()?, [[false, false, true], [false, true, true]]);
    let gone = manifests(&testbed, "pod_default_web-")?;
    assert!(
        gone.iter()
            .all(|pod| pod["metadata"]["deletionTimestamp"].is_string())
    );
    // They are the same pods, and serve.
    assert_eq!(testbed.ps()?.pods, before);
    let url = format!("http://{}/", address(&testbed, "web-", "node2")?);
    let answer = testbed.exec("node1", ["curl", "-sSfm", "3", &url])?;
    assert!(answer.status.success(), "{answer:?}");
    testbed.apply_text(WEB)?;
    assert_eq!(shown()?, [[true, true, false]; 2]);
    testbed.down()
}

fn load_balancer_ips(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    testbed.apply_text(
        "apiVersion: v1
kind: Service
metadata: {name: lb}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: web}
  externalIPs: ['fd00:96:5::1']
  ports: [{port: 80}]
status: {loadBalancer: {ingress: [{ip: 192.168.97.7}, {ip: 'fd00:97::7'}]}}
",
    )?;
    let nodes = testbed.nodes()?;
    let via = nodes[0].addresses();
    for (ip, via) in [
        ("192.168.97.7", via[0]),
        ("fd00:97::7", via[1]),
        ("fd00:96:5::1", via[1]),
    ] {
        let route = text(&testbed.exec("client", ["ip", "route", "get", ip])?);
        assert!(route.contains(&format!("via {via} ")), "{route}");
    }
    let addresses = text(&testbed.exec("node1", ["ip", "addr"])?);
    assert!(addresses.contains("fd00:96:5::1/128"), "{addresses}");
    assert!(!addresses.contains(".97.7") && !addresses.contains(":97::7"));
    assert!(listener_is_reached(
        &testbed,
        "node1",
        "client",
        "fd00:96:5::1"
    )?);
    let seen = &manifests(&testbed, "service_default_lb")?[0];
    assert_eq!(
        seen["status"]["loadBalancer"]["ingress"][1]["ip"],
        "fd00:97::7"
    );
    assert!(seen["spec"]["healthCheckNodePort"].is_u64(), "{seen}");

    testbed.delete_object("Service", "default", "lb")?;
    for host in ["node1", "client"] {
        let state = text(&testbed.exec(host, ["sh", "-c", "ip addr; ip route; ip -6 route"])?);
        for gone in [".97.7", ":97::7", "fd00:96:5"] {
            assert!(!state.contains(gone), "{host}: {state}");
        }
    }
    testbed.down()
}

fn restarts(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    let gateway = pod_on(&testbed, "istio-ingressgateway", "node2")?;
    let processes = |host: &str| -> anyhow::Result<String> {
        let groups = match host {
            "node1" => testbed.names().node_cgroup("node1").join("node"),
            pod => {
                let pod = pod["pod/".len()..].replace('/', ".");
                let group = testbed.names().node_cgroup("node2");
                group.join(format!("pod-{pod}"))
            }
        };
        Ok(fs::read_to_string(groups.join("cgroup.procs"))?)
    };
    for host in ["node1", &gateway] {
        let first = processes(host)?;
        testbed.kill(host, Signal::SIGCONT)?;
        assert_eq!(processes(host)?, first);
        testbed.kill(host, Signal::SIGKILL)?;
        assert_eq!(processes(host)?, "", "{host}");
        // Changes do not wait for it.
        testbed.apply_text("kind: Namespace\napiVersion: v1\nmetadata: {name: x}\n")?;
        let error = testbed.kill(host, Signal::SIGKILL).expect_err("it is gone");
        assert!(error.to_string().contains("does not run"), "{error}");
        testbed.restart(host)?;
        let second = processes(host)?;
        assert!(!second.is_empty() && second != first, "{second}");
        // Also when it runs.
        testbed.restart(host)?;
        let third = processes(host)?;
        assert!(third.lines().count() == 1 && third != second, "{third}");
    }
    for host in ["client", &pod_on(&testbed, "web-", "node1")?, "node9"] {
        assert!(testbed.restart(host).is_err(), "{host}");
    }
    testbed.down()
}

fn node_options(name: &str) -> anyhow::Result<()> {
    let scene = Scene::new(STAND_IN)?;
    scene.write(
        "manifests/testbed.yaml",
        "nodes:
- {name: node1, nodegate: {args: [--services, gateway, --attach=clsact], env: {NODEGATE_X: y}}}
- {name: node2, nodegate: false}
",
    )?;
    let testbed = Testbed::up(&scene.options(name))?;
    let log = fs::read_to_string(testbed.log(&testbed.host("node1")?))?;
    assert!(
        log.contains("arguments: run --role redirector --services gateway --attach=clsact\n"),
        "{log}"
    );
    let environment = text(&testbed.exec("node1", ["env"])?);
    assert!(environment.contains("NODEGATE_X=y\n"), "{environment}");
    let group = testbed.names().node_cgroup("node2").join("node");
    assert_eq!(fs::read_to_string(group.join("cgroup.procs"))?, "");
    // The rest of the node is as it always is, and changes get by without it.
    testbed.apply_text(&WEB.replace("replicas: 2", "replicas: 4"))?;
    let url = format!("http://{}/", address(&testbed, "web-", "node2")?);
    let answer = testbed.exec("node1", ["curl", "-sSfm", "3", &url])?;
    assert!(answer.status.success(), "{answer:?}");
    let error = testbed.restart("node2").expect_err("there is none");
    assert!(error.to_string().contains("nodegate: false"), "{error}");
    testbed.down()
}

fn cgroups(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    let pod = pod_on(&testbed, "web-", "node2")?;
    for (host, part) in [
        ("client", "/client".to_string()),
        ("node1", "/node1/node".into()),
        (
            &pod,
            format!("/node2/pod-{}", pod["pod/".len()..].replace('/', ".")),
        ),
    ] {
        let groups = text(&testbed.exec(host, ["cat", "/proc/self/cgroup"])?);
        let line = format!("0::/nodegate-testbed/{name}{part}");
        assert!(
            groups.lines().any(|group| group == line),
            "{host}: {groups}"
        );
    }
    // nodegate itself is among its node's processes.
    let processes = fs::read_to_string(
        testbed
            .names()
            .node_cgroup("node1")
            .join("node/cgroup.procs"),
    )?;
    assert_eq!(processes.lines().count(), 1);
    let environment = text(&testbed.exec("node2", ["env"])?);
    for variable in [
        "NODE_NAME=node2".to_string(),
        format!("NODEGATE_PIN_DIR={}", testbed.pin_dir("node2").display()),
        format!(
            "NODEGATE_CGROUP={}",
            testbed.names().node_cgroup("node2").display()
        ),
    ] {
        assert!(
            environment.lines().any(|line| line == variable),
            "{variable}"
        );
    }
    testbed.down()
}

fn changes(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    let names = |prefix: &str| -> anyhow::Result<Vec<String>> {
        let ps = testbed.ps()?;
        Ok(ps
            .pods_named("default", prefix)
            .map(|pod| pod.name.clone())
            .collect())
    };
    let slice = || -> anyhow::Result<String> {
        let mut files = fs::read_dir(testbed.manifests())?
            .flatten()
            .map(|entry| entry.path());
        let file = files.find(|file| file.to_string_lossy().contains("endpointslice"));
        Ok(fs::read_to_string(file.expect("a slice"))?)
    };
    let before = names("web-")?;

    let report = testbed.apply_text(&WEB.replace("replicas: 2", "replicas: 3"))?;
    assert!(
        report
            .outcomes
            .iter()
            .any(|(key, outcome)| key.kind == "Deployment"
                && key.name == "web"
                && *outcome == Outcome::Configured)
    );
    let after = names("web-")?;
    assert_eq!(after.len(), 3);
    assert!(before.iter().all(|pod| after.contains(pod)));
    let slices = slice()?;
    assert!(after.iter().all(|pod| slices.contains(pod)), "{slices}");

    // A new template with a written address, twice: the second takes the address over.
    for image in ["httpserver", "nginx"] {
        let pinned = format!(
            "kind: Deployment\napiVersion: apps/v1\nmetadata: {{name: web}}\nspec: {{template: {{metadata: \
             {{labels: {{app: web}}, annotations: {{testbed.nodegate.io/address: 10.10.1.99}}}}, spec: \
             {{containers: [{{image: {image}}}]}}}}}}\n"
        );
        testbed.apply_text(&pinned)?;
        assert_eq!(names("web-")?.len(), 1);
        let answer = testbed.exec("node2", ["curl", "-sSm", "3", "http://10.10.1.99/hello"])?;
        let nginx = text(&answer).contains("Welcome to nginx!");
        assert_eq!(nginx, image == "nginx", "{answer:?}");
    }

    let report = testbed.apply_text("kind: Service\nmetadata: {name: [}\n---\nkind: Deployment\napiVersion: apps/v1\nmetadata: {name: web}\nspec: {replicas: 0, template: {}}\n")?;
    assert_eq!(report.errors.len(), 1);
    assert!(names("web-")?.is_empty());
    assert!(!slice()?.contains("10.10.1.99"));
    let left = testbed.exec("node2", ["ip", "route", "show", "10.10.1.99"])?;
    assert_eq!(text(&left), "");
    testbed.down()
}

fn requests_under_way(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    let ps = testbed.ps()?;
    let pod = ps.pods_named("default", "web-").next().expect("a pod");
    let url = format!("http://{}/?wait=1200ms", pod.address);
    let curl = testbed.spawn("node1", ["curl", "-sSm", "5", &url])?;
    thread::sleep(Duration::from_millis(100));
    testbed.delete_object("Deployment", "default", "web")?;
    let answer = curl.wait_with_output()?;
    let said: Value = serde_json::from_slice(&answer.stdout)?;
    assert_eq!(said["pod"], pod.name.as_str());
    assert!(testbed.ps()?.pods_named("default", "web-").next().is_none());
    testbed.down()
}

fn side_by_side(name: &str) -> anyhow::Result<()> {
    let other = format!("{name}-b");
    let (_first_scene, first) = up(name)?;
    let (_second_scene, second) = up(&other)?;
    assert_eq!(first.ps()?, second.ps()?);
    for testbed in [&first, &second] {
        let url = format!("http://{}/", address(testbed, "web-", "node2")?);
        assert!(
            testbed
                .exec("node1", ["curl", "-sSfm", "3", &url])?
                .status
                .success()
        );
    }
    // The name of one is the other's beginning: it must not take the other's things away.
    first.down()?;
    let url = format!("http://{}/", address(&second, "web-", "node2")?);
    assert!(
        second
            .exec("node1", ["curl", "-sSfm", "3", &url])?
            .status
            .success()
    );
    drop(second);
    nothing_left(&other)
}

fn existing_name(name: &str) -> anyhow::Result<()> {
    let (scene, testbed) = up(name)?;
    let error = Testbed::up(&scene.options(name))
        .expect_err("two of a name")
        .to_string();
    assert!(error.contains("down --name"), "{error}");
    assert!(testbed.exec("node1", ["true"])?.status.success());
    testbed.down()?;
    // It may be gone already.
    Testbed::down_named(name)
}

fn failing_nodegate(name: &str) -> anyhow::Result<()> {
    let scene = Scene::new("#!/bin/sh\necho no such map >&2\nexit 1\n")?;
    let error = Testbed::up(&scene.options(name)).expect_err("no nodegate");
    let error = format!("{error:#}");
    assert!(
        error.contains("is not ready") && error.contains("no such map"),
        "{error}"
    );
    Ok(())
}

/// Builds the testbed and waits for its end.
fn victim(name: &str) -> ExitCode {
    let Ok((_scene, _testbed)) = up(name) else {
        return ExitCode::FAILURE;
    };
    thread::sleep(Duration::from_mins(1));
    ExitCode::SUCCESS
}

fn killed_up(name: &str) -> anyhow::Result<()> {
    for milliseconds in [3, 10, 30, 60, 120, 200, 300, 600] {
        let mut child = Command::new(std::env::current_exe()?)
            .env(VICTIM, name)
            .spawn()?;
        thread::sleep(Duration::from_millis(milliseconds));
        child.kill()?;
        child.wait()?;
        Testbed::down_named(name)?;
        nothing_left(name)?;
    }
    Ok(())
}

/// An error that says what is left of a testbed.
fn nothing_left(name: &str) -> anyhow::Result<()> {
    let mut left = Vec::new();
    let prefix = format!("ngt-{name}-");
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let namespace = entry.file_name().to_string_lossy().into_owned();
        let longer = namespace.starts_with(&format!("ngt-{name}-b-"));
        if namespace.starts_with(&prefix) && !longer {
            left.push(namespace);
        }
    }
    let cgroup2 = environment::cgroup2()?;
    for path in [
        Path::new("/run/nodegate-testbed").join(name),
        Path::new("/run/nodegate-testbed").join(format!("{name}.lock")),
        cgroup2.join("nodegate-testbed").join(name),
        Path::new(environment::BPFFS).join("nodegate").join(name),
    ] {
        if path.exists() {
            left.push(path.display().to_string());
        }
    }
    let state = format!("/run/nodegate-testbed/{name}/");
    for entry in fs::read_dir("/proc")?.flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&state) {
            left.push(command);
        }
    }
    let links = Command::new("ip").args(["-br", "link"]).output()?;
    for link in text(&links)
        .lines()
        .filter(|link| link.contains("veth") || link.starts_with("br0"))
    {
        left.push(link.into());
    }
    anyhow::ensure!(
        left.is_empty(),
        "left of testbed {name}: {}",
        left.join(", ")
    );
    Ok(())
}
