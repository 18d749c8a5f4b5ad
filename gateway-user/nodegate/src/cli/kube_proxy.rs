//! kube-proxy's flags, by their names.

use std::net::IpAddr;

use clap::{
    ArgAction, Args,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use ipnet::IpNet;
use nodegate_iptables::config::{DetectLocalMode, KubeProxyArgs, NodePortAddresses};

/// kube-proxy's own flags, by their names, and what it would ask the node.
#[expect(
    clippy::struct_excessive_bools,
    reason = "as many flags as kube-proxy has"
)]
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "kube-proxy")]
pub struct KubeProxyFlags {
    /// Name of the node's Node object
    #[arg(
        long,
        value_name = "NODE",
        env = "NODE_NAME",
        default_value = "",
        hide_default_value = true
    )]
    hostname_override: String,
    /// Networks of the pods, one for each family
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// How traffic of the node's own pods is known
    #[arg(long, default_value = DetectLocalMode::default().name(), value_name = "MODE", value_parser = modes())]
    detect_local_mode: DetectLocalMode,
    /// The bridge of the pods, for BridgeInterface
    #[arg(long, value_name = "NAME", default_value = "")]
    pod_bridge_interface: String,
    /// How the names of the pods' interfaces begin, for InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pod_interface_name_prefix: String,
    /// Masquerade all traffic to cluster IPs
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = ArgAction::Set, value_name = "BOOL")]
    masquerade_all: bool,
    /// Where node ports are served: networks, or `primary`
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    nodeport_addresses: Vec<NodePortAddresses>,
    /// Serve node ports on 127.0.0.1
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    iptables_localhost_nodeports: bool,
    /// The bit of the packet mark that asks for masquerading
    #[arg(long, value_name = "BIT", default_value_t = 14, value_parser = clap::value_parser!(u8).range(0..=31))]
    iptables_masquerade_bit: u8,
    /// The node's addresses [default: those of the Node object]
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    node_addresses: Vec<IpAddr>,
    /// The node has nf_conntrack_tcp_be_liberal=1
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", action = ArgAction::Set, value_name = "BOOL")]
    conntrack_tcp_be_liberal: bool,
    /// The node's kernel has nfacct
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    nfacct: bool,
    /// The node's iptables has MASQUERADE --random-fully
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    random_fully: bool,
}

impl From<KubeProxyFlags> for KubeProxyArgs {
    fn from(flags: KubeProxyFlags) -> Self {
        Self {
            hostname_override: flags.hostname_override,
            cluster_cidr: flags.cluster_cidr,
            detect_local_mode: flags.detect_local_mode,
            pod_bridge_interface: flags.pod_bridge_interface,
            pod_interface_name_prefix: flags.pod_interface_name_prefix,
            masquerade_all: flags.masquerade_all,
            nodeport_addresses: flags.nodeport_addresses,
            iptables_localhost_nodeports: flags.iptables_localhost_nodeports,
            iptables_masquerade_bit: flags.iptables_masquerade_bit,
            node_addresses: flags.node_addresses,
            conntrack_tcp_be_liberal: flags.conntrack_tcp_be_liberal,
            nfacct: flags.nfacct,
            random_fully: flags.random_fully,
        }
    }
}

/// The modes by their names, each with what it goes by.
fn modes() -> impl TypedValueParser<Value = DetectLocalMode> {
    let values = DetectLocalMode::ALL.map(|mode| {
        PossibleValue::new(mode.name()).help(match mode {
            DetectLocalMode::ClusterCidr => "By `--cluster-cidr`",
            DetectLocalMode::NodeCidr => "By the Node's spec.podCIDRs",
            DetectLocalMode::BridgeInterface => "By `--pod-bridge-interface`",
            DetectLocalMode::InterfaceNamePrefix => "By `--pod-interface-name-prefix`",
        })
    });
    PossibleValuesParser::new(values).try_map(|name| {
        let mode = DetectLocalMode::ALL
            .into_iter()
            .find(|mode| mode.name() == name);
        mode.ok_or("no such mode")
    })
}
