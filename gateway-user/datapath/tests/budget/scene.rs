//! A node's programs and maps, and the Services in them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf,
    programs::{CgroupSockAddr, Program, SchedClassifier, SockOps},
};
use gateway_common::{mapped, maps::Settings};
use nodegate_datapath::{load, maps::Maps};
use nodegate_model::{
    selection::NodeTopology,
    service::{Endpoint, Protocol, ServicePort, ServicePortName},
};
use nodegate_programming::{
    capacity::Capacity,
    desired::{Desired, Policy},
    node::NodeFacts,
    plan,
};

pub(crate) const NODE: [u8; 4] = [192, 168, 170, 137];
pub(crate) const NODE_PORT: u16 = 31_373;

/// Programs and maps of their own, pinned for as long as this lives.
pub(crate) struct Scene {
    pub(crate) ebpf: Ebpf,
    pub(crate) maps: Maps,
    pub(crate) pins: PathBuf,
}

impl Drop for Scene {
    fn drop(&mut self) {
        let pins = std::fs::read_dir(&self.pins).into_iter().flatten();
        for pin in pins.flatten() {
            let _ = std::fs::remove_file(pin.path());
        }
        let _ = std::fs::remove_dir(&self.pins);
    }
}

impl Scene {
    pub(crate) fn new() -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("nodegate-budget-{}-{number}", std::process::id());
        let pins = Path::new("/sys/fs/bpf").join(name);
        let (ebpf, maps) = load::load(&pins)?;
        let mut scene = Self { ebpf, maps, pins };
        let settings = Settings {
            flags: Settings::FLAG_KNOWS_PODS
                | Settings::FLAG_NODE_PORTS_V4
                | Settings::FLAG_NODE_PORTS_V6
                | Settings::FLAG_ONLY_NODE_PORTS_V4
                | Settings::FLAG_ONLY_NODE_PORTS_V6,
            node_v4: mapped(NODE),
            // Otherwise a flow's bucket would be chance.
            seed: 1,
            ..scene.maps.settings()?
        };
        scene.maps.set_settings(&settings)?;
        Ok(scene)
    }

    /// Makes these Services the only ones.
    pub(crate) fn serve(&mut self, services: &[ServicePort]) -> anyhow::Result<()> {
        let node = NodeFacts {
            addresses: BTreeSet::from([IpAddr::from(NODE)]),
        };
        let policy = Policy {
            pod_networks: vec!["10.244.0.0/16".parse()?, "fd00:244::/48".parse()?],
            ..Policy::default()
        };
        let desired = Desired::new(services, &NodeTopology::default(), &node, &policy);
        let plan = plan::plan(self.maps.mirror(), &desired, Capacity::MAPS);
        let failures = self.maps.execute(plan);
        ensure!(failures.is_empty(), "{failures:?}");
        Ok(())
    }

    /// The programs' names.
    pub(crate) fn programs(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .ebpf
            .programs()
            .map(|(name, _)| name.to_owned())
            .collect();
        names.sort();
        names
    }

    /// Has the verifier look at a program.
    pub(crate) fn load(&mut self, name: &str) -> anyhow::Result<Size> {
        let program = self.ebpf.program_mut(name).context("no such program")?;
        match program {
            Program::SchedClassifier(program) => program.load()?,
            Program::CgroupSockAddr(program) => CgroupSockAddr::load(program)?,
            Program::SockOps(program) => SockOps::load(program)?,
            other => anyhow::bail!("{name}: {:?} is unexpected", other.prog_type()),
        }
        let info = program.info()?;
        Ok(Size {
            bytecode: info.size_translated().unwrap_or(0),
            machine_code: info.size_jitted(),
            walked: info.verified_instruction_count().unwrap_or(0).into(),
        })
    }

    pub(crate) fn classifier(&mut self, name: &str) -> anyhow::Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(name).context("no such program")?;
        Ok(program.try_into()?)
    }
}

/// Sizes of a program, as the kernel tells them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) bytecode: u32,
    pub(crate) machine_code: u32,
    /// Instructions that the verifier went through.
    pub(crate) walked: u64,
}

/// A TCP Service on port 80 with one endpoint on this node.
pub(crate) fn service(name: &str, address: IpAddr, endpoint: SocketAddr) -> ServicePort {
    let name = ServicePortName {
        namespace: "budget".into(),
        name: name.into(),
        port: "http".into(),
    };
    ServicePort {
        cluster_ips: vec![address],
        endpoints: vec![Endpoint::ready(endpoint.ip(), endpoint.port(), true)],
        ..ServicePort::new(name, Protocol::Tcp, 80)
    }
}

/// The cluster IP of the n-th of many Services; also the address of its only endpoint, so that a packet to
/// it stays what it was, and each run with it does all the work.
pub(crate) fn address(n: u32) -> IpAddr {
    (0x0a60_0000 + n + 1).to_be_bytes().into()
}

/// So many Services, and one with a node port, whose endpoint is on the node's network.
pub(crate) fn many(count: u32) -> Vec<ServicePort> {
    let mut services: Vec<_> = (0..count)
        .map(|n| service(&format!("service-{n}"), address(n), (address(n), 80).into()))
        .collect();
    let endpoint = (IpAddr::from(NODE), NODE_PORT).into();
    services.push(ServicePort {
        node_port: Some(NODE_PORT),
        ..service("node-port", [10, 95, 0, 1].into(), endpoint)
    });
    services
}
