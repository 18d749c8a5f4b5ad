//! As many Services as kube-proxy is still used with: reading and comparing must cost in proportion.

#[path = "support/cpu_time.rs"]
mod cpu_time;

use nodegate_iptables::{
    config::{FamilyConfig, KubeProxyConfig, LocalDetector},
    diff::diff,
    lint::lint,
    normal,
    parse::parse,
    render::render,
    rules::{Dialect, Ruleset},
    services::of_rules,
};
use nodegate_model::service::{Endpoint, IpFamily, Protocol, ServicePort, ServicePortName};

use cpu_time::times_as_dear;

/// With one endpoint each these make 210,000 lines.
const MANY: u32 = 30_000;
/// A quarter of them.
const FEW: u32 = MANY / 4;
/// How many times what few cost may many cost: 4 and a little, since no cache holds all of them. Where each
/// is compared with each other one, it is 16.
const DEARER: f64 = 8.0;

/// A node's Services, and the rules that kube-proxy makes of them.
struct Node {
    services: Vec<ServicePort>,
    text: String,
}

impl Node {
    fn with(count: u32) -> Self {
        let services = services(count);
        // kube-proxy's order is chance.
        let mut shuffled = services.clone();
        fastrand::Rng::with_seed(1).shuffle(&mut shuffled);
        let rendered = render(&shuffled, IpFamily::V4, &config());
        let text = normal::dump(&rendered).text(Dialect::Save);
        let lines = text.lines().count();
        assert!(lines > 7 * count as usize, "{lines}");
        Self { services, text }
    }

    /// All is as it should be.
    fn read_and_compare(&self) {
        let dump = parse(&self.text);
        assert_eq!(dump.errors, []);
        assert!(diff(&self.services, &config(), &dump.rulesets[0]).is_empty());
    }

    /// The worst case: nothing is as it should be.
    fn compare_with_others(&self, found: &Ruleset) {
        let mut others = self.services.clone();
        for service in &mut others {
            service.name.name.push_str("-other");
        }
        let difference = diff(&others, &config(), found);
        assert_eq!(difference.services.len(), 2 * others.len());
        assert_eq!(difference.rules, []);
    }
}

fn nothing_to_lint(found: &Ruleset) {
    assert_eq!(lint(found, &of_rules(found)), []);
}

fn services(count: u32) -> Vec<ServicePort> {
    let service = |index: u32| {
        let name = ServicePortName {
            namespace: format!("ns-{}", index % 100),
            name: format!("service-{index}"),
            port: "http".into(),
        };
        let pod = std::net::Ipv4Addr::from_bits(0x0a00_0000 + index);
        ServicePort {
            cluster_ips: vec![std::net::Ipv4Addr::from_bits(0x0b00_0000 + index).into()],
            endpoints: vec![Endpoint::ready(pod.into(), 8080, index.is_multiple_of(2))],
            ..ServicePort::new(name, Protocol::Tcp, 80)
        }
    };
    (0..count).map(service).collect()
}

fn config() -> KubeProxyConfig {
    KubeProxyConfig {
        masquerade_mark: 0x4000,
        nfacct: true,
        random_fully: true,
        v4: FamilyConfig {
            local: "10.0.0.0/8".parse().ok().map(LocalDetector::Cidr),
            localhost_node_ports: true,
            ..FamilyConfig::default()
        },
        ..KubeProxyConfig::default()
    }
}

fn grows_in_proportion(what: &str, few: impl FnMut(), many: impl FnMut()) {
    let dearer = times_as_dear(few, many, DEARER);
    println!("{what} {MANY} Services costs {dearer:.1} times what {FEW} cost");
    assert!(dearer <= DEARER, "{what}: {dearer:.1}");
}

#[test]
fn thirty_thousand_services_are_read_and_compared_for_their_share() {
    let (few, many) = (Node::with(FEW), Node::with(MANY));
    grows_in_proportion(
        "reading and comparing",
        || few.read_and_compare(),
        || many.read_and_compare(),
    );
    let [few_found, many_found] = [&few, &many].map(|node| parse(&node.text).rulesets.remove(0));
    grows_in_proportion(
        "linting",
        || nothing_to_lint(&few_found),
        || nothing_to_lint(&many_found),
    );
    grows_in_proportion(
        "comparing with other Services",
        || few.compare_with_others(&few_found),
        || many.compare_with_others(&many_found),
    );
}
