//! Traffic policies and source ranges.

use anyhow::{Context as _, ensure};

use super::{
    POD1, POD2, SETTING, both_protocols, cluster_ip, cluster_ips, node, one, server, server_with,
    service,
};
use crate::{Case, probe::Task, same, scene::Scene};

pub(super) const CASES: &[Case] = &[
    (
        "services_respect_internal_traffic_policy_local",
        SETTING,
        internal,
    ),
    (
        "services_respect_external_traffic_policy_local",
        SETTING,
        external,
    ),
    (
        "services_external_traffic_policy_local_fails_over_to_local_terminating_pods",
        SETTING,
        local_terminating,
    ),
    (
        "services_handle_load_balancer_source_ranges",
        SETTING,
        source_ranges,
    ),
    (
        "services_health_check_node_ports_say_who_has_local_endpoints",
        SETTING,
        health_check,
    ),
    (
        "services_preserve_or_hide_the_clients_address_as_documented",
        SETTING,
        client_address,
    ),
];

fn internal(scene: &Scene) -> anyhow::Result<()> {
    let spec = format!(
        "type: NodePort, {}, internalTrafficPolicy: Local, selector: {{app: server}}, {}",
        cluster_ips(1),
        both_protocols(30080)
    );
    scene.apply(&(service("web", &spec) + &server("server-2", 2)))?;
    for v6 in [false, true] {
        let inside: std::net::SocketAddr = format!("{}:80", cluster_ip(1, v6)).parse()?;
        for task in [Task::tcp(inside), Task::udp(inside)] {
            for host in [POD2, "node2"] {
                scene.answers(host, task, &["server-2"])?;
            }
            for host in [POD1, "node1"] {
                scene.leads_nowhere(host, task)?;
                let reply = one(scene.probe(host, task)?)?;
                ensure!(
                    !reply.is_refused(),
                    "no endpoint is here, but there is one: {reply:?}"
                );
            }
        }
        // The node port has a policy of its own.
        let outside = format!("{}:30080", node(1, v6));
        scene.leads_to("client", &outside, &["server-2"])?;
        scene.leads_to(POD1, &outside, &["server-2"])?;
    }
    Ok(())
}

const LOCAL: &str = "externalTrafficPolicy: Local";

/// A load balancer with local policy, whose addresses lead to node1.
fn balancer(more: &str) -> String {
    service(
        "web",
        &format!(
            "type: LoadBalancer, {}, {more}, selector: {{app: server}}, {}",
            cluster_ips(1),
            both_protocols(30080)
        ),
    )
    .replace(
        "---\n",
        "status: {loadBalancer: {ingress: [{ip: 203.0.113.9}, {ip: 'fd00:b0::9'}]}}\n---\n",
    )
}

fn balanced(v6: bool) -> &'static str {
    if v6 {
        "[fd00:b0::9]:80"
    } else {
        "203.0.113.9:80"
    }
}

fn external(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(balancer(LOCAL) + &server("server-2", 2)))?;
    let client = [
        scene.testbed.client()?.to_string(),
        scene.testbed.client_v6()?.to_string(),
    ];
    for v6 in [false, true] {
        let here: std::net::SocketAddr = format!("{}:30080", node(1, v6)).parse()?;
        let there: std::net::SocketAddr = format!("{}:30080", node(2, v6)).parse()?;
        let balanced = balanced(v6).parse()?;
        // From outside, to a node without endpoints: nothing, so that the balancer looks elsewhere.
        scene.is_dropped("client", Task::tcp(here))?;
        scene.is_dropped("client", Task::udp(here))?;
        scene.is_dropped("client", Task::tcp(balanced))?;
        scene.answers("client", Task::udp(there), &["server-2"])?;
        let reply = one(scene.probe("client", Task::tcp(there))?)?;
        same!(
            reply.seen.map(|seen| seen.ip().to_string()),
            Some(client[usize::from(v6)].clone()),
            "whom the pod sees: {reply:?}"
        );
        // The node itself and its pods are not outside: all endpoints, through any address.
        for host in ["node1", POD1] {
            for to in [here, balanced] {
                for task in [Task::tcp(to), Task::udp(to)] {
                    scene.answers(host, task, &["server-2"])?;
                }
            }
        }
    }
    // With one here, it is the only one for those outside, and one of two for those inside.
    scene.apply(&server("server-1", 1))?;
    for v6 in [false, true] {
        scene.leads_to("client", &format!("{}:30080", node(1, v6)), &["server-1"])?;
        scene.leads_to("client", balanced(v6), &["server-1"])?;
        scene.leads_to(POD1, balanced(v6), &["server-1", "server-2"])?;
        scene.leads_to("node2", balanced(v6), &["server-1", "server-2"])?;
    }
    Ok(())
}

/// A rolling update: the old pod still serves, the new one is elsewhere.
fn local_terminating(scene: &Scene) -> anyhow::Result<()> {
    let ending = ", testbed.nodegate.io/terminating: 'true'";
    scene
        .apply(&(balancer(LOCAL) + &server_with("server-1", 1, ending) + &server("server-2", 2)))?;
    for v6 in [false, true] {
        scene.leads_to("client", &format!("{}:30080", node(1, v6)), &["server-1"])?;
        scene.leads_to("client", balanced(v6), &["server-1"])?;
        scene.leads_to(POD1, &format!("{}:80", cluster_ip(1, v6)), &["server-2"])?;
    }
    Ok(())
}

fn source_ranges(scene: &Scene) -> anyhow::Result<()> {
    let ranges = |list: &str| balancer(&format!("loadBalancerSourceRanges: [{list}]"));
    // White space is allowed (`GetLoadBalancerSourceRanges`).
    scene.apply(&(ranges("' 192.168.170.0/30', 'fd00:c0::/124'") + &server("server-1", 2)))?;
    let client = "client";
    for v6 in [false, true] {
        let to = balanced(v6).parse()?;
        scene.answers(client, Task::tcp(to), &["server-1"])?;
        scene.answers(client, Task::udp(to), &["server-1"])?;
        // The nodes are not in the ranges.
        scene.leads_nowhere("node1", Task::tcp(to))?;
    }
    scene.apply(&ranges("198.51.100.0/24, '2001:db8::/32'"))?;
    for v6 in [false, true] {
        let to = balanced(v6).parse()?;
        scene.is_dropped(client, Task::tcp(to))?;
        scene.is_dropped(client, Task::udp(to))?;
        // The ranges are the load balancer's: node ports and the cluster IP are open.
        scene.leads_to(client, &format!("{}:30080", node(1, v6)), &["server-1"])?;
        scene.leads_to(POD1, &format!("{}:80", cluster_ip(1, v6)), &["server-1"])?;
    }
    scene.apply(&balancer("externalTrafficPolicy: Cluster"))?;
    scene.leads_to(client, balanced(false), &["server-1"])?;
    scene.leads_to(client, balanced(true), &["server-1"])
}

/// Policy Cluster: the pod sees the client where its replies come back through the node anyway.
fn client_address(scene: &Scene) -> anyhow::Result<()> {
    let spec = format!(
        "type: NodePort, {}, selector: {{app: server}}, {}",
        cluster_ips(1),
        both_protocols(30080)
    );
    scene.apply(&(service("web", &spec) + &server("server-2", 2)))?;
    for v6 in [false, true] {
        let plain = |address: String| address.trim_matches(['[', ']']).to_owned();
        let client = if v6 {
            scene.testbed.client_v6()?.to_string()
        } else {
            scene.testbed.client()?.to_string()
        };
        for (number, expected) in [(2, client), (1, plain(node(1, v6)))] {
            let to = format!("{}:30080", node(number, v6)).parse()?;
            let reply = one(scene.probe("client", Task::tcp(to))?)?;
            same!(
                reply.seen.map(|seen| seen.ip().to_string()),
                Some(expected),
                "whom the pod sees of a client of node{number}: {reply:?}"
            );
            same!(reply.peer, Some(to), "whom the client sees");
        }
        let (_, pod) = scene.pod("default", "client1")?;
        let to = format!("{}:80", cluster_ip(1, v6)).parse()?;
        let reply = one(scene.probe(POD1, Task::tcp(to))?)?;
        same!(
            reply.seen.map(|seen| seen.ip()),
            Some(pod.addresses[usize::from(v6)]),
            "whom the pod sees of a pod: {reply:?}"
        );
    }
    Ok(())
}

/// What a load balancer asks each node, and gets from kube-proxy (test/e2e/network/loadbalancer.go,
/// pkg/proxy/healthcheck/service_health.go).
fn health_check(scene: &Scene) -> anyhow::Result<()> {
    let spec = format!(
        "type: LoadBalancer, {}, externalTrafficPolicy: Local, healthCheckNodePort: 31999, \
         selector: {{app: server}}, {}",
        cluster_ips(1),
        both_protocols(30080)
    );
    scene.apply(&(service("web", &spec) + &server("server-1", 1)))?;
    let says = |number: u8, local: usize| -> anyhow::Result<()> {
        for v6 in [false, true] {
            let url = format!("http://{}:31999/healthz", node(number, v6));
            let answer = crate::scene::wait(|| {
                let answer = scene.curl("client", &[url.as_str()])?;
                let expected = if local > 0 { 200 } else { 503 };
                Ok((answer.status == expected).then_some(answer))
            })
            .with_context(|| format!("{url} with {local} local endpoints"))?;
            let body: serde_json::Value = serde_json::from_str(&answer.body)?;
            let expected = serde_json::json!({
                "service": {"namespace": "default", "name": "web"},
                "localEndpoints": local,
                "serviceProxyHealthy": true,
            });
            same!(body, expected, "{url}");
            let header = |name: &str| answer.header(name).map(str::to_owned);
            same!(
                header("x-load-balancing-endpoint-weight"),
                Some(local.to_string()),
                "{url}"
            );
            same!(
                header("content-type"),
                Some("application/json".into()),
                "{url}"
            );
            same!(
                header("x-content-type-options"),
                Some("nosniff".into()),
                "{url}"
            );
        }
        Ok(())
    };
    says(1, 1)?;
    says(2, 0)?;
    // The pod moves, and gets company.
    scene.apply(&(server("server-2", 2) + &server("server-3", 2)))?;
    scene.delete_pod("server-1")?;
    says(1, 0)?;
    says(2, 2)?;
    // Without the Service nobody listens there any more.
    scene.testbed.delete_object("Service", "default", "web")?;
    let to = format!("{}:31999", node(2, false)).parse()?;
    crate::scene::wait(|| {
        let reply = one(scene.probe("client", Task::tcp(to))?)?;
        Ok(reply.is_refused().then_some(()))
    })
    .context("the port is still served")
}
