//! The answer, for people.

use std::fmt;

use gateway_common::decide::{Masquerade, Verdict};

use super::{Answer, PodAt};
use crate::{
    connection::{Choice, Connection},
    request::{Doings, End, Http, Place, Routed, Share},
};
use nodegate_iptables::walk::RuleStep;

/// Width of the first column.
pub const LABEL: usize = 12;

/// Of more backends than this, the rules are left to `-o json`.
const FEW: usize = 8;

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection {
            source,
            destination,
            protocol,
            ..
        } = &self.connection;
        self.short(f)?;
        writeln!(f)?;
        writeln!(
            f,
            "{} ({source}) -> {destination} {}, on node {}\n",
            self.from,
            protocol.lowercase(),
            self.node
        )?;
        self.kube_proxy(f)?;
        self.nodegate(f)?;
        self.backends(f)?;
        self.shifted(f)?;
        if let Some(routed) = &self.gateway {
            self.gateway(f, routed)?;
        }
        for difference in &self.connection.differences {
            row(f, "difference", difference)?;
        }
        for note in &self.notes {
            row(f, "note", note)?;
        }
        Ok(())
    }
}

/// How it ends and why, and no more.
#[derive(Debug)]
pub struct Brief<'a>(pub &'a Answer);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.short(f)
    }
}

impl Answer {
    fn short(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(f, "result", &self.result.text)?;
        match self.result.why.as_str() {
            "" => Ok(()),
            why => row(f, "why", why),
        }
    }

    fn kube_proxy(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let walked = &self.connection.kube_proxy;
        let only = match &self.connection.backends[..] {
            [only] => &only.steps[..],
            _ => &[],
        };
        let steps = || walked.steps.iter().chain(only);
        let mut chains: Vec<_> = steps()
            .filter(|step| step.table == "nat" && step.chain != "POSTROUTING")
            .filter_map(|step| step.jump.clone())
            .collect();
        let backends = self.connection.backends.iter();
        let its: Vec<_> = backends
            .filter(|choice| choice.kube_proxy_probability > 0.0)
            .collect();
        match &its[..] {
            _ if walked.verdict != Verdict::Forward => {}
            [only] => chains.push(format!("DNAT {}", only.address)),
            several => chains.push(format!("one of {}", several.len())),
        }
        let summary = if chains.is_empty() {
            "no rule of nat translates it".to_owned()
        } else {
            chains.join(" > ")
        };
        row(f, "kube-proxy", &summary)?;
        for step in steps() {
            write_step(f, step, 2)?;
        }
        match walked.verdict {
            Verdict::Pass => row(f, "", "the packet goes on as it is")?,
            Verdict::Reject | Verdict::Drop | Verdict::Forward => {}
        }
        writeln!(f)
    }

    fn nodegate(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decided = &self.connection.nodegate;
        let found = match (&decided.lookup, &decided.service, decided.frontend) {
            (Some(lookup), Some(service), Some(frontend)) => {
                format!("services[{lookup}]: {frontend} of {service}")
            }
            (Some(lookup), ..) => format!("services[{lookup}]: guard of a cluster IP"),
            (None, ..) => "`services` has no such address and port".to_owned(),
        };
        row(
            f,
            "nodegate",
            &format!("no rules: one lookup at {}. {found}", decided.hook),
        )?;
        row(
            f,
            "",
            &format!("{}: {}", decided.verdict.name(), decided.text),
        )?;
        if let Some(seconds) = decided.affinity {
            let text = format!(
                "session affinity: a client that comes back within {seconds} s stays with its backend"
            );
            row(f, "", &text)?;
        }
        Ok(())
    }

    fn backends(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backends = &self.connection.backends;
        if backends.is_empty() {
            return Ok(());
        }
        let width = |text: fn(&Choice) -> String| {
            let widths = backends.iter().map(|choice| text(choice).len());
            widths.max().unwrap_or_default()
        };
        let address = width(|choice| choice.address.to_string());
        let mut masquerades: Vec<_> = backends.iter().map(masquerade).collect();
        masquerades.dedup();
        let are_few = (2..=FEW).contains(&backends.len());
        let shared = if are_few { shared(backends) } else { 0 };
        for (index, choice) in backends.iter().enumerate() {
            let label = if index == 0 { "backends" } else { "" };
            let pod = self.pods.get(&choice.address);
            let pod = pod.map(|pod| self.pod(pod)).unwrap_or_default();
            let chain = choice
                .steps
                .iter()
                .chain(&self.connection.kube_proxy.steps)
                .find(|step| step.chain.starts_with("KUBE-SEP-"))
                .map_or("", |step| step.chain.as_str());
            let text = format!(
                "{:>5.1} %  {:<address$}  {chain}  {pod}",
                choice.probability * 100.0,
                choice.address.to_string()
            );
            row(f, label, text.trim_end())?;
            if are_few {
                for step in &choice.steps[..choice.steps.len() - shared] {
                    write_step(f, step, LABEL + 2)?;
                }
            }
            if masquerades.len() > 1 {
                row(f, "", &format!("         {}", masquerade(choice)))?;
            }
        }
        if shared > 0 {
            row(f, "", "then, whichever it is")?;
            for step in backends.iter().take(1).flat_map(|choice| {
                let own = choice.steps.len() - shared;
                &choice.steps[own..]
            }) {
                write_step(f, step, LABEL + 2)?;
            }
        }
        if backends.len() > FEW {
            row(f, "", "the rules for each of them: -o json")?;
        }
        if let [only] = masquerades[..] {
            row(f, "source", only)?;
        }
        Ok(())
    }

    fn shifted(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(shift) = &self.shift else {
            return Ok(());
        };
        writeln!(f)?;
        let follows = if shift.by_kernel() {
            "followed in the kernel, without the gateway"
        } else {
            "followed by the gateway's proxy"
        };
        row(f, "TCP route", &format!("{}, {follows}", shift.place()))?;
        if let Some(why) = &shift.against_kernel {
            row(f, "", &format!("not in the kernel: {why}"))?;
        }
        for (index, to) in shift.destinations.iter().enumerate() {
            let label = if index == 0 { "to" } else { "" };
            let text = format!("{:>5.1} %  {}", to.share * 100.0, to.cluster);
            row(f, label, &text)?;
        }
        Ok(())
    }

    fn gateway(&self, f: &mut fmt::Formatter<'_>, routed: &Routed) -> fmt::Result {
        writeln!(f)?;
        if let Some(http) = &routed.http {
            http_rows(f, routed, http)?;
        } else {
            tcp_rows(f, routed)?;
        }
        let first_fault = routed
            .destinations
            .iter()
            .position(|share| share.fault.is_some());
        for (index, share) in routed.destinations.iter().enumerate() {
            let label = if index == 0 { "to" } else { "" };
            let text = format!("{:>5.1} %  {}", share.share * 100.0, share.cluster);
            row(f, label, &text)?;
            // What to do about the first is said with the result.
            self.endpoints(f, share, first_fault != Some(index))?;
        }
        let Some(http) = &routed.http else {
            return Ok(());
        };
        if let Some(path) = &http.rewritten_path {
            row(f, "path", &format!("{path} (rewritten)"))?;
        }
        if let Some(action) = &http.action {
            for (label, text) in &Doings::of(action).0 {
                row(f, label, text)?;
            }
        }
        Ok(())
    }

    fn endpoints(&self, f: &mut fmt::Formatter<'_>, share: &Share, with_fix: bool) -> fmt::Result {
        for endpoint in &share.endpoints {
            let pod = self.pods.get(endpoint).map(|pod| self.pod(pod));
            let text = format!("         {endpoint}  {}", pod.unwrap_or_default());
            row(f, "", text.trim_end())?;
        }
        for name in &share.names {
            row(f, "", &format!("         addresses of {name}"))?;
        }
        let Some(fault) = &share.fault else {
            return Ok(());
        };
        let fix = match fault.fix.as_str() {
            "" => String::new(),
            _ if !with_fix => String::new(),
            fix => format!(" (fix: {fix})"),
        };
        row(
            f,
            "",
            &format!("         {}: {}{fix}", fault.flag, fault.text),
        )
    }

    fn pod(&self, at: &PodAt) -> String {
        match &at.node {
            Some(_) if at.is_on(&self.node) => format!("Pod {} on this node", at.pod),
            Some(node) => format!("Pod {} on {node}", at.pod),
            None => format!("Pod {}", at.pod),
        }
    }
}

/// How TLS is spoken.
fn tls_row(f: &mut fmt::Formatter<'_>, routed: &Routed) -> fmt::Result {
    let Some(tls) = &routed.tls else {
        return Ok(());
    };
    let names = if tls.server_names.is_empty() {
        "every name".to_owned()
    } else {
        tls.server_names.join(", ")
    };
    row(f, "TLS", &format!("the server for {names}: {}", tls.how))
}

fn tcp_rows(f: &mut fmt::Formatter<'_>, routed: &Routed) -> fmt::Result {
    let speaks = match (&routed.tls, &routed.origin) {
        (Some(_), _) => "TLS: each connection to a cluster",
        (None, Some(_)) => "TCP: each connection to a cluster",
        // Nothing was found out about the connection's names.
        (None, None) => "TLS",
    };
    row(
        f,
        "gateway",
        &format!("listener :{}, {speaks}", routed.listener),
    )?;
    tls_row(f, routed)?;
    let Some(origin) = &routed.origin else {
        return Ok(());
    };
    let route = match &routed.tls {
        Some(tls) if tls.passed_on => "tls",
        _ => "tcp",
    };
    row(f, "route", &Place::of(route, origin).to_string())
}

fn http_rows(f: &mut fmt::Formatter<'_>, routed: &Routed, http: &Http) -> fmt::Result {
    let listener = format!("listener :{}, routes {}", routed.listener, http.name);
    row(f, "gateway", &listener)?;
    tls_row(f, routed)?;
    if matches!(routed.end, End::Unasked) {
        let text = format!(
            "--host and --path, or a URL, say what a request gets; the hosts are {}",
            http.domains.join(", ")
        );
        return row(f, "", &text);
    }
    if let Some(request) = &routed.request {
        let text = format!(
            "{} {} for host {}",
            request.method, request.path, request.host
        );
        row(f, "request", &text)?;
    }
    if let Some(path) = &http.normal_path {
        row(f, "", &format!("matched as {path}"))?;
    }
    if let Some(host) = &http.virtual_host {
        row(
            f,
            "host",
            &format!("virtual host {}: {}", host.name, host.why),
        )?;
    }
    for (index, route) in http.routes.iter().enumerate() {
        let label = if index == 0 { "routes" } else { "" };
        let name = match route.name.as_str() {
            "" => String::new(),
            name => format!(" `{name}`"),
        };
        let verdict = if route.misses.is_none() { "yes" } else { "no " };
        let mut text = format!(
            "{verdict}  {}{name} wants {}",
            Place::http(&route.origin),
            route.condition
        );
        if let Some(misses) = &route.misses {
            text += ": ";
            text += misses;
        }
        if route.nearest {
            text += " (the nearest)";
        }
        row(f, label, &text)?;
    }
    if let Some(origin) = &routed.behind {
        let text = format!(
            "{} would take it, too, and comes later",
            Place::http(origin)
        );
        row(f, "", &text)?;
    }
    Ok(())
}

/// How many rules, from the last one, all of the backends have in common.
fn shared(backends: &[Choice]) -> usize {
    let Some((first, others)) = backends.split_first() else {
        return 0;
    };
    let with = |other: &Choice| {
        let pairs = first.steps.iter().rev().zip(other.steps.iter().rev());
        pairs.take_while(|(a, b)| a == b).count()
    };
    others.iter().map(with).min().unwrap_or_default()
}

fn masquerade(choice: &Choice) -> &'static str {
    match (choice.masquerade, choice.kube_proxy_masquerade) {
        (Masquerade::No, _) => "the backend sees the client's address",
        (Masquerade::Yes, _) => "masqueraded: the backend sees this node's address",
        (Masquerade::Elided, _) => {
            "kube-proxy would masquerade; here there is no need, since replies come back this way \
             anyway"
        }
    }
}

fn write_step(f: &mut fmt::Formatter<'_>, step: &RuleStep, indent: usize) -> fmt::Result {
    let RuleStep {
        table,
        chain,
        rule,
        why,
        passed,
        ..
    } = step;
    let mut why = why.join(", ");
    if *passed > 0 {
        let rules = if *passed == 1 { "rule" } else { "rules" };
        let before = format!("{passed} {rules} before did not match");
        why = if why.is_empty() {
            before
        } else {
            format!("{why}; {before}")
        };
    }
    let why = if why.is_empty() {
        String::new()
    } else {
        format!(": {why}")
    };
    writeln!(f, "{:indent$}{table} {chain}{why}", "")?;
    writeln!(f, "{:indent$}    {rule}", "")
}

fn row(f: &mut fmt::Formatter<'_>, label: &str, text: &str) -> fmt::Result {
    writeln!(f, "{label:<LABEL$}{text}")
}
