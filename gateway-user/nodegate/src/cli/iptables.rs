//! `nodegate iptables`: kube-proxy's rules, written, read and compared.

mod diff;
mod render;
mod show;

use std::{
    fs,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::FileTypeExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use http::Method;
use http_body_util::BodyExt as _;
use nodegate_admin::client;
use nodegate_iptables::{
    config::KubeProxyArgs,
    node::KubeProxyNode,
    parse::{Dump, ParseError, parse},
};
use nodegate_model::service::IpFamily;
use nodegate_programs::Program;
use nodegate_resources::{Resources, admission::Store};
use nodegate_source::{self as source, SourceError, directory::Directory};
use nodegate_values::diagnostic::{Diagnostic, Severity};
use serde::Serialize;

use super::{Admin, Output, kube_proxy::KubeProxyFlags};

/// How long a running nodegate may take to answer: with ten thousands of Services, seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of a dump that holds nothing, as of an iptables-save that may not read the rules.
const NO_TABLES: &str = "it has no tables (fix: give the output of iptables-save, as root)";

/// Write, read and compare kube-proxy's iptables rules
#[derive(Debug, clap::Args)]
pub struct Iptables {
    #[command(subcommand)]
    command: IptablesCommand,
}

#[derive(Debug, Subcommand)]
enum IptablesCommand {
    Render(Box<render::Render>),
    Show(show::Show),
    Diff(Box<diff::DiffCommand>),
}

/// `--family`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Family {
    /// iptables
    #[value(name = "4", alias = "ipv4")]
    V4,
    /// ip6tables
    #[value(name = "6", alias = "ipv6")]
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
        }?;
        out.flush()?;
        Ok(status)
    }
}

impl From<Family> for IpFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::V4,
            Family::V6 => Self::V6,
        }
    }
}

/// Where the Services and the node's own facts come from.
#[derive(Debug, clap::Args)]
struct Asked {
    /// Files or directories of manifests [default: ask the nodegate that runs here]
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    manifests: Vec<PathBuf>,
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    kube_proxy: KubeProxyFlags,
}

impl Asked {
    fn args(&self) -> KubeProxyArgs {
        self.kube_proxy.clone().into()
    }

    /// What a kube-proxy there would go by.
    fn node(&self) -> anyhow::Result<KubeProxyNode> {
        if self.manifests.is_empty() {
            return self.running();
        }
        let resources = manifests(self.manifests.clone())?;
        let mut diagnostics = Vec::new();
        let node = KubeProxyNode::new(&resources, &self.args(), &mut diagnostics)?;
        for diagnostic in diagnostics {
            eprintln!("{diagnostic}");
        }
        Ok(node)
    }

    fn running(&self) -> anyhow::Result<KubeProxyNode> {
        let question = serde_json::to_vec(&self.args())?;
        let socket = &self.admin.admin;
        super::block_on(async {
            let response = client::request(socket, Method::POST, "/kube-proxy", question, PATIENCE)
                .await
                .context("asking the nodegate that runs here (--manifests PATH asks none)")?;
            let json = response.into_body().collect().await?.to_bytes();
            Ok(serde_json::from_slice(&json)?)
        })
    }
}

/// The objects of manifests, of which all that kube-proxy looks at must be in order: what a refused one says would
/// be missing from the rules.
fn manifests(paths: Vec<PathBuf>) -> anyhow::Result<Arc<Resources>> {
    let mut directory = Directory::new(paths)?;
    let scan = directory.scan();
    let resources = Store::default().admit(directory.manifests(), scan.diagnostics);
    let matters = |diagnostic: &&Diagnostic| match &diagnostic.object {
        _ if diagnostic.severity != Severity::Error => false,
        Some(object) => !object.group.ends_with("istio.io"),
        None => true,
    };
    let errors: Vec<_> = resources.diagnostics.iter().filter(matters).collect();
    if let [first, rest @ ..] = &errors[..] {
        let more = match rest.len() {
            0 => String::new(),
            more => format!(" (and {more} more: see `nodegate check`)"),
        };
        bail!("{first:#}{more}");
    }
    Ok(resources)
}

/// Reads dumps: files, `-` for the standard input; without any, what the standard input was given,
/// else this node's own.
fn dumps(files: &[PathBuf]) -> anyhow::Result<Vec<(String, Dump)>> {
    if files.is_empty() {
        if let Some(text) = redirected(io::stdin())? {
            return Ok(vec![("the standard input".to_owned(), parse(&text))]);
        }
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
        let programs = [Program::IptablesSave, Program::Ip6tablesSave];
        return programs
            .into_iter()
            .map(|program| Ok((program.name().to_owned(), parse(&save(program)?))))
            .collect();
    }
    let read = |file: &PathBuf| {
        let name = file.display().to_string();
        Ok((name, parse(&text(file)?)))
    };
    files.iter().map(read).collect()
}

/// What a file or a pipe holds that somebody has put in place of a terminal, as in `show < dump`; none
/// if it is anything else, or empty.
fn redirected(input: impl AsFd) -> anyhow::Result<Option<String>> {
    let file = fs::File::from(input.as_fd().try_clone_to_owned()?);
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_fifo() {
        return Ok(None);
    }
    let text = whole(file)?;
    Ok((!text.is_empty()).then_some(text))
}

fn whole(mut input: impl io::Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    input
        .read_to_end(&mut bytes)
        .context("reading the standard input")?;
    // Comments of other programs may be in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn text(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        return whole(io::stdin());
    }
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    // Comments of other programs may be in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What `program` prints.
fn save(program: Program) -> anyhow::Result<String> {
    let hint = "run this on a node as root, or give dumps";
    let output = program.command().output();
    let program = program.name();
    let output = output.with_context(|| format!("running {program} ({hint})"))?;
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
