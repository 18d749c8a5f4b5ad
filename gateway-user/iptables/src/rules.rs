//! Chains and rules, as they are written, parsed and walked.
//!
//! A [`Rule`] keeps its parts in the order in which they were written. The text has two dialects
//! ([`Dialect`]): what kube-proxy hands to `iptables-restore`, and what `iptables-save` prints. Going
//! from the one to the other is the business of [`normal`](super::normal).

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use nodegate_model::service::IpFamily;

/// Who writes, or reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// kube-proxy's input of `iptables-restore`.
    Restore,
    /// The output of `iptables-save`.
    Save,
}

/// The tables of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// `iptables` or `ip6tables`.
    pub family: IpFamily,
    /// In the order of the text.
    pub tables: Vec<Table>,
}

/// A table: `filter`, `nat`, …
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// `filter`, `nat`, …
    pub name: String,
    chains: Vec<Chain>,
    /// In the order of the text, each with the index of its chain.
    rules: Vec<(usize, Rule)>,
    index: HashMap<String, usize>,
}

/// A chain of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// `KUBE-SERVICES`, `INPUT`, …
    pub name: String,
    /// `ACCEPT` or `DROP` of a built-in chain.
    pub policy: Option<String>,
    rules: Vec<usize>,
}

/// A rule: what has to be so, and what then happens. Without a target, nothing but counting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// In the order of the text.
    pub parts: Vec<Part>,
    /// What happens.
    pub target: Option<Target>,
}

/// A condition of a rule, or what is said about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// `[!] -s`
    Source(Not, Address),
    /// `[!] -d`
    Destination(Not, Address),
    /// `[!] -i`, with a `+` at the end for any name that begins so.
    InInterface(Not, String),
    /// `[!] -o`, likewise.
    OutInterface(Not, String),
    /// `[!] -p`
    Protocol(Not, String),
    /// `-m tcp`, `-m udp`, `-m sctp`: on its own true of every packet of that protocol.
    Module(String),
    /// `[!] --dport`, of the module before it.
    DestinationPort(Not, u16, u16),
    /// `-m comment --comment`
    Comment(String),
    /// `-m conntrack [!] --ctstate`
    ConnectionState(Not, String),
    /// `-m addrtype [!] --src-type`
    SourceType(Not, String),
    /// `-m addrtype [!] --dst-type`
    DestinationType(Not, String),
    /// `-m mark [!] --mark value/mask`
    Mark(Not, u32, u32),
    /// `-m nfacct --nfacct-name`: counts.
    Account(String),
    /// `-m recent`: session affinity.
    Recent(Recent),
    /// `-m statistic --mode random --probability`
    Random(Probability),
    /// What kube-proxy does not use, as it was written.
    Other(String),
}

/// Whether a condition is turned round: `!`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Not {
    /// It must be so.
    Is,
    /// It must not.
    Not,
}

/// An address or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// What it stands for.
    pub net: IpNet,
    /// Written without a prefix length.
    pub bare: bool,
}

/// What `-m recent` does with its list of clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Recent {
    /// Name of the list.
    pub list: String,
    /// What is done with it.
    pub action: RecentAction,
    /// Which bits of the source count; `iptables-save` always says so, kube-proxy never does.
    pub mask: Option<IpAddr>,
}

/// See [`Recent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecentAction {
    /// `--set`: enter the client.
    Set,
    /// `--rcheck --seconds … --reap`: is the client there, and not older than so many seconds?
    Check(u32),
}

/// A probability, in units of 10^-11: as many digits as `iptables-save` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Probability(pub u64);

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// `-j ACCEPT`
    Accept,
    /// `-j DROP`
    Drop,
    /// `-j RETURN`
    Return,
    /// `-j REJECT`, and with what.
    Reject(Option<String>),
    /// `-j MARK`
    Mark(SetMark),
    /// `-j MASQUERADE`
    Masquerade {
        /// `--random-fully`
        random_fully: bool,
    },
    /// `-j DNAT --to-destination`
    Dnat(SocketAddr),
    /// `-j CHAIN`
    Jump(String),
    /// `-g CHAIN`
    Goto(String),
    /// What kube-proxy does not use: the target's name, and all of it as it was written.
    Other(String, String),
}

/// What `-j MARK` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SetMark {
    /// `--or-mark`
    Or(u32),
    /// `--xor-mark`
    Xor(u32),
    /// `--set-xmark value/mask`: clears the bits of the mask, then flips those of the value.
    Xmark(u32, u32),
}

/// Targets that are extensions and not chains, and that [`Target`] has no variant for. Any other name is
/// that of a chain.
pub(super) const EXTENSIONS: [&str; 35] = [
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CLUSTERIP",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "DNPT",
    "DSCP",
    "ECN",
    "HL",
    "HMARK",
    "IDLETIMER",
    "LED",
    "LOG",
    "NETMAP",
    "NFLOG",
    "NFQUEUE",
    "NOTRACK",
    "QUEUE",
    "RATEEST",
    "REDIRECT",
    "SECMARK",
    "SET",
    "SNAT",
    "SNPT",
    "SYNPROXY",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TEE",
    "TOS",
    "TPROXY",
    "TRACE",
    "TTL",
    "ULOG",
];

// === impl Ruleset ===

impl Ruleset {
    /// One table.
    pub fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// The text, in the order in which it was made or read.
    pub fn text(&self, dialect: Dialect) -> String {
        let mut out = String::new();
        for table in &self.tables {
            table.write(&mut out, dialect);
        }
        out
    }
}

// === impl Table ===

impl Table {
    /// An empty one.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            chains: Vec::new(),
            rules: Vec::new(),
            index: HashMap::new(),
        }
    }

    /// Adds a chain, if it is not there.
    pub fn declare(&mut self, name: &str, policy: Option<&str>) -> usize {
        if let Some(index) = self.index.get(name) {
            return *index;
        }
        let index = self.chains.len();
        self.chains.push(Chain {
            name: name.to_owned(),
            policy: policy.map(str::to_owned),
            rules: Vec::new(),
        });
        self.index.insert(name.to_owned(), index);
        index
    }

    /// Adds a rule at the end of a chain, which is declared if it is not there.
    pub fn append(&mut self, chain: &str, rule: Rule) {
        let chain = self.declare(chain, None);
        self.chains[chain].rules.push(self.rules.len());
        self.rules.push((chain, rule));
    }

    /// The chains, in the order of the text.
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// One chain.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.index.get(name).map(|index| &self.chains[*index])
    }

    /// The rules of a chain, in order; none if there is no such chain.
    pub fn rules(&self, chain: &str) -> impl ExactSizeIterator<Item = &Rule> {
        let numbers = self.chain(chain).map_or(&[][..], |chain| &chain.rules);
        numbers.iter().map(|number| &self.rules[*number].1)
    }

    /// All rules, in the order of the text, each with its chain.
    pub fn all_rules(&self) -> impl Iterator<Item = (&Chain, &Rule)> {
        let rules = self.rules.iter();
        rules.map(|(chain, rule)| (&self.chains[*chain], rule))
    }

    fn write(&self, out: &mut String, dialect: Dialect) {
        out.push('*');
        out.push_str(&self.name);
        out.push('\n');
        for chain in &self.chains {
            let policy = chain.policy.as_deref().unwrap_or("-");
            out.push(':');
            out.push_str(&chain.name);
            out.push(' ');
            out.push_str(policy);
            out.push_str(" [0:0]\n");
        }
        for (chain, rule) in &self.rules {
            rule.write(out, &self.chains[*chain].name, dialect);
            out.push('\n');
        }
        out.push_str("COMMIT\n");
    }
}

// === impl Rule ===

impl Rule {
    /// A rule with this target.
    pub fn new(parts: Vec<Part>, target: Target) -> Self {
        Self {
            parts,
            target: Some(target),
        }
    }

    /// The line: `-A chain …`.
    pub fn line(&self, chain: &str, dialect: Dialect) -> String {
        let mut line = String::new();
        self.write(&mut line, chain, dialect);
        line
    }

    /// Its comment.
    pub fn comment(&self) -> Option<&str> {
        self.parts.iter().find_map(|part| match part {
            Part::Comment(comment) => Some(comment.as_str()),
            _ => None,
        })
    }

    /// The destination that it asks for.
    pub fn destination(&self) -> Option<IpNet> {
        self.parts.iter().find_map(|part| match part {
            Part::Destination(Not::Is, address) => Some(address.net),
            _ => None,
        })
    }

    /// The source that it asks for.
    pub fn source(&self) -> Option<IpNet> {
        self.parts.iter().find_map(|part| match part {
            Part::Source(Not::Is, address) => Some(address.net),
            _ => None,
        })
    }

    /// The protocol that it asks for.
    pub fn protocol(&self) -> Option<&str> {
        self.parts.iter().find_map(|part| match part {
            Part::Protocol(Not::Is, protocol) => Some(protocol.as_str()),
            _ => None,
        })
    }

    /// The one destination port that it asks for.
    pub fn destination_port(&self) -> Option<u16> {
        self.parts.iter().find_map(|part| match part {
            Part::DestinationPort(Not::Is, first, last) if first == last => Some(*first),
            _ => None,
        })
    }

    /// The chain that it leads to.
    pub fn jump(&self) -> Option<&str> {
        match &self.target {
            Some(Target::Jump(chain) | Target::Goto(chain)) => Some(chain),
            _ => None,
        }
    }

    fn write(&self, out: &mut String, chain: &str, dialect: Dialect) {
        out.push_str("-A ");
        out.push_str(chain);
        for part in &self.parts {
            out.push(' ');
            part.write(out, dialect);
        }
        if let Some(target) = &self.target {
            out.push(' ');
            target.write(out, dialect);
        }
    }
}

// === impl Part ===

impl Part {
    fn write(&self, out: &mut String, dialect: Dialect) {
        // Writing to a String does not fail.
        _ = match self {
            Self::Source(not, address) => write!(out, "{not}-s {address}"),
            Self::Destination(not, address) => write!(out, "{not}-d {address}"),
            Self::InInterface(not, name) => write!(out, "{not}-i {name}"),
            Self::OutInterface(not, name) => write!(out, "{not}-o {name}"),
            Self::Protocol(not, name) => write!(out, "{not}-p {name}"),
            Self::Module(name) => write!(out, "-m {name}"),
            Self::DestinationPort(not, first, last) if first == last => {
                write!(out, "{not}--dport {first}")
            }
            Self::DestinationPort(not, first, last) => write!(out, "{not}--dport {first}:{last}"),
            Self::Comment(comment) => {
                out.push_str("-m comment --comment ");
                quote(out, comment, dialect);
                Ok(())
            }
            Self::ConnectionState(not, states) => {
                write!(out, "-m conntrack {not}--ctstate {states}")
            }
            Self::SourceType(not, kind) => write!(out, "-m addrtype {not}--src-type {kind}"),
            Self::DestinationType(not, kind) => write!(out, "-m addrtype {not}--dst-type {kind}"),
            Self::Mark(not, value, mask) => write!(out, "-m mark {not}--mark ")
                .and_then(|()| marks(out, dialect, *value, *mask)),
            Self::Account(name) => {
                // libxt_nfacct prints the option's name and the value with a space each.
                let space = if dialect == Dialect::Save { " " } else { "" };
                write!(out, "-m nfacct --nfacct-name {space}{name}")
            }
            Self::Recent(recent) => write!(out, "{recent}"),
            Self::Random(probability) => {
                out.push_str("-m statistic --mode random --probability ");
                probability.write(out, dialect);
                Ok(())
            }
            Self::Other(text) => write!(out, "{text}"),
        };
    }
}

/// kube-proxy quotes what has spaces in it; `iptables-save` what has anything but letters, digits,
/// `_` and `-` (`xtables_save_string`).
fn quote(out: &mut String, text: &str, dialect: Dialect) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let quoted = match dialect {
        Dialect::Restore => text.is_empty() || text.contains(char::is_whitespace),
        Dialect::Save => text.is_empty() || !text.bytes().all(plain),
    };
    if !quoted {
        out.push_str(text);
        return;
    }
    out.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\' | '\'') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
}

fn marks(out: &mut String, dialect: Dialect, value: u32, mask: u32) -> fmt::Result {
    match dialect {
        Dialect::Restore => write!(out, "{value:#010x}/{mask:#010x}"),
        Dialect::Save if mask == u32::MAX => write!(out, "{value:#x}"),
        Dialect::Save => write!(out, "{value:#x}/{mask:#x}"),
    }
}

// === impl Target ===

impl Target {
    fn write(&self, out: &mut String, dialect: Dialect) {
        // Writing to a String does not fail.
        _ = match self {
            Self::Accept => write!(out, "-j ACCEPT"),
            Self::Drop => write!(out, "-j DROP"),
            Self::Return => write!(out, "-j RETURN"),
            Self::Reject(None) => write!(out, "-j REJECT"),
            Self::Reject(Some(with)) => write!(out, "-j REJECT --reject-with {with}"),
            Self::Mark(SetMark::Or(mark)) => write!(out, "-j MARK --or-mark {mark:#010x}"),
            Self::Mark(SetMark::Xor(mark)) => write!(out, "-j MARK --xor-mark {mark:#010x}"),
            Self::Mark(SetMark::Xmark(value, mask)) => match dialect {
                // Even a mask of all ones is printed (`mark_tg_save`).
                Dialect::Save => write!(out, "-j MARK --set-xmark {value:#x}/{mask:#x}"),
                Dialect::Restore => write!(out, "-j MARK --set-xmark {value:#010x}/{mask:#010x}"),
            },
            Self::Masquerade { random_fully } => {
                let random_fully = if *random_fully { " --random-fully" } else { "" };
                write!(out, "-j MASQUERADE{random_fully}")
            }
            Self::Dnat(to) => write!(out, "-j DNAT --to-destination {to}"),
            Self::Jump(chain) => write!(out, "-j {chain}"),
            Self::Goto(chain) => write!(out, "-g {chain}"),
            Self::Other(_, text) => write!(out, "{text}"),
        };
    }
}

// === impl Probability ===

impl Probability {
    /// One in `n`, with the ten digits that kube-proxy writes (`computeProbability`).
    pub fn one_in(n: usize) -> Self {
        let text = format!("{:.10}", 1.0 / n as f64);
        Self::parse(&text).unwrap_or(Self(0))
    }

    /// Between 0 and 1.
    pub fn share(self) -> f64 {
        self.0 as f64 / Self::ONE as f64
    }

    /// Reads `0.33333333349`; none for what is not between 0 and 1.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, digits) = text.split_once('.').unwrap_or((text, ""));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(digits) || whole.len() > 1 || digits.len() > 11 {
            return None;
        }
        let number: u64 = format!("{whole}{digits:0<11}").parse().ok()?;
        (number <= Self::ONE).then_some(Self(number))
    }

    /// As the kernel holds it, in units of 2^-31 (`statistic_parse` of libxt_statistic), and as that
    /// is printed.
    #[must_use]
    pub fn quantised(self) -> Self {
        let one = u128::from(Self::ONE);
        let kernel = ((u128::from(self.0) << 31) + one / 2) / one;
        Self((((kernel * one) + (1 << 30)) >> 31) as u64)
    }

    /// Between 0 and 1.
    pub fn value(self) -> f64 {
        self.0 as f64 / Self::ONE as f64
    }

    const ONE: u64 = 100_000_000_000;

    fn write(self, out: &mut String, dialect: Dialect) {
        let (whole, rest) = (self.0 / Self::ONE, self.0 % Self::ONE);
        _ = match dialect {
            Dialect::Restore => write!(out, "{whole}.{:010}", rest / 10),
            Dialect::Save => write!(out, "{whole}.{rest:011}"),
        };
    }
}

// === impl Address ===

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self {
            net: address.into(),
            bare: true,
        }
    }
}

impl From<IpNet> for Address {
    fn from(net: IpNet) -> Self {
        Self { net, bare: false }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bare {
            write!(f, "{}", self.net.addr())
        } else {
            write!(f, "{}", self.net)
        }
    }
}

impl fmt::Display for Not {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Is => "",
            Self::Not => "! ",
        })
    }
}

impl fmt::Display for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { list, action, mask } = self;
        f.write_str("-m recent")?;
        if mask.is_none() {
            write!(f, " --name {list}")?;
        }
        match action {
            RecentAction::Set => f.write_str(" --set")?,
            RecentAction::Check(seconds) => write!(f, " --rcheck --seconds {seconds} --reap")?,
        }
        if let Some(mask) = mask {
            write!(f, " --name {list} --mask {mask} --rsource")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As measured with iptables 1.8.9.
    #[test]
    fn probabilities_as_the_kernel_holds_them() {
        let expected = [
            (2, "0.5000000000", "0.50000000000"),
            (3, "0.3333333333", "0.33333333349"),
            (5, "0.2000000000", "0.20000000019"),
            (6, "0.1666666667", "0.16666666651"),
            (7, "0.1428571429", "0.14285714272"),
            (10, "0.1000000000", "0.10000000009"),
            (100, "0.0100000000", "0.00999999978"),
        ];
        for (n, restore, save) in expected {
            let (mut written, mut printed) = (String::new(), String::new());
            Probability::one_in(n).write(&mut written, Dialect::Restore);
            Probability::one_in(n)
                .quantised()
                .write(&mut printed, Dialect::Save);
            assert_eq!((written.as_str(), printed.as_str()), (restore, save));
            // What has been through the kernel stays as it is.
            let again = Probability::parse(save).unwrap();
            assert_eq!(again.quantised(), again);
        }
    }

    #[test]
    fn what_is_no_probability() {
        for text in ["", "1.1", "-0.5", "0.5x", "20.0", "0.333333333333"] {
            let parsed = Probability::parse(text);
            assert!(parsed.is_none() || text.is_empty(), "{text}: {parsed:?}");
        }
        assert_eq!(Probability::parse("1"), Some(Probability(Probability::ONE)));
    }

    #[test]
    fn quotes() {
        let quoted = |text, dialect| {
            let mut out = String::new();
            quote(&mut out, text, dialect);
            out
        };
        assert_eq!(quoted("ns/a:b", Dialect::Restore), "ns/a:b");
        assert_eq!(quoted("ns/a:b", Dialect::Save), "\"ns/a:b\"");
        assert_eq!(quoted("a_b-1", Dialect::Save), "a_b-1");
        assert_eq!(quoted("a \"b\"", Dialect::Save), "\"a \\\"b\\\"\"");
    }
}
