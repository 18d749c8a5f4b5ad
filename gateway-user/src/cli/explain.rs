//! `nodegate explain`: what would become of a connection and of a request, and why.

use std::{
    io::{self, Write},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::bail;
use clap::{Args, ValueEnum};
use ipnet::IpNet;

use crate::{
    datapath::{MasqueradeMode, desired::ExternalIps},
    explain::{
        answer::{Answer, Question, RequestParts, Setup, explain},
        node::Choices,
        question::{ClientSpec, TargetSpec},
    },
    iptables::config::{DetectLocalMode, KubeProxyArgs, NodePortAddresses},
    model::{compile::ServiceScope, service::Protocol},
    resources::{
        Resources,
        admission::Store,
        diagnostic::{Diagnostic, Severity},
    },
    source::directory::Directory,
};

const EXAMPLES: &str = "\
Examples:
  nodegate explain external 192.168.170.137:31373 --manifests m/     a node port, from outside
  nodegate explain node istio-system/istio-ingressgateway:http2 --manifests m/
                                                                     a cluster IP, from the node itself
  nodegate explain pod/simple/nginx-0 10.96.190.18:80 --manifests m/ from a pod
  nodegate explain external http://192.168.170.137:31373/simple/nginx --host simple.baihl.io \\
      --manifests m/                                                 a request, to the pod that answers it
  nodegate explain external 192.168.170.137:31373 -o json --manifests m/

Nothing is sent and nothing is asked of the kernel: the answer is what follows from the manifests
(Services, EndpointSlices, Nodes, Pods, Gateways, VirtualServices, DestinationRules). Beside what
nodegate does stands the way through the rules that kube-proxy would have written.

Exit status: 0 it reaches a pod, 1 it does not (refused, dropped, 404, 503), 2 the question cannot be
answered.";

/// Explain what becomes of a connection or a request, and why.
///
/// FROM is `external` (a client outside the cluster), `node` (a process on the node), `pod/NS/NAME`, or
/// an address. TO is ADDRESS:PORT, http://ADDRESS:PORT/PATH, or NS/NAME:PORT, a Service's cluster IP.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// Who connects: external, node, pod/NS/NAME, or an address
    from: ClientSpec,
    /// To what: ADDRESS:PORT, http://ADDRESS:PORT/PATH, or NS/NAME:PORT
    to: TargetSpec,
    /// Files or directories of manifests
    #[arg(
        long,
        env = "NODEGATE_MANIFESTS",
        value_name = "PATH",
        required = true,
        value_delimiter = ','
    )]
    manifests: Vec<PathBuf>,
    /// Transport protocol [default: that of the Service's port, else TCP]
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    protocol: Option<ProtocolArg>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Request")]
struct RequestArgs {
    /// Method of the request [default: GET]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Host header [default: that of the URL]
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Path, with the query [default: that of the URL]
    #[arg(long, value_name = "PATH", value_parser = path)]
    path: Option<String>,
    /// Another header; may be given several times
    #[arg(long = "header", value_name = "NAME:VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Node")]
struct NodeArgs {
    /// The node that it is about [default: the pod's, the one with the address, or the only one]
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node: Option<String>,
    /// The node's addresses [default: those of its Node object]
    #[arg(long = "node-address", value_name = "IP", value_delimiter = ',')]
    node_addresses: Vec<IpAddr>,
    /// Networks that pods have addresses from [default for kube-proxy's part: the Node's podCIDRs]
    #[arg(
        long = "cluster-cidr",
        env = "NODEGATE_CLUSTER_CIDR",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    cluster_cidrs: Vec<IpNet>,
    /// Where node ports are served [default: on all addresses]
    #[arg(
        long = "nodeport-addresses",
        env = "NODEGATE_NODEPORT_ADDRESSES",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    nodeport_addresses: Vec<IpNet>,
    /// Which external IPs nodegate serves
    #[arg(
        long,
        value_enum,
        default_value = "owned",
        env = "NODEGATE_EXTERNAL_IPS"
    )]
    external_ips: ExternalIps,
    /// For which connections nodegate masquerades
    #[arg(
        long,
        value_enum,
        default_value = "needed",
        env = "NODEGATE_MASQUERADE"
    )]
    masquerade: MasqueradeMode,
    /// Which Services nodegate redirects: `all`, `gateway`, or labels such as `app=web`
    #[arg(long, default_value = "all", env = "NODEGATE_SERVICES", value_name = "WHICH", value_parser = super::run::scope)]
    services: ServiceScope,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProtocolArg {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl From<ProtocolArg> for Protocol {
    fn from(protocol: ProtocolArg) -> Self {
        match protocol {
            ProtocolArg::Tcp => Self::Tcp,
            ProtocolArg::Udp => Self::Udp,
            ProtocolArg::Sctp => Self::Sctp,
        }
    }
}

fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err(format!("a path begins with a slash (fix: /{text})"))
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .filter(|(name, _)| http::HeaderName::try_from(*name).is_ok())
        .ok_or_else(|| format!("`{text}` is no header (fix: NAME:VALUE, such as x-user:jason)"))?;
    Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
}

impl Explain {
    /// Answers.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let status = self.write(&mut out)?;
        match out.flush() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            // Whoever read it has read enough, as in `… | head`.
            _ => Ok(status),
        }
    }

    fn write(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let output = self.output;
        let answer = self.answer()?;
        let written = match output {
            Output::Text => write!(out, "{answer}"),
            Output::Json => serde_json::to_writer_pretty(&mut *out, &answer)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(out)),
        };
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
        Ok(if answer.result.good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn answer(self) -> anyhow::Result<Answer> {
        let resources = manifests(self.manifests)?;
        let setup = self.node.setup();
        let question = Question {
            from: self.from,
            to: self.to,
            protocol: self.protocol.map(Protocol::from),
            node: self.node.node,
            request: RequestParts {
                method: self.request.method,
                host: self.request.host,
                path: self.request.path,
                headers: self.request.headers,
            },
        };
        Ok(explain(&resources, &setup, &question)?)
    }
}

/// The objects of manifests. What is wrong with some of them does not keep the others from being
/// explained, but is told.
fn manifests(paths: Vec<PathBuf>) -> anyhow::Result<Resources> {
    let mut directory = Directory::new(paths)?;
    let scan = directory.scan();
    let resources = Store::default().admit(directory.manifests(), scan.diagnostics);
    let is_error = |diagnostic: &&Diagnostic| diagnostic.severity == Severity::Error;
    for error in resources.diagnostics.iter().filter(is_error) {
        eprintln!("{error}");
    }
    if resources.objects.is_empty() {
        bail!("the manifests hold no objects (fix: --manifests)");
    }
    Ok((*resources).clone())
}

impl NodeArgs {
    fn setup(&self) -> Setup {
        let nodeport_addresses = self.nodeport_addresses.iter().copied();
        Setup {
            kube_proxy: KubeProxyArgs {
                hostname_override: String::new(),
                cluster_cidr: self.cluster_cidrs.clone(),
                detect_local_mode: DetectLocalMode::default(),
                pod_bridge_interface: String::new(),
                pod_interface_name_prefix: String::new(),
                masquerade_all: self.masquerade == MasqueradeMode::All,
                nodeport_addresses: nodeport_addresses.map(NodePortAddresses::In).collect(),
                iptables_localhost_nodeports: true,
                iptables_masquerade_bit: 14,
                node_addresses: self.node_addresses.clone(),
                conntrack_tcp_be_liberal: false,
                nfacct: false,
                random_fully: true,
            },
            choices: Choices {
                external_ips: self.external_ips,
                masquerade: self.masquerade,
                pod_networks: self.cluster_cidrs.clone(),
                // As `nodegate run`: sockets in pods are known by their network namespace.
                knows_pods: true,
            },
            services: self.services.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
