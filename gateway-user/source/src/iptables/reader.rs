//! Texts → Services.

use std::collections::BTreeMap;

use nodegate_iptables::{
    lint::{Finding, lint},
    parse::parse,
    ports::{KubeProxyFacts, Ports, ports},
    rules::{Chain, Ruleset},
    services::{ServicePortKey, of_rules},
};
use nodegate_model::service::{IpFamily, ServicePort};
use nodegate_resources::ResourceKind;
use nodegate_values::diagnostic::{Diagnostic, ObjectKey, Severity};

use super::save::{Choice, Program, Reading};
use crate::{error::SourceError, rules::Rules};

/// Understands rules, and remembers the last that made sense.
#[derive(Debug)]
pub(super) struct Reader {
    /// This node's name.
    node: String,
    /// What was understood last.
    good: Option<Ports>,
    /// kube-proxy's flags when all began.
    began_with: KubeProxyFacts,
}

// === impl Reader ===

impl Reader {
    pub(super) fn new(node: String) -> Self {
        Self {
            node,
            good: None,
            began_with: KubeProxyFacts::default(),
        }
    }

    /// The first time, rules must make sense: there is nothing that could stay in force.
    pub(super) fn first(
        &mut self,
        choice: &Choice,
        reading: &Reading,
    ) -> Result<Rules, SourceError> {
        let ports = self.understand(reading).map_err(SourceError::Rules)?;
        self.began_with = ports.facts.clone();
        self.good = Some(ports);
        Ok(self.take(choice, reading))
    }

    /// What is in force with these texts.
    pub(super) fn take(&mut self, choice: &Choice, reading: &Reading) -> Rules {
        let mut diagnostics: Vec<_> = choice.passed_over.iter().map(passed_over).collect();
        match self.understand(reading) {
            Ok(ports) => self.good = Some(self.mended(ports, &mut diagnostics)),
            Err(trouble) => diagnostics.push(keeps(&trouble)),
        }
        let good = self.good.clone().unwrap_or_default();
        diagnostics.extend(self.flags(&good.facts));
        Rules {
            services: good.services.into_iter().map(taken).collect(),
            facts: good.facts,
            programs: choice.programs.iter().map(|program| program.name).collect(),
            diagnostics,
        }
    }

    fn understand(&self, reading: &Reading) -> Result<Ports, String> {
        let mut rulesets = Vec::new();
        for saved in &reading.texts {
            let name = saved.program.name;
            let dump = parse(&saved.text);
            if let Some(error) = dump.errors.first() {
                return Err(format!("{name}: {error}"));
            }
            let ruleset = dump
                .rulesets
                .into_iter()
                .find(|ruleset| ruleset.family == saved.program.family);
            let Some(ruleset) = ruleset.filter(|ruleset| !self.is_gone(ruleset)) else {
                return Err(gone(saved.program));
            };
            if let Some(finding) = missing(&ruleset) {
                return Err(format!("{name}: {finding}"));
            }
            rulesets.push(ruleset);
        }
        Ok(ports(&rulesets, &self.node))
    }

    /// Whether somebody has removed or flushed the rules. kube-proxy never leaves the chain empty where
    /// the family has Services, and each of those has chains, which a flush empties and leaves.
    fn is_gone(&self, ruleset: &Ruleset) -> bool {
        let Some(nat) = ruleset.table("nat") else {
            return true;
        };
        let of_services = |chain: &Chain| {
            let names = [
                "KUBE-SVC-",
                "KUBE-SVL-",
                "KUBE-EXT-",
                "KUBE-SEP-",
                "KUBE-FW-",
            ];
            names.iter().any(|name| chain.name.starts_with(name))
        };
        nat.rules("KUBE-SERVICES").len() == 0
            && (nat.chain("KUBE-SERVICES").is_none()
                || nat.chains().iter().any(of_services)
                || self.had_services(ruleset.family))
    }

    fn had_services(&self, family: IpFamily) -> bool {
        let services = self.good.iter().flat_map(|good| &good.services);
        services
            .into_iter()
            .any(|service| service.cluster_ip(family).is_some())
    }

    /// Service ports whose rules are not whole stay as they were.
    fn mended(&self, mut ports: Ports, diagnostics: &mut Vec<Diagnostic>) -> Ports {
        if ports.broken.is_empty() {
            return ports;
        }
        let before: BTreeMap<_, _> = self
            .good
            .iter()
            .flat_map(|good| &good.services)
            .map(|service| ((&service.name, service.protocol), service))
            .collect();
        for (key, why) in &ports.broken {
            let kept = before.get(&(&key.name, key.protocol));
            diagnostics.push(not_whole(key, why, kept.is_some()));
            ports.services.extend(kept.copied().cloned());
        }
        ports
            .services
            .sort_by(|a, b| (&a.name, a.protocol).cmp(&(&b.name, b.protocol)));
        ports
    }

    /// Whether kube-proxy has been started with other flags since.
    fn flags(&self, now: &KubeProxyFacts) -> Option<Diagnostic> {
        let KubeProxyFacts {
            pod_networks,
            masquerade_all,
            node_port_networks,
            localhost_node_ports,
        } = now;
        let begun = &self.began_with;
        // Without any endpoint there are no rules that would tell of pods.
        let same = pod_networks.is_subset(&begun.pod_networks)
            && (*masquerade_all == begun.masquerade_all || pod_networks.is_empty())
            && *node_port_networks == begun.node_port_networks
            && *localhost_node_ports == begun.localhost_node_ports;
        (!same).then(|| {
            warning(
                None,
                "kube-proxy's flags have changed, its rules say; nodegate goes by those of its start",
                "restart nodegate",
            )
        })
    }
}

/// What is in force when the rules cannot be read.
pub(super) fn unreadable(choice: &Choice, before: &Rules, trouble: &str) -> Rules {
    let mut diagnostics: Vec<_> = choice.passed_over.iter().map(passed_over).collect();
    diagnostics.push(keeps(trouble));
    Rules {
        diagnostics,
        ..before.clone()
    }
}

/// kube-proxy runs beside this, and answers itself at its health check ports.
fn taken(service: ServicePort) -> ServicePort {
    ServicePort {
        health_check_node_port: None,
        ..service
    }
}

/// A jump to a chain that is not there: no kernel has that, so the text is not whole.
fn missing(ruleset: &Ruleset) -> Option<Finding> {
    let findings = lint(ruleset, &of_rules(ruleset));
    findings.into_iter().find(|finding| {
        matches!(finding, Finding::MissingChain { chain, .. } if chain.starts_with("KUBE-"))
    })
}

fn gone(program: Program) -> String {
    let name = program.name;
    format!("{name}: kube-proxy's rules are gone (KUBE-SERVICES is missing or empty)")
}

fn keeps(trouble: &str) -> Diagnostic {
    warning(
        None,
        format!("{trouble}; the Services that were read before stay in force"),
        "start kube-proxy again, or stop nodegate and run `nodegate cleanup`",
    )
}

fn passed_over(program: &Program) -> Diagnostic {
    let name = program.name;
    warning(
        None,
        format!(
            "{name} prints rules of kube-proxy too; fewer, so they are taken for those of an earlier one"
        ),
        "remove them, since the kernel applies them as well; then restart nodegate",
    )
}

fn not_whole(key: &ServicePortKey, why: &str, is_kept: bool) -> Diagnostic {
    let object = ResourceKind::Service.key(&key.name.namespace, &key.name.name);
    let consequence = if is_kept {
        "it stays as it was read before"
    } else {
        "it is left out"
    };
    warning(
        Some(object),
        format!("its rules for {key} are not whole: {why}; {consequence}"),
        "see `nodegate iptables show`; kube-proxy mends its rules when it is restarted",
    )
}

fn warning(object: Option<ObjectKey>, message: impl Into<String>, fix: &'static str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Warning,
        location: None,
        object,
        field: None,
        message: message.into(),
        fix: Some(fix.to_owned()),
    }
}
