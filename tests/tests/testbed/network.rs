//! Who reaches whom.

use std::{io::Write as _, net::SocketAddr, thread, time::Duration};

use nodegate_programs::Program;
use nodegate_testbed::Testbed;
use patience::Stopwatch;
use serde_json::Value;

use crate::{
    scene::{Scene, address, limit, pod_on, row, silence, state, text, up},
    stand_in::STAND_IN,
};

pub(crate) fn pods_and_nodes_reach_pods(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    for node in ["node1", "node2"] {
        let url = format!("http://{}/x", address(&testbed, "web-", node)?);
        for from in ["node1", "node2", &pod_on(&testbed, "web-", "node1")?] {
            let answer = testbed.exec(from, Program::Curl, ["-sSm", &limit(), &url])?;
            let said: Value = serde_json::from_slice(&answer.stdout)?;
            assert_eq!(said["node"], node, "from {from}");
        }
        let answer = testbed.exec("client", Program::Curl, ["-sSm", &silence(), &url])?;
        assert!(!answer.status.success(), "the client reaches {url}");
    }
    let echo = testbed.ps()?;
    let echo = echo
        .pods_named("default", "echo-")
        .next()
        .expect("an echo pod")
        .address
        .to_string();
    let mut talk = testbed.spawn("node2", Program::Nc, ["-N", &echo, "9000"])?;
    let mut input = talk.stdin.take().expect("a pipe");
    writeln!(input, "a")?;
    thread::sleep(Duration::from_millis(200));
    write!(input, "b")?;
    drop(input);
    assert_eq!(text(&talk.wait_with_output()?), "one a\none b");
    testbed.down()
}

/// Fails unless a line from a listener on `server` arrives at `client` through an address.
pub(crate) fn listener_is_reached(
    testbed: &Testbed,
    server: &str,
    client: &str,
    at: &str,
) -> anyhow::Result<()> {
    let heard = from_listener(testbed, server, client, at, &limit())?;
    anyhow::ensure!(heard == "hello\n", "{client} hears {heard:?} from {at}");
    Ok(())
}

fn from_listener(
    testbed: &Testbed,
    server: &str,
    client: &str,
    at: &str,
    wait: &str,
) -> anyhow::Result<String> {
    let listen = if at.contains(':') { "-6lN" } else { "-4lN" };
    let mut listener = testbed.spawn(server, Program::Nc, [listen, "7000"])?;
    writeln!(listener.stdin.take().expect("a pipe"), "hello")?;
    let sockets = || testbed.exec(server, Program::Cat, ["/proc/net/tcp", "/proc/net/tcp6"]);
    // Port 7000 in the state LISTEN (proc_pid_net(5)).
    let listens = |line: &str| line.contains(":1B58 ") && line.contains(" 0A ");
    let listening = patience::try_until(|| {
        let listening = text(&sockets()?).lines().any(listens);
        anyhow::Ok(listening.then_some(()))
    });
    let answer =
        listening.and_then(|()| testbed.exec(client, Program::Nc, ["-w", wait, at, "7000"]));
    listener.kill()?;
    listener.wait()?;
    Ok(text(&answer?))
}

pub(crate) fn external_ips(name: &str) -> anyhow::Result<()> {
    let scene = Scene::new(STAND_IN)?;
    scene.write(
        "manifests/testbed.yaml",
        "unownedExternalIPs: [192.168.96.51]\n",
    )?;
    let testbed = Testbed::up(&scene.options(name))?;
    for node in testbed.nodes()? {
        listener_is_reached(&testbed, &node.name, "client", &node.address.to_string())?;
    }
    listener_is_reached(&testbed, "node1", "client", "192.168.96.50")?;
    // nc counts whole seconds.
    let heard = from_listener(&testbed, "node1", "client", "192.168.96.51", "1")?;
    assert_eq!(heard, "");
    let addresses = text(&testbed.exec("node1", Program::Ip, ["-br", "addr"])?);
    assert!(addresses.contains("192.168.96.50/32") && !addresses.contains("192.168.96.51"));

    testbed.delete_object("Service", "default", "web")?;
    for host in ["node1", "client"] {
        let state = state(&testbed, host)?;
        assert!(!state.contains("192.168.96."), "{host}: {state}");
    }
    testbed.down()
}

pub(crate) fn different_subnets(name: &str) -> anyhow::Result<()> {
    let scene = Scene::new(STAND_IN)?;
    scene.write(
        "manifests/testbed.yaml",
        "nodes: [{name: a, address: 10.1.1.1, addressV6: 'fd00:8::1'}, {name: b, address: 172.16.9.2, addressV6: 'fd00:9::2'}]\nclient: {address: 192.168.3.4, addressV6: 'fd00:7::3'}\n",
    )?;
    let testbed = Testbed::up(&scene.options(name))?;
    listener_is_reached(&testbed, "b", "client", "172.16.9.2")?;
    listener_is_reached(&testbed, "a", "b", "10.1.1.1")?;
    listener_is_reached(&testbed, "b", "client", "fd00:9::2")?;
    listener_is_reached(&testbed, "a", "b", "fd00:8::1")?;
    for ip in row(&testbed, "web-", "b")?.addresses {
        let url = format!("http://{}/", SocketAddr::new(ip, 80));
        let answer = testbed.exec(
            &pod_on(&testbed, "web-", "a")?,
            Program::Curl,
            ["-sSfm", &limit(), &url],
        )?;
        assert!(answer.status.success(), "{answer:?}");
    }
    testbed.down()
}

pub(crate) fn ipv6(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    let near = row(&testbed, "web-", "node1")?;
    let from_pod = format!("pod/{}/{}", near.namespace, near.name);
    for node in testbed.nodes()? {
        let pod = row(&testbed, "web-", &node.name)?;
        let url = format!("http://{}/x", SocketAddr::new(pod.addresses[1], 80));
        for from in ["node1", "node2", &from_pod] {
            // At once: nobody has to ask for a neighbour, and no address is tentative.
            let watch = Stopwatch::with(|| testbed.processes());
            let answer = testbed.exec(from, Program::Curl, ["-sSm", &limit(), &url])?;
            watch.lap().below(Duration::from_millis(500))?;
            let said: Value = serde_json::from_slice(&answer.stdout)?;
            assert_eq!(said["node"], node.name.as_str(), "from {from}");
            if from == from_pod && node.name != "node1" {
                let peer: SocketAddr = said["peer"].as_str().unwrap_or_default().parse()?;
                assert_eq!(peer.ip(), near.addresses[1]);
            }
        }
        let answer = testbed.exec("client", Program::Curl, ["-sSm", &silence(), &url])?;
        assert!(!answer.status.success(), "the client reaches {url}");
        let at = node.address_v6.to_string();
        listener_is_reached(&testbed, &node.name, "client", &at)?;
    }
    let client = testbed.client_v6()?.to_string();
    listener_is_reached(&testbed, "client", "node2", &client)?;
    for host in ["client", "node1", &from_pod] {
        let addresses = text(&testbed.exec(host, Program::Ip, ["-6", "addr"])?);
        for unwanted in ["tentative", "fe80:"] {
            assert!(!addresses.contains(unwanted), "{host}: {addresses}");
        }
    }
    testbed.down()
}

pub(crate) fn udp(name: &str) -> anyhow::Result<()> {
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
            let arguments = ["-u", "-W", "1", "-w", &limit(), at, "5353"];
            let mut ask = testbed.spawn(from, Program::Nc, arguments)?;
            write!(ask.stdin.take().expect("a pipe"), "what")?;
            let answer = text(&ask.wait_with_output()?);
            assert_eq!(answer, "dns what", "{at} from {from}");
        }
    }
    testbed.down()
}
