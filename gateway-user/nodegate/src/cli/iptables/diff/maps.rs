//! `nodegate iptables diff --maps`: rules against the loaded maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::bail;
use nodegate_compile::ServiceScope;
use nodegate_datapath::contents::Pins;
use nodegate_iptables::{
    diff::{Change, Words, changes},
    services::{ServicePortKey, Services, of_rules},
};
use nodegate_model::service::IpFamily;
use serde::Serialize;

use super::{Output, json, whole};
use crate::cli::attachment::PinDir;

/// Which maps, and what should be in them.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Maps")]
pub(super) struct MapsArgs {
    /// Compare with what nodegate has loaded on this node, instead of manifests
    #[arg(long, conflicts_with = "manifests")]
    pub(super) maps: bool,
    #[command(flatten)]
    pins: PinDir,
    /// Which Services the maps should have: `all`, or names such as `shop/web,istio-system/*`
    #[arg(long, default_value = "all", value_name = "WHICH", value_parser = crate::cli::run::scope)]
    services: ServiceScope,
}

/// The differences of one family.
#[derive(Serialize)]
struct Difference {
    family: IpFamily,
    /// By Service port; `expected` is what the rules do, `found` what the maps do.
    services: BTreeMap<ServicePortKey, Vec<Change>>,
    /// Service ports whose connections follow a gateway's TCP route in the kernel.
    not_compared: BTreeSet<ServicePortKey>,
}

pub(super) fn run(
    args: &MapsArgs,
    dumps: &[PathBuf],
    output: Output,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    if args.services.has_name("", "").is_none() {
        bail!(
            "rules tell Services by their names only (fix: --services all, or names such as \
             --services shop/web)"
        );
    }
    let pins = Pins::open(&args.pins.path)?;
    let mut differences = Vec::new();
    for ruleset in whole(dumps)? {
        let family = ruleset.family;
        let in_turn = pins.in_turn(family)?;
        let rules = comparable(of_rules(&ruleset), &args.services, &in_turn);
        let mut maps = pins.implemented(family)?;
        maps.retain(|key, _| !in_turn.contains(key));
        differences.push(Difference {
            family,
            not_compared: in_turn,
            services: changes(&rules, &maps),
        });
    }
    match output {
        Output::Json => json(out, &differences)?,
        Output::Text => differences.iter().try_for_each(|one| one.write(out))?,
    }
    let equal = differences.iter().all(|one| one.services.is_empty());
    Ok(ExitCode::from(u8::from(!equal)))
}

/// The rules' Services that are in scope, without what maps do not hold.
fn comparable(
    services: Services,
    scope: &ServiceScope,
    in_turn: &BTreeSet<ServicePortKey>,
) -> Services {
    let in_scope = |key: &ServicePortKey| {
        scope.has_name(&key.name.namespace, &key.name.name) == Some(true) && !in_turn.contains(key)
    };
    let mut services = services;
    services.retain(|key, service| {
        service.health_check_node_port = None;
        in_scope(key)
    });
    services
}

impl Difference {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let family = self.family;
        for service in &self.not_compared {
            writeln!(
                out,
                "{family}: not compared: {service}, whose connections follow a TCP route here"
            )?;
        }
        if self.services.is_empty() {
            return writeln!(out, "{family}: equal");
        }
        let count = self.services.len();
        writeln!(out, "{family}: Service ports that differ: {count}")?;
        for (service, changes) in &self.services {
            writeln!(out, "{service}")?;
            for change in changes {
                writeln!(out, "  {}", change.told(Words::MAPS))?;
            }
        }
        Ok(())
    }
}
