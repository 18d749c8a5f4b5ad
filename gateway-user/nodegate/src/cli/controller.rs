//! `nodegate controller`

use std::process::ExitCode;

use clap::Args;
use nodegate_source::{
    combined::Sources,
    kubernetes::{
        ApiServer,
        complain::Complainer,
        interest::{Interest, RedirectorInterest},
    },
};
use tokio::signal::unix::{SignalKind, signal};

use super::api_server::ApiServerArgs;

/// Do what only one in a cluster may do: write Events on objects that are refused, or questionable.
///
/// `kubectl describe virtualservice` then tells why. Of several controllers the holder of a Lease writes.
/// Traffic needs none of them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate controller                  in a pod, as deploy/ has it
  nodegate controller --kubeconfig admin.conf --namespace nodegate-system

Exit status: 0 it was told to end, 2 it could not start.")]
pub struct Controller {
    /// Namespace of the Lease
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
    #[command(flatten)]
    api_server: ApiServerArgs,
}

impl Controller {
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
                }),
                routes: true,
                secrets: None,
            },
            state: None,
        };
        let complainer = Complainer {
            access,
            namespace: self.namespace,
            identity,
        };
        super::block_on(async {
            let sources = Sources::start(vec![Box::new(source)], None)?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! {
                ended = complainer.run(sources.subscribe()) => ended?,
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok(())
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
