//! What is wrong with rules, whatever the Services: the invariants that kube-proxy's own tests check
//! (`checkIPTablesRuleJumps`), and addresses that two Services claim.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use nodegate_model::service::Protocol;
use serde::Serialize;

use super::{
    chains,
    odd::{self, OddEndpoint},
    rules::{Chain, Ruleset, Table},
    services::{Frontend, ServicePortKey, Services},
};

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "lint", rename_all = "camelCase")]
pub enum Finding {
    /// Rules lead to a chain that is not there.
    MissingChain {
        /// The table.
        table: String,
        /// The chain that is not there.
        chain: String,
        /// The chains that lead to it.
        from: BTreeSet<String>,
    },
    /// Rules lead to a chain of a Service that has no rules: packets go on untranslated.
    EmptyChain {
        /// The table.
        table: String,
        /// The chain.
        chain: String,
        /// The chains that lead to it.
        from: BTreeSet<String>,
    },
    /// No packet gets to a chain of kube-proxy or kubelet. Idle chains of other programs are not reported.
    UnreachableChain {
        /// The table.
        table: String,
        /// The chain.
        chain: String,
    },
    /// A chain of an endpoint does not lead to one.
    OddEndpoint {
        /// The Service port.
        service: ServicePortKey,
        /// The chain, and what it does.
        #[serde(flatten)]
        endpoint: OddEndpoint,
    },
    /// Endpoints of a Service do not get equal shares.
    UnequalShares {
        /// The table.
        table: String,
        /// The chain that picks one.
        chain: String,
        /// In words: how much goes to which.
        shares: String,
    },
    /// Several Services claim an address or a node port; the first rule wins.
    Contested {
        /// What they claim.
        frontend: Frontend,
        /// Over this protocol.
        protocol: Protocol,
        /// The Service ports that claim it.
        claimants: Vec<ServicePortKey>,
    },
}

/// Chains that may be idle: kube-proxy and kubelet make some only to notice when all rules are flushed,
/// and the last two are empty until a Service needs them.
const IDLE: [&str; 5] = [
    "KUBE-PROXY-CANARY",
    "KUBE-KUBELET-CANARY",
    "KUBE-IPTABLES-HINT",
    "KUBE-MARK-MASQ",
    "KUBE-MARK-DROP",
];

/// Looks the rules over; `services` is what they implement.
pub fn lint(ruleset: &Ruleset, services: &Services) -> Vec<Finding> {
    let mut findings = Vec::new();
    for table in &ruleset.tables {
        jumps(table, &mut findings);
        reach(table, &mut findings);
        shares(table, &mut findings);
    }
    for (service, rules) in services {
        let odd = rules.odd.iter().cloned();
        findings.extend(odd.map(|endpoint| Finding::OddEndpoint {
            service: service.clone(),
            endpoint,
        }));
    }
    contested(services, &mut findings);
    findings.sort();
    findings
}

fn jumps(table: &Table, findings: &mut Vec<Finding>) {
    let (mut missing, mut empty): (BTreeMap<_, BTreeSet<_>>, BTreeMap<_, BTreeSet<_>>) =
        Default::default();
    for (from, rule) in table.all_rules() {
        let Some(to) = rule.jump() else { continue };
        let found = match table.chain(to) {
            None => &mut missing,
            Some(_) if chains::is_of_service(to) && table.rules(to).len() == 0 => &mut empty,
            Some(_) => continue,
        };
        found.entry(to).or_default().insert(from.name.clone());
    }
    let name = |text: &str| (table.name.clone(), text.to_owned());
    findings.extend(missing.into_iter().map(|(chain, from)| {
        let (table, chain) = name(chain);
        Finding::MissingChain { table, chain, from }
    }));
    findings.extend(empty.into_iter().map(|(chain, from)| {
        let (table, chain) = name(chain);
        Finding::EmptyChain { table, chain, from }
    }));
}

fn reach(table: &Table, findings: &mut Vec<Finding>) {
    let built_in = table.chains().iter().filter(|chain| chain.policy.is_some());
    let mut ahead: Vec<&str> = built_in.map(|chain| chain.name.as_str()).collect();
    if ahead.is_empty() {
        // An input of iptables-restore: the way in is already in the kernel.
        return;
    }
    let mut reached: BTreeSet<&str> = ahead.iter().copied().collect();
    while let Some(chain) = ahead.pop() {
        for to in table.rules(chain).filter_map(|rule| rule.jump()) {
            if reached.insert(to) {
                ahead.push(to);
            }
        }
    }
    let is_idle = |chain: &&Chain| {
        let name = chain.name.as_str();
        name.starts_with("KUBE-") && !reached.contains(name) && !IDLE.contains(&name)
    };
    // Where a chain is not reached, neither is what it leads to; the first is enough to know.
    let idle: Vec<_> = table.chains().iter().filter(is_idle).collect();
    let beyond: BTreeSet<&str> = idle
        .iter()
        .flat_map(|chain| table.rules(&chain.name))
        .filter_map(|rule| rule.jump())
        .collect();
    let unreached = idle
        .into_iter()
        .filter(|chain| !beyond.contains(chain.name.as_str()));
    findings.extend(unreached.map(|chain| Finding::UnreachableChain {
        table: table.name.clone(),
        chain: chain.name.clone(),
    }));
}

fn shares(table: &Table, findings: &mut Vec<Finding>) {
    for chain in table.chains() {
        let Some(shares) = odd::unequal_shares(table, &chain.name) else {
            continue;
        };
        let shares: Vec<_> = shares
            .iter()
            .map(|(to, share)| format!("{:.1} % to {to}", share * 100.0))
            .collect();
        findings.push(Finding::UnequalShares {
            table: table.name.clone(),
            chain: chain.name.clone(),
            shares: shares.join(", "),
        });
    }
}

fn contested(services: &Services, findings: &mut Vec<Finding>) {
    let mut claims: BTreeMap<(Frontend, Protocol), BTreeSet<&ServicePortKey>> = BTreeMap::new();
    for (key, service) in services {
        for frontend in service.frontends.keys() {
            // A cluster IP and an external IP may be the same address.
            let place = match *frontend {
                Frontend::ClusterIp { address } => Frontend::External { address },
                other => other,
            };
            claims.entry((place, key.protocol)).or_default().insert(key);
        }
    }
    let contested = claims
        .into_iter()
        .filter(|(_, claimants)| claimants.len() > 1);
    findings.extend(
        contested.map(|((frontend, protocol), claimants)| Finding::Contested {
            frontend,
            protocol,
            claimants: claimants.into_iter().cloned().collect(),
        }),
    );
}

impl Finding {
    /// Whether connections fail or go where they should not because of it.
    pub fn is_fault(&self) -> bool {
        match self {
            Self::MissingChain { .. }
            | Self::EmptyChain { .. }
            | Self::OddEndpoint { .. }
            | Self::UnequalShares { .. } => true,
            Self::UnreachableChain { .. } | Self::Contested { .. } => false,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = |from: &BTreeSet<String>| {
            let first = from
                .iter()
                .take(3)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            match from.len().saturating_sub(3) {
                0 => first,
                more => format!("{first} and {more} more"),
            }
        };
        match self {
            Self::MissingChain {
                table,
                chain,
                from: sources,
            } => write!(
                f,
                "{table} {chain} is not there, but {} leads to it",
                from(sources)
            ),
            Self::EmptyChain {
                table,
                chain,
                from: sources,
            } => write!(
                f,
                "{table} {chain} has no rules, but {} leads to it: packets go on untranslated",
                from(sources)
            ),
            Self::UnreachableChain { table, chain } => {
                write!(f, "{table} {chain} is reached by no packet")
            }
            Self::OddEndpoint { service, endpoint } => write!(
                f,
                "an endpoint of {service} is none: {} {}",
                endpoint.chain, endpoint.what
            ),
            Self::UnequalShares {
                table,
                chain,
                shares,
            } => write!(f, "{table} {chain} does not give equal shares: {shares}"),
            Self::Contested {
                frontend,
                protocol,
                claimants,
            } => {
                let names: Vec<_> = claimants.iter().map(|key| key.name.to_string()).collect();
                let protocol = protocol.lowercase();
                write!(
                    f,
                    "{frontend} {protocol} is claimed by {}; the first rule wins",
                    names.join(" and ")
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{parse::parse, services::of_rules};

    fn findings(text: &str) -> Vec<String> {
        let dump = parse(text);
        assert_eq!(dump.errors, []);
        let ruleset = &dump.rulesets[0];
        let findings = lint(ruleset, &of_rules(ruleset));
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn jumps_lead_somewhere() {
        let text = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SVC-A - [0:0]\n:MINE - [0:0]\n-A PREROUTING -j KUBE-SVC-A\n-A PREROUTING -j KUBE-SEP-B\n-A PREROUTING -j MINE\nCOMMIT\n";
        assert_eq!(
            findings(text),
            [
                "nat KUBE-SEP-B is not there, but PREROUTING leads to it",
                "nat KUBE-SVC-A has no rules, but PREROUTING leads to it: packets go on untranslated",
            ]
        );
    }

    #[test]
    fn of_chains_that_are_not_reached_the_first_is_named() {
        let text = "*nat\n:PREROUTING ACCEPT [0:0]\n-A KUBE-A -j KUBE-B\n-A KUBE-B -j KUBE-C\n-A KUBE-C -j RETURN\nCOMMIT\n";
        assert_eq!(findings(text), ["nat KUBE-A is reached by no packet"]);
        // Other people's.
        assert_eq!(findings(&text.replace("KUBE-", "MINE-")), [""; 0]);
        let without_built_in = text.replace(":PREROUTING ACCEPT [0:0]\n", "");
        assert_eq!(findings(&without_built_in), [""; 0]);
    }

    #[test]
    fn a_node_port_is_one_services() {
        let rule = |name: &str, protocol: &str| {
            format!(
                "-A KUBE-NODEPORTS -p {protocol} -m comment --comment \"ns/{name}\" -m {protocol} --dport 30080 -j KUBE-EXT-{name}\n"
            )
        };
        let text = [
            "*nat\n",
            &rule("a", "tcp"),
            &rule("b", "tcp"),
            &rule("c", "udp"),
            "COMMIT\n",
        ]
        .concat();
        let contested: Vec<_> = findings(&text)
            .into_iter()
            .filter(|text| text.contains("claimed"))
            .collect();
        assert_eq!(
            contested,
            ["node port 30080 tcp is claimed by ns/a and ns/b; the first rule wins"]
        );
    }
}
