//! What the kernel programs cost, and how large they are: a report, and a bound.
//!
//! Costs are the kernel's own measurement (`BPF_PROG_TEST_RUN`), of the same packet a million times
//! in one call, less what the measuring costs: a packet that is not even IP. The backend has the
//! frontend's address and port, so that the packet stays what it was and each run does all the work.
//! To make every run open a flow anew, the backend is written over as one of another Service: then the
//! recorded flow is taken for stale each time, which costs a little more than an unknown one. For what
//! memory costs that is in no cache, a program in front changes the client each time ([`fresh`]).
//!
//! Needs root and a BPF file system; without, it says so and is no failure. `NODEGATE_BUDGET=full`
//! measures longer and enforces the bounds in nanoseconds, for a machine with nothing else to do;
//! otherwise only what holds on a busy one is enforced: that the cost does not grow with the number
//! of Services. `NODEGATE_BUDGET=sizes` measures no time at all.

mod fresh;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData},
    programs::{CgroupSockAddr, Program, SchedClassifier, SockOps, TestRun as _, TestRunOptions},
};
use etherparse::PacketBuilder;
use fresh::Fresh;
use gateway_common::maps::Backend;
use nodegate::{
    datapath::{
        self,
        desired::{Desired, Policy},
        maps::{self, Maps},
        node::NodeFacts,
        plan,
    },
    model::{
        selection::NodeTopology,
        service::{Endpoint, Protocol, ServicePort, ServicePortName},
    },
};

/// Nanoseconds for a packet that opens a flow.
const NEW_FLOW: f64 = 300.0;
/// Nanoseconds for a packet that opens a flow in a full table, in memory that no cache holds.
const NEW_CLIENT: f64 = 500.0;
/// Nanoseconds for a packet of a known flow.
const KNOWN_FLOW: f64 = 150.0;
/// How much dearer 30,000 Services may be than 10: caches are finite, walks are not allowed.
const GROWTH: f64 = 2.0;

const SIZES: [usize; 3] = [10, 1_000, 30_000];

fn main() -> std::process::ExitCode {
    // Asked by tools that list tests.
    if std::env::args().any(|argument| argument == "--list") {
        return std::process::ExitCode::SUCCESS;
    }
    if !nix::unistd::Uid::effective().is_root() {
        println!("budget: skipped, not root");
        return std::process::ExitCode::SUCCESS;
    }
    let pins = PathBuf::from(format!(
        "/sys/fs/bpf/nodegate-budget-{}",
        std::process::id()
    ));
    let good = measure(&pins);
    for entry in std::fs::read_dir(&pins).into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(entry.path());
    }
    let _ = std::fs::remove_dir(&pins);
    match good {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("budget: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn measure(pins: &Path) -> Result<bool, Box<dyn std::error::Error>> {
    let budget = std::env::var("NODEGATE_BUDGET").unwrap_or_default();
    let full = budget == "full";
    let (mut ebpf, mut maps) = maps::load(pins)?;
    sizes(&mut ebpf)?;
    if budget == "sizes" {
        return Ok(true);
    }
    // ARP.
    let mut foreign = packet(1, last(1), 80, "S");
    foreign[12..14].copy_from_slice(&[0x08, 0x06]);
    let measuring = repeated(&mut ebpf, &foreign, full)?;
    println!("\nmeasuring itself: {measuring:.0} ns, subtracted from each of");
    println!(
        "{:>10} {:>18} {:>18} {:>18} {:>18}",
        "SERVICES", "NO SERVICE", "KNOWN FLOW", "NEW FLOW", "… OF A NEW CLIENT"
    );
    let mut costs = Vec::new();
    let fresh = Fresh::before(ingress(&mut ebpf)?.fd()?.as_fd())?;
    let mut client = u32::from_le_bytes([11, 0, 0, 0]);
    let jumping = least(full, |repeat| Ok(f64::from(fresh.run(&foreign, repeat)?)))?;
    for size in SIZES {
        serve(&mut maps, size);
        let none = repeated(&mut ebpf, &packet(50_000, last(size), 9, "S"), full)?;
        let known = known(&mut ebpf, size, full)?;
        make_stale(pins, size, &maps)?;
        let new = repeated(&mut ebpf, &packet(40_000, last(size), 80, "S"), full)?;
        let client_new = least(full, |repeat| {
            let mut packet = packet(40_000, last(size), 80, "S");
            // Goes on where the call before ended.
            packet[26..30].copy_from_slice(&client.to_le_bytes());
            client += repeat;
            Ok(f64::from(fresh.run(&packet, repeat)?))
        })?;
        let cost = Cost {
            none: none - measuring,
            known: known - measuring,
            new: new - measuring,
            client_new: client_new - jumping,
        };
        println!(
            "{size:>10} {:>15.0} ns {:>15.0} ns {:>15.0} ns {:>15.0} ns",
            cost.none, cost.known, cost.new, cost.client_new
        );
        costs.push(cost);
        // The next size begins with what is right.
        serve(&mut maps, 0);
    }
    Ok(judge(&costs, full))
}

struct Cost {
    none: f64,
    known: f64,
    new: f64,
    client_new: f64,
}

fn judge(costs: &[Cost], full: bool) -> bool {
    let (Some(few), Some(many)) = (costs.first(), costs.last()) else {
        return false;
    };
    let mut good = true;
    let mut check = |what: &str, value: f64, bound: f64| {
        if value > bound {
            println!("over budget: {what} {value:.1}, at most {bound:.1}");
            good = false;
        }
    };
    // A few nanoseconds of noise are no growth.
    check(
        "known flow, growth",
        many.known / few.known.max(50.0),
        GROWTH,
    );
    check("new flow, growth", many.new / few.new.max(100.0), GROWTH);
    check(
        "new client, growth",
        many.client_new / few.client_new.max(100.0),
        GROWTH,
    );
    if full {
        check("known flow, ns", many.known, KNOWN_FLOW);
        check("new flow, ns", many.new, NEW_FLOW);
        check("new client, ns", many.client_new, NEW_CLIENT);
    }
    good
}

/// Sizes, as the kernel tells them.
fn sizes(ebpf: &mut Ebpf) -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{:<14} {:>12} {:>12} {:>22}",
        "PROGRAM", "BYTECODE", "MACHINE CODE", "VERIFIED INSTRUCTIONS"
    );
    let mut names: Vec<_> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    for name in names {
        let program = ebpf.program_mut(&name).ok_or("a program that was listed")?;
        match program {
            Program::SchedClassifier(program) => SchedClassifier::load(program)?,
            Program::CgroupSockAddr(program) => CgroupSockAddr::load(program)?,
            Program::SockOps(program) => SockOps::load(program)?,
            other => return Err(format!("{name}: {:?} is unexpected", other.prog_type()).into()),
        }
        let info = program.info()?;
        println!(
            "{name:<14} {:>10} B {:>10} B {:>22}",
            info.size_translated().unwrap_or(0),
            info.size_jitted(),
            info.verified_instruction_count().unwrap_or(0)
        );
    }
    Ok(())
}

/// The cluster IP of the n-th Service; also the address of its only endpoint.
fn address(n: usize) -> [u8; 4] {
    (0x0a60_0000 + n as u32 + 1).to_be_bytes()
}

fn last(size: usize) -> [u8; 4] {
    address(size - 1)
}

fn serve(maps: &mut Maps, size: usize) {
    let services: Vec<_> = (0..size)
        .map(|n| {
            let name = ServicePortName {
                namespace: "budget".into(),
                name: format!("service-{n}"),
                port: "http".into(),
            };
            let address = IpAddr::from(address(n));
            ServicePort {
                cluster_ips: vec![address],
                endpoints: vec![Endpoint::ready(address, 80, true)],
                ..ServicePort::new(name, Protocol::Tcp, 80)
            }
        })
        .collect();
    let node = NodeFacts {
        addresses: BTreeSet::from([IpAddr::from([192, 168, 170, 137])]),
    };
    let policy = Policy::default();
    let desired = Desired::new(&services, &NodeTopology::default(), &node, &policy);
    let failures = maps.execute(plan::plan(maps.mirror(), &desired, plan::Capacity::MAPS));
    assert!(failures.is_empty(), "{failures:?}");
}

fn packet(source_port: u16, to: [u8; 4], port: u16, flags: &str) -> Vec<u8> {
    let mut tcp = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 168, 170, 1], to, 64)
        .tcp(source_port, port, 1000, 65_535);
    if flags.contains('S') {
        tcp = tcp.syn();
    } else {
        tcp = tcp.ack(2000);
    }
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, b"").expect("writing to memory");
    bytes
}

fn ingress(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, Box<dyn std::error::Error>> {
    let program = ebpf.program_mut("ingress").ok_or("no ingress program")?;
    Ok(program.try_into()?)
}

fn run(
    ebpf: &mut Ebpf,
    packet: &[u8],
    repeat: u32,
) -> Result<Duration, Box<dyn std::error::Error>> {
    let result = ingress(ebpf)?.test_run(TestRunOptions {
        data_in: Some(packet),
        repeat,
        ..TestRunOptions::default()
    })?;
    Ok(result.duration)
}

/// Nanoseconds of one run, of many in one call: the least of some calls.
fn repeated(ebpf: &mut Ebpf, packet: &[u8], full: bool) -> Result<f64, Box<dyn std::error::Error>> {
    least(full, |repeat| {
        // The kernel gives the average.
        Ok(run(ebpf, packet, repeat)?.as_nanos() as f64)
    })
}

fn least(
    full: bool,
    mut run: impl FnMut(u32) -> Result<f64, Box<dyn std::error::Error>>,
) -> Result<f64, Box<dyn std::error::Error>> {
    let (calls, repeat) = if full { (5, 1_000_000) } else { (5, 100_000) };
    let mut least = f64::MAX;
    for _ in 0..calls {
        least = least.min(run(repeat)?);
    }
    Ok(least)
}

fn known(ebpf: &mut Ebpf, size: usize, full: bool) -> Result<f64, Box<dyn std::error::Error>> {
    run(ebpf, &packet(40_000, last(size), 80, "S"), 1)?;
    repeated(ebpf, &packet(40_000, last(size), 80, "A"), full)
}

/// Writes the last Service's backend over as another Service's.
fn make_stale(pins: &Path, size: usize, maps: &Maps) -> Result<(), Box<dyn std::error::Error>> {
    let data = MapData::from_pin(pins.join("backends"))?;
    let mut backends: HashMap<_, u32, Backend> = Map::HashMap(data).try_into()?;
    let address = IpAddr::from(last(size));
    let (id, backend) = maps
        .mirror()
        .backends
        .iter()
        .find(|(_, backend)| datapath::from_map(backend.address) == address)
        .ok_or("the last Service has a backend")?;
    let stale = Backend {
        service: u32::MAX,
        ..*backend
    };
    backends.insert(id, stale, 0)?;
    Ok(())
}
