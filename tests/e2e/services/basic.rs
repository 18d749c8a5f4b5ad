//! Services with endpoints that come and go.

use super::{
    POD1, POD2, SETTING, both_protocols, cluster_ip, cluster_ips, node, server, service,
    web_on_both_nodes,
};
use nodegate_programs::Program;

use crate::{Case, probe::Task, scene::Scene};

pub(super) const CASES: &[Case] = &[
    (
        "services_serve_a_basic_endpoint_from_pods",
        SETTING,
        basic_endpoint,
    ),
    (
        "services_serve_multiport_endpoints_from_pods",
        SETTING,
        multiport,
    ),
    (
        "services_serve_endpoints_on_same_port_and_different_protocols",
        SETTING,
        same_port,
    ),
    (
        "services_create_a_functioning_nodeport_service",
        SETTING,
        node_port,
    ),
    (
        "services_granular_checks_intra_pod_and_node_pod",
        SETTING,
        granular,
    ),
    ("services_ipv4_addresses_from_ipv6_sockets", SETTING, mapped),
    (
        "services_headless_external_name_and_other_proxies_services_are_left_alone",
        SETTING,
        left_alone,
    ),
];

fn basic_endpoint(scene: &Scene) -> anyhow::Result<()> {
    scene.refuses_freely()?;
    scene.apply(&service(
        "basic",
        &format!(
            "type: NodePort, {}, selector: {{app: server}}, {}",
            cluster_ips(1),
            both_protocols(30080)
        ),
    ))?;
    let lead_to = |pods: &[&str]| -> anyhow::Result<()> {
        for v6 in [false, true] {
            let inside = format!("{}:80", cluster_ip(1, v6));
            let outside = format!("{}:30080", node(1, v6));
            for (host, to) in [(POD1, &inside), ("node2", &inside), ("client", &outside)] {
                if pods.is_empty() {
                    scene.is_refused(host, Task::tcp(to.parse()?))?;
                } else {
                    scene.leads_to(host, to, pods)?;
                }
            }
        }
        Ok(())
    };
    lead_to(&[])?;
    scene.apply(&server("server-1", 1))?;
    lead_to(&["server-1"])?;
    scene.apply(&server("server-2", 2))?;
    lead_to(&["server-1", "server-2"])?;
    scene.delete_pod("server-1")?;
    lead_to(&["server-2"])?;
    scene.delete_pod("server-2")?;
    lead_to(&[])
}

/// A pod is behind those ports of the Service that it has.
fn multiport(scene: &Scene) -> anyhow::Result<()> {
    let pod = |name: &str, node: u8, port: &str, number: u16| {
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: multi}}, annotations: {{testbed.nodegate.io/node: node{node}}}}}
spec: {{containers: [{{image: whoami, ports: [{{name: {port}, containerPort: {number}}}]}}]}}
---
"
        )
    };
    scene.apply(&service(
        "multi",
        &format!(
            "{}, selector: {{app: multi}}, \
             ports: [{{name: one, port: 80, targetPort: portname1}}, {{name: two, port: 81, targetPort: portname2}}]",
            cluster_ips(1)
        ),
    ))?;
    let lead_to = |one: &[&str], two: &[&str]| -> anyhow::Result<()> {
        for v6 in [false, true] {
            for (port, pods) in [(80, one), (81, two)] {
                let to = format!("{}:{port}", cluster_ip(1, v6));
                if pods.is_empty() {
                    scene.is_refused(POD2, Task::tcp(to.parse()?))?;
                } else {
                    scene.leads_to(POD2, &to, pods)?;
                }
            }
        }
        Ok(())
    };
    lead_to(&[], &[])?;
    scene.apply(&pod("pod-1", 1, "portname1", 100))?;
    lead_to(&["pod-1"], &[])?;
    scene.apply(&pod("pod-2", 2, "portname2", 101))?;
    lead_to(&["pod-1"], &["pod-2"])?;
    scene.delete_pod("pod-1")?;
    lead_to(&[], &["pod-2"])?;
    scene.delete_pod("pod-2")?;
    lead_to(&[], &[])
}

fn same_port(scene: &Scene) -> anyhow::Result<()> {
    scene.refuses_freely()?;
    let with_ports = |ports: &str| {
        service(
            "both",
            &format!(
                "type: NodePort, {}, selector: {{app: server}}, ports: [{ports}]",
                cluster_ips(1)
            ),
        )
    };
    let tcp = "{name: tcp, port: 80, nodePort: 30080}";
    let udp = "{name: udp, port: 80, nodePort: 30080, protocol: UDP}";
    scene.apply(&server("server-1", 2))?;
    for (ports, has_tcp, has_udp) in [
        (format!("{tcp}, {udp}"), true, true),
        (tcp.into(), true, false),
        (udp.into(), false, true),
    ] {
        scene.apply(&with_ports(&ports))?;
        for v6 in [false, true] {
            for (host, to) in [
                (POD1, format!("{}:80", cluster_ip(1, v6))),
                ("client", format!("{}:30080", node(1, v6))),
            ] {
                let to = to.parse()?;
                for (task, serves) in [
                    (Task::tcp(to), has_tcp),
                    (Task::udp(to).connected(), has_udp),
                ] {
                    if serves {
                        scene.answers(host, task, &["server-1"])?;
                    } else {
                        scene.is_refused(host, task)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn node_port(scene: &Scene) -> anyhow::Result<()> {
    let both = ["server-1", "server-2"];
    scene.apply(&web_on_both_nodes())?;
    for v6 in [false, true] {
        let inside = format!("{}:80", cluster_ip(1, v6));
        for host in [POD1, POD2, "node1", "node2"] {
            scene.leads_to(host, &inside, &both)?;
            scene.leads_datagrams_to(host, &inside, &both)?;
        }
        for number in [1, 2] {
            let outside = format!("{}:30080", node(number, v6));
            for host in [POD1, "node1", "node2", "client"] {
                scene.leads_to(host, &outside, &both)?;
                scene.leads_datagrams_to(host, &outside, &both)?;
            }
        }
    }
    Ok(())
}

/// nodegate leaves connections to pods alone.
fn granular(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(server("server-1", 1) + &server("server-2", 2)))?;
    for pod in ["server-1", "server-2"] {
        let (_, row) = scene.pod("default", pod)?;
        for address in row.addresses {
            let to = std::net::SocketAddr::new(address, 80);
            for host in [POD1, "node1"] {
                scene.answers(host, Task::tcp(to), &[pod])?;
                scene.answers(host, Task::udp(to), &[pod])?;
                let reply = super::one(scene.probe(host, Task::tcp(to))?)?;
                crate::same!(reply.peer, Some(to), "the peer of {host}'s socket");
            }
        }
    }
    Ok(())
}

/// A socket of both families connects to `::ffff:a.b.c.d`, as Java's do.
fn mapped(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(
        &(service(
            "web",
            &format!(
                "type: NodePort, clusterIP: 10.96.0.1, selector: {{app: server}}, {}",
                both_protocols(30080)
            ),
        ) + &server("server-1", 2)),
    )?;
    for to in ["[::ffff:10.96.0.1]:80", "[::ffff:192.168.170.11]:30080"] {
        let to: std::net::SocketAddr = to.parse()?;
        for host in [POD1, "node1"] {
            for task in [Task::tcp(to), Task::udp(to), Task::udp(to).connected()] {
                scene.answers(host, task, &["server-1"])?;
                let reply = super::one(scene.probe(host, task)?)?;
                crate::same!(reply.peer, Some(to), "the peer, {task:?} on {host}");
            }
        }
    }
    Ok(())
}

fn left_alone(scene: &Scene) -> anyhow::Result<()> {
    let labelled = "apiVersion: v1
kind: Service
metadata: {name: other, labels: {service.kubernetes.io/service-proxy-name: other}}
spec: {type: NodePort, clusterIP: 10.96.0.2, selector: {app: server}, ports: [{port: 80, nodePort: 30082}]}
---
";
    scene.apply(
        &(service(
            "headless",
            "clusterIP: None, selector: {app: server}, ports: [{port: 80}]",
        ) + &service("name", "type: ExternalName, externalName: example.com")
            + labelled
            + &service(
                "web",
                "type: NodePort, clusterIP: 10.96.0.1, selector: {app: server}, ports: [{port: 80, nodePort: 30080}]",
            )
            + &server("server-1", 1)),
    )?;
    scene.leads_to(POD1, "10.96.0.1:80", &["server-1"])?;
    scene.leads_nowhere(POD1, Task::tcp("10.96.0.2:80".parse()?))?;
    scene.is_refused("client", Task::tcp("192.168.170.11:30082".parse()?))?;
    // It is in the maps in no form, not even as a refusal.
    let pin = scene.testbed.pin_dir("node1").join("services");
    let pin = pin.to_string_lossy();
    let dump = scene.run(
        "node1",
        Program::Bpftool,
        &["-j", "map", "dump", "pinned", &pin],
    )?;
    let elements: Vec<serde_json::Value> = serde_json::from_str(&dump)?;
    // Of `web`: the cluster IP, its guard, and the node port. The gateway has no Service.
    crate::same!(elements.len(), 3, "frontends: {dump}");
    // The label goes, and the Service is ours.
    scene.apply(&labelled.replace(
        ", labels: {service.kubernetes.io/service-proxy-name: other}",
        "",
    ))?;
    scene.leads_to(POD1, "10.96.0.2:80", &["server-1"])?;
    scene.leads_to("client", "192.168.170.11:30082", &["server-1"])
}
