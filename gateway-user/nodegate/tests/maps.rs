//! What `nodegate maps` reads, from maps that were pinned: what was planned comes back, with names.
//!
//! Needs root and a BPF file system; without, the test is reported as ignored.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

#[path = "support/random.rs"]
mod random;

use libtest_mimic::{Arguments, Failed, Trial};
use nodegate_datapath::{contents::Pins, load};
use nodegate_iptables::{
    config::KubeProxyConfig,
    diff::{Words, changes},
    services::of_model,
};
use nodegate_model::{
    Snapshot,
    selection::NodeTopology,
    service::{Endpoint, IpFamily, Protocol, ServicePort, ServicePortName},
};
use nodegate_programming::{
    capacity::Capacity,
    desired::{Desired, ExternalIps, Policy},
    node::NodeFacts,
    plan::{Plan, plan},
    reconcile::Reconciler,
};

use random::{ALTERNATIVE, Generator, NODE, address};

const BPF: &str = "/sys/fs/bpf";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let possible = nix::unistd::geteuid().is_root()
        && nix::sys::statfs::statfs(BPF)
            .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::FsType(0xcafe_4a11));
    if !possible {
        eprintln!("skipped: needs root and a BPF file system in {BPF}");
    }
    let trials = [
        Trial::test("pinned maps are read with names", pinned),
        Trial::test("pinned maps implement what rules would", implemented),
        Trial::test("fault: a map that is full keeps what it has", full),
        Trial::test(
            "one endpoint of thirty thousand Services is soon in force",
            one_endpoint,
        ),
    ];
    let trials = trials.map(|trial| trial.with_ignored_flag(!possible));
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

/// A directory for pins that goes away.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing is done about what is left: the test has failed by then.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn service() -> ServicePort {
    let name = ServicePortName {
        namespace: "istio-system".into(),
        name: "istio-ingressgateway".into(),
        port: "http2".into(),
    };
    ServicePort {
        node_port: Some(31373),
        cluster_ips: vec![[10, 96, 190, 18].into()],
        endpoints: vec![
            Endpoint::ready([10, 10, 1, 4].into(), 8080, true),
            Endpoint::ready([10, 10, 2, 4].into(), 8080, false),
        ],
        ..ServicePort::new(name, Protocol::Tcp, 80)
    }
}

fn pinned() -> Result<(), Failed> {
    let path = Path::new(BPF).join(format!("nodegate-maps-{}", std::process::id()));
    let directory = Directory(path);
    let (_ebpf, mut maps) = load::load(&directory.0)?;
    let failures = maps.execute(plan(
        maps.mirror(),
        &desired_of(&[service()]),
        Capacity::MAPS,
    ));
    assert!(failures.is_empty(), "{failures:?}");
    drop(maps);

    let pins = Pins::open(&directory.0)?;
    let services = pins.services()?;
    let services: Vec<_> = services
        .iter()
        .map(|row| {
            (
                row.service.as_str(),
                row.kind,
                row.frontend.as_str(),
                row.cluster,
            )
        })
        .collect();
    let gateway = "istio-system/istio-ingressgateway:http2";
    assert_eq!(
        services,
        [
            ("", "guard", "10.96.190.18, any port", 0),
            (gateway, "cluster IP", "10.96.190.18:80", 2),
            (gateway, "node port", "31373 (IPv4)", 2),
        ]
    );
    let backends = pins.backends();
    let backends: Vec<_> = backends
        .iter()
        .map(|row| {
            (
                row.service.as_str(),
                row.address.to_string(),
                row.on_this_node,
            )
        })
        .collect();
    assert_eq!(
        backends,
        [
            (gateway, "10.10.1.4:8080".to_owned(), true),
            (gateway, "10.10.2.4:8080".to_owned(), false),
        ]
    );
    let now = nodegate_datapath::clock::monotonic()?;
    assert!(pins.conntrack(now)?.is_empty());
    assert!(pins.affinity(now)?.is_empty());
    assert!(pins.sockets()?.is_empty());
    let counters = pins.counters()?;
    assert!(counters.iter().all(|row| row.count == 0));
    assert!(counters.iter().any(|row| row.reason == "chosen"));
    Ok(())
}

fn desired_of(services: &[ServicePort]) -> Desired {
    Desired::new(
        services,
        &NodeTopology::default(),
        &NodeFacts::default(),
        &Policy::default(),
    )
}

/// From the Snapshot to the maps, as the redirector goes. The least of some attempts counts: others use the
/// machine too.
fn one_endpoint() -> Result<(), Failed> {
    const SERVICES: u32 = 30_000;
    const ATTEMPTS: u8 = 20;
    const BOUND: Duration = Duration::from_millis(5);
    let path = Path::new(BPF).join(format!("nodegate-endpoint-{}", std::process::id()));
    let directory = Directory(path);
    let (_ebpf, mut maps) = load::load(&directory.0)?;
    let node = NodeFacts::default();
    let mut reconciler = Reconciler::new(Policy::default(), Capacity::MAPS);
    let service = |number: u32, last: u8| {
        let [_, a, b, c] = number.to_be_bytes();
        let name = ServicePortName {
            namespace: "default".into(),
            name: format!("s{number:05}"),
            port: String::new(),
        };
        let endpoint = |last| Endpoint::ready([10, b, c, last].into(), 8080, false);
        Arc::new(ServicePort {
            cluster_ips: vec![[11, a, b, c].into()],
            endpoints: vec![endpoint(1), endpoint(2), endpoint(last)],
            ..ServicePort::new(name, Protocol::Tcp, 80)
        })
    };
    let mut services: Vec<_> = (0..SERVICES).map(|number| service(number, 3)).collect();
    let mut apply = |services: &[Arc<ServicePort>]| -> Result<Duration, Failed> {
        let snapshot = Arc::new(Snapshot {
            generation: 1,
            node: NodeTopology::default(),
            services: services.to_vec(),
            gateway: Arc::default(),
            diagnostics: Vec::new().into(),
        });
        let start = Instant::now();
        let mut plan = reconciler.plan(maps.mirror(), &snapshot, &node);
        let garbage = plan.take_garbage();
        let failures = maps.execute(plan);
        let took = start.elapsed();
        assert_eq!(failures, []);
        let rest = Plan {
            groups: garbage.into_iter().collect(),
            refused: Vec::new(),
        };
        assert_eq!(maps.execute(rest), []);
        reconciler.carried_out();
        Ok(took)
    };
    let whole = apply(&services)?;
    let mut least = Duration::MAX;
    for attempt in 0..ATTEMPTS {
        services[7] = service(7, 10 + attempt);
        least = least.min(apply(&services)?);
    }
    println!("{SERVICES} Services: {whole:.1?}; one endpoint: {least:.1?}");
    assert!(least <= BOUND, "{least:?}");
    let backends = Pins::open(&directory.0)?.backends();
    let newest = format!("10.0.7.{}:8080", 10 + ATTEMPTS - 1);
    assert!(backends.iter().any(|row| row.address.to_string() == newest));
    assert_eq!(backends.len(), 3 * SERVICES as usize);
    Ok(())
}

/// More Services than the map has room for, as planned with its room and without.
fn full() -> Result<(), Failed> {
    let path = Path::new(BPF).join(format!("nodegate-full-{}", std::process::id()));
    let directory = Directory(path);
    let (_ebpf, mut maps) = load::load(&directory.0)?;
    let failures = maps.execute(plan(
        maps.mirror(),
        &desired_of(&[service()]),
        Capacity::MAPS,
    ));
    assert_eq!(failures, []);

    let name = |name: &str| ServicePortName {
        namespace: "default".into(),
        name: name.into(),
        port: String::new(),
    };
    let mut crowd = vec![service()];
    let last: u32 = 70_000;
    crowd.extend((1..=last).map(|number| {
        let [_, a, b, c] = number.to_be_bytes();
        ServicePort {
            cluster_ips: vec![[11, a, b, c].into()],
            // The API server's, say: it is the last, and comes first.
            essential: number == last,
            ..ServicePort::new(name(&format!("s{number:06}")), Protocol::Tcp, 80)
        }
    }));
    let held = |directory: &Path| -> Result<Vec<String>, Failed> {
        let pins = Pins::open(directory)?;
        let services = pins.services()?;
        Ok(services.iter().map(|row| row.frontend.clone()).collect())
    };
    let desired = desired_of(&crowd);
    let unlimited = Capacity {
        services: usize::MAX,
        slots: usize::MAX,
        backends: usize::MAX,
    };
    for room in [Capacity::MAPS, unlimited] {
        let failures = maps.execute(plan(maps.mirror(), &desired, room));
        assert!(!failures.is_empty());
        for failure in &failures {
            assert!(failure.service.is_some(), "{failure:?}");
            assert!(failure.message.contains("services"), "{failure:?}");
        }
        let held = held(&directory.0)?;
        for frontend in ["10.96.190.18:80", "31373 (IPv4)", "11.1.17.112:80"] {
            assert!(held.iter().any(|row| row == frontend), "{frontend}");
        }
        // Nearly full: with its guard each takes two places.
        assert!(held.len() > Capacity::MAPS.services - 4, "{}", held.len());
        assert!(held.len() <= Capacity::MAPS.services, "{}", held.len());
    }

    // When there is room again, those who waited are served.
    crowd.truncate(20_000);
    let failures = maps.execute(plan(maps.mirror(), &desired_of(&crowd), Capacity::MAPS));
    assert_eq!(failures, []);
    let held = held(&directory.0)?;
    assert!(
        held.iter().any(|row| row == "11.0.78.31:80"),
        "the last one"
    );
    Ok(())
}

/// Random Services, planned for the maps and as kube-proxy's rules would have them.
fn implemented() -> Result<(), Failed> {
    let path = Path::new(BPF).join(format!("nodegate-implemented-{}", std::process::id()));
    let directory = Directory(path);
    let (_ebpf, mut maps) = load::load(&directory.0)?;
    let mut generator = Generator::new(0x6d61_7073);
    let mut compared = 0;
    for number in 0..60 {
        let services = generator.set();
        let config = generator.config();
        let failures = maps.execute(plan(
            maps.mirror(),
            &desired(&services, &config),
            Capacity::MAPS,
        ));
        assert!(failures.is_empty(), "{failures:?}");
        let pins = Pins::open(&directory.0)?;
        for family in IpFamily::ALL {
            let mut expected = of_model(&services, family, &config);
            for service in expected.values_mut() {
                service.health_check_node_port = None;
            }
            let found = pins.implemented(family)?;
            let difference = changes(&expected, &found);
            assert!(
                difference.is_empty(),
                "set {number} {family}: {difference:#?}"
            );
            compared += expected.len();
        }
    }
    assert!(compared > 100, "{compared} Service ports");
    // One thing after the other.
    let services = vec![service()];
    let config = random::config(true, false);
    let other = ServicePort {
        endpoints: vec![Endpoint::ready([10, 10, 1, 5].into(), 8080, true)],
        node_port: None,
        ..service()
    };
    maps.execute(plan(
        maps.mirror(),
        &desired(&[other], &config),
        Capacity::MAPS,
    ));
    let rules = of_model(&services, IpFamily::V4, &config);
    let maps = Pins::open(&directory.0)?.implemented(IpFamily::V4)?;
    let told: Vec<_> = changes(&rules, &maps)
        .values()
        .flatten()
        .map(|change| change.told(Words::MAPS).to_string())
        .collect();
    assert_eq!(
        told,
        [
            "node port 31373: rules: to all endpoints; maps: nothing",
            "endpoints only in the rules: 10.10.1.4:8080, 10.10.2.4:8080; only in the maps: \
             10.10.1.5:8080",
        ]
    );
    Ok(())
}

fn desired(services: &[ServicePort], config: &KubeProxyConfig) -> Desired {
    let facts = NodeFacts {
        addresses: [NODE, ALTERNATIVE]
            .into_iter()
            .flat_map(|pair| IpFamily::ALL.map(|family| address(pair, family)))
            .collect(),
    };
    let served = [&config.v4, &config.v6].map(|family| family.node_port_addresses.clone());
    let policy = Policy {
        external_ips: ExternalIps::Any,
        node_port_networks: served
            .into_iter()
            .flatten()
            .flatten()
            .map(Into::into)
            .collect(),
        ..Policy::default()
    };
    Desired::new(services, &config.node, &facts, &policy)
}
