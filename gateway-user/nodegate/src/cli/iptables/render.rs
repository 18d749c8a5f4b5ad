//! `nodegate iptables render`: the rules that kube-proxy would write.

use std::{io::Write, process::ExitCode};

use clap::ValueEnum;
use nodegate_iptables::{
    normal,
    render::render,
    rules::{Dialect, Rule, Ruleset, Table},
};
use nodegate_model::service::IpFamily;
use serde::Serialize;

use super::{Asked, Family, Output, json};

const EXAMPLES: &str = "\
Examples:
  nodegate iptables render             for this node, as nodegate knows it
  nodegate iptables render --manifests m/ --hostname-override node-a \\
    --cluster-cidr 10.0.0.0/8
  nodegate iptables render --manifests m/ --hostname-override node-a \\
    --form save --family 6
  nodegate iptables render -o json

The nodegate that runs here tells its Services, or manifests do, with Services,
EndpointSlices and the Node. The flags are kube-proxy's own. The rules are those
of kube-proxy 1.36 in iptables mode; its Services come in the order of their
names.

Exit status: 0 success, 2 nobody answers, a manifest is wrong or the Node is
missing.";

/// Print the rules that kube-proxy would write.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Render {
    /// Which family [default: IPv4 as text, both as JSON]
    #[arg(long, value_enum, value_name = "FAMILY")]
    family: Option<Family>,
    /// What to print
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    form: Form,
    /// How to print
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    asked: Asked,
}

/// What to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// What kube-proxy hands to `iptables-restore --noflush`
    #[default]
    Restore,
    /// What `iptables-save` then prints, with the rules by which packets get there
    Save,
}

/// A family's rules, for programs.
#[derive(Serialize)]
struct FamilyRules {
    family: IpFamily,
    tables: Vec<TableRules>,
}

#[derive(Serialize)]
struct TableRules {
    name: String,
    chains: Vec<ChainRules>,
}

#[derive(Serialize)]
struct ChainRules {
    name: String,
    policy: Option<String>,
    rules: Vec<String>,
}

impl Render {
    pub(super) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let wanted = self.asked.node()?;
        let dialect = match self.form {
            Form::Restore => Dialect::Restore,
            Form::Save => Dialect::Save,
        };
        let ruleset = |family| {
            let rendered = render(&wanted.services, family, &wanted.config);
            match self.form {
                Form::Restore => rendered,
                Form::Save => normal::dump(&rendered),
            }
        };
        match self.output {
            Output::Text => {
                let family = self.family.map_or(IpFamily::V4, IpFamily::from);
                out.write_all(ruleset(family).text(dialect).as_bytes())?;
            }
            Output::Json => {
                let families = match self.family {
                    Some(family) => vec![family.into()],
                    None => IpFamily::ALL.to_vec(),
                };
                let rules = families.into_iter().map(ruleset);
                let rules: Vec<_> = rules
                    .map(|rules| FamilyRules::new(&rules, dialect))
                    .collect();
                json(out, &rules)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl FamilyRules {
    fn new(ruleset: &Ruleset, dialect: Dialect) -> Self {
        let table = |table: &Table| TableRules {
            name: table.name.clone(),
            chains: table
                .chains()
                .iter()
                .map(|chain| ChainRules {
                    name: chain.name.clone(),
                    policy: chain.policy.clone(),
                    rules: table
                        .rules(&chain.name)
                        .map(|rule: &Rule| rule.line(&chain.name, dialect))
                        .collect(),
                })
                .collect(),
        };
        Self {
            family: ruleset.family,
            tables: ruleset.tables.iter().map(table).collect(),
        }
    }
}
