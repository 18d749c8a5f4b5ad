//! `nodegate iptables`: kube-proxy's rules, written, read and compared.

mod diff;
mod render;
mod show;

use std::{
    fs,
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use crate::{
    iptables::{
        config::{Config, KubeProxyArgs},
        parse::{Dump, ParseError, parse},
    },
    model::{
        compile::{NodeIdentity, kube_proxy},
        service::{IpFamily, ServicePort},
    },
    resources::{
        Resources,
        admission::Store,
        diagnostic::{Diagnostic, Severity},
    },
    source::{self, SourceError, directory::Directory},
};

/// Write, read and compare kube-proxy's iptables rules
#[derive(Debug, clap::Args)]
pub struct Iptables {
    #[command(subcommand)]
    command: IptablesCommand,
}

#[derive(Debug, Subcommand)]
enum IptablesCommand {
    /// Print the rules that kube-proxy would write for manifests
    Render(Box<render::Render>),
    /// Show the Services that rules implement, and what is wrong with the rules
    Show(show::Show),
    /// Tell how a node's rules differ from what manifests ask for
    Diff(Box<diff::DiffCommand>),
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `--family`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Family {
    /// iptables
    #[value(name = "ipv4")]
    V4,
    /// ip6tables
    #[value(name = "ipv6")]
    V6,
}

impl Iptables {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let status = match self.command {
            IptablesCommand::Render(command) => command.run(&mut out),
            IptablesCommand::Show(command) => command.run(&mut out),
            IptablesCommand::Diff(command) => command.run(&mut out),
        };
        let status = status.and_then(|status| {
            out.flush()?;
            Ok(status)
        });
        match status {
            // Whoever read it has read enough, as in `… | head`.
            Err(error) if is_broken_pipe(&error) => Ok(ExitCode::from(2)),
            status => status,
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = match error.downcast_ref::<serde_json::Error>() {
        Some(error) => error.io_error_kind(),
        None => error.downcast_ref::<io::Error>().map(io::Error::kind),
    };
    kind == Some(io::ErrorKind::BrokenPipe)
}

impl From<Family> for IpFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::V4,
            Family::V6 => Self::V6,
        }
    }
}

/// What manifests ask of a kube-proxy.
struct Wanted {
    services: Vec<ServicePort>,
    config: Config,
}

impl Wanted {
    fn read(paths: Vec<PathBuf>, args: &KubeProxyArgs) -> anyhow::Result<Self> {
        let resources = manifests(paths)?;
        let config = Config::new(args, &resources)?;
        let node = NodeIdentity {
            name: args.hostname_override.clone(),
        };
        let mut diagnostics = Vec::new();
        let services = kube_proxy(&resources, &node, &mut diagnostics);
        for diagnostic in diagnostics {
            eprintln!("{diagnostic}");
        }
        Ok(Self { services, config })
    }
}

/// The objects of manifests, all of which must be in order: what a refused one says would be missing
/// from the rules.
fn manifests(paths: Vec<PathBuf>) -> anyhow::Result<Arc<Resources>> {
    let mut directory = Directory::new(paths)?;
    let scan = directory.scan();
    let resources = Store::default().admit(directory.manifests(), scan.diagnostics);
    let is_error = |diagnostic: &&Diagnostic| diagnostic.severity == Severity::Error;
    let errors: Vec<_> = resources.diagnostics.iter().filter(is_error).collect();
    if let [first, rest @ ..] = &errors[..] {
        let more = match rest.len() {
            0 => String::new(),
            more => format!(" (and {more} more: see `nodegate check`)"),
        };
        bail!("{first:#}{more}");
    }
    Ok(resources)
}

/// Reads dumps: files, `-` for the standard input; without any, this node's own.
fn dumps(files: &[PathBuf]) -> anyhow::Result<Vec<(String, Dump)>> {
    if files.is_empty() {
        match source::iptables::dumps() {
            Ok(texts) => {
                let texts = texts.into_iter();
                return Ok(texts
                    .map(|(name, text)| (name.to_owned(), parse(&text)))
                    .collect());
            }
            // Whatever else is there.
            Err(SourceError::NoRules { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let programs = ["iptables-save", "ip6tables-save"];
        return programs
            .into_iter()
            .map(|program| Ok((program.to_owned(), parse(&save(program)?))))
            .collect();
    }
    let read = |file: &PathBuf| {
        let name = file.display().to_string();
        Ok((name, parse(&text(file)?)))
    };
    files.iter().map(read).collect()
}

fn text(file: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        io::stdin()
            .read_to_end(&mut bytes)
            .context("reading the standard input")?;
    } else {
        bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    }
    // Comments of other programs may be in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What `program` prints.
fn save(program: &str) -> anyhow::Result<String> {
    let hint = "run this on a node as root, or give dumps";
    let output = Command::new(program)
        .output()
        .with_context(|| format!("running {program} ({hint})"))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("{program}: {} ({hint})", message.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Tells of the lines of a dump that make no sense.
fn complain(name: &str, errors: &[ParseError]) {
    const ENOUGH: usize = 10;
    for error in errors.iter().take(ENOUGH) {
        eprintln!("error: {name}: {error}");
    }
    if let Some(more) = errors.len().checked_sub(ENOUGH).filter(|more| *more > 0) {
        eprintln!("error: {name}: and {more} more lines that make no sense");
    }
}

fn json(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Ends a line of a list that may be very long.
fn join<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests;
