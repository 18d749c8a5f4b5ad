//! The figures that were accepted last, in `figures.yaml`, and what may be above them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::{helpers::Calls, ratios::Ratios};

/// How many instructions may be executed, in per cent of what is recorded: none of it is noise, but a change
/// that is wanted for something else may move some.
const MOST_INSTRUCTIONS: u64 = 105;
/// How many the verifier may walk: it follows every way there is, so a small change moves many.
const MOST_WALKED: u64 = 110;

const HEADER: &str = "\
# What the kernel programs cost when it was last looked at; the test `budget` holds them to it.
# Written by `NODEGATE_BUDGET=record cargo test -p nodegate-datapath --test budget` (as root).
";

/// All of them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figures {
    /// Who compiled the programs: another compiler makes other instructions of them.
    pub(crate) compiler: String,
    /// Instructions that the verifier walks, by kernel (`6.18`) and program.
    pub(crate) walked: BTreeMap<String, BTreeMap<String, u64>>,
    /// Time of a packet as a share of the reference program's, by architecture.
    pub(crate) ratios: BTreeMap<String, Ratios>,
    /// What a packet or a call makes the programs do.
    pub(crate) paths: BTreeMap<String, Work>,
}

/// What was executed on a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) instructions: u64,
    pub(crate) atomics: u64,
    pub(crate) calls: Calls,
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/budget/figures.yaml")
}

impl Figures {
    pub(crate) fn read() -> anyhow::Result<Self> {
        serde_yaml::from_str(include_str!("figures.yaml")).context("figures.yaml")
    }

    pub(crate) fn write(&self) -> anyhow::Result<()> {
        let text = serde_yaml::to_string(self)?;
        fs::write(file(), format!("{HEADER}{text}")).with_context(|| file().display().to_string())
    }
}

impl Work {
    /// Map look-ups, and calls of other helpers.
    pub(crate) fn numbers(&self) -> (u64, u64) {
        let all: u64 = self.calls.values().sum();
        let calls = self.calls.iter();
        let look_ups: u64 = calls
            .filter(|(what, _)| what.starts_with("look up "))
            .map(|(_, times)| times)
            .sum();
        (look_ups, all - look_ups)
    }

    /// The calls and atomic operations that are more than recorded, one line for each.
    pub(crate) fn more_calls(&self, recorded: &Self) -> Vec<String> {
        let atomics = ("atomic operations", self.atomics, recorded.atomics);
        let calls = self.calls.iter().map(|(what, times)| {
            let most = recorded.calls.get(what).copied().unwrap_or_default();
            (what.as_str(), *times, most)
        });
        calls
            .chain([atomics])
            .filter(|(_, times, most)| times > most)
            .map(|(what, times, most)| format!("{what}: {times}, at most {most}"))
            .collect()
    }

    /// Why there are too many instructions; none if there are not.
    pub(crate) fn more_instructions(&self, recorded: &Self) -> Option<String> {
        let (executed, recorded) = (self.instructions, recorded.instructions);
        let most = recorded * MOST_INSTRUCTIONS / 100;
        (executed > most)
            .then(|| format!("{executed} instructions, {recorded} recorded, at most {most}"))
    }
}

/// Why the verifier walked too many; none if it did not.
pub(crate) fn walked_above(walked: u64, recorded: u64) -> Option<String> {
    let most = recorded * MOST_WALKED / 100;
    (walked > most)
        .then(|| format!("{walked} instructions walked, {recorded} recorded, at most {most}"))
}
