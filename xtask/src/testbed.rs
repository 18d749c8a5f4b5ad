//! `cargo xtask testbed`.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, ErrorKind, Write as _},
    net::IpAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand, ValueEnum};
use nodegate_programs::of_user;
use nodegate_testbed::{Options, Outcome, Ps, Report, Testbed};

use crate::{binaries, setup, table};

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Shown below `--help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask testbed up -f manifests/ --nodes 2
  cargo xtask testbed exec client -- curl -s http://192.168.170.11:30080/
  cargo xtask testbed exec node1 -- nodegate status
  cargo xtask testbed apply -f canary.yaml
  cargo xtask testbed logs node1
  cargo xtask testbed restart node1
  cargo xtask testbed down

Hosts are `client`, the nodes' names, and `pod/NAMESPACE/NAME`, where NAME may be a pod's unique
beginning. Addresses and more are set in a testbed.yaml beside the manifests: see tests/README.md.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build a testbed, wait until all of it is ready, and show it.
    Up {
        #[command(flatten)]
        files: Files,
        /// How many nodes [default: those of testbed.yaml, or 1].
        #[arg(long)]
        nodes: Option<usize>,
        /// When it fails, leave everything as it is, to look at; `down` takes it away.
        #[arg(long)]
        keep_failed: bool,
        #[command(flatten)]
        name: Name,
    },
    /// Run a command on a host, with its network, its cgroup and `nodegate` on its PATH.
    Exec {
        #[command(flatten)]
        name: Name,
        /// `client`, a node's name, or pod/NAMESPACE/NAME.
        host: String,
        /// The command and its arguments, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Add and change objects; returns when every node and gateway has them.
    Apply {
        #[command(flatten)]
        files: Files,
        #[command(flatten)]
        name: Name,
    },
    /// Delete the objects that the files name.
    Delete {
        #[command(flatten)]
        files: Files,
        #[command(flatten)]
        name: Name,
    },
    /// Show nodes, Services and pods.
    Ps {
        /// How.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
        #[command(flatten)]
        name: Name,
    },
    /// Show a host's log: nodegate's on nodes and gateway pods, the server's on other pods.
    Logs {
        /// A node's name, or pod/NAMESPACE/NAME.
        host: String,
        /// Go on showing what comes.
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        name: Name,
    },
    /// Kill a host's nodegate (SIGKILL) and start it again; returns when it has applied everything.
    Restart {
        /// A node's name, or pod/NAMESPACE/NAME of a gateway.
        host: String,
        #[command(flatten)]
        name: Name,
    },
    /// Take a testbed away, whatever is left of it.
    Down {
        #[command(flatten)]
        name: Name,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// Tells testbeds apart that stand at the same time.
    #[arg(long, default_value = "default")]
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Files {
    /// A manifest, or a directory of *.yaml and *.yml.
    #[arg(short = 'f', long = "filename", required = true, num_args = 1.., value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The namespace of objects that name none [default: default].
    #[arg(short, long)]
    namespace: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    /// Tables.
    #[default]
    Table,
    /// For scripts.
    Json,
}

/// Runs a subcommand.
pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up {
            files,
            nodes,
            keep_failed,
            name,
        } => {
            setup::tools(&setup::TESTBED)?;
            setup::machine()?;
            // Before a build that may take minutes.
            Testbed::check_free(&name.name)?;
            let binaries = binaries::build()?;
            let options = Options {
                namespace: files.namespace,
                nodes,
                keep_failed,
                ..Options::new(&name.name, binaries, files.paths)
            };
            let testbed = Testbed::up(&options)?.keep();
            complain(testbed.report());
            show(&testbed, &testbed.ps()?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Exec {
            name,
            host,
            command,
        } => exec(&Testbed::open(&name.name)?, &host, &command),
        Command::Apply { files, name } => {
            let report =
                Testbed::open(&name.name)?.apply(&files.paths, files.namespace.as_deref())?;
            Ok(tell(&report))
        }
        Command::Delete { files, name } => {
            let report =
                Testbed::open(&name.name)?.delete(&files.paths, files.namespace.as_deref())?;
            Ok(tell(&report))
        }
        Command::Ps { output, name } => {
            let testbed = Testbed::open(&name.name)?;
            let ps = testbed.ps()?;
            match output {
                Format::Table => show(&testbed, &ps),
                Format::Json => println!("{}", serde_json::to_string_pretty(&ps)?),
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Logs { host, follow, name } => logs(&Testbed::open(&name.name)?, &host, follow),
        Command::Restart { host, name } => {
            Testbed::open(&name.name)?.restart(&host)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Down { name } => {
            Testbed::down_named(&name.name)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Becomes the command, so that signals, standard streams and the exit status are its own.
fn exec(testbed: &Testbed, host: &str, words: &[OsString]) -> anyhow::Result<ExitCode> {
    let (program, arguments) = words.split_first().context("no command is given")?;
    let mut command = testbed.enter(host, of_user(program))?;
    let error = command.args(arguments).exec();
    eprintln!("error: {} on {host}: {error}", program.display());
    // As shells do (POSIX.1-2024, XCU 2.8.2).
    Ok(ExitCode::from(if error.kind() == ErrorKind::NotFound {
        127
    } else {
        126
    }))
}

fn logs(testbed: &Testbed, host: &str, follow: bool) -> anyhow::Result<ExitCode> {
    let log = testbed.log(&testbed.host(host)?);
    ensure!(log.exists(), "{host} has no log: name a node or a pod");
    show_log(&log, follow)
}

/// Shows a log, and what comes.
pub(crate) fn show_log(log: &Path, follow: bool) -> anyhow::Result<ExitCode> {
    let mut file = File::open(log).with_context(|| format!("reading {}", log.display()))?;
    let mut out = io::stdout().lock();
    loop {
        match io::copy(&mut file, &mut out).and_then(|_| out.flush()) {
            // Nobody looks any more.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            shown => shown.with_context(|| format!("showing {}", log.display()))?,
        }
        if !follow {
            break;
        }
        thread::sleep(LOOK);
    }
    Ok(ExitCode::SUCCESS)
}

/// What became of the objects; fails when one was left out.
fn tell(report: &Report) -> ExitCode {
    for (key, outcome) in &report.outcomes {
        let verb = match outcome {
            Outcome::Created => "created",
            Outcome::Configured => "configured",
            Outcome::Unchanged => "unchanged",
            Outcome::Deleted => "deleted",
            Outcome::Rejected(_) => continue,
        };
        println!("{key} {verb}");
    }
    complain(report);
    ExitCode::from(u8::from(report.has_errors()))
}

/// What was left out, and why.
fn complain(report: &Report) {
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    for error in &report.errors {
        eprintln!("error: {error}");
    }
    for (key, outcome) in &report.outcomes {
        if let Outcome::Rejected(reason) = outcome {
            eprintln!("error: {key}: {reason}");
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    addresses.join(",")
}

pub(crate) fn show(testbed: &Testbed, ps: &Ps) {
    let client = vec!["client".into(), list(&ps.client.addresses), String::new()];
    let nodes = ps.nodes.iter().map(|node| {
        let pins = testbed.pin_dir(&node.name).display().to_string();
        vec![node.name.clone(), list(&node.addresses), pins]
    });
    table::print(
        &["HOST", "ADDRESS", "PIN DIRECTORY"],
        std::iter::once(client).chain(nodes),
    );

    let or_none = |text: String| {
        if text.is_empty() {
            "<none>".into()
        } else {
            text
        }
    };
    if !ps.services.is_empty() {
        println!();
        let rows = ps.services.iter().map(|service| {
            let ports = service.ports.iter().map(|port| {
                let node = port
                    .node_port
                    .map(|node| format!(":{node}"))
                    .unwrap_or_default();
                format!("{}{node}/{}", port.port, port.protocol)
            });
            vec![
                service.namespace.clone(),
                service.name.clone(),
                or_none(if service.cluster_ips.is_empty() {
                    service.cluster_ip.clone()
                } else {
                    list(&service.cluster_ips)
                }),
                or_none(service.external_ips.join(",")),
                or_none(ports.collect::<Vec<_>>().join(",")),
            ]
        });
        table::print(
            &[
                "NAMESPACE",
                "SERVICE",
                "CLUSTER-IP",
                "EXTERNAL-IP",
                "PORT(S)",
            ],
            rows,
        );
    }
    if !ps.pods.is_empty() {
        println!();
        let rows = ps.pods.iter().map(|pod| {
            vec![
                pod.namespace.clone(),
                pod.name.clone(),
                list(&pod.addresses),
                pod.node.clone(),
            ]
        });
        table::print(&["NAMESPACE", "POD", "IP", "NODE"], rows);
    }
}
