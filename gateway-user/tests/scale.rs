//! As many Services as kube-proxy is still used with: reading and comparing must not take long.

use std::time::{Duration, Instant};

use nodegate::{
    iptables::{
        config::{Config, FamilyConfig, LocalDetector},
        diff::diff,
        lint::lint,
        normal,
        parse::parse,
        render::render,
        rules::Dialect,
        services::of_rules,
    },
    model::service::{Endpoint, IpFamily, Protocol, ServicePort, ServicePortName},
};

/// With one endpoint each these make 210,000 lines.
const SERVICES: u32 = 30_000;

/// On a machine that has other things to do, too: an optimised build took 0.77 s on two busy cores.
const BOUND: Duration = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 3 });

fn services() -> Vec<ServicePort> {
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
    (0..SERVICES).map(service).collect()
}

fn config() -> Config {
    Config {
        masquerade_mark: 0x4000,
        nfacct: true,
        random_fully: true,
        v4: FamilyConfig {
            local: "10.0.0.0/8".parse().ok().map(LocalDetector::Cidr),
            localhost_node_ports: true,
            ..FamilyConfig::default()
        },
        ..Config::default()
    }
}

#[test]
fn thirty_thousand_services_are_read_and_compared_at_once() {
    let (mut services, config) = (services(), config());
    // kube-proxy's order is chance.
    let mut shuffled = services.clone();
    fastrand::Rng::with_seed(1).shuffle(&mut shuffled);
    let rendered = render(&shuffled, IpFamily::V4, &config);
    let text = normal::dump(&rendered).text(Dialect::Save);
    let lines = text.lines().count();
    assert!(lines > 7 * SERVICES as usize, "{lines}");

    let start = Instant::now();
    let dump = parse(&text);
    let parsed = start.elapsed();
    assert_eq!(dump.errors, []);
    let found = &dump.rulesets[0];
    assert!(diff(&services, &config, found).is_empty());
    let took = start.elapsed();
    println!("{lines} lines: parsed in {parsed:?}, compared after {took:?}");
    assert!(took < BOUND, "{took:?}");

    let start = Instant::now();
    assert_eq!(lint(found, &of_rules(found)), []);
    // The worst case: nothing is as it should be.
    for service in &mut services {
        service.name.name.push_str("-other");
    }
    let difference = diff(&services, &config, found);
    println!(
        "linted and compared with other Services in {:?}",
        start.elapsed()
    );
    assert_eq!(difference.services.len(), 2 * SERVICES as usize);
    assert_eq!(difference.rules, []);
    assert!(start.elapsed() < 2 * BOUND, "{:?}", start.elapsed());
}
