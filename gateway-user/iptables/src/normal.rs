//! What `iptables-save` prints for rules that `iptables-restore` was given.
//!
//! iptables does not keep the text: it keeps the address and protocol tests in one structure, each
//! match and the target in another, and prints them from there. Legacy and nft print the same rules.

use super::{
    render::{
        EXTERNAL_SERVICES, FIREWALL, FORWARD, NODE_PORTS, POSTROUTING, PROXY_FIREWALL, SERVICES,
        comment,
    },
    rules::{Not, Part, Recent, Rule, Ruleset, SetMark, Table, Target},
};
use nodegate_model::service::IpFamily;

/// A chain that kube-proxy puts into each table, to notice when somebody else flushes them
/// (`Monitor` of Kubernetes' pkg/util/iptables).
const CANARY: &str = "KUBE-PROXY-CANARY";

/// The built-in chains of the tables that kube-proxy uses, in the order of the kernel's hooks.
const BUILT_IN: [(&str, &[&str]); 3] = [
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    (
        "mangle",
        &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
    ),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
];

/// The dump of a node where kube-proxy has applied `rendered` and there is nothing else.
pub fn dump(rendered: &Ruleset) -> Ruleset {
    let tables = BUILT_IN.iter().map(|(name, built_in)| {
        let given = rendered.table(name);
        let mut table = Table::new(name);
        for chain in *built_in {
            table.declare(chain, Some("ACCEPT"));
        }
        let given_chains = given.map(Table::chains).unwrap_or_default();
        let mut chains: Vec<&str> = given_chains
            .iter()
            .map(|chain| chain.name.as_str())
            .collect();
        chains.push(CANARY);
        if *name == "filter" {
            chains.push(FIREWALL);
        }
        chains.sort_unstable();
        chains.dedup();
        for chain in &chains {
            table.declare(chain, None);
        }
        for (chain, rule) in jumps(name) {
            table.append(chain, rule);
        }
        for chain in chains {
            for rule in given.iter().flat_map(|given| given.rules(chain)) {
                table.append(chain, normal(rule, rendered.family));
            }
        }
        table
    });
    Ruleset {
        family: rendered.family,
        tables: tables.collect(),
    }
}

/// The rules by which packets reach kube-proxy's chains, in the order in which they end up. It puts
/// each at the top (`iptablesJumpChains`), the one for KUBE-FIREWALL last.
pub fn jumps(table: &str) -> Vec<(&'static str, Rule)> {
    let new = || Part::ConnectionState(Not::Is, "NEW".into());
    let rule = |parts, chain: &str| Rule::new(parts, Target::Jump(chain.into()));
    let localnet = || rule(Vec::new(), FIREWALL);
    let firewall = || {
        let text = "kubernetes load balancer firewall";
        rule(vec![new(), comment(text)], PROXY_FIREWALL)
    };
    let portals = || rule(vec![new(), comment("kubernetes service portals")], SERVICES);
    let external = || {
        let text = "kubernetes externally-visible service portals";
        rule(vec![new(), comment(text)], EXTERNAL_SERVICES)
    };
    let plain = |text, chain: &str| rule(vec![comment(text)], chain);
    match table {
        "filter" => vec![
            ("INPUT", localnet()),
            ("INPUT", firewall()),
            (
                "INPUT",
                plain("kubernetes health check service ports", NODE_PORTS),
            ),
            ("INPUT", external()),
            ("FORWARD", firewall()),
            ("FORWARD", plain("kubernetes forwarding rules", FORWARD)),
            ("FORWARD", portals()),
            ("FORWARD", external()),
            ("OUTPUT", localnet()),
            ("OUTPUT", firewall()),
            ("OUTPUT", portals()),
        ],
        "nat" => vec![
            ("PREROUTING", plain("kubernetes service portals", SERVICES)),
            ("OUTPUT", plain("kubernetes service portals", SERVICES)),
            (
                "POSTROUTING",
                plain("kubernetes postrouting rules", POSTROUTING),
            ),
        ],
        _ => Vec::new(),
    }
}

/// A rule as it comes back.
pub fn normal(rule: &Rule, family: IpFamily) -> Rule {
    let mut parts: Vec<Part> = rule
        .parts
        .iter()
        .filter(|part| !is_always_true(part))
        .map(|part| normal_part(part, family))
        .collect();
    // Stable: what iptables keeps as matches stays in the order of the text.
    parts.sort_by_key(place);
    let target = rule.target.as_ref();
    Rule {
        parts,
        target: target.map(|target| normal_target(target, family)),
    }
}

/// The order in which `save_ipv4_addr` and its like of iptables print; matches come after that.
fn place(part: &Part) -> u8 {
    match part {
        Part::Source(..) => 0,
        Part::Destination(..) => 1,
        Part::InInterface(..) => 2,
        Part::OutInterface(..) => 3,
        Part::Protocol(..) => 4,
        _ => 5,
    }
}

/// `-s 0.0.0.0/0` is not printed.
fn is_always_true(part: &Part) -> bool {
    match part {
        Part::Source(Not::Is, address) | Part::Destination(Not::Is, address) => {
            address.net.prefix_len() == 0
        }
        _ => false,
    }
}

fn normal_part(part: &Part, family: IpFamily) -> Part {
    match part {
        Part::Source(not, address) => Part::Source(*not, address.net.trunc().into()),
        Part::Destination(not, address) => Part::Destination(*not, address.net.trunc().into()),
        Part::Random(probability) => Part::Random(probability.quantised()),
        Part::Mark(not, value, mask) => Part::Mark(*not, *value, *mask),
        Part::Recent(recent) => Part::Recent(Recent {
            mask: Some(recent.mask.unwrap_or_else(|| match family {
                IpFamily::V4 => std::net::Ipv4Addr::BROADCAST.into(),
                IpFamily::V6 => std::net::Ipv6Addr::from_bits(u128::MAX).into(),
            })),
            ..recent.clone()
        }),
        other => other.clone(),
    }
}

fn normal_target(target: &Target, family: IpFamily) -> Target {
    match target {
        Target::Reject(None) => Target::Reject(Some(
            match family {
                IpFamily::V4 => "icmp-port-unreachable",
                IpFamily::V6 => "icmp6-port-unreachable",
            }
            .into(),
        )),
        Target::Mark(SetMark::Or(mark)) => Target::Mark(SetMark::Xmark(*mark, *mark)),
        Target::Mark(SetMark::Xor(mark)) => Target::Mark(SetMark::Xmark(*mark, 0)),
        other => other.clone(),
    }
}
