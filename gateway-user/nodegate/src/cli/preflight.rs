//! `nodegate preflight`

use std::process::ExitCode;

use clap::Args;
use nodegate_datapath::probe::{self, Check, CheckOutcome};

use nodegate_source::kubernetes::access::{Access, Reached};

use super::{Output, api_server::ApiServerArgs, attachment::Attachment};

/// Check whether nodegate can do its work on this machine, and how.
///
/// Changes nothing. In a pod, or with --kubeconfig, also whether the API server can be reached as `run` would.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate preflight
  nodegate preflight --kubeconfig admin.conf --api-server 192.0.2.10:6443
  nodegate preflight --uplink eth0 -o json | jq '.[] | select(.outcome != \"ok\")'

Exit status: 0 nodegate can do its work (warnings say with what limits), 1 it
cannot.")]
pub struct Preflight {
    #[command(flatten)]
    attachment: Attachment,
    #[command(flatten)]
    api_server: ApiServerArgs,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

impl Preflight {
    /// Checks and prints.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let cgroup = self.attachment.cgroup().ok();
        let uplinks = self.attachment.uplinks(&[]).unwrap_or_default();
        let mut checks = probe::all(&self.attachment.pins.path, cgroup.as_deref(), &uplinks);
        let access = self.api_server.access();
        if access.kubeconfig.is_some() || Access::is_in_pod() {
            checks.push(super::block_on(async { Ok(api_server(&access).await) })?);
        }
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&checks)?),
            Output::Text => print(&checks),
        }
        let failed = checks
            .iter()
            .any(|check| check.outcome == CheckOutcome::Failed);
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

/// Whether the API server answers where a start would ask it.
async fn api_server(access: &Access) -> Check {
    let name = "api server";
    let by_cluster_ip = access.kubeconfig.is_none() && access.servers.is_empty();
    match access.reach().await {
        Ok(Reached { server, version }) => {
            let server = server.map(|server| server.to_string()).unwrap_or_default();
            let found = format!("{version} at {server}, by {access}");
            if by_cluster_ip {
                let where_it_leads = "leads nowhere without kube-proxy before nodegate runs";
                Check::ok(
                    name,
                    format!("{found}: a cluster IP, which {where_it_leads}"),
                )
            } else {
                Check::ok(name, found)
            }
        }
        Err(error) => {
            let fix = if by_cluster_ip {
                "without kube-proxy, name the servers' own addresses, or a load balancer's, with --api-server HOST:PORT or NODEGATE_API_SERVER"
            } else {
                "the host and port of an API server that this node reaches, with --api-server HOST:PORT"
            };
            Check::bad(
                name,
                CheckOutcome::Failed,
                without_fix(&error.to_string()),
                fix,
            )
        }
    }
}

/// The message alone, as the fix stands beside it.
fn without_fix(message: &str) -> &str {
    message.split(" (fix: ").next().unwrap_or(message)
}

fn print(checks: &[Check]) {
    for check in checks {
        let outcome = match check.outcome {
            CheckOutcome::Ok => "ok",
            CheckOutcome::Warning => "warning",
            CheckOutcome::Failed => "FAILED",
        };
        print!("{outcome:<9}{:<15}{}", check.name, check.found);
        match &check.fix {
            Some(fix) => println!(" (fix: {fix})"),
            None => println!(),
        }
    }
}
