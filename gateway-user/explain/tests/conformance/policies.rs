//! Traffic policies, endpoints that end, and what is masqueraded.

use nodegate_model::service::{Endpoint, ServicePort, ServiceType, TrafficPolicy};

use super::{EXTERNAL, POD, check, config, endpoint, explained, ip, reachable, service};

#[test]
fn external_traffic_policy_local() {
    let node = explained(&[reachable(TrafficPolicy::Local)], &config());
    let (all, local) = ("10.180.0.1:80, 10.180.2.1:80", "10.180.2.1:80");
    check(
        "Local",
        &node,
        &[
            (POD, "172.30.0.41:80", all),
            (POD, "192.168.99.11:80", all),
            (EXTERNAL, "192.168.99.11:80", local),
            (POD, "1.2.3.4:80", all),
            (EXTERNAL, "1.2.3.4:80", local),
            (POD, "192.168.0.2:3001", all),
            (EXTERNAL, "192.168.0.2:3001", local),
        ],
    );
}

#[test]
fn external_traffic_policy_cluster() {
    let node = explained(&[reachable(TrafficPolicy::Cluster)], &config());
    let (all, masqueraded) = (
        "10.180.0.1:80, 10.180.2.1:80",
        "10.180.0.1:80 m, 10.180.2.1:80 m",
    );
    check(
        "Cluster",
        &node,
        &[
            (POD, "172.30.0.41:80", all),
            (POD, "192.168.99.11:80", masqueraded),
            (EXTERNAL, "192.168.99.11:80", masqueraded),
            (POD, "1.2.3.4:80", masqueraded),
            (EXTERNAL, "1.2.3.4:80", masqueraded),
            (POD, "192.168.0.2:3001", masqueraded),
            (EXTERNAL, "192.168.0.2:3001", masqueraded),
        ],
    );
}

/// Endpoints: `+` ready, `~` ending and serving, `-` ending and not serving; with the `@` of local ones.
fn conditions(texts: &[&str]) -> Vec<Endpoint> {
    let one = |text: &&str| {
        let (condition, text) = text.split_at(1);
        let ready = condition == "+";
        Endpoint {
            ready,
            serving: condition != "-",
            terminating: !ready,
            ..endpoint(text)
        }
    };
    texts.iter().map(one).collect()
}

/// Endpoints, what a pod meets at the cluster IP, what somebody outside meets at the load balancer IP.
type Terminating = (&'static [&'static str], &'static str, &'static str);

fn terminating(policy: TrafficPolicy, table: &[Terminating]) {
    for (endpoints, pod, outside) in table {
        let service = ServicePort {
            endpoints: conditions(endpoints),
            node_port: None,
            ..reachable(policy)
        };
        let node = explained(&[service], &config());
        check(
            &format!("{policy:?} {endpoints:?}"),
            &node,
            &[
                (POD, "172.30.0.41:80", pod),
                (EXTERNAL, "1.2.3.4:80", outside),
            ],
        );
    }
}

#[test]
fn terminating_endpoints_traffic_policy_local() {
    terminating(
        TrafficPolicy::Local,
        &[
            // Ready ones of this node come first.
            (
                &["+@10.0.1.1:80", "~@10.0.1.2:80", "+10.0.1.4:80"],
                "10.0.1.1:80, 10.0.1.4:80",
                "10.0.1.1:80",
            ),
            // Those of this node that still serve; pods have ready ones elsewhere.
            (
                &["~@10.0.1.1:80", "-@10.0.1.2:80", "+10.0.1.4:80"],
                "10.0.1.4:80",
                "10.0.1.1:80",
            ),
            // All are ending.
            (
                &["~@10.0.1.1:80", "~10.0.1.4:80"],
                "10.0.1.1:80, 10.0.1.4:80",
                "10.0.1.1:80",
            ),
            // None of this node.
            (
                &["~10.0.1.4:80", "~10.0.1.5:80"],
                "10.0.1.4:80, 10.0.1.5:80",
                "drop",
            ),
            (&["+10.0.1.4:80"], "10.0.1.4:80", "drop"),
            // None that serves.
            (&["-@10.0.1.1:80", "-10.0.1.4:80"], "reject", "reject"),
        ],
    );
}

#[test]
fn terminating_endpoints_traffic_policy_cluster() {
    terminating(
        TrafficPolicy::Cluster,
        &[
            (
                &["+@10.0.1.1:80", "~@10.0.1.2:80", "+10.0.1.4:80"],
                "10.0.1.1:80, 10.0.1.4:80",
                "10.0.1.1:80 m, 10.0.1.4:80 m",
            ),
            (
                &["~@10.0.1.1:80", "-@10.0.1.2:80", "+10.0.1.4:80"],
                "10.0.1.4:80",
                "10.0.1.4:80 m",
            ),
            (
                &["~@10.0.1.1:80", "~10.0.1.4:80"],
                "10.0.1.1:80, 10.0.1.4:80",
                "10.0.1.1:80 m, 10.0.1.4:80 m",
            ),
            (&["~10.0.1.5:80"], "10.0.1.5:80", "10.0.1.5:80 m"),
            (&["-@10.0.1.1:80", "-10.0.1.4:80"], "reject", "reject"),
        ],
    );
}

/// `TestInternalExternalMasquerade`, in its four configurations. A: all endpoints, L: local ones, m:
/// masqueraded.
#[test]
fn internal_external_masquerade() {
    const FRONTENDS: [&str; 9] = [
        "172.30.0.41:80",
        "192.168.0.2:3001",
        "1.2.3.4:80",
        "172.30.0.42:80",
        "192.168.0.2:3002",
        "5.6.7.8:80",
        "172.30.0.43:80",
        "192.168.0.2:3003",
        "9.10.11.12:80",
    ];
    const TABLE: [(&str, [&str; 9]); 4] = [
        (POD, ["A", "Am", "Am", "A", "A", "A", "L", "Am", "Am"]),
        (
            "node",
            ["Am", "Am", "Am", "Am", "Am", "Am", "Lm", "Am", "Am"],
        ),
        ("localhost", ["", "Am", "", "", "Am", "", "", "Am", ""]),
        (
            EXTERNAL,
            ["Am", "Am", "Am", "Am", "L", "L", "Lm", "Am", "Am"],
        ),
    ];
    let made = |number: u8, balanced: &str| ServicePort {
        kind: ServiceType::LoadBalancer,
        node_port: Some(3000 + u16::from(number)),
        load_balancer_ips: vec![ip(balanced)],
        ..service(
            &format!("ns{number}/svc{number}:p80"),
            &format!("172.30.0.4{number}"),
            80,
            &[
                &format!("@10.180.0.{number}:80"),
                &format!("10.180.1.{number}:80"),
            ],
        )
    };
    let mut services = [
        made(1, "1.2.3.4"),
        made(2, "5.6.7.8"),
        made(3, "9.10.11.12"),
    ];
    services[1].external_policy = TrafficPolicy::Local;
    services[2].internal_policy = TrafficPolicy::Local;
    let mut flows = 0;
    for (knows_pods, masquerade_all) in [(true, false), (false, false), (true, true), (false, true)]
    {
        let mut config = config();
        config.masquerade_all = masquerade_all;
        if !knows_pods {
            config.v4.local = None;
            config.v6.local = None;
        }
        let node = explained(&services, &config);
        for (who, cells) in TABLE {
            for (column, cell) in cells
                .into_iter()
                .enumerate()
                .filter(|(_, cell)| !cell.is_empty())
            {
                let is_cluster_ip = column % 3 == 0;
                let mut local = cell.starts_with('L');
                let mut masqueraded = cell.ends_with('m');
                if !knows_pods && is_cluster_ip {
                    masqueraded = false;
                }
                if !knows_pods && who == POD && (column == 4 || column == 5) {
                    // Pods are as good as outside.
                    local = true;
                }
                masqueraded |= masquerade_all && is_cluster_ip;
                let number = column / 3 + 1;
                let m = if masqueraded { " m" } else { "" };
                let mut expected = format!("10.180.0.{number}:80{m}");
                if !local {
                    expected = format!("{expected}, 10.180.1.{number}:80{m}");
                }
                let frontend = match who {
                    "localhost" => FRONTENDS[column].replace("192.168.0.2", "127.0.0.1"),
                    _ => FRONTENDS[column].to_owned(),
                };
                let who = if who == "localhost" { "node" } else { who };
                let what = format!("knows pods {knows_pods}, masquerade all {masquerade_all}");
                check(&what, &node, &[(who, &frontend, &expected)]);
                flows += 1;
            }
        }
    }
    assert_eq!(flows, 4 * 30);
}
