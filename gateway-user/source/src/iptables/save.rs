//! Which program has kube-proxy's rules.
//!
//! A kernel has two iptables, and a node may have rules in both: kube-proxy writes to the one that its
//! image chooses (`iptables-wrappers` of kubernetes-sigs), and what an older one wrote to the other may
//! still be there.

use std::{
    fmt, io,
    process::{Command, Output},
    time::{Duration, Instant},
};

use nodegate_model::service::IpFamily;
use xxhash_rust::xxh64::Xxh64;

use crate::error::SourceError;

/// A program that prints a family's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) family: IpFamily,
}

const fn program(name: &'static str, family: IpFamily) -> Program {
    Program { name, family }
}

/// The last of each family is whatever the system prefers: it counts where the other two have no name of
/// their own.
const PROGRAMS: [[Program; 3]; 2] = [
    [
        program("iptables-nft-save", IpFamily::V4),
        program("iptables-legacy-save", IpFamily::V4),
        program("iptables-save", IpFamily::V4),
    ],
    [
        program("ip6tables-nft-save", IpFamily::V6),
        program("ip6tables-legacy-save", IpFamily::V6),
        program("ip6tables-save", IpFamily::V6),
    ],
];

/// What a program printed.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    pub(super) program: Program,
    pub(super) text: String,
}

/// Why a program printed nothing.
#[derive(Debug)]
enum Failure {
    NotInstalled,
    Other(String),
}

/// Which programs have the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// One for each family that has any.
    pub(super) programs: Vec<Program>,
    /// Programs that have some too, which are not read.
    pub(super) passed_over: Vec<Program>,
}

/// All that the programs printed, at about one moment.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) texts: Vec<Saved>,
    /// How long it took.
    pub(super) took: Duration,
}

/// Looks for kube-proxy's rules everywhere.
pub(super) fn choose() -> Result<Choice, SourceError> {
    let mut choice = Choice {
        programs: Vec::new(),
        passed_over: Vec::new(),
    };
    let (mut missing, mut told, mut tried) = (Vec::new(), Vec::new(), Vec::new());
    for programs in PROGRAMS {
        let mut with_rules = Vec::new();
        let mut has_any = false;
        for program in programs {
            // `iptables-save` is one of the other two.
            if has_any && program == programs[2] {
                continue;
            }
            match save(program) {
                Ok(saved) => {
                    has_any = true;
                    tried.push(program.name);
                    let rules = kube_rules(&saved.text);
                    if rules > 0 {
                        with_rules.push((rules, program));
                    }
                }
                Err(Failure::NotInstalled) => missing.push(program.name),
                Err(Failure::Other(message)) => told.push(format!("{}: {message}", program.name)),
            }
        }
        // The one in use has more than what was left of an earlier one.
        with_rules.sort_by_key(|(rules, _)| std::cmp::Reverse(*rules));
        let mut with_rules = with_rules.into_iter().map(|(_, program)| program);
        choice.programs.extend(with_rules.next());
        choice.passed_over.extend(with_rules);
    }
    if !choice.programs.is_empty() {
        return Ok(choice);
    }
    Err(if tried.is_empty() && told.is_empty() {
        SourceError::NoIptables {
            missing: missing.join(", "),
        }
    } else if tried.is_empty() {
        SourceError::Save {
            told: told.join("; "),
        }
    } else {
        SourceError::NoRules {
            tried: tried.join(", "),
        }
    })
}

/// What the chosen programs print.
pub(super) fn read(choice: &Choice) -> Result<Reading, String> {
    let start = Instant::now();
    let texts = choice
        .programs
        .iter()
        .map(|program| save(*program).map_err(|failure| format!("{}: {failure}", program.name)));
    let texts = texts.collect::<Result<_, _>>()?;
    Ok(Reading {
        texts,
        took: start.elapsed(),
    })
}

/// How many rules are kube-proxy's; none without the chain that everything begins with.
pub(super) fn kube_rules(text: &str) -> usize {
    if !text.lines().any(|line| line.starts_with(":KUBE-SERVICES ")) {
        return 0;
    }
    let is_rule = |line: &&str| line.contains("-A KUBE-S") || line.contains("-A KUBE-NODEPORTS");
    1 + text.lines().filter(is_rule).count()
}

/// Without `-t`: that would make legacy iptables' tables where there are none.
fn save(program: Program) -> Result<Saved, Failure> {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(program.name)
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::NotInstalled,
            _ => Failure::Other(error.to_string()),
        })?;
    if !status.success() {
        let message = String::from_utf8_lossy(&stderr);
        return Err(Failure::Other(format!("{status}: {}", message.trim())));
    }
    Ok(Saved {
        program,
        // Comments of other programs may be in any encoding.
        text: String::from_utf8_lossy(&stdout).into_owned(),
    })
}

// === impl Program ===

impl Program {
    /// Whether nf_tables tells of changes of what it prints.
    pub(super) fn is_nft(self) -> bool {
        self.name.contains("-nft-")
    }
}

// === impl Reading ===

impl Reading {
    /// Whether a program prints no rules of kube-proxy's any more.
    pub(super) fn lacks_rules(&self) -> bool {
        self.texts.iter().any(|saved| kube_rules(&saved.text) == 0)
    }

    /// The lines that say what happens: without comments, which have the time in them, and without the
    /// counters of chains.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = Xxh64::new(0);
        for saved in &self.texts {
            hash.update(saved.program.name.as_bytes());
            for line in saved.text.lines() {
                let line = match line.as_bytes().first() {
                    Some(b'#') => continue,
                    Some(b':') => line.split(" [").next().unwrap_or(line),
                    _ => line,
                };
                hash.update(line.as_bytes());
                hash.update(b"\n");
            }
        }
        hash.digest()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstalled => f.write_str("not installed"),
            Self::Other(message) => f.write_str(message),
        }
    }
}
