//! Attacks on nodegate, with a real Envoy beside it where Envoy has an answer: what of them gets through, and whether
//! others are served meanwhile.
//!
//! | class | who attacks | beside Envoy |
//! |---|---|---|
//! | [`Class::Http1`] | a client, by the bytes of requests | yes |
//! | [`Class::Http2`] | a client, by frames | yes |
//! | [`Class::Tls`] | a client, before there is a request | yes |
//! | [`Class::Answers`] | an endpoint | yes |
//! | [`Class::Suites`] | a client, by suites that nobody here wrote | yes |
//! | [`Class::Files`] | who may write manifests | no |
//! | [`Class::Packets`] | who may send packets to a node | no |
//!
//! All is bounded in number, and goes to loopback or to namespaces of a testbed. No verdict depends on a clock.

mod answers;
mod endpoint;
mod files;
mod http1;
mod http2;
mod neighbour;
mod outcome;
mod packets;
mod said;
mod suites;
mod target;
mod tls;

use std::path::PathBuf;

use anyhow::Context as _;

pub use outcome::{Outcome, Reach, Report, Row, Verdict};
pub use suites::NAME as H2SPEC;
use target::{Proxy, Target};

use crate::state::Binaries;

/// What is attacked, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Requests over HTTP/1.1.
    Http1,
    /// Connections over HTTP/2.
    Http2,
    /// TLS before HTTP.
    Tls,
    /// Answers of endpoints.
    Answers,
    /// Public suites.
    Suites,
    /// Manifests.
    Files,
    /// Packets.
    Packets,
}

/// What is to be tried.
#[derive(Clone, Debug)]
pub struct Options {
    /// nodegate, and the pods' server for packets.
    pub binaries: Binaries,
    /// None: nothing is compared.
    pub envoy: Option<PathBuf>,
    /// None: the public suites are skipped.
    pub h2spec: Option<PathBuf>,
    /// Only attacks whose names have this in them.
    pub only: String,
    /// Only these classes.
    pub classes: Vec<Class>,
    /// Floods have this part of their frames and packets: 1 for all.
    pub part: usize,
}

/// An attack on a proxy, whatever it is.
enum Attack {
    Request(&'static http1::Probe),
    Odd(&'static http2::Odd),
    Flood(&'static http2::Flood),
    Handshake(&'static tls::Handshake),
    Answer(&'static said::Answer),
    File(&'static files::Nasty),
    Suite,
}

// === impl Class ===

impl Class {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Http1,
        Self::Http2,
        Self::Tls,
        Self::Answers,
        Self::Suites,
        Self::Files,
        Self::Packets,
    ];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Answers => "answers",
            Self::Suites => "suites",
            Self::Files => "files",
            Self::Packets => "packets",
        }
    }

    fn attacks(self) -> Vec<Attack> {
        match self {
            Self::Http1 => http1::PROBES.iter().map(Attack::Request).collect(),
            Self::Http2 => {
                let odd = http2::ODD.iter().map(Attack::Odd);
                odd.chain(http2::FLOODS.iter().map(Attack::Flood)).collect()
            }
            Self::Tls => tls::HANDSHAKES.iter().map(Attack::Handshake).collect(),
            Self::Answers => said::ANSWERS.iter().map(Attack::Answer).collect(),
            Self::Suites => vec![Attack::Suite],
            Self::Files => files::NASTY.iter().map(Attack::File).collect(),
            Self::Packets => Vec::new(),
        }
    }
}

/// Tries attacks, and gives what came of each; `told` hears of each row as it is known.
///
/// # Errors
/// Fails if nodegate, Envoy or the testbed cannot be started. What cannot be tried on this machine is skipped.
pub fn run(options: &Options, mut told: impl FnMut(&Row)) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for class in &options.classes {
        if *class == Class::Suites && options.h2spec.is_none() {
            let unmet = "h2spec is not built: cargo xtask attack builds it with Go".to_owned();
            report.skipped.push((class.name(), unmet));
            continue;
        }
        if *class == Class::Packets {
            if let Err(unmet) = crate::environment::check_for_tests() {
                report.skipped.push((class.name(), unmet.to_string()));
                continue;
            }
            report.rows.extend(packets::run(options, &mut told)?);
            continue;
        }
        report.rows.extend(proxied(*class, options, &mut told)?);
    }
    Ok(report)
}

fn proxied(
    class: Class,
    options: &Options,
    told: &mut impl FnMut(&Row),
) -> anyhow::Result<Vec<Row>> {
    let wanted = class.attacks().into_iter();
    let wanted: Vec<_> = wanted
        .filter(|attack| attack.name().contains(&options.only))
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let nodegate = &options.binaries.nodegate;
    let mut target = Target::start(&Proxy::Nodegate(nodegate.clone())).context("nodegate")?;
    let envoy = options.envoy.as_ref().filter(|_| class != Class::Files);
    let envoy = envoy.map(|envoy| Proxy::Envoy {
        envoy: envoy.clone(),
        nodegate: nodegate.clone(),
    });
    let mut peer = envoy
        .as_ref()
        .map(Target::start)
        .transpose()
        .context("Envoy")?;
    let mut rows = Vec::new();
    for attack in wanted {
        let name = attack.name();
        let ours = attack
            .run(&mut target, options)
            .with_context(|| format!("{name}, nodegate"))?;
        let theirs = match &mut peer {
            None => None,
            Some(peer) => {
                let outcome = attack.run(peer, options);
                if !peer.is_alive()? {
                    // The next attack is to find one.
                    *peer = Target::start(envoy.as_ref().context("an Envoy")?)?;
                }
                Some(outcome.with_context(|| format!("{name}, Envoy"))?)
            }
        };
        let row = Row {
            class: class.name(),
            name,
            about: attack.about(),
            nodegate: ours,
            envoy: theirs,
            meant: attack.meant(),
        };
        told(&row);
        rows.push(row);
        if !target.is_alive()? {
            target = Target::start(&Proxy::Nodegate(nodegate.clone()))?;
        }
    }
    Ok(rows)
}

// === impl Attack ===

impl Attack {
    const fn name(&self) -> &'static str {
        match self {
            Self::Request(probe) => probe.name,
            Self::Odd(odd) => odd.name,
            Self::Flood(flood) => flood.name,
            Self::Handshake(handshake) => handshake.name,
            Self::Answer(answer) => answer.name,
            Self::File(file) => file.name,
            Self::Suite => suites::NAME,
        }
    }

    const fn about(&self) -> &'static str {
        match self {
            Self::Request(probe) => probe.about,
            Self::Odd(odd) => odd.about,
            Self::Flood(flood) => flood.about,
            Self::Handshake(handshake) => handshake.about,
            Self::Answer(answer) => answer.about,
            Self::File(file) => file.about,
            Self::Suite => suites::ABOUT,
        }
    }

    const fn meant(&self) -> Option<&'static str> {
        match self {
            Self::Request(probe) => probe.meant,
            _ => None,
        }
    }

    fn run(&self, target: &mut Target, options: &Options) -> anyhow::Result<Outcome> {
        match self {
            Self::Request(probe) => probe.run(target),
            Self::Odd(odd) => odd.run(target),
            Self::Flood(flood) => flood.run(target, options.part),
            Self::Handshake(handshake) => handshake.run(target),
            Self::Answer(answer) => answer.run(target),
            Self::File(file) => file.run(target, &options.binaries.nodegate),
            Self::Suite => {
                let h2spec = options.h2spec.as_ref().context("h2spec is not built")?;
                suites::run(target, h2spec)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_attacks_are_documented() {
        let document = include_str!("../../docs/security.md");
        let proxied = Class::ALL.into_iter().flat_map(Class::attacks);
        let proxied = proxied.map(|attack| (attack.name(), attack.about()));
        let rows = document.matches("\n| `").count();
        let mut attacks: Vec<_> = proxied.collect();
        attacks.extend(packets::names());
        for (name, about) in &attacks {
            let row = format!("| `{name}` | {about} | ");
            assert!(document.contains(&row), "{row}");
        }
        assert_eq!(rows, attacks.len());
    }
}
