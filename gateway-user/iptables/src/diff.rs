//! Differences between the rules of a node and its Services.
//!
//! First in terms of Services: those that are missing, addresses that lead elsewhere, endpoints. What
//! then is left of the rules themselves (a masquerade rule that was removed, a probability, a
//! stale chain) is told rule by rule.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::SocketAddr,
};

use nodegate_model::service::{IpFamily, ServicePort};
use serde::Serialize;

use super::{
    chains,
    config::KubeProxyConfig,
    normal,
    render::render,
    rules::{Dialect, Rule, Ruleset, Table},
    services::{
        Frontend, PortRules, ServicePortKey, Services, Treatment, about, of_model, of_rules,
    },
};

mod text;

pub use text::Words;

/// The differences of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Which.
    pub family: IpFamily,
    /// By Service port.
    pub services: BTreeMap<ServicePortKey, Vec<Change>>,
    /// Rules that make no difference to what a Service leads to.
    pub rules: Vec<ChainDiff>,
}

/// What is different about a Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// There are no rules for it.
    Missing,
    /// There are rules, but no such Service.
    Unexpected,
    /// A frontend leads elsewhere, or is there on one side only.
    Frontend {
        /// Which.
        frontend: Frontend,
        /// As the Service has it.
        expected: Option<Treatment>,
        /// As the rules have it.
        found: Option<Treatment>,
    },
    /// The endpoints differ.
    Endpoints {
        /// For policy Local; else for policy Cluster.
        local: bool,
        /// The rules lack them.
        missing: Vec<SocketAddr>,
        /// The Service lacks them.
        unexpected: Vec<SocketAddr>,
    },
    /// The time for which clients stay differs, in seconds.
    Affinity {
        /// As the Service has it.
        expected: Option<u32>,
        /// As the rules have it.
        found: Option<u32>,
    },
    /// The health check port differs.
    HealthCheckNodePort {
        /// As the Service has it.
        expected: Option<u16>,
        /// As the rules have it.
        found: Option<u16>,
    },
}

/// What is different about the rules of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChainDiff {
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// What is wrong with it.
    pub kind: ChainDiffKind,
    /// Rules that should be there.
    pub missing: Vec<String>,
    /// Rules that should not.
    pub unexpected: Vec<String>,
}

/// See [`ChainDiff`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ChainDiffKind {
    /// It has other rules.
    Rules,
    /// It has the same rules in another order.
    Order,
    /// It is not there.
    Missing,
    /// It belongs to no Service.
    Stale,
}

/// Compares what `found` implements with what kube-proxy, configured so, would make of `services`.
pub fn diff(services: &[ServicePort], config: &KubeProxyConfig, found: &Ruleset) -> Diff {
    let family = found.family;
    let expected_services = of_model(services, family, config);
    let found_services = of_rules(found);
    let changes = changes(&expected_services, &found_services);
    let told_chains = chains_of(&changes, [&expected_services, &found_services]);
    let expected = normal::dump(&render(services, family, config));
    let mut rules = Vec::new();
    for name in ["filter", "nat"] {
        let (Some(expected), Some(found)) = (expected.table(name), found.table(name)) else {
            rules.push(ChainDiff::of(name, name, ChainDiffKind::Missing));
            continue;
        };
        let tables = Tables {
            family,
            expected,
            found,
            told: &changes,
            told_chains: &told_chains,
        };
        tables.compare(&mut rules);
    }
    Diff {
        family,
        services: changes,
        rules,
    }
}

/// What two sets of Services do not agree about.
pub fn changes(expected: &Services, found: &Services) -> BTreeMap<ServicePortKey, Vec<Change>> {
    let keys: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let changes = keys.into_iter().filter_map(|key| {
        let changes = match (expected.get(key), found.get(key)) {
            (Some(expected), Some(found)) if expected == found => return None,
            (Some(expected), Some(found)) => service(expected, found),
            (Some(_), None) => vec![Change::Missing],
            (None, _) => vec![Change::Unexpected],
        };
        (!changes.is_empty()).then(|| (key.clone(), changes))
    });
    changes.collect()
}

fn service(expected: &PortRules, found: &PortRules) -> Vec<Change> {
    let mut changes = Vec::new();
    let frontends: BTreeSet<_> = expected
        .frontends
        .keys()
        .chain(found.frontends.keys())
        .collect();
    for frontend in frontends {
        let (wanted, is) = (
            expected.frontends.get(frontend),
            found.frontends.get(frontend),
        );
        // The node's own way in through a load balancer IP is no source range; see render.
        let same = match (wanted, is) {
            (Some(wanted), Some(is)) => {
                wanted.fate == is.fate && same_sources(wanted, is, expected)
            }
            _ => false,
        };
        if !same {
            changes.push(Change::Frontend {
                frontend: *frontend,
                expected: wanted.cloned(),
                found: is.cloned(),
            });
        }
    }
    let lists = [
        (false, &expected.cluster, &found.cluster),
        (true, &expected.local, &found.local),
    ];
    for (local, expected, found) in lists {
        let lacks = |list: &[SocketAddr], other: &[SocketAddr]| -> Vec<_> {
            let other: BTreeSet<_> = other.iter().collect();
            list.iter()
                .filter(|one| !other.contains(one))
                .copied()
                .collect()
        };
        let (missing, unexpected) = (lacks(expected, found), lacks(found, expected));
        if !missing.is_empty() || !unexpected.is_empty() {
            changes.push(Change::Endpoints {
                local,
                missing,
                unexpected,
            });
        }
    }
    if expected.affinity != found.affinity {
        changes.push(Change::Affinity {
            expected: expected.affinity,
            found: found.affinity,
        });
    }
    if expected.health_check_node_port != found.health_check_node_port {
        changes.push(Change::HealthCheckNodePort {
            expected: expected.health_check_node_port,
            found: found.health_check_node_port,
        });
    }
    changes
}

/// Whether the same clients are let in. kube-proxy lets in the load balancer IPs themselves where the
/// node may come in; rule by rule that is compared below.
fn same_sources(expected: &Treatment, found: &Treatment, service: &PortRules) -> bool {
    let own = |net: &ipnet::IpNet| {
        service.frontends.keys().any(|frontend| {
            matches!(frontend, Frontend::External { address } if ipnet::IpNet::from(address.ip()) == *net)
        })
    };
    match (&expected.sources, &found.sources) {
        (Some(expected), Some(found)) => {
            let extra = found.iter().filter(|net| !expected.contains(net));
            expected.iter().all(|net| found.contains(net)) && extra.copied().all(|net| own(&net))
        }
        (expected, found) => expected == found,
    }
}

/// What the names of the chains of the Service ports in `told` end with.
fn chains_of(
    told: &BTreeMap<ServicePortKey, Vec<Change>>,
    sides: [&Services; 2],
) -> HashSet<String> {
    let mut hashes = HashSet::new();
    let mut insert = |chain: &str| hashes.extend(chains::hash(chain).map(str::to_owned));
    for key in told.keys() {
        insert(&chains::service(&key.name, key.protocol));
        for service in sides.iter().filter_map(|side| side.get(key)) {
            for endpoint in service.cluster.iter().chain(&service.local) {
                insert(&chains::endpoint(&key.name, key.protocol, *endpoint));
            }
        }
    }
    hashes
}

/// A table, as it should be and as it is.
struct Tables<'t> {
    family: IpFamily,
    expected: &'t Table,
    found: &'t Table,
    /// Service ports that have been told of.
    told: &'t BTreeMap<ServicePortKey, Vec<Change>>,
    /// What the names of their chains end with.
    told_chains: &'t HashSet<String>,
}

// === impl Tables ===

impl Tables<'_> {
    fn compare(&self, diffs: &mut Vec<ChainDiff>) {
        for chain in self.expected.chains() {
            let name = chain.name.as_str();
            if name.ends_with("-CANARY") || self.is_told(name) {
                continue;
            }
            if self.found.chain(name).is_none() {
                diffs.push(ChainDiff::of(
                    &self.expected.name,
                    name,
                    ChainDiffKind::Missing,
                ));
            } else {
                diffs.extend(self.chain(name, chain.policy.is_some()));
            }
        }
        for chain in self.found.chains() {
            let name = chain.name.as_str();
            let is_stale = chains::is_of_service(name) && self.expected.chain(name).is_none();
            if is_stale && !self.is_told(name) {
                diffs.push(ChainDiff::of(&self.found.name, name, ChainDiffKind::Stale));
            }
        }
    }

    /// Whether a chain belongs to a Service port that has been told of.
    fn is_told(&self, chain: &str) -> bool {
        chains::hash(chain).is_some_and(|hash| self.told_chains.contains(hash))
    }

    fn chain(&self, name: &str, built_in: bool) -> Option<ChainDiff> {
        if self.expected.rules(name).eq(self.found.rules(name)) {
            return None;
        }
        let is_ours = |rule: &&Rule| {
            // Others have their rules in the built-in chains; of ours there are only jumps.
            !built_in
                || rule
                    .jump()
                    .is_some_and(|to| self.expected.chain(to).is_some())
        };
        let is_untold =
            |rule: &&Rule| about(rule).is_none_or(|(key, _)| !self.told.contains_key(&key));
        let rules = |table: &Table| -> Vec<Rule> {
            let rules = table
                .rules(name)
                .filter(|rule| is_ours(rule) && is_untold(rule));
            rules
                .map(|rule| normal::normal(rule, self.family))
                .collect()
        };
        let (mut expected, mut found) = (rules(self.expected), rules(self.found));
        if expected == found {
            return None;
        }
        let is_ordered = built_in || chains::is_of_service(name);
        let last = (expected.last().cloned(), found.last().cloned());
        expected.sort();
        found.sort();
        let mut diff = ChainDiff::of(&self.expected.name, name, ChainDiffKind::Rules);
        if expected == found {
            // Where Services meet, their order is chance; only what must be last must be so.
            diff.kind = ChainDiffKind::Order;
            let must_be_last = |rule: &Option<Rule>| {
                let comment = rule.as_ref().and_then(Rule::comment);
                comment.is_some_and(|comment| comment.contains("must be the last"))
            };
            let is_right = !is_ordered && must_be_last(&last.0) == must_be_last(&last.1);
            return (!is_right).then_some(diff);
        }
        diff.missing = lines(name, &excess(&expected, &found));
        diff.unexpected = lines(name, &excess(&found, &expected));
        Some(diff)
    }
}

/// What the sorted `a` has more of than the sorted `b`.
fn excess<'r>(a: &'r [Rule], b: &[Rule]) -> Vec<&'r Rule> {
    let mut b = b.iter().peekable();
    let mut excess = Vec::new();
    for rule in a {
        while b.next_if(|other| *other < rule).is_some() {}
        if b.next_if(|other| *other == rule).is_none() {
            excess.push(rule);
        }
    }
    excess
}

fn lines(chain: &str, rules: &[&Rule]) -> Vec<String> {
    rules
        .iter()
        .map(|rule| rule.line(chain, Dialect::Save))
        .collect()
}

// === impl Diff ===

impl Diff {
    /// Whether there is no difference at all.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.rules.is_empty()
    }
}

// === impl ChainDiff ===

impl ChainDiff {
    fn of(table: &str, chain: &str, kind: ChainDiffKind) -> Self {
        Self {
            table: table.to_owned(),
            chain: chain.to_owned(),
            kind,
            missing: Vec::new(),
            unexpected: Vec::new(),
        }
    }
}
