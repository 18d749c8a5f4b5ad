//! Endpoints are replaced as fast as it goes, under load: real maps and programs, real sockets.
//!
//! Two dozen Services, of both protocols and families, get other endpoints over and over, while
//! clients connect: a process in a cgroup to the cluster IPs, and one outside to the node ports. No
//! connection may fail, and none may reach a pod that was not an endpoint of its Service at any
//! moment of the connection.
//!
//! Takes 2 seconds, or `NODEGATE_TEST_SWAP_SECONDS`. Needs root, a BPF file system and a cgroup2
//! hierarchy; without, the test is reported as ignored.

mod load;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    net::IpAddr,
    process::{ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Failed, Trial};
use nodegate_datapath::{Datapath, Options, options::AttachMode};
use nodegate_model::{
    Snapshot,
    selection::NodeTopology,
    service::{Endpoint, Protocol, ServicePort, ServicePortName},
};
use nodegate_programming::{
    desired::{ExternalIps, Policy},
    masquerade::MasqueradeMode,
    node::NodeFacts,
};

use load::{Connection, now};
use world::{NODE, Service, World};

/// How long, in seconds.
const SECONDS: &str = "NODEGATE_TEST_SWAP_SECONDS";

/// The endpoints of each Service, by their numbers.
type Sets = Vec<BTreeSet<usize>>;

/// The sets from one moment on.
struct Epoch {
    /// When the daemon began to write them.
    begun: u64,
    sets: Sets,
}

fn main() -> ExitCode {
    if let Some(code) = load::child() {
        return code;
    }
    let arguments = Arguments::from_args();
    let obstacle = world::obstacle();
    if let Some(obstacle) = &obstacle {
        eprintln!("skipped: {obstacle}");
    }
    let trial = Trial::test(
        "no_connection_fails_or_strays_while_endpoints_are_replaced",
        swap,
    );
    libtest_mimic::run(
        &arguments,
        vec![trial.with_ignored_flag(obstacle.is_some())],
    )
    .exit_code()
}

fn swap() -> Result<(), Failed> {
    let seconds = std::env::var(SECONDS).map_or(Ok(2), |text| text.parse())?;
    let world = World::up()?;
    world.serve()?;
    let mut datapath = world.inside(world::NODE_NETNS, || open(&world))?;
    let mut epochs = Vec::new();
    apply(&world, &mut datapath, &mut epochs)?;

    let (connections, swaps, took) = under_load(&world, || {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(seconds) {
            apply(&world, &mut datapath, &mut epochs)?;
        }
        Ok((epochs.len() - 1, start.elapsed()))
    })?;

    judge(&world, &epochs, &connections)?;
    let each = world.services.len();
    let rate = (swaps * each) as f64 / took.as_secs_f64();
    let slowest = connections.iter().map(|it| it.end - it.start).max();
    let slowest = Duration::from_nanos(slowest.unwrap_or_default());
    println!(
        "{} connections, the slowest {slowest:.0?}; {rate:.0} sets of endpoints replaced per second, {each} at a time",
        connections.len()
    );
    let counters = datapath.counters()?;
    // `busy` is none: on a busy machine a CPU may be taken away in the middle of a change. TCP sends again.
    for fault in ["table-gap", "table-full", "clash"] {
        if counters[fault] != 0 {
            return Err(format!("{fault}: {}", counters[fault]).into());
        }
    }
    // Both hooks have worked.
    if counters["chosen"] < connections.len() as u64 / 2 {
        return Err(format!("{counters:?}").into());
    }
    Ok(())
}

fn open(world: &World) -> Result<Datapath, Failed> {
    Ok(Datapath::open(&Options {
        pin_dir: world.pins.clone(),
        cgroup: world.cgroup.clone(),
        uplinks: vec!["eth0".into()],
        finds_uplinks: false,
        mode: AttachMode::Auto,
        policy: Policy {
            external_ips: ExternalIps::Owned,
            ..Policy::default()
        },
        masquerade: MasqueradeMode::Needed,
        localhost_node_ports: true,
        knows_pods: true,
        pod_devices: Vec::new(),
        flow_table: None,
    })?)
}

/// Other endpoints for all Services.
fn apply(world: &World, datapath: &mut Datapath, epochs: &mut Vec<Epoch>) -> Result<(), Failed> {
    let sets: Sets = world.services.iter().map(|_| random_set()).collect();
    let services = world
        .services
        .iter()
        .zip(&sets)
        .map(|(service, set)| Arc::new(port(service, set)))
        .collect();
    let snapshot = Snapshot {
        generation: epochs.len() as u64 + 1,
        node: NodeTopology::default(),
        services,
        gateway: Arc::default(),
        diagnostics: Vec::new().into(),
    };
    let facts = NodeFacts {
        addresses: BTreeSet::from(NODE),
    };
    epochs.push(Epoch { begun: now(), sets });
    let failures = datapath.apply(&Arc::new(snapshot), &facts)?;
    if failures.is_empty() {
        Ok(())
    } else {
        Err(format!("{failures:?}").into())
    }
}

/// Some of a Service's pods, at least one.
fn random_set() -> BTreeSet<usize> {
    let size = fastrand::usize(1..=world::PODS);
    fastrand::choose_multiple(0..world::PODS, size)
        .into_iter()
        .collect()
}

fn port(service: &Service, set: &BTreeSet<usize>) -> ServicePort {
    let name = ServicePortName {
        namespace: "default".into(),
        name: format!("service-{}", service.number),
        port: String::new(),
    };
    let protocol = if service.udp {
        Protocol::Udp
    } else {
        Protocol::Tcp
    };
    ServicePort {
        node_port: Some(service.node_port),
        cluster_ips: vec![service.cluster_ip],
        endpoints: set
            .iter()
            .map(|pod| Endpoint::ready(service.pod(*pod), world::TARGET_PORT, true))
            .collect(),
        ..ServicePort::new(name, protocol, 80)
    }
}

/// Clients inside and outside, for as long as the work goes on. Gives what became of them.
fn under_load(
    world: &World,
    work: impl FnOnce() -> Result<(usize, Duration), Failed>,
) -> Result<(Vec<Connection>, usize, Duration), Failed> {
    let mut child = nodegate_programs::itself()?
        .env(load::CHILD, world.task()?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let over = AtomicBool::new(false);
    let (worked, inside, outside) = thread::scope(|scope| {
        let output = child.stdout.take();
        let inside = scope.spawn(move || load::read(output));
        let outside = scope.spawn(|| {
            let targets: Vec<_> = world.services.iter().map(Service::outside_target).collect();
            world.inside(world::CLIENT_NETNS, || Ok(load::run(&targets, &over)))
        });
        let worked = work();
        over.store(true, Ordering::Relaxed);
        if let Some(mut stdin) = child.stdin.take() {
            // The end is what it waits for.
            let _ = stdin.flush();
        }
        (worked, inside.join(), outside.join())
    });
    child.wait()?;
    let panicked = |_| Failed::from("a client has panicked");
    let mut connections = inside.map_err(panicked)??;
    connections.extend(outside.map_err(panicked)??);
    let (swaps, took) = worked?;
    Ok((connections, swaps, took))
}

/// Fails if a connection has failed, or has reached a pod that was no endpoint at the time.
fn judge(world: &World, epochs: &[Epoch], connections: &[Connection]) -> Result<(), Failed> {
    let mut seen: BTreeMap<(usize, bool), usize> = BTreeMap::new();
    for connection in connections {
        let service = &world.services[connection.service];
        let pod = connection
            .pod
            .as_ref()
            .map_err(|error| format!("{service:?}: {error}; {connection:?}"))?;
        let number = service
            .number_of(*pod)
            .ok_or_else(|| format!("{pod} is another Service's: {connection:?}, {service:?}"))?;
        if !was_endpoint(epochs, connection, number) {
            return Err(format!("{pod} was no endpoint then: {connection:?}, {service:?}").into());
        }
        *seen
            .entry((connection.service, connection.inside))
            .or_default() += 1;
    }
    // From inside and outside, to each Service.
    if seen.len() != 2 * world.services.len() {
        return Err(format!("not everybody was asked: {seen:?}").into());
    }
    Ok(())
}

/// Sets are in force from some time after they are begun until the next ones are written, which is
/// at the latest when those after them are begun.
fn was_endpoint(epochs: &[Epoch], connection: &Connection, pod: usize) -> bool {
    let last = epochs.partition_point(|epoch| epoch.begun <= connection.end);
    epochs[..last]
        .iter()
        .enumerate()
        .rev()
        .take_while(|(index, _)| {
            let written = epochs.get(index + 2);
            written.is_none_or(|epoch| epoch.begun >= connection.start)
        })
        .any(|(_, epoch)| epoch.sets[connection.service].contains(&pod))
}

impl Service {
    /// The pod with this address.
    fn number_of(&self, address: IpAddr) -> Option<usize> {
        (0..world::PODS).find(|pod| self.pod(*pod) == address)
    }
}
