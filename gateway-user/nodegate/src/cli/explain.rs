//! `nodegate explain`: what would become of a connection and of a request, and why.

use std::{
    io::{self, Write},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use http::Method;
use http_body_util::BodyExt as _;
use ipnet::IpNet;
use nodegate_admin::{client, server::ANSWER_IS_GOOD};
use nodegate_compile::{ServiceScope, TcpShifting, Unenforced};
use nodegate_explain::{
    answer::{Brief, LABEL, Setup, explain},
    ask::Ask,
    node::Choices,
    question::{ClientSpec, SpecError, TargetSpec},
};
use nodegate_iptables::config::{KubeProxyArgs, NodePortAddresses};
use nodegate_model::service::Protocol;
use nodegate_programming::{desired::ExternalIps, masquerade::MasqueradeMode};
use nodegate_resources::{Resources, admission::Store};
use nodegate_source::directory::Directory;
use nodegate_values::diagnostic::{Diagnostic, Severity};

use super::{
    Admin, Output,
    choices::{ExternalIpsArg, MasqueradeArg, TcpShiftingArg, UnenforcedArg},
    layout::{Layout, WidthArgs},
};

/// How long a running nodegate may take to answer: with ten thousands of Services, seconds.
const PATIENCE: Duration = Duration::from_secs(30);

const EXAMPLES: &str = "\
Examples:
  nodegate explain external 192.168.170.137:31373
                                       a node port, from outside
  nodegate explain node istio-system/istio-ingressgateway:http2
                                       a cluster IP, from the node itself
  nodegate explain pod/simple/nginx-0 10.96.190.18:80
                                       from a pod
  nodegate explain node 10.96.0.10:53 --protocol udp
  nodegate explain external http://192.168.170.137:31373/simple/nginx \\
    --host simple.baihl.io             a request, to the pod that answers it
  nodegate explain external 192.168.170.137:31373 --brief
                                       the result and why, and no more
  nodegate explain external 192.168.170.137:31373 -o json
  nodegate explain external 192.168.170.137:31373 --manifests m/
                                       offline: no node is asked

Nothing is sent. The nodegate that runs here answers, by what its maps hold;
with --manifests, the answer is what follows from the manifests (Services,
EndpointSlices, Nodes, Pods, Gateways, VirtualServices, DestinationRules,
ServiceEntries). Beside what nodegate does stands the way through the rules
that kube-proxy would have written.

Exit status: 0 it reaches a pod, or the gateway answers as its route says; 1 it
does not (refused, dropped, 404, 503, or no Service is asked for); 2 the
question cannot be answered.";

/// Explain what becomes of a connection or a request, and why.
///
/// FROM is `external` (a client outside the cluster), `node` (a process on the node), `pod/NS/NAME`, or
/// an address. TO is ADDRESS:PORT, http://ADDRESS:PORT/PATH (or https), or NS/NAME:PORT, a Service's cluster IP.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    /// Who connects: external, node, pod/NS/NAME, or an address
    #[arg(value_parser = client)]
    from: String,
    /// To what: ADDRESS:PORT, http://ADDRESS:PORT/PATH, or NS/NAME:PORT
    #[arg(value_parser = target)]
    to: String,
    /// Files or directories of manifests [default: ask the nodegate that runs here]
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    manifests: Vec<PathBuf>,
    #[command(flatten)]
    admin: Admin,
    /// Transport protocol [default: that of the Service's port, else tcp]
    #[arg(long, value_name = "PROTOCOL", value_parser = protocols())]
    protocol: Option<Protocol>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Only how it ends, and why
    #[arg(long)]
    brief: bool,
    #[command(flatten)]
    width: WidthArgs,
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
    /// Name that the client asks for in its TLS, SNI [default: that of the host]
    #[arg(long = "server-name", value_name = "NAME")]
    server_name: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Node (of manifests; a running nodegate knows its own)")]
struct NodeArgs {
    /// The node that it is about [default: $NODE_NAME with manifests; else the pod's, the one with the address,
    /// or the only one]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The node's addresses [default: those of its Node object]
    #[arg(long = "node-address", value_name = "IP", value_delimiter = ',')]
    node_addresses: Vec<IpAddr>,
    /// Networks that pods have addresses from [default for kube-proxy's part: the Node's podCIDRs]
    #[arg(long = "cluster-cidr", value_name = "CIDR", value_delimiter = ',',
        value_parser = super::network)]
    cluster_cidrs: Vec<IpNet>,
    /// Where node ports are served [default: on all addresses]
    #[arg(
        long = "nodeport-addresses",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = super::network
    )]
    nodeport_addresses: Vec<IpNet>,
    /// Which external IPs nodegate serves [default: owned]
    #[arg(long, value_enum)]
    external_ips: Option<ExternalIpsArg>,
    /// For which connections nodegate masquerades [default: needed]
    #[arg(long, value_enum)]
    masquerade: Option<MasqueradeArg>,
    /// Which Services nodegate redirects: `all`, `gateway`, or labels such as `app=web` [default: all]
    #[arg(long, value_name = "WHICH", value_parser = super::run::scope)]
    services: Option<ServiceScope>,
    /// What gateways do where a policy is for them that this version does not enforce [default: pass]
    #[arg(long, value_enum)]
    unenforced_policies: Option<UnenforcedArg>,
    /// Who follows a gateway's TCP route that is nothing but weights [default: auto]
    #[arg(long, value_enum)]
    tcp_shifting: Option<TcpShiftingArg>,
}

fn client(text: &str) -> Result<String, SpecError> {
    text.parse::<ClientSpec>().map(|_| text.to_owned())
}

fn target(text: &str) -> Result<String, SpecError> {
    text.parse::<TargetSpec>().map(|_| text.to_owned())
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
        let layout = match self.output {
            Output::Text => Some(self.width.for_reading(&io::stdout())),
            Output::Json => None,
        };
        let mut out = io::BufWriter::new(io::stdout().lock());
        let status = self.write(layout, &mut out)?;
        out.flush()?;
        Ok(status)
    }

    fn write(self, layout: Option<Layout>, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let (good, answer) = if self.manifests.is_empty() {
            self.asked()?
        } else {
            self.answered()?
        };
        let answer = match layout {
            Some(layout) => layout.fit(&answer, LABEL),
            None => answer,
        };
        out.write_all(answer.as_bytes())?;
        Ok(if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn ask(&self) -> Ask {
        Ask {
            from: self.from.clone(),
            to: self.to.clone(),
            protocol: self
                .protocol
                .map(|protocol| protocol.lowercase().to_owned()),
            node: self.node.node.clone(),
            method: self.request.method.clone(),
            host: self.request.host.clone(),
            path: self.request.path.clone(),
            headers: self.request.headers.clone(),
            server_name: self.request.server_name.clone(),
        }
    }

    /// Asks the nodegate that runs here.
    fn asked(&self) -> anyhow::Result<(bool, String)> {
        if let Some(option) = self.node.of_manifests() {
            bail!("{option} is about manifests, and there are none (fix: --manifests PATH)");
        }
        let path = match self.output {
            Output::Text if self.brief => "/explain?output=brief",
            Output::Text => "/explain",
            Output::Json => "/explain?output=json",
        };
        let question = serde_json::to_vec(&self.ask())?;
        let socket = &self.admin.admin;
        super::block_on(async {
            let response = client::request(socket, Method::POST, path, question, PATIENCE)
                .await
                .context("asking the nodegate that runs here (--manifests PATH asks none)")?;
            let good = response.headers().get(ANSWER_IS_GOOD);
            let good = good.is_some_and(|good| good == "true");
            let answer = response.into_body().collect().await?.to_bytes();
            Ok((good, String::from_utf8(answer.into())?))
        })
    }

    /// Answers by the manifests.
    fn answered(self) -> anyhow::Result<(bool, String)> {
        // A running nodegate has its name, and says where it is not the one to be asked.
        let own = || std::env::var("NODE_NAME").ok();
        let mut question = self.ask().question().map_err(anyhow::Error::msg)?;
        question.node = question.node.or_else(own);
        let (output, brief) = (self.output, self.brief);
        let resources = manifests(self.manifests)?;
        let answer = explain(&resources, &self.node.setup(), None, &question)?;
        let written = match output {
            Output::Text if brief => Brief(&answer).to_string(),
            Output::Text => answer.to_string(),
            Output::Json => serde_json::to_string_pretty(&answer)? + "\n",
        };
        Ok((answer.result.good, written))
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
    /// An option that says nothing to a running nodegate.
    fn of_manifests(&self) -> Option<&'static str> {
        let given = [
            ("--node-address", !self.node_addresses.is_empty()),
            ("--cluster-cidr", !self.cluster_cidrs.is_empty()),
            ("--nodeport-addresses", !self.nodeport_addresses.is_empty()),
            ("--external-ips", self.external_ips.is_some()),
            ("--masquerade", self.masquerade.is_some()),
            ("--services", self.services.is_some()),
            ("--unenforced-policies", self.unenforced_policies.is_some()),
            ("--tcp-shifting", self.tcp_shifting.is_some()),
        ];
        let (option, _) = given.into_iter().find(|(_, given)| *given)?;
        Some(option)
    }

    fn setup(&self) -> Setup {
        let nodeport_addresses = self.nodeport_addresses.iter().copied();
        let masquerade = self
            .masquerade
            .map_or_else(MasqueradeMode::default, Into::into);
        Setup {
            kube_proxy: KubeProxyArgs {
                cluster_cidr: self.cluster_cidrs.clone(),
                masquerade_all: masquerade == MasqueradeMode::All,
                nodeport_addresses: nodeport_addresses.map(NodePortAddresses::In).collect(),
                node_addresses: self.node_addresses.clone(),
                ..KubeProxyArgs::default()
            },
            choices: Choices {
                external_ips: self
                    .external_ips
                    .map_or_else(ExternalIps::default, Into::into),
                masquerade,
                pod_networks: self.cluster_cidrs.clone(),
                // As `nodegate run`: sockets in pods are known by their network namespace.
                knows_pods: true,
            },
            services: self.services.clone().unwrap_or(ServiceScope::All),
            by_kube_proxy: None,
            unenforced: self
                .unenforced_policies
                .map_or_else(Unenforced::default, Into::into),
            tcp_shifting: self
                .tcp_shifting
                .map_or_else(TcpShifting::default, Into::into),
        }
    }
}

/// Says to shells, too, which there are.
fn protocols() -> impl TypedValueParser<Value = Protocol> {
    PossibleValuesParser::new(Protocol::ALL.map(Protocol::lowercase))
        .try_map(|text| text.parse::<Protocol>())
}

#[cfg(test)]
mod tests;
