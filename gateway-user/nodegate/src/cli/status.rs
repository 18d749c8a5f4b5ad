//! `nodegate status`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::anyhow;
use clap::Args;
use http::Method;
use http_body_util::BodyExt as _;
use nodegate_admin::{
    client,
    status::{KindStatus, KubernetesStatus, Status},
};
use nodegate_datapath::{Error, contents::Pins};
use nodegate_source::kubernetes::access::Access;

use super::{Admin, Output, Plural};
use cluster::Object;

mod cluster;

/// Show what a running nodegate serves, and whether it is up to date.
///
/// Where none runs, tells when one was last alive, by what it has pinned.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate status
  nodegate status --sync               after a change: wait until it is in force
  nodegate status --ready              as a readiness probe
  nodegate status -o json | jq .datapath.decisions
  nodegate status --cluster            all nodes, by what they report
  nodegate status --wait virtualservice/shop/web --timeout 30s
                                       until all nodes have it as it is now

Exit status: 0 it is up to date, or all is in force with --sync, or it serves
with --ready; 1 something could not be applied, or there are errors or warnings;
2 nobody answers.")]
pub struct StatusCommand {
    #[command(flatten)]
    admin: Admin,
    /// Read the manifests again and wait until all of them are in force; exit status 0 then, whatever
    /// is wrong with the manifests
    #[arg(long)]
    sync: bool,
    /// For readiness probes: exit status 0 once what was there at the start is in force, whatever is wrong
    /// with the manifests, so that nobody's mistake takes a gateway out of service
    #[arg(long)]
    ready: bool,
    /// How long to wait: 500ms, 10s, 2m
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = super::duration)]
    timeout: Duration,
    /// Where the maps are pinned, for when nobody answers
    #[arg(
        long,
        env = "NODEGATE_PIN_DIR",
        default_value = "/sys/fs/bpf/nodegate",
        value_name = "DIR"
    )]
    pin_dir: PathBuf,
    /// Show how all nodegates of the cluster stand, by their own reports, rather than the one that runs here
    #[arg(long, conflicts_with_all = ["sync", "ready"])]
    cluster: bool,
    /// Wait until an object, as it is now, is in force wherever a nodegate of the cluster watches its kind
    #[arg(
        long,
        value_name = "KIND/NAMESPACE/NAME",
        conflicts_with_all = ["sync", "ready", "cluster"]
    )]
    wait: Option<Object>,
    /// With --cluster and --wait: reach the API server as the current context of this file says [default: by
    /// the pod's ServiceAccount]
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

impl StatusCommand {
    /// Asks and prints.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let access = Access {
            kubeconfig: self.kubeconfig.clone(),
            servers: Vec::new(),
        };
        if let Some(object) = &self.wait {
            return cluster::wait(&access, object, self.timeout);
        }
        if self.cluster {
            return cluster::show(&access, self.output);
        }
        let json = super::block_on(async {
            let (method, path) = if self.sync {
                (Method::POST, "/sync")
            } else {
                (Method::GET, "/status")
            };
            let response =
                client::request(&self.admin.admin, method, path, "", self.timeout).await?;
            Ok(response.into_body().collect().await?.to_bytes())
        });
        let json = match json {
            Err(error) if error.is::<client::Unreachable>() => {
                return Err(match last_alive(&self.pin_dir) {
                    Some(told) => anyhow!("{error}\n{told}"),
                    None => error,
                });
            }
            json => json?,
        };
        let status: Status = serde_json::from_slice(&json)?;
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
            Output::Text => print(&status),
        }
        Ok(if self.is_good(&status) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

impl StatusCommand {
    fn is_good(&self, status: &Status) -> bool {
        match (self.sync, self.ready) {
            (_, true) => status.ready,
            (true, false) => true,
            (false, false) => status.ready && status.faults().next().is_none(),
        }
    }
}

/// What the pinned maps tell of a redirector that does not answer; none where there are none.
fn last_alive(pin_dir: &Path) -> Option<String> {
    let told = match Pins::open(pin_dir).and_then(|pins| pins.daemon()) {
        Ok(daemon) => daemon?,
        Err(Error::NotPinned { .. }) => return None,
        Err(error) => return Some(error.to_string()),
    };
    Some(format!(
        "the redirector that pinned its maps in {} (pid {}) was last alive {} s ago: connections are \
         redirected as of generation {}, and nothing changes until it runs again",
        pin_dir.display(),
        told.pid,
        told.idle,
        told.generation
    ))
}

/// As many notes, which are no faults, as are shown.
const NOTES: usize = 20;

fn print(status: &Status) {
    let row = |name: &str, value: String| println!("{name:<12}{value}");
    row(
        "nodegate",
        format!(
            "{} ({}), node {}, pid {}",
            status.version, status.role, status.node, status.pid
        ),
    );
    if let Some(rules) = &status.source.rules {
        let programs = rules.programs.join(", ");
        let count = Plural(rules.services, "Service port");
        row(
            "source",
            format!("kube-proxy's rules, by {programs}: {count}"),
        );
    }
    if let Some(kubernetes) = &status.source.kubernetes {
        row("source", source(kubernetes));
        row("objects", objects(&kubernetes.kinds));
    }
    if let Some(directory) = &status.source.directory {
        row("source", directory.display().to_string());
    }
    let snapshot = &status.snapshot;
    row(
        "snapshot",
        format!(
            "generation {}: {}, {}, {}",
            snapshot.generation,
            Plural(snapshot.services, "Service port"),
            Plural(snapshot.listeners, "listener"),
            Plural(snapshot.clusters, "cluster"),
        ),
    );
    if let Some(datapath) = &status.datapath {
        let elements: Vec<_> = datapath
            .elements
            .iter()
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        row(
            "datapath",
            format!(
                "generation {}: {} on {}, pinned in {}",
                datapath.applied,
                elements.join(", "),
                datapath.uplinks.join(", "),
                datapath.pin_dir.display()
            ),
        );
        if !datapath.left_out.is_empty() {
            row(
                "left out",
                format!(
                    "{}: node ports have an address there, but packets that come by it are not \
                     redirected (fix: --uplink)",
                    datapath.left_out.join(", ")
                ),
            );
        }
        let decisions: Vec<_> = datapath
            .decisions
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        if let Some(flows) = datapath.flows {
            let full = match flows.full_buckets {
                0 => String::new(),
                full => format!("; full in {}", Plural(full as usize, "place")),
            };
            row(
                "flows",
                format!(
                    "{} of packets, {} established, room for {}{full}",
                    flows.recorded, flows.established, flows.places
                ),
            );
        }
        let none = "none yet".to_owned();
        if let Some(age) = datapath.heartbeat_age {
            row("heartbeat", format!("{age:.1} s ago"));
        }
        row(
            "decisions",
            if decisions.is_empty() {
                none
            } else {
                decisions.join(", ")
            },
        );
    }
    if let Some(proxy) = &status.proxy {
        let ports: Vec<_> = proxy.listeners.iter().map(u16::to_string).collect();
        let ports = if ports.is_empty() {
            "no port".to_owned()
        } else {
            ports.join(", ")
        };
        row(
            "proxy",
            format!("generation {}: listens on {ports}", proxy.applied),
        );
        let refused = proxy.refused.iter().filter(|(_, count)| **count > 0);
        let refused: Vec<_> = refused
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        if !refused.is_empty() {
            row("refused", refused.join(", "));
        }
    }
    row(
        "state",
        if status.ready { "ready" } else { "starting" }.to_owned(),
    );
    for fault in status.faults() {
        println!("{fault}");
    }
    let notes: Vec<_> = status.notes().collect();
    for note in notes.iter().take(NOTES) {
        println!("{note}");
    }
    if let Some(more) = notes.len().checked_sub(NOTES).filter(|more| *more > 0) {
        println!("info: {more} more notes: -o json has them");
    }
}

/// The API server, and whether it is heard.
fn source(kubernetes: &KubernetesStatus) -> String {
    let server = kubernetes.server.as_deref().unwrap_or("not reached yet");
    let state = match kubernetes.remembered {
        Some(age) => format!("not heard; going by what was heard {age} s ago"),
        None if kubernetes.heard => "heard".to_owned(),
        None => "not heard".to_owned(),
    };
    let identity = &kubernetes.identity;
    format!("the API server ({server}), by {identity}: {state}")
}

fn objects(kinds: &[KindStatus]) -> String {
    let kinds = kinds.iter().map(|kind| {
        let unknown = if kind.known { "" } else { " (not all heard)" };
        format!("{} {}{unknown}", kind.objects, kind.kind)
    });
    kinds.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::{Cli, Command};

    fn is_good(options: &[&str], ready: bool, diagnostics: &[&str]) -> bool {
        let words = [&["nodegate", "status"], options].concat();
        let Command::Status(command) = Cli::try_parse_from(words).unwrap().command else {
            panic!("another command");
        };
        let status = serde_json::json!({
            "version": "", "role": "proxy", "node": "", "pid": 1, "ready": ready,
            "source": {"directory": null, "rules": null},
            "snapshot": {"generation": 1, "services": 0, "listeners": 0, "clusters": 0},
            "datapath": null,
            "proxy": {"applied": 1, "listeners": [], "failures": []},
            "diagnostics": diagnostics,
        });
        command.is_good(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn messages_count_but_not_for_probes() {
        assert!(is_good(&[], true, &["info: x"]));
        for message in ["warning: x", "error: x"] {
            assert!(!is_good(&[], true, &[message]));
            assert!(is_good(&["--sync"], true, &[message]));
            assert!(is_good(&["--ready"], true, &[message]));
        }
        assert!(!is_good(&[], false, &[]));
        assert!(!is_good(&["--ready"], false, &[]));
    }

    /// One VirtualService with a mistake, and all gateways would be out of service.
    #[test]
    fn probes_of_the_daemon_sets_do_not_ask_what_is_wrong_with_manifests() {
        for file in [
            include_str!("../../../../deploy/base/gateway.yaml"),
            include_str!("../../../../deploy/base/redirector.yaml"),
        ] {
            let probe =
                "readinessProbe:\n            httpGet:\n              path: /healthz/ready\n";
            assert!(file.contains(probe), "{file}");
        }
    }
}
