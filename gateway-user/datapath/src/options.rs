//! Where the datapath lives, what it is attached to, and which traffic it takes.

use std::path::{Path, PathBuf};

use gateway_common::maps::Settings;
use nodegate_iptables::ports::KubeProxyFacts;
use nodegate_programming::{desired::Policy, masquerade::MasqueradeMode};

/// Where the datapath lives and what it is attached to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory on bpffs for maps and links, such as `/sys/fs/bpf/nodegate`.
    pub pin_dir: PathBuf,
    /// Directory of the cgroup (version 2) whose processes are redirected: the root of the
    /// hierarchy, for all processes of the node and its pods.
    pub cgroup: PathBuf,
    /// Interfaces on which packets from outside arrive.
    pub uplinks: Vec<String>,
    /// Nobody has named them: others that come are taken as well, see [`uplinks`](crate::uplinks).
    pub finds_uplinks: bool,
    /// How packet programs are attached.
    pub mode: AttachMode,
    /// Which traffic is taken.
    pub policy: Policy,
    /// Masquerade wherever kube-proxy does.
    pub masquerade: MasqueradeMode,
    /// Serve node ports on 127.0.0.1.
    pub localhost_node_ports: bool,
    /// Tell pods from others: by their network namespace, their device, or the networks of the
    /// policy. Without, they are treated as clients from outside.
    pub knows_pods: bool,
    /// Devices that pods are behind, by the beginnings of their names; none: pods are served by
    /// the socket hooks alone.
    pub pod_devices: Vec<String>,
    /// For how many flows of packets there is room; none: as the machine's memory allows. Maps that are
    /// pinned already keep their size.
    pub flow_table: Option<u32>,
}

impl Options {
    /// Takes over what kube-proxy's rules tell of its flags, but for what is chosen already.
    pub fn go_by(&mut self, facts: &KubeProxyFacts) {
        let Policy {
            node_port_networks,
            pod_networks,
            ..
        } = &mut self.policy;
        if pod_networks.is_empty() {
            pod_networks.extend(&facts.pod_networks);
        }
        if node_port_networks.is_empty() {
            node_port_networks.extend(&facts.node_port_networks);
            self.localhost_node_ports = facts.localhost_node_ports;
        }
        if facts.masquerade_all && self.masquerade == MasqueradeMode::KubeProxy {
            self.masquerade = MasqueradeMode::All;
        }
    }

    /// As [`Settings::flags`] has them.
    pub(crate) fn flags(&self) -> u32 {
        let flag = |condition, flag| if condition { flag } else { 0 };
        self.masquerade.flags()
            | flag(self.knows_pods, Settings::FLAG_KNOWS_PODS)
            | flag(
                self.localhost_node_ports,
                Settings::FLAG_LOCALHOST_NODE_PORTS,
            )
            | flag(self.is_enslaved(), Settings::FLAG_ANY_FRAMES)
    }

    /// Whether an uplink belongs to a bridge or the like, which has an address of its own.
    fn is_enslaved(&self) -> bool {
        let master = |uplink: &String| Path::new("/sys/class/net").join(uplink).join("master");
        self.uplinks.iter().any(|uplink| master(uplink).exists())
    }
}

/// How packet programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// tcx where the kernel has it (6.6 or newer), else clsact.
    #[default]
    Auto,
    /// tcx links.
    Tcx,
    /// Filters on a clsact qdisc.
    Clsact,
}
