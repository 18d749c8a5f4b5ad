//! `nodegate controller`

use std::{net::SocketAddr, process::ExitCode};

use clap::{Args, ValueEnum};
use nodegate_controller::{Controller, controller::Admission, review::Refusal};
use nodegate_source::{
    combined::Sources,
    kubernetes::{
        ApiServer,
        interest::{Interest, RedirectorInterest},
    },
};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    api_server::ApiServerArgs,
    run::{GATEWAY_LABELS, Labels, labels},
};

/// Do what one process in a cluster is enough for: write on objects what is wrong with them, and answer for
/// them at admission.
///
/// `kubectl describe virtualservice` then tells why one is refused, and with --webhook `kubectl apply` does. Of
/// several controllers the holder of a Lease writes; all answer. Traffic needs none of them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate controller                  in a pod
  nodegate controller --webhook '[::]:9443'
                                       the same, and objects are checked at
                                       admission, as deploy/ has it
  nodegate controller --kubeconfig admin.conf --namespace nodegate-system

Exit status: 0 it was told to end, 2 it could not start.")]
pub struct ControllerArgs {
    /// Namespace of the Lease, and of the webhook's Service and certificate
    #[arg(
        long,
        env = "POD_NAMESPACE",
        default_value = "nodegate-system",
        value_name = "NAMESPACE"
    )]
    namespace: String,
    /// Name of this process among several [default: the host's name]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
    /// Answer here when the API server asks whether to take an object: by HTTPS, with a certificate that is made
    /// and renewed by itself [default: nobody is asked]
    #[arg(long, env = "NODEGATE_WEBHOOK", value_name = "ADDRESS:PORT")]
    webhook: Option<SocketAddr>,
    /// What happens at admission to an object that nodegate would refuse
    #[arg(
        long,
        env = "NODEGATE_REFUSED",
        default_value = "deny",
        value_name = "WHAT"
    )]
    refused: Refused,
    /// Labels of the gateway's pods, for as long as there are none
    #[arg(
        long,
        env = "NODEGATE_GATEWAY_LABELS",
        default_value = GATEWAY_LABELS,
        value_name = "LABELS",
        value_parser = labels
    )]
    gateway_labels: Labels,
    #[command(flatten)]
    api_server: ApiServerArgs,
}

/// What happens to an object that nodegate would refuse.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Refused {
    /// It does not come into the cluster.
    Deny,
    /// It does, with a warning: another gateway may serve it.
    Warn,
}

// === impl ControllerArgs ===

impl ControllerArgs {
    /// Runs until SIGTERM or SIGINT.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::run::init_log();
        let identity = match self.identity {
            Some(name) => name,
            None => super::run::host_name()?,
        };
        let access = self.api_server.access();
        let source = ApiServer {
            access: access.clone(),
            interest: Interest {
                // All that is refused is of use to somebody.
                redirector: Some(RedirectorInterest {
                    node: String::new(),
                    gateways: false,
                    tcp_routes: false,
                }),
                routes: true,
                secrets: None,
            },
            state: None,
        };
        let refusal = match self.refused {
            Refused::Deny => Refusal::Deny,
            Refused::Warn => Refusal::Warn,
        };
        let controller = Controller {
            access,
            namespace: self.namespace,
            identity,
            gateway_labels: self.gateway_labels,
            admission: self.webhook.map(|address| Admission { address, refusal }),
        };
        super::block_on(async {
            let sources = Sources::start(vec![Box::new(source)], None)?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! {
                ended = controller.run(sources.subscribe()) => ended?,
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok(())
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
