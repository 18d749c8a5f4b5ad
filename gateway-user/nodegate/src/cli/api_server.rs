//! How processes that stay reach the API server.

use std::path::PathBuf;

use clap::Args;
use nodegate_source::kubernetes::{access::Access, server::Server};

#[derive(Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "API server")]
pub(super) struct ApiServerArgs {
    /// Reach the API server as the current context of this file says [default: by the pod's ServiceAccount]
    #[arg(long, env = "NODEGATE_KUBECONFIG", value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Connect to these servers instead, in turn. Without kube-proxy the API server's cluster IP leads nowhere
    /// before nodegate runs: name the servers' own addresses, or a load balancer's
    #[arg(
        long = "api-server",
        env = "NODEGATE_API_SERVER",
        value_name = "HOST:PORT",
        value_delimiter = ','
    )]
    servers: Vec<Server>,
}

impl ApiServerArgs {
    pub(super) fn access(&self) -> Access {
        Access {
            kubeconfig: self.kubeconfig.clone(),
            servers: self.servers.clone(),
        }
    }
}
