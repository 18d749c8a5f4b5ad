//! `nodegate run`: the daemon.

use std::{collections::BTreeMap, num::NonZero, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use nodegate_compile::{GatewayIdentity, NodeIdentity, ServiceScope};
use nodegate_datapath as datapath;
use nodegate_observe::{AccessLogOptions, Encoding, LineFormat};
use nodegate_programming::desired::Policy;
use nodegate_proxy::{ConnectionLimits, Fronts, Parity, PortLimit};
use nodegate_source::kubernetes::access::Access;

use super::{
    api_server::ApiServerArgs,
    attachment::Attachment,
    choices::{AttachArg, ExternalIpsArg, MasqueradeArg, TcpShiftingArg, UnenforcedArg},
};
use crate::daemon::{self, Daemon, KubernetesOptions, Role, SourceOptions};

/// Labels of gateway pods, unless it is said otherwise.
pub(super) const GATEWAY_LABELS: &str = "app=istio-ingressgateway,istio=ingressgateway";

/// Serve: redirect connections to Services (redirector), proxy requests (proxy), or both.
///
/// The redirector needs root, or CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (and CAP_SYS_ADMIN to take over from
/// one before it), and the node's own network namespace. What it loads stays in force when it ends; `nodegate cleanup` removes it. The proxy needs
/// no privilege.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate run --manifests ./manifests --services all --uplink eth0
  nodegate run --role proxy --manifests ./manifests --pod-name gw-1
  nodegate run --role redirector --kubeconfig admin.conf --services all
                                       in place of kube-proxy, by the API server
  nodegate run --role redirector --source iptables --services all
                                       beside kube-proxy, by its rules

Messages go to standard error; RUST_LOG=warn has fewer of them, RUST_LOG=debug
more. SIGTERM and SIGINT end it, after --drain.

Exit status: 0 it was told to end, 2 it could not start or go on.")]
pub struct Run {
    /// Which half to run
    #[arg(long, value_enum, default_value_t, env = "NODEGATE_ROLE")]
    role: Role,
    /// Where Services come from: the cluster's API server, the manifests, or the rules that kube-proxy writes
    /// on this node; followed as they change [default: `kubernetes` in a pod and with --kubeconfig, else
    /// `manifests`]
    #[arg(long, value_enum, env = "NODEGATE_SOURCE")]
    source: Option<Source>,
    /// Keep in this directory what the next start needs: what the API server said last, for a start while it
    /// does not answer, and versions in force of objects that were refused since. Secrets are not kept
    /// [default: nothing is kept]
    #[arg(long, env = "NODEGATE_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// Directory of manifests: Services, EndpointSlices, Pods, Gateways, VirtualServices, DestinationRules.
    /// Changes take effect within a second. With `--source kubernetes`, in addition to the API server's objects
    #[arg(long, env = "NODEGATE_MANIFESTS", value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Socket to answer at: status, trace, explain, metrics
    #[arg(
        long,
        env = "NODEGATE_ADMIN",
        default_value = super::ADMIN,
        value_name = "SOCKET"
    )]
    admin: PathBuf,
    /// Address and port for probes and Prometheus: `/healthz/ready` and `/metrics`, and nothing else
    /// [default: none]
    #[arg(long, env = "NODEGATE_STATUS_ADDRESS", value_name = "ADDRESS:PORT")]
    status_address: Option<std::net::SocketAddr>,
    /// Tell the cluster how this nodegate stands, in a Lease in this namespace, for `nodegate status
    /// --cluster` [default: it is not told]
    #[arg(long, env = "NODEGATE_REPORT_TO", value_name = "NAMESPACE")]
    report_to: Option<String>,
    /// Name of this node, as endpoints name it [default: the host's name]
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    #[command(flatten)]
    api_server: ApiServerArgs,
    #[command(flatten)]
    redirector: RedirectorArgs,
    #[command(flatten)]
    proxy: ProxyArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Redirector")]
struct RedirectorArgs {
    /// Which Services to redirect: `gateway` (those in front of gateway pods: works beside
    /// kube-proxy), `all` (in place of kube-proxy), labels such as `app=web,tier=front`, or names such as
    /// `istio-system/istio-ingressgateway,shop/*`
    #[arg(long, default_value = "gateway", env = "NODEGATE_SERVICES", value_name = "WHICH", value_parser = scope)]
    services: ServiceScope,
    /// Which external IPs to serve: `owned` (addresses of this node) or `any` (as kube-proxy does)
    #[arg(
        long,
        value_enum,
        default_value = "owned",
        env = "NODEGATE_EXTERNAL_IPS"
    )]
    external_ips: ExternalIpsArg,
    /// For which connections endpoints see this node instead of the client: where replies would not
    /// come back otherwise (`needed`), as `kube-proxy` does, or these and `all` to cluster IPs
    #[arg(
        long,
        value_enum,
        default_value = "needed",
        env = "NODEGATE_MASQUERADE"
    )]
    masquerade: MasqueradeArg,
    /// Networks that pods have addresses from
    #[arg(
        long = "cluster-cidr",
        env = "NODEGATE_CLUSTER_CIDR",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = super::network
    )]
    cluster_cidrs: Vec<IpNet>,
    /// Serve node ports only on the node's addresses in these networks [default: on all]
    #[arg(
        long = "nodeport-addresses",
        env = "NODEGATE_NODEPORT_ADDRESSES",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = super::network
    )]
    nodeport_addresses: Vec<IpNet>,
    /// Also redirect packets of pods that sockets don't cover (virtual machines, raw sockets): beginnings
    /// of the names of the pods' devices on the node, such as `veth`, `cali`, `lxc`
    #[arg(
        long = "pod-device",
        env = "NODEGATE_POD_DEVICES",
        value_name = "PREFIX",
        value_delimiter = ','
    )]
    pod_devices: Vec<String>,
    /// Who follows a gateway's TCP route that is nothing but weights: the `kernel`, which sends connections
    /// to the destinations without the gateway, the gateway's `proxy`, or (`auto`) the kernel where it can. A
    /// VirtualService decides for itself by its annotation nodegate.io/tcp-shifting
    #[arg(long, value_enum, default_value_t, env = "NODEGATE_TCP_SHIFTING")]
    tcp_shifting: TcpShiftingArg,
    /// For how many flows of packets there is room, 114 bytes each. Without it: one for 64 KiB of the
    /// machine's memory, from 32768 to 1048576. Maps that are pinned keep their size until `nodegate cleanup`
    #[arg(long, env = "NODEGATE_FLOW_TABLE", value_name = "FLOWS")]
    flow_table: Option<u32>,
    /// How to attach packet programs
    #[arg(long, value_enum, default_value_t, env = "NODEGATE_ATTACH")]
    attach: AttachArg,
    #[command(flatten)]
    attachment: Attachment,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Proxy")]
struct ProxyArgs {
    /// Name of this gateway pod; its labels decide which Gateways it serves
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod_name: Option<String>,
    /// Namespace of this gateway pod
    #[arg(
        long,
        env = "POD_NAMESPACE",
        default_value = "istio-system",
        value_name = "NAMESPACE"
    )]
    pod_namespace: String,
    /// Labels of this gateway, for as long as no Pod object of its name is known
    #[arg(
        long,
        env = "NODEGATE_GATEWAY_LABELS",
        default_value = GATEWAY_LABELS,
        value_name = "LABELS",
        value_parser = labels
    )]
    gateway_labels: Labels,
    /// Worker threads [default: one per core]
    #[arg(long, env = "NODEGATE_WORKERS", value_name = "N")]
    workers: Option<std::num::NonZeroUsize>,
    /// How long new connections are taken after the signal to end, while `/healthz/ready` says that it is
    /// over: the rest of the cluster learns of it with some delay
    #[arg(long, env = "NODEGATE_LINGER", default_value = "0s", value_name = "TIME", value_parser = super::duration)]
    linger: Duration,
    /// How long requests may go on after that
    #[arg(long, env = "NODEGATE_DRAIN", default_value = "5s", value_name = "TIME", value_parser = super::duration)]
    drain: Duration,
    /// Ask this server for the names of ServiceEntries [default: those of /etc/resolv.conf]
    #[arg(long, env = "NODEGATE_DNS_SERVER", value_name = "ADDRESS:PORT")]
    dns_server: Option<std::net::SocketAddr>,
    /// In what the proxy does as Envoy does, although it would differ: `all`, or some of the names in
    /// docs/differences.md
    #[arg(
        long,
        env = "NODEGATE_ENVOY_PARITY",
        value_name = "NAMES",
        default_value = "",
        hide_default_value = true
    )]
    envoy_parity: Parity,
    /// Let streams of HTTP/2 become WebSockets (RFC 8441), as an EnvoyFilter with `allow_connect` does
    /// with Istio
    #[arg(long, env = "NODEGATE_EXTENDED_CONNECT")]
    extended_connect: bool,
    /// Serve clients that speak HTTP/1.0, too, as Istio's ISTIO_META_HTTP10 does; else they are told to upgrade
    /// (426)
    #[arg(long, env = "NODEGATE_ACCEPT_HTTP_10")]
    accept_http_10: bool,
    /// How many connections of clients there may be at once, in all and to single ports; more are reset [default:
    /// nineteen of twenty descriptors that the process may have]
    #[arg(
        long,
        env = "NODEGATE_MAX_CONNECTIONS",
        value_name = "[PORT=]N",
        value_delimiter = ',',
        value_parser = connections
    )]
    max_connections: Vec<(Option<u16>, usize)>,
    /// How much memory the process may take, such as 512Mi; with nine of ten parts of it, new connections are refused,
    /// and those that hold the most go [default: what its container allows]
    #[arg(long, env = "NODEGATE_MAX_MEMORY", value_name = "SIZE", value_parser = super::size)]
    max_memory: Option<u64>,
    /// Fronts that say in the PROXY protocol (version 1 or 2) whose connections they bring: the port of this gateway
    /// that they connect to, and the network that they come from. Their connections must begin with that; all
    /// others are served as they are
    #[arg(
        long,
        env = "NODEGATE_PROXY_PROTOCOL_FROM",
        value_name = "PORT=CIDR",
        value_delimiter = ',',
        value_parser = front
    )]
    proxy_protocol_from: Vec<(u16, IpNet)>,
    /// What becomes of requests where an AuthorizationPolicy or RequestAuthentication is for this gateway,
    /// which this version does not enforce: `pass`, or `refuse`, which answers 403 to all of them
    #[arg(
        long,
        value_enum,
        default_value_t,
        env = "NODEGATE_UNENFORCED_POLICIES"
    )]
    unenforced_policies: UnenforcedArg,
    /// Write a line for every request and TCP connection to this file; `/dev/stdout` is possible.
    /// SIGHUP opens it again [default: no log]
    #[arg(long, env = "NODEGATE_ACCESS_LOG_FILE", value_name = "PATH")]
    access_log_file: Option<PathBuf>,
    /// How the lines are encoded
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        default_value = "TEXT",
        env = "NODEGATE_ACCESS_LOG_ENCODING"
    )]
    access_log_encoding: LogEncoding,
    /// What the lines say, in Envoy's command operators; with JSON, an object of such texts
    /// [default: Istio's format]
    #[arg(long, env = "NODEGATE_ACCESS_LOG_FORMAT", value_name = "FORMAT")]
    access_log_format: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogEncoding {
    /// Lines of text
    #[value(name = "TEXT")]
    Text,
    /// A JSON object per line
    #[value(name = "JSON")]
    Json,
}

/// Where Services come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Source {
    /// The cluster's API server
    Kubernetes,
    /// The directory of manifests
    Manifests,
    /// kube-proxy's rules, of iptables-save and ip6tables-save
    Iptables,
}

/// A limit of connections, of all or of a port.
fn connections(text: &str) -> Result<(Option<u16>, usize), String> {
    let (port, number) = match text.split_once('=') {
        Some((port, number)) => (Some(port), number),
        None => (None, text),
    };
    let port = port.map(|port| port.parse::<NonZero<u16>>().map(NonZero::get));
    match (port.transpose(), number.parse::<NonZero<usize>>()) {
        (Ok(port), Ok(number)) => Ok((port, number.get())),
        _ => Err("a number, or a port and a number, such as 10000 or 443=5000".to_owned()),
    }
}

/// `8443=192.0.2.0/24`
fn front(text: &str) -> Result<(u16, IpNet), String> {
    let (port, network) = text
        .split_once('=')
        .ok_or("not PORT=CIDR (fix: such as 8443=192.0.2.0/24)")?;
    let port = port
        .parse::<u16>()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("`{port}` is no port (fix: 1 to 65535)"))?;
    Ok((port, super::network(network)?))
}

pub(super) type Labels = BTreeMap<String, String>;

pub(super) fn scope(text: &str) -> Result<ServiceScope, String> {
    match text {
        "all" => Ok(ServiceScope::All),
        "gateway" => Ok(ServiceScope::Gateway),
        // Keys of labels have slashes too.
        _ if text.contains('/') && !text.contains('=') => names(text).map(ServiceScope::Names),
        _ => labels(text).map(ServiceScope::Selector).map_err(|_| {
            format!(
                "`{text}` names no Services (fix: `all`, `gateway`, labels such as app=web, or \
                     names such as shop/web or shop/*)"
            )
        }),
    }
}

fn names(text: &str) -> Result<Vec<(String, String)>, String> {
    let name = |text: &str| match text.trim().split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err(format!(
            "{text:?} is no name of a Service (fix: namespace/name, where * stands for any)"
        )),
    };
    text.split(',').map(name).collect()
}

pub(super) fn labels(text: &str) -> Result<Labels, String> {
    text.split(',')
        .map(|pair| {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| format!("{pair:?} is no label (fix: key=value,key=value)"))?;
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}

impl Run {
    /// Runs until SIGTERM or SIGINT.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        init_log();
        raise_file_limit();
        let options = self.options()?;
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("control")
            .enable_all()
            .build()?
            .block_on(async { Daemon::start(options)?.run().await })?;
        Ok(ExitCode::SUCCESS)
    }

    fn options(self) -> anyhow::Result<daemon::Options> {
        let sources = self.sources()?;
        let node = match self.node_name {
            Some(name) => name,
            None => host_name()?,
        };
        let datapath = match self.role {
            Role::Proxy => None,
            Role::All | Role::Redirector => Some(self.redirector.options()?),
        };
        let proxy = match self.role {
            Role::Redirector => None,
            Role::All | Role::Proxy => Some(self.proxy.options(&node)?),
        };
        Ok(daemon::Options {
            role: self.role,
            sources,
            admin: self.admin,
            probes: self.status_address,
            report_to: self.report_to,
            node: NodeIdentity {
                name: node,
                tcp_shifting: self.redirector.tcp_shifting.into(),
            },
            services: self.redirector.services,
            datapath,
            proxy,
        })
    }
}

impl Run {
    /// Which sources there are; fails where they are not enough for what is to run.
    fn sources(&self) -> anyhow::Result<SourceOptions> {
        let source = self.source();
        let rules = source == Source::Iptables;
        let needs_manifests = match source {
            Source::Kubernetes => false,
            Source::Manifests => true,
            Source::Iptables => self.role != Role::Redirector,
        };
        if needs_manifests && self.manifests.is_none() {
            bail!(
                "there are no objects to go by (fix: --manifests DIR{})",
                match source {
                    Source::Iptables => " for the proxy, or --role redirector",
                    _ =>
                        ", or --source kubernetes --kubeconfig FILE, or --role redirector --source iptables",
                }
            );
        }
        if rules {
            if self.role == Role::Proxy {
                bail!(
                    "the proxy reads no rules: Gateways and endpoints come from objects (fix: leave \
                     --source out)"
                );
            }
            if self.redirector.services.has_name("", "").is_none() {
                bail!(
                    "rules tell Services by their names only, neither by labels nor by what is behind \
                     them (fix: --services all, or names such as \
                     --services istio-system/istio-ingressgateway)"
                );
            }
        }
        let has_options = self.api_server != ApiServerArgs::default() || self.report_to.is_some();
        if source != Source::Kubernetes && has_options {
            bail!(
                "--kubeconfig, --api-server and --report-to are for the API server, which is not read (fix: \
                 --source kubernetes, or leave them out)"
            );
        }
        let adds_manifests = needs_manifests || source == Source::Kubernetes;
        Ok(SourceOptions {
            kept: self.kept("kept.yaml"),
            kubernetes: (source == Source::Kubernetes).then(|| self.kubernetes()),
            manifests: self.manifests.clone().filter(|_| adds_manifests),
            rules,
        })
    }

    fn source(&self) -> Source {
        self.source.unwrap_or_else(|| {
            if Access::is_in_pod() || self.api_server.kubeconfig.is_some() {
                Source::Kubernetes
            } else {
                Source::Manifests
            }
        })
    }

    /// A file of this role's in the directory of what is kept.
    fn kept(&self, extension: &str) -> Option<PathBuf> {
        let file = format!("{}.{extension}", self.role);
        self.state.as_ref().map(|directory| directory.join(file))
    }

    fn kubernetes(&self) -> KubernetesOptions {
        KubernetesOptions {
            access: self.api_server.access(),
            state: self.kept("journal"),
        }
    }
}

impl RedirectorArgs {
    fn options(&self) -> anyhow::Result<datapath::Options> {
        Ok(datapath::Options {
            pin_dir: self.attachment.pins.path.clone(),
            cgroup: self.attachment.cgroup()?,
            uplinks: self.attachment.uplinks(&self.nodeport_addresses)?,
            finds_uplinks: self.attachment.finds_uplinks(),
            mode: self.attach.into(),
            localhost_node_ports: localhost_node_ports(&self.nodeport_addresses),
            policy: Policy {
                external_ips: self.external_ips.into(),
                node_port_networks: self.nodeport_addresses.clone(),
                pod_networks: self.cluster_cidrs.clone(),
            },
            masquerade: self.masquerade.into(),
            knows_pods: true,
            pod_devices: self.pod_devices.clone(),
            flow_table: self.flow_table,
        })
    }
}

impl ProxyArgs {
    fn options(&self, node: &str) -> anyhow::Result<daemon::ProxyOptions> {
        Ok(daemon::ProxyOptions {
            identity: GatewayIdentity {
                namespace: self.pod_namespace.clone(),
                name: self.pod_name.clone().unwrap_or_else(|| node.to_owned()),
                labels: self.gateway_labels.clone(),
                unenforced: self.unenforced_policies.into(),
            },
            workers: self.workers,
            linger: self.linger,
            drain: self.drain,
            dns: self.dns_server,
            parity: self.envoy_parity,
            extended_connect: self.extended_connect,
            accept_http10: self.accept_http_10,
            fronts: Fronts(self.proxy_protocol_from.clone()),
            max_connections: self.max_connections(),
            max_memory: self.max_memory,
            access_log: self.access_log()?,
        })
    }

    fn max_connections(&self) -> ConnectionLimits {
        let mut limits = ConnectionLimits::default();
        for (port, most) in &self.max_connections {
            match port {
                Some(port) => limits.ports.push(PortLimit::new(*port, *most)),
                None => limits.all = Some(*most),
            }
        }
        limits
    }

    fn access_log(&self) -> anyhow::Result<Option<AccessLogOptions>> {
        let encoding = match self.access_log_encoding {
            LogEncoding::Text => Encoding::Text,
            LogEncoding::Json => Encoding::Json,
        };
        // Wrong even if it isn't used yet.
        let format = LineFormat::new(encoding, self.access_log_format.as_deref())
            .context("--access-log-format")?;
        let path = self.access_log_file.clone();
        // Istio writes no log for an empty `accessLogFile`.
        let path = path.filter(|path| !path.as_os_str().is_empty());
        Ok(path.map(|path| AccessLogOptions { path, format }))
    }
}

/// Any list without loopback turns node ports on 127.0.0.1 off, as in kube-proxy.
fn localhost_node_ports(networks: &[IpNet]) -> bool {
    let localhost = std::net::IpAddr::from(std::net::Ipv4Addr::LOCALHOST);
    networks.is_empty() || networks.iter().any(|network| network.contains(&localhost))
}

/// Every connection takes a descriptor, and the usual soft limit is 1024.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// The name of this host, or of the pod that this is.
pub(super) fn host_name() -> anyhow::Result<String> {
    nix::unistd::gethostname()?
        .into_string()
        .ok()
        .context("the host's name is no text (fix: give one)")
}

/// Logs go to standard error; `RUST_LOG` chooses (`info` if unset).
pub(super) fn init_log() {
    use std::io::IsTerminal as _;
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_pairs() {
        let parsed = labels("app=web, tier=front").unwrap();
        assert_eq!(parsed["tier"], "front");
        assert!(labels("app").unwrap_err().contains("key=value"));
    }
}
