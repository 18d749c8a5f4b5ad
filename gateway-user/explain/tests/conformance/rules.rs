//! Single rules.

use nodegate_iptables::{
    config::KubeProxyConfig,
    rules::{Dialect, Part, Probability, Rule},
};
use nodegate_model::service::{IpFamily, ServicePort, TrafficPolicy};

use super::{chain, config, ip, reachable, rules};

/// `TestMasqueradeRule`
#[test]
fn masquerade_rule() {
    for (random_fully, last) in [(true, " --random-fully"), (false, "")] {
        let config = KubeProxyConfig {
            random_fully,
            ..config()
        };
        let rules = rules(&[], IpFamily::V4, &config);
        assert_eq!(
            chain(&rules, "nat", "KUBE-POSTROUTING"),
            [
                "-m mark ! --mark 0x00004000/0x00004000 -j RETURN".to_owned(),
                "-j MARK --xor-mark 0x00004000".to_owned(),
                format!(
                    r#"-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE{last}"#
                ),
            ]
        );
    }
}

/// `TestDropInvalidRule`
#[test]
fn drop_invalid_rule() {
    for (conntrack_liberal, nfacct, expected) in [
        (
            false,
            true,
            Some(
                "-m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP",
            ),
        ),
        (false, false, Some("-m conntrack --ctstate INVALID -j DROP")),
        (true, true, None),
    ] {
        let config = KubeProxyConfig {
            conntrack_liberal,
            nfacct,
            ..config()
        };
        let forward = chain(&rules(&[], IpFamily::V4, &config), "filter", "KUBE-FORWARD");
        let invalid = forward.iter().find(|line| line.contains("INVALID"));
        assert_eq!(invalid.map(String::as_str), expected);
        assert_eq!(forward.len(), 2 + usize::from(expected.is_some()));
    }
}

/// `TestHealthCheckNodePort`
#[test]
fn health_check_node_port() {
    let checked = ServicePort {
        health_check_node_port: Some(30000),
        ..reachable(TrafficPolicy::Local)
    };
    let mut config = config();
    config.v4.node_port_addresses = Some(vec![ip("127.0.0.1")]);
    let rules = rules(&[checked], IpFamily::V4, &config);
    // Whatever --nodeport-addresses says.
    assert_eq!(
        chain(&rules, "filter", "KUBE-NODEPORTS"),
        [
            r#"-m comment --comment "ns1/svc1:p80 health check node port" -m tcp -p tcp --dport 30000 -j ACCEPT"#
        ]
    );
}

/// `TestComputeProbability`
#[test]
fn compute_probability() {
    let text = |n| {
        let rule = Rule {
            parts: vec![Part::Random(Probability::one_in(n))],
            target: None,
        };
        let line = rule.line("A", Dialect::Restore);
        line.rsplit(' ').next().expect("a number").to_owned()
    };
    assert_eq!(text(1), "1.0000000000");
    assert_eq!(text(100_001), "0.0000099999");
    let mut before = text(1);
    for n in 2..=100_000 {
        let now = text(n);
        assert!(now < before, "1/{n}: {now}, not less than {before}");
        before = now;
    }
}
