//! `nodegate iptables diff`: a node's rules against manifests, or against the loaded maps.

mod maps;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::bail;
use nodegate_iptables::{
    diff::{Diff, diff},
    rules::Ruleset,
};

use super::{Asked, NO_TABLES, Output, complain, dumps, json};

const EXAMPLES: &str = "\
Examples:
  nodegate iptables diff --cluster-cidr 10.0.0.0/8
        this node's rules, against the Services that nodegate knows
  kubectl get nodes,services,endpointslices -A -o yaml > cluster.yaml
  nodegate iptables diff --hostname-override node-a --cluster-cidr 10.0.0.0/8 \\
    --dump node-a.v4 --dump node-a.v6 --manifests cluster.yaml
  nodegate iptables diff --maps
        this node's rules, against what nodegate has loaded here

The flags are kube-proxy's own: give those that it runs with. Rules of other
programs do not count, nor does the order of Services.

Exit status: 0 equal, 1 different, 2 it could not be told.";

/// So many chains are told of as text.
const ENOUGH: usize = 50;

/// Tell how a node's rules differ from what the Services ask for, or from what the loaded maps do.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DiffCommand {
    /// Output of iptables-save or ip6tables-save; `-` for the standard input [default: the standard input if it is a file or a pipe, else this node's]
    #[arg(long = "dump", value_name = "DUMP")]
    dumps: Vec<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    asked: Asked,
    // Behind the others: what follows a heading of clap's stands below it.
    #[command(flatten)]
    maps: maps::MapsArgs,
}

impl DiffCommand {
    pub(super) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        if self.maps.maps {
            return maps::run(&self.maps, &self.dumps, self.output, out);
        }
        let wanted = self.asked.node()?;
        let mut diffs = Vec::new();
        for found in whole(&self.dumps)? {
            diffs.push(diff(&wanted.services, &wanted.config, &found));
        }
        match self.output {
            Output::Json => json(out, &diffs)?,
            Output::Text => diffs.iter().try_for_each(|diff| write(out, diff))?,
        }
        let equal = diffs.iter().all(Diff::is_empty);
        Ok(ExitCode::from(u8::from(!equal)))
    }
}

/// The rulesets of dumps, all of which must be in order.
fn whole(files: &[PathBuf]) -> anyhow::Result<Vec<Ruleset>> {
    let mut rulesets = Vec::new();
    for (name, dump) in dumps(files)? {
        if !dump.errors.is_empty() {
            complain(&name, &dump.errors);
            bail!("{name} is not a whole dump, so it cannot be compared");
        }
        if dump.rulesets.is_empty() {
            bail!("{name}: {NO_TABLES}");
        }
        rulesets.extend(dump.rulesets);
    }
    Ok(rulesets)
}

fn write(out: &mut impl Write, diff: &Diff) -> io::Result<()> {
    let family = diff.family;
    if diff.is_empty() {
        return writeln!(out, "{family}: equal");
    }
    writeln!(
        out,
        "{family}: Service ports that differ: {}; other chains: {}",
        diff.services.len(),
        diff.rules.len()
    )?;
    for (service, changes) in &diff.services {
        writeln!(out, "{service}")?;
        for change in changes {
            writeln!(out, "  {change}")?;
        }
    }
    for chain in diff.rules.iter().take(ENOUGH) {
        writeln!(out, "{chain}")?;
    }
    match diff.rules.len().saturating_sub(ENOUGH) {
        0 => Ok(()),
        more => writeln!(out, "and {more} more chains (-o json has them all)"),
    }
}
