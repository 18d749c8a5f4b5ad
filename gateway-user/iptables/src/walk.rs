//! The way of a flow's first packet through rules: which ones match, and why.
//!
//! The rules are those of a dump, with the built-in chains; the order of the hooks is netfilter's
//! (nat before filter; nat only for the first packet of a connection). Where a rule leaves it to
//! chance, the walk takes every way, each with its probability.

use std::net::{IpAddr, SocketAddr};

use nodegate_model::service::Protocol;
use serde::Serialize;

use super::rules::{Dialect, Part, RecentAction, Rule, Ruleset, SetMark, Table, Target};

mod condition;

/// As deep as chains may call each other: KUBE-SERVICES, KUBE-NODEPORTS, KUBE-EXT, KUBE-SVC,
/// KUBE-SEP, KUBE-MARK-MASQ, and some for chains of other programs.
const DEPTH: usize = 16;

/// The first packet of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstPacket {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it is going.
    pub destination: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// By which interface it comes in; none for what a process of the node sends.
    pub interface: Option<String>,
}

/// What `addrtype` knows: the addresses of the node, but for loopback.
pub type OwnAddresses = [IpAddr];

/// One way through the rules.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleWay {
    /// How likely it is.
    pub probability: f64,
    /// The rules that match, in order; without jumps to chains where none does.
    pub steps: Vec<RuleStep>,
    /// Where the packet is sent, if it is translated.
    pub translated: Option<SocketAddr>,
    /// Whether it leaves with this node's address.
    pub masqueraded: bool,
    /// What becomes of it.
    pub fate: PacketFate,
    /// For how many seconds the client will be sent there again.
    pub affinity: Option<u32>,
}

/// A rule that matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleStep {
    /// `nat` or `filter`.
    pub table: String,
    /// The rule's chain.
    pub chain: String,
    /// As `iptables-save` prints it.
    pub rule: String,
    /// Why it matches.
    pub why: Vec<String>,
    /// The chain that it leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jump: Option<String>,
    /// How many rules of the chain were looked at before.
    pub passed: usize,
    /// It ends the chain, and the one before goes on.
    #[serde(skip)]
    pub returns: bool,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PacketFate {
    /// It goes on.
    Accept,
    /// It is answered with an ICMP error or a reset.
    Reject,
    /// It is thrown away.
    Drop,
}

/// All ways of a packet through a node's rules.
pub fn walk(rules: &Ruleset, packet: &FirstPacket, own: &OwnAddresses) -> Vec<RuleWay> {
    let way = RuleWay {
        probability: 1.0,
        steps: Vec::new(),
        translated: None,
        masqueraded: false,
        fate: PacketFate::Accept,
        affinity: None,
    };
    let walker = Walker { rules, packet, own };
    let start = Progress { way, mark: 0 };
    let first = if packet.interface.is_some() {
        "PREROUTING"
    } else {
        "OUTPUT"
    };
    let routed = walker.hook("nat", first, start);
    let ways = routed.into_iter().flat_map(|progress| {
        let mut ways = vec![progress];
        for chain in walker.filters(&ways[0]) {
            ways = ways
                .into_iter()
                .flat_map(|progress| walker.hook("filter", chain, progress))
                .collect();
        }
        ways.into_iter()
            .flat_map(|progress| walker.hook("nat", "POSTROUTING", progress))
    });
    ways.map(|progress| progress.way).collect()
}

/// A packet on its way.
#[derive(Clone, Debug)]
struct Progress {
    way: RuleWay,
    mark: u32,
}

/// How packets leave a chain.
#[derive(Default)]
struct Left {
    /// At its end, or by RETURN: the chain before goes on.
    back: Vec<Progress>,
    /// For good: what the hook is for is done.
    done: Vec<Progress>,
}

struct Walker<'w> {
    rules: &'w Ruleset,
    packet: &'w FirstPacket,
    own: &'w OwnAddresses,
}

// === impl Walker ===

impl Walker<'_> {
    /// The built-in chains of the filter table that the packet passes.
    fn filters(&self, progress: &Progress) -> Vec<&'static str> {
        let destination = progress.way.translated.unwrap_or(self.packet.destination);
        let arrives = self.is_own(destination.ip());
        match (&self.packet.interface, arrives) {
            (Some(_), true) => vec!["INPUT"],
            (Some(_), false) => vec!["FORWARD"],
            // By the loopback interface, back in.
            (None, true) => vec!["OUTPUT", "INPUT"],
            (None, false) => vec!["OUTPUT"],
        }
    }

    /// `--src-type LOCAL`, `--dst-type LOCAL`
    fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.own.contains(&address)
    }

    fn hook(&self, table: &str, chain: &str, progress: Progress) -> Vec<Progress> {
        let Some(table) = self.rules.table(table) else {
            return vec![progress];
        };
        if progress.way.fate != PacketFate::Accept {
            return vec![progress];
        }
        let Left { mut back, done } = self.chain(table, chain, progress, 0);
        back.extend(done);
        back
    }

    fn chain(&self, table: &Table, chain: &str, progress: Progress, depth: usize) -> Left {
        let mut left = Left::default();
        let mut here = vec![progress];
        for (passed, rule) in table.rules(chain).enumerate() {
            let mut next = Vec::new();
            for mut progress in here {
                progress.way.affinity = stays(rule).or(progress.way.affinity);
                let Some((why, chance)) = self.matches(rule, &progress) else {
                    next.push(progress);
                    continue;
                };
                if chance < 1.0 {
                    let mut others = progress.clone();
                    others.way.probability *= 1.0 - chance;
                    next.push(others);
                }
                progress.way.probability *= chance;
                progress.way.steps.push(RuleStep {
                    table: table.name.clone(),
                    chain: chain.to_owned(),
                    rule: rule.line(chain, Dialect::Save),
                    why,
                    jump: rule.jump().map(str::to_owned),
                    passed,
                    returns: rule.target == Some(Target::Return),
                });
                next.extend(self.target(table, rule, progress, depth, &mut left));
            }
            here = next;
            if here.is_empty() {
                break;
            }
        }
        left.back.extend(here);
        left
    }

    /// Carries out what a rule says; gives back what goes on to the next rule.
    fn target(
        &self,
        table: &Table,
        rule: &Rule,
        mut progress: Progress,
        depth: usize,
        left: &mut Left,
    ) -> Vec<Progress> {
        match &rule.target {
            Some(Target::Accept) => {}
            Some(Target::Drop) => progress.way.fate = PacketFate::Drop,
            Some(Target::Reject(_)) => progress.way.fate = PacketFate::Reject,
            Some(Target::Dnat(to)) => progress.way.translated = Some(*to),
            Some(Target::Masquerade { .. }) => progress.way.masqueraded = true,
            Some(Target::Return) => {
                left.back.push(progress);
                return Vec::new();
            }
            Some(Target::Mark(mark)) => {
                progress.mark = marked(progress.mark, *mark);
                return vec![progress];
            }
            Some(Target::Jump(chain)) if depth < DEPTH => {
                let before = progress.way.steps.len();
                let mut beyond = self.chain(table, chain, progress, depth + 1);
                left.done.extend(beyond.done);
                for progress in &mut beyond.back {
                    // Nothing in that chain was for the packet: not worth a word.
                    if progress.way.steps[before..].iter().all(|step| step.returns) {
                        progress.way.steps.truncate(before - 1);
                    }
                }
                return beyond.back;
            }
            Some(Target::Goto(chain)) if depth < DEPTH => {
                let beyond = self.chain(table, chain, progress, depth + 1);
                left.done.extend(beyond.done);
                left.back.extend(beyond.back);
                return Vec::new();
            }
            // Counted, logged, or too deep.
            Some(Target::Jump(_) | Target::Goto(_) | Target::Other(..)) | None => {
                return vec![progress];
            }
        }
        left.done.push(progress);
        Vec::new()
    }

    /// Why a rule matches, and how likely; none if it does not.
    fn matches(&self, rule: &Rule, progress: &Progress) -> Option<(Vec<String>, f64)> {
        let (mut why, mut chance) = (Vec::new(), 1.0);
        for part in &rule.parts {
            if let Part::Random(probability) = part {
                chance *= probability.value();
                continue;
            }
            why.extend(self.holds(part, progress)?);
        }
        Some((why, chance))
    }
}

/// For how many seconds a client goes by this rule.
fn stays(rule: &Rule) -> Option<u32> {
    rule.parts.iter().find_map(|part| match part {
        Part::Recent(recent) => match recent.action {
            RecentAction::Check(seconds) => Some(seconds),
            RecentAction::Set => None,
        },
        _ => None,
    })
}

fn marked(mark: u32, change: SetMark) -> u32 {
    match change {
        SetMark::Or(bits) => mark | bits,
        SetMark::Xor(bits) => mark ^ bits,
        SetMark::Xmark(value, mask) => (mark & !mask) ^ value,
    }
}

#[cfg(test)]
mod tests;
