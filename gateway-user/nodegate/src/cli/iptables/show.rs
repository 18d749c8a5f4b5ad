//! `nodegate iptables show`: the Services that rules implement.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use nodegate_iptables::{
    lint::{Finding, lint},
    rules::Ruleset,
    services::{PortRules, ServicePortKey, Services, of_rules},
};
use nodegate_model::service::IpFamily;
use serde::Serialize;

use super::{NO_TABLES, Output, complain, dumps, join, json};

const EXAMPLES: &str = "\
Examples:
  nodegate iptables show               this node's rules, as root
  nodegate iptables show node-a.v4 node-a.v6
                                       dumps of iptables-save, ip6tables-save
  nodegate iptables show < node-a.v4
  ssh node-a sudo iptables-save | nodegate iptables show -o json

Dumps of legacy and nft, with counters (-c) or without, are read alike.

Exit status: 0 success, 1 with rules that lead nowhere or to the wrong place,
2 a dump cannot be read or has lines that make no sense.";

/// Show the Services that rules implement, and what is wrong with the rules.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Show {
    /// Output of iptables-save or ip6tables-save; `-` for the standard input [default: the standard input if it is a file or a pipe, else this node's]
    #[arg(value_name = "DUMP")]
    dumps: Vec<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

/// What one dump holds of one family.
#[derive(Serialize)]
struct Shown {
    dump: String,
    family: IpFamily,
    services: Vec<ShownService>,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct ShownService {
    service: ServicePortKey,
    #[serde(flatten)]
    rules: PortRules,
}

impl Show {
    pub(super) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let dumps = dumps(&self.dumps)?;
        let mut all = Vec::new();
        let mut is_sound = true;
        for (name, dump) in &dumps {
            complain(name, &dump.errors);
            if dump.rulesets.is_empty() && dump.errors.is_empty() {
                eprintln!("error: {name}: {NO_TABLES}");
            }
            is_sound &= dump.errors.is_empty() && !dump.rulesets.is_empty();
            all.extend(
                dump.rulesets
                    .iter()
                    .map(|ruleset| Shown::new(name, ruleset)),
            );
        }
        match self.output {
            Output::Json => json(out, &all)?,
            Output::Text => all.iter().try_for_each(|shown| shown.write(out))?,
        }
        let mut findings = all.iter().flat_map(|shown| &shown.findings);
        let is_broken = findings.any(Finding::is_fault);
        Ok(ExitCode::from(match (is_sound, is_broken) {
            (false, _) => 2,
            (true, true) => 1,
            (true, false) => 0,
        }))
    }
}

impl Shown {
    fn new(name: &str, ruleset: &Ruleset) -> Self {
        let services: Services = of_rules(ruleset);
        Self {
            dump: name.to_owned(),
            family: ruleset.family,
            findings: lint(ruleset, &services),
            services: BTreeMap::into_iter(services)
                .map(|(service, rules)| ShownService { service, rules })
                .collect(),
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let count = match self.services.len() {
            1 => "1 Service port".to_owned(),
            count => format!("{count} Service ports"),
        };
        writeln!(out, "{} {}: {count}", self.dump, self.family)?;
        for ShownService { service, rules } in &self.services {
            writeln!(out, "\n{service}")?;
            for (frontend, path) in &rules.frontends {
                let frontend = frontend.to_string();
                writeln!(out, "  {frontend:<40} {path}")?;
            }
            for (what, endpoints) in [
                ("all endpoints", &rules.cluster),
                ("endpoints on this node", &rules.local),
            ] {
                if !endpoints.is_empty() {
                    writeln!(out, "  {what:<40} {}", join(endpoints))?;
                }
            }
            for odd in &rules.odd {
                writeln!(out, "  {:<40} {}", odd.chain, odd.what)?;
            }
            if let Some(seconds) = rules.affinity {
                writeln!(out, "  {:<40} {seconds} s", "clients stay")?;
            }
            if let Some(port) = rules.health_check_node_port {
                writeln!(out, "  {:<40} {port}", "health check node port")?;
            }
        }
        if !self.findings.is_empty() {
            writeln!(out)?;
        }
        for finding in &self.findings {
            writeln!(out, "warning: {} {finding}", self.family)?;
        }
        Ok(())
    }
}
