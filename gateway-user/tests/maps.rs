//! What `nodegate maps` reads, from maps that were pinned: what was planned comes back, with names.
//!
//! Needs root and a BPF file system; without, the test is reported as ignored.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use libtest_mimic::{Arguments, Failed, Trial};
use nodegate::{
    datapath::{
        contents::Pins,
        desired::{Desired, Policy},
        maps,
        node::NodeFacts,
        plan::{Capacity, plan},
    },
    model::{
        selection::NodeTopology,
        service::{Endpoint, Protocol, ServicePort, ServicePortName},
    },
};

const BPF: &str = "/sys/fs/bpf";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let possible = nix::unistd::geteuid().is_root()
        && nix::sys::statfs::statfs(BPF)
            .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::FsType(0xcafe_4a11));
    if !possible {
        eprintln!("ignored: needs root and a BPF file system in {BPF}");
    }
    let trial = Trial::test("pinned maps are read with names", pinned);
    libtest_mimic::run(&arguments, vec![trial.with_ignored_flag(!possible)]).exit_code()
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
    let (_ebpf, mut maps) = maps::load(&directory.0)?;
    let desired = Desired::new(
        &[service()],
        &NodeTopology::default(),
        &NodeFacts::default(),
        &Policy::default(),
    );
    let failures = maps.execute(plan(maps.mirror(), &desired, Capacity::MAPS));
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
    let now = nodegate::datapath::contents::now()?;
    assert!(pins.conntrack(now)?.is_empty());
    assert!(pins.affinity(now)?.is_empty());
    assert!(pins.sockets()?.is_empty());
    let counters = pins.counters()?;
    assert!(counters.iter().all(|row| row.count == 0));
    assert!(counters.iter().any(|row| row.reason == "chosen"));
    Ok(())
}
