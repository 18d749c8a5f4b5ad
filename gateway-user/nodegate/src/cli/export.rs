//! `nodegate export`: what manifests mean, in another program's words.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use nodegate_compile::{GatewayIdentity, NodeIdentity, ServiceScope, compile};
use nodegate_export::envoy;
use nodegate_resources::admission::Store;
use nodegate_source::directory::Directory;
use nodegate_values::diagnostic::{self, Severity};

/// Print what manifests mean, for another program.
#[derive(Debug, Args)]
pub struct Export {
    #[command(subcommand)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Format {
    Envoy(Envoy),
}

/// Print a static bootstrap of Envoy that does what a gateway pod would do.
///
/// To compare the two, or to move on to Envoy.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate export envoy --manifests ./manifests > bootstrap.yaml
  envoy --mode validate -c bootstrap.yaml

Exit status: 0 success, 1 a manifest was refused (the rest is printed), 2 a path
cannot be read.")]
struct Envoy {
    /// Files or directories of manifests
    #[arg(long, required = true, value_name = "PATH")]
    manifests: Vec<PathBuf>,
    /// Namespace of the gateway pod
    #[arg(long, default_value = "istio-system", value_name = "NAMESPACE")]
    pod_namespace: String,
    /// Name of the gateway pod; if it is among the manifests, its labels count
    #[arg(long, default_value = "istio-ingressgateway", value_name = "NAME")]
    pod_name: String,
    /// Labels of the gateway pod
    #[arg(
        long,
        default_value = super::run::GATEWAY_LABELS,
        value_name = "LABELS",
        value_parser = super::run::labels
    )]
    pod_labels: BTreeMap<String, String>,
    /// Address of all listeners
    #[arg(long, default_value_t = IpAddr::from(Ipv4Addr::UNSPECIFIED), value_name = "ADDRESS")]
    listen: IpAddr,
    /// Port of Envoy's admin interface, on 127.0.0.1
    #[arg(long, default_value_t = 15000, value_name = "PORT")]
    admin_port: u16,
    /// Let streams of HTTP/2 become WebSockets (RFC 8441), as `nodegate run` with this option does
    #[arg(long, env = "NODEGATE_EXTENDED_CONNECT")]
    extended_connect: bool,
}

impl Export {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.format {
            Format::Envoy(command) => command.run(),
        }
    }
}

impl Envoy {
    fn run(self) -> anyhow::Result<ExitCode> {
        let mut directory = Directory::new(self.manifests)?;
        let scan = directory.scan();
        let mut store = Store::default();
        let resources = store.admit(directory.manifests(), scan.diagnostics);
        let pod = resources.pod(&self.pod_namespace, &self.pod_name);
        let labels = pod.and_then(|pod| pod.metadata.labels.clone());
        let identity = GatewayIdentity {
            namespace: self.pod_namespace,
            name: self.pod_name,
            labels: labels.unwrap_or(self.pod_labels),
            ..GatewayIdentity::default()
        };
        let node = NodeIdentity::default();
        let compiled = compile(&resources, &node, Some(&identity), &ServiceScope::Gateway);
        for message in &compiled.diagnostics {
            if message.severity > Severity::Info {
                eprintln!("{message}");
            }
        }
        let options = envoy::ExportOptions {
            listen: self.listen,
            admin_port: self.admin_port,
            extended_connect: self.extended_connect,
        };
        let bootstrap = envoy::bootstrap(&compiled.gateway, options);
        let mut out = io::stdout().lock();
        // JSON, which is YAML, too. Envoy's reader is one of YAML 1.1, for which a bare `y` is true.
        serde_json::to_writer_pretty(&mut out, &bootstrap).context("writing the bootstrap")?;
        writeln!(out)?;
        let refused = diagnostic::has_errors(&compiled.diagnostics);
        Ok(ExitCode::from(u8::from(refused)))
    }
}
