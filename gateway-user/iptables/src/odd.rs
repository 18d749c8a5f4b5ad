//! Endpoints that rules do not lead to as kube-proxy writes it: mixed versions of iptables have written such, and
//! people have.

use std::net::SocketAddr;

use serde::Serialize;

use super::{
    chains,
    rules::{Part, Rule, Table, Target},
};

/// Shares that differ by no more than this are equal: kernels hold probabilities in 31 bits.
const TOLERANCE: f64 = 1e-6;

/// A chain of an endpoint that does not translate to one address and port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct OddEndpoint {
    /// `KUBE-SEP-…`
    pub chain: String,
    /// What it does with packets.
    pub what: String,
}

/// Where a chain of an endpoint leads.
pub(super) fn endpoint(nat: &Table, chain: &str) -> Result<SocketAddr, OddEndpoint> {
    let mut what =
        "translates nothing: packets keep the Service's address, and nobody answers".to_owned();
    for rule in nat.rules(chain) {
        match &rule.target {
            Some(Target::Dnat(to)) => return Ok(*to),
            Some(Target::Other(name, text)) if name == "DNAT" => match destination(text) {
                Ok(to) => return Ok(to),
                Err(why) => what = why,
            },
            _ => {}
        }
    }
    Err(OddEndpoint {
        chain: chain.to_owned(),
        what,
    })
}

/// The one address and port of a DNAT with options that kube-proxy does not use, or what it does instead.
fn destination(text: &str) -> Result<SocketAddr, String> {
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    let given: Vec<_> = words
        .windows(2)
        .filter(|pair| pair[0] == "--to-destination")
        .map(|pair| pair[1])
        .collect();
    let [to] = given[..] else {
        return Err(format!("translates to `{}`: {NOWHERE}", given.join("`, `")));
    };
    if let Ok(to) = to.parse::<SocketAddr>() {
        // An order of the choice among one changes nothing (`--random`, `--persistent`).
        return match to.port() {
            0 => Err(format!("translates to `{to}`: {NOWHERE}")),
            _ => Ok(to),
        };
    }
    Err(if to.contains('-') {
        format!("translates to any of `{to}`, and not to one endpoint")
    } else if to.parse::<std::net::IpAddr>().is_ok() {
        format!("translates to `{to}` at the port that was asked for, which is the Service's")
    } else {
        format!("translates to `{to}`: {NOWHERE}")
    })
}

const NOWHERE: &str = "no address and port, where nobody answers";

/// The shares of the endpoints of a chain that picks one, if they are not equal; each with its chain, and last
/// what none of them gets.
pub(super) fn unequal_shares(nat: &Table, chain: &str) -> Option<Vec<(String, f64)>> {
    if !chains::is_of_service(chain) || chain.starts_with("KUBE-SEP-") {
        return None;
    }
    let is_recent = |rule: &Rule| {
        rule.parts
            .iter()
            .any(|part| matches!(part, Part::Recent(_)))
    };
    let (mut shares, mut left) = (Vec::new(), 1.0);
    for rule in nat.rules(chain).filter(|rule| !is_recent(rule)) {
        let Some(to) = rule.jump().filter(|to| to.starts_with("KUBE-SEP-")) else {
            continue;
        };
        let probability = rule.parts.iter().find_map(|part| match part {
            Part::Random(probability) => Some(probability.share()),
            _ => None,
        });
        let share = left * probability.unwrap_or(1.0);
        left -= share;
        shares.push((to.to_owned(), share));
    }
    let equal = 1.0 / shares.len() as f64;
    let is_equal = |share: &f64| (share - equal).abs() <= TOLERANCE;
    if shares.is_empty() || shares.iter().all(|(_, share)| is_equal(share)) {
        return None;
    }
    if left > TOLERANCE {
        shares.push(("none of them".to_owned(), left));
    }
    Some(shares)
}

#[cfg(test)]
mod tests {
    use crate::{lint::lint, parse::parse, services::of_rules};

    fn nat(endpoints: &str, probability: &str) -> String {
        format!(
            "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j KUBE-SERVICES\n-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m comment --comment \"kube-system/kube-dns:dns cluster IP\" -m udp --dport 53 -j KUBE-SVC-F\n-A KUBE-SVC-F -m statistic --mode random --probability {probability} -j KUBE-SEP-A\n-A KUBE-SVC-F -j KUBE-SEP-B\n-A KUBE-SEP-A -p udp -m udp -j DNAT --to-destination 10.244.2.2:53\n-A KUBE-SEP-B -p udp -m udp{endpoints}\nCOMMIT\n"
        )
    }

    fn read(text: &str) -> (Vec<String>, Vec<String>) {
        let dump = parse(text);
        assert_eq!(dump.errors, []);
        let services = of_rules(&dump.rulesets[0]);
        let service = services.values().next().unwrap();
        let endpoints = service.cluster.iter().map(ToString::to_string).collect();
        let findings = lint(&dump.rulesets[0], &services);
        (
            endpoints,
            findings.iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn what_does_not_lead_to_one_endpoint_is_told() {
        for (target, what) in [
            (
                " -j KUBE-MARK-MASQ",
                "translates nothing: packets keep the Service's address, and nobody answers",
            ),
            (
                " -j DNAT --to-destination :0 --persistent --to-destination :0 --persistent --to-destination 0.0.0.0:0",
                "translates to `:0`, `:0`, `0.0.0.0:0`: no address and port, where nobody answers",
            ),
            (
                " -j DNAT --to-destination :0",
                "translates to `:0`: no address and port, where nobody answers",
            ),
            (
                " -j DNAT --to-destination 10.244.2.3",
                "translates to `10.244.2.3` at the port that was asked for, which is the Service's",
            ),
            (
                " -j DNAT --to-destination 10.244.2.3-10.244.2.9:53",
                "translates to any of `10.244.2.3-10.244.2.9:53`, and not to one endpoint",
            ),
        ] {
            let (endpoints, findings) = read(&nat(target, "0.50000000000"));
            assert_eq!(endpoints, ["10.244.2.2:53"]);
            let expected =
                format!("an endpoint of kube-system/kube-dns:dns udp is none: KUBE-SEP-B {what}");
            assert!(findings.contains(&expected), "{findings:#?}");
        }
    }

    #[test]
    fn options_that_change_nothing_hide_no_endpoint() {
        let (endpoints, findings) = read(&nat(
            " -j DNAT --to-destination 10.244.2.3:53 --random --persistent",
            "0.50000000000",
        ));
        assert_eq!(endpoints, ["10.244.2.2:53", "10.244.2.3:53"]);
        assert_eq!(findings, [""; 0]);
    }

    #[test]
    fn unequal_shares_are_told() {
        let (_, findings) = read(&nat(
            " -j DNAT --to-destination 10.244.2.3:53",
            "0.30000000000",
        ));
        assert_eq!(
            findings,
            [
                "nat KUBE-SVC-F does not give equal shares: 30.0 % to KUBE-SEP-A, 70.0 % to KUBE-SEP-B"
            ]
        );
    }
}
