//! A rule's words → a rule. What is not kube-proxy's stays text.

use std::{borrow::Cow, net::SocketAddr};

use ipnet::IpNet;

use super::{Result, short, words::Words};
use crate::rules::{
    Address, EXTENSIONS, Not, Part, Probability, Recent, RecentAction, Rule, SetMark, Target,
};

impl<'t> Words<'t> {
    pub(super) fn rule(&mut self) -> Result<Rule> {
        let mut rule = Rule::default();
        while self.at < self.all.len() {
            self.part(&mut rule)?;
        }
        Ok(rule)
    }

    fn part(&mut self, rule: &mut Rule) -> Result<()> {
        let start = self.at;
        let not = if self.peek(0) == Some("!") {
            self.at += 1;
            Not::Not
        } else {
            Not::Is
        };
        let Some(option) = self.next() else {
            return Err("`!` without what it turns round".into());
        };
        let argument = self.peek(0).map(str::to_owned);
        let argument =
            || argument.ok_or_else(|| format!("`{}` without a value", short(&option.text)));
        let part = match &*option.text {
            "-s" | "--source" | "--src" => network(&argument()?).map(|net| Part::Source(not, net)),
            "-d" | "--destination" | "--dst" => {
                network(&argument()?).map(|net| Part::Destination(not, net))
            }
            "-i" | "--in-interface" => Some(Part::InInterface(not, argument()?)),
            "-o" | "--out-interface" => Some(Part::OutInterface(not, argument()?)),
            "-p" | "--protocol" | "--proto" => Some(Part::Protocol(not, argument()?)),
            "--dport" | "--destination-port" => {
                ports(&argument()?).map(|(first, last)| Part::DestinationPort(not, first, last))
            }
            "-m" | "--match" => return self.module(start, rule),
            "-j" | "--jump" | "-g" | "--goto" => {
                rule.target = Some(self.target(start)?);
                return Ok(());
            }
            _ => None,
        };
        if let Some(part) = part {
            self.at += 1;
            rule.parts.push(part);
        } else {
            // Not kube-proxy's.
            self.skip();
            rule.parts.push(Part::Other(self.raw(start)));
        }
        Ok(())
    }

    fn module(&mut self, start: usize, rule: &mut Rule) -> Result<()> {
        let name = self.next().ok_or("`-m` without a module")?.text;
        let options: Vec<Cow<'t, str>> = self.skip().iter().map(|word| word.text.clone()).collect();
        let options: Vec<&str> = options.iter().map(|option| &**option).collect();
        match known(&name, &options) {
            Some(parts) => rule.parts.extend(parts),
            None => rule.parts.push(Part::Other(self.raw(start))),
        }
        Ok(())
    }

    fn target(&mut self, start: usize) -> Result<Target> {
        let is_goto = self.all[start].text.starts_with("-g") || self.all[start].text == "--goto";
        let name = self.next().ok_or("`-j` without a target")?.text;
        let options: Vec<Cow<'t, str>> = self.skip().iter().map(|word| word.text.clone()).collect();
        let options: Vec<&str> = options.iter().map(|option| &**option).collect();
        Ok(known_target(&name, &options, is_goto)
            .unwrap_or_else(|| Target::Other(name.into_owned(), self.raw(start))))
    }
}

fn network(text: &str) -> Option<Address> {
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Some(address.into());
    }
    text.parse::<IpNet>().ok().map(Address::from)
}

fn ports(text: &str) -> Option<(u16, u16)> {
    match text.split_once(':') {
        Some((first, last)) => Some((first.parse().ok()?, last.parse().ok()?)),
        None => text.parse().ok().map(|port| (port, port)),
    }
}

fn hex(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `value/mask`; without a mask all bits count.
fn marks(text: &str) -> Option<(u32, u32)> {
    match text.split_once('/') {
        Some((value, mask)) => Some((hex(value)?, hex(mask)?)),
        None => hex(text).map(|value| (value, u32::MAX)),
    }
}

/// A match that [`Part`] has words for.
fn known(module: &str, options: &[&str]) -> Option<Vec<Part>> {
    let (not, options) = match options {
        ["!", rest @ ..] => (Not::Not, rest),
        rest => (Not::Is, rest),
    };
    let one = |part| Some(vec![part]);
    match (module, options) {
        ("comment", ["--comment", text]) => one(Part::Comment((*text).to_owned())),
        ("tcp" | "udp" | "sctp", []) => one(Part::Module(module.to_owned())),
        ("tcp" | "udp" | "sctp", ["--dport" | "--destination-port", text]) => {
            let (first, last) = ports(text)?;
            Some(vec![
                Part::Module(module.to_owned()),
                Part::DestinationPort(not, first, last),
            ])
        }
        ("conntrack", ["--ctstate", states]) => {
            one(Part::ConnectionState(not, (*states).to_owned()))
        }
        ("addrtype", ["--src-type", kind]) => one(Part::SourceType(not, (*kind).to_owned())),
        ("addrtype", ["--dst-type", kind]) => one(Part::DestinationType(not, (*kind).to_owned())),
        ("mark", ["--mark", text]) => {
            let (value, mask) = marks(text)?;
            one(Part::Mark(not, value, mask))
        }
        ("nfacct", ["--nfacct-name", name]) => one(Part::Account((*name).to_owned())),
        ("statistic", ["--mode", "random", "--probability", text]) => {
            one(Part::Random(Probability::parse(text)?))
        }
        ("recent", options) => one(Part::Recent(recent(options)?)),
        _ => None,
    }
}

fn recent(options: &[&str]) -> Option<Recent> {
    let (mut list, mut action, mut mask) = (None, None, None);
    let mut reap = false;
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match *option {
            "--name" => list = options.next().map(|name| (*name).to_owned()),
            "--set" => action = Some(RecentAction::Set),
            "--rcheck" => action = action.or(Some(RecentAction::Check(0))),
            "--seconds" => action = Some(RecentAction::Check(options.next()?.parse().ok()?)),
            "--reap" => reap = true,
            "--mask" => mask = Some(options.next()?.parse().ok()?),
            "--rsource" => {}
            _ => return None,
        }
    }
    let action = action?;
    let fits = reap == matches!(action, RecentAction::Check(_));
    fits.then_some(Recent {
        list: list?,
        action,
        mask,
    })
}

/// A target that [`Target`] has words for.
fn known_target(name: &str, options: &[&str], is_goto: bool) -> Option<Target> {
    if is_goto {
        return options.is_empty().then(|| Target::Goto(name.to_owned()));
    }
    match (name, options) {
        ("ACCEPT", []) => Some(Target::Accept),
        ("DROP", []) => Some(Target::Drop),
        ("RETURN", []) => Some(Target::Return),
        ("REJECT", []) => Some(Target::Reject(None)),
        ("REJECT", ["--reject-with", with]) => Some(Target::Reject(Some((*with).to_owned()))),
        ("MARK", ["--or-mark", mark]) => Some(Target::Mark(SetMark::Or(hex(mark)?))),
        ("MARK", ["--xor-mark", mark]) => Some(Target::Mark(SetMark::Xor(hex(mark)?))),
        ("MARK", ["--set-xmark", text]) => {
            let (value, mask) = marks(text)?;
            Some(Target::Mark(SetMark::Xmark(value, mask)))
        }
        ("MASQUERADE", []) => Some(Target::Masquerade {
            random_fully: false,
        }),
        ("MASQUERADE", ["--random-fully"]) => Some(Target::Masquerade { random_fully: true }),
        ("DNAT", ["--to-destination", to]) => to.parse::<SocketAddr>().ok().map(Target::Dnat),
        ("DNAT" | "REJECT" | "MARK" | "MASQUERADE", _) => None,
        (name, _) if EXTENSIONS.contains(&name) => None,
        (name, []) => Some(Target::Jump(name.to_owned())),
        _ => None,
    }
}
