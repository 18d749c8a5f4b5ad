//! `cargo xtask cluster`.

use std::{
    ffi::OsString,
    fs,
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command as Process, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use nodegate_programs::{Program, of_user};
use nodegate_testbed::cluster::{
    Cluster, Istio, KubeProxy, LEFT_OUT, Options,
    parts::{self, Parts, Progress, Purpose},
};

use crate::{binaries, phases::Clock, setup, table, testbed};

/// How often a line says how far a build is, where lines stay.
const OFTEN: Duration = Duration::from_secs(10);

/// Shown below `--help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask cluster up --nodes 2 --kube-proxy nftables
  cargo xtask cluster kubectl get pods -A
  cargo xtask cluster exec client -- curl -s http://192.168.170.11:30080/
  cargo xtask cluster exec node1 -- ctr images ls
  cargo xtask cluster load image.tar
  cargo xtask cluster logs node1.kubelet
  cargo xtask cluster up --nodes 1 --istio
  cargo xtask cluster exec gateway -- curl -s http://127.0.0.1:15000/clusters
  cargo xtask cluster down

The first `up` builds Kubernetes with Go, which takes a quarter of an hour and more: see docs/cluster.md.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build the programs that a cluster is made of, once.
    ///
    /// They are kept in the user's cache, or in the directory that NODEGATE_PARTS names.
    Parts {
        /// For what; some tests need more than a cluster.
        #[arg(long = "for", value_enum, default_value_t)]
        purpose: For,
    },
    /// Build a cluster, wait until all of it is ready, and show it.
    Up {
        /// How many nodes; 0 for an API server alone, without controllers, DNS and pods.
        #[arg(long, default_value_t = 2)]
        nodes: usize,
        /// What does Services on the nodes.
        #[arg(long, value_enum, default_value_t)]
        kube_proxy: Proxy,
        /// When it fails, leave everything as it is, to look at; `down` takes it away.
        #[arg(long)]
        keep_failed: bool,
        /// Istio beside it: istiod, which is also asked what may be applied, and an Envoy as its gateway.
        #[arg(long)]
        istio: bool,
        /// Labels of that gateway, for selectors of Gateways.
        #[arg(
            long,
            value_name = "KEY=VALUE,...",
            requires = "istio",
            default_value = "app=istio-ingressgateway,istio=ingressgateway",
            value_delimiter = ',',
            value_parser = label
        )]
        gateway_labels: Vec<(String, String)>,
        #[command(flatten)]
        name: Name,
    },
    /// Run kubectl as the one who may do everything.
    Kubectl {
        #[command(flatten)]
        name: Name,
        /// kubectl's own arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run a command on a host: `client`, `control-plane`, `gateway`, or a node.
    Exec {
        #[command(flatten)]
        name: Name,
        /// `client`, `control-plane`, `gateway` (with --istio), or a node's name.
        host: String,
        /// The command and its arguments, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Bring the images of an archive (OCI's or Docker's) to every node.
    Load {
        /// The archive.
        image: PathBuf,
        #[command(flatten)]
        name: Name,
    },
    /// Show a log; without a name, which there are.
    Logs {
        /// For example `kube-apiserver` or `node1.kubelet`.
        log: Option<String>,
        /// Go on showing what comes.
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        name: Name,
    },
    /// Take a cluster away, whatever is left of it.
    Down {
        #[command(flatten)]
        name: Name,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// Tells clusters apart that stand at the same time.
    #[arg(long, default_value = "default")]
    name: String,
}

/// [`Purpose`]
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum For {
    /// A cluster.
    #[default]
    Cluster,
    /// Also Kubernetes' own tests.
    Conformance,
    /// Also the test of the chart.
    Chart,
    /// Also the servers of people's examples.
    Samples,
    /// Also Istio's control plane.
    Istio,
    /// No cluster: the public suites of `cargo xtask attack`.
    Attack,
}

impl From<For> for Purpose {
    fn from(word: For) -> Self {
        match word {
            For::Cluster => Self::Cluster,
            For::Conformance => Self::Conformance,
            For::Chart => Self::Chart,
            For::Samples => Self::Samples,
            For::Istio => Self::Istio,
            For::Attack => Self::Attack,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Proxy {
    /// Nothing: for nodegate.
    None,
    /// kube-proxy with iptables.
    #[default]
    Iptables,
    /// kube-proxy with nftables.
    Nftables,
}

/// A label, as `KEY=VALUE`.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is no label (fix: KEY=VALUE)")),
    }
}

/// Runs a subcommand.
pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Parts { purpose } => {
            // Of programs it needs Go, which no package has, and this one.
            setup::program(Program::Cc)?;
            let parts = build(purpose.into())?;
            println!("{}", parts.cache().display());
        }
        Command::Up {
            nodes,
            kube_proxy,
            keep_failed,
            istio,
            gateway_labels,
            name,
        } => {
            setup::tools(&setup::CLUSTER)?;
            setup::machine()?;
            // Before a build that may take minutes.
            Cluster::check_free(&name.name)?;
            let purpose = if istio {
                Purpose::Istio
            } else {
                Purpose::Cluster
            };
            let labels = gateway_labels.into_iter().collect();
            let istio = istio
                .then(|| {
                    Ok::<_, anyhow::Error>(Istio {
                        labels,
                        ..Istio::new(setup::envoy()?)
                    })
                })
                .transpose()?;
            let options = Options {
                istio,
                nodes,
                kube_proxy: match kube_proxy {
                    Proxy::None => None,
                    Proxy::Iptables => Some(KubeProxy::Iptables),
                    Proxy::Nftables => Some(KubeProxy::Nftables),
                },
                keep_failed,
                say: |text| eprintln!("cluster: {text}"),
                ..Options::new(&name.name, build(purpose)?, binaries::node()?)
            };
            show(&Cluster::up(&options)?.keep());
            if options.istio.is_some() {
                eprintln!("cluster: {LEFT_OUT}");
            }
        }
        Command::Kubectl { name, arguments } => {
            let mut kubectl = Cluster::open(&name.name)?.kubectl()?;
            kubectl.args(arguments);
            return Ok(become_it(kubectl));
        }
        Command::Exec {
            name,
            host,
            command,
        } => {
            let (program, arguments) = command.split_first().context("no command is given")?;
            let mut words = of_user(program);
            words.args(arguments);
            return Ok(become_it(Cluster::open(&name.name)?.enter(&host, words)?));
        }
        Command::Load { image, name } => print!("{}", Cluster::open(&name.name)?.load(&image)?),
        Command::Logs { log, follow, name } => {
            return logs(&Cluster::open(&name.name)?, log.as_deref(), follow);
        }
        Command::Down { name } => Cluster::down_named(&name.name)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Becomes the command, so that signals, standard streams and the exit status are its own.
fn become_it(mut command: Process) -> ExitCode {
    let error = command.exec();
    eprintln!("error: {}: {error}", command.get_program().display());
    // As shells do (POSIX.1-2024, XCU 2.8.2).
    ExitCode::from(if error.kind() == ErrorKind::NotFound {
        127
    } else {
        126
    })
}

fn show(cluster: &Cluster) {
    let rows = cluster.hosts().into_iter().map(|(name, addresses)| {
        let addresses = addresses.map(|address| address.to_string());
        vec![name, addresses.join(",")]
    });
    table::print(&["HOST", "ADDRESS"], rows);
}

fn logs(cluster: &Cluster, name: Option<&str>, follow: bool) -> anyhow::Result<ExitCode> {
    let logs = cluster.logs()?;
    let Some(name) = name else {
        let rows = logs.iter().map(|(name, file)| {
            let bytes = fs::metadata(file).map_or(0, |metadata| metadata.len());
            vec![name.clone(), bytes.to_string()]
        });
        table::print(&["LOG", "BYTES"], rows);
        return Ok(ExitCode::SUCCESS);
    };
    let Some(log) = logs.get(name) else {
        let names: Vec<_> = logs.keys().map(String::as_str).collect();
        bail!("no log `{name}`: {}", names.join(", "));
    };
    testbed::show_log(log, follow)
}

/// The parts that a purpose needs; builds those that are missing, and says how far it is.
pub(crate) fn build(purpose: Purpose) -> anyhow::Result<Parts> {
    let mut display = Display::default();
    parts::build(purpose, &mut |progress| display.show(progress))
}

/// How far a build is: a line that changes, or on what is no terminal a line now and then.
#[derive(Default)]
struct Display {
    group: String,
    began: Option<Instant>,
    said: Option<Instant>,
}

impl Display {
    fn show(&mut self, progress: &Progress) {
        let terminal = io::stderr().is_terminal();
        let took = || self.began.map_or(Duration::ZERO, |began| began.elapsed());
        let text = match progress {
            Progress::Begins { group, minutes } => {
                eprintln!("cluster: building {group}: about {minutes} min of one CPU");
                self.group.clone_from(group);
                self.began = Some(Instant::now());
                self.said = self.began;
                return;
            }
            Progress::Ends => {
                let end = if terminal { "\r\x1b[K" } else { "" };
                eprintln!("{end}cluster: built {} in {}", self.group, Clock(took()));
                return;
            }
            Progress::Modules => format!("getting the modules of {}", self.group),
            Progress::Packages { compiled, all } => format!(
                "{}: {compiled} of at most {all} packages, {}",
                self.group,
                Clock(took())
            ),
        };
        if terminal {
            eprint!("\r\x1b[Kcluster: {text}");
            // It is only shown.
            let _ = io::stderr().flush();
        } else if self.said.is_none_or(|said| said.elapsed() >= OFTEN) {
            eprintln!("cluster: {text}");
            self.said = Some(Instant::now());
        }
    }
}
