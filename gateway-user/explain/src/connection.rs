//! What becomes of a connection: what the decision core says, beside the way through kube-proxy's
//! rules.

use std::net::{IpAddr, SocketAddr};

use gateway_common::{
    decide::{Decision, Flow, Masquerade, Origin, Reason, Verdict},
    event::Hook,
    maps::Service,
};
use serde::{Serialize, Serializer};

use super::node::Node;
use nodegate_iptables::walk::{FirstPacket, PacketFate, RuleStep, RuleWay, walk};
use nodegate_model::service::{IpFamily, Protocol};
use nodegate_programming::{
    address::{from_map, to_map},
    tables::PossibleDecision,
};

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A process in the node's own network namespace.
    Node,
    /// A process in a pod on the node, with this address.
    Pod(IpAddr),
    /// A machine, or a pod on another node, with this address.
    Network(IpAddr),
}

/// A connection that somebody makes, or a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Who.
    pub client: Client,
    /// Where to.
    pub destination: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// What becomes of it.
#[derive(Debug, Serialize)]
pub struct Connection {
    /// Where the client's packets come from.
    pub source: IpAddr,
    /// Where it wants to go.
    pub destination: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// In place of kube-proxy's rules.
    pub nodegate: Decided,
    /// What kube-proxy's rules do.
    pub kube_proxy: Walked,
    /// Where it goes: one of them.
    pub backends: Vec<Choice>,
    /// Where nodegate and kube-proxy do not lead to the same end.
    pub differences: Vec<String>,
}

/// What the kernel programs do.
#[derive(Debug, Serialize)]
pub struct Decided {
    /// The program that decides.
    pub hook: &'static str,
    /// The element of `services` that is found.
    pub lookup: Option<String>,
    /// The Service port, as kube-proxy writes it: `ns/name:port`.
    pub service: Option<String>,
    /// What of the Service is connected to.
    pub frontend: Option<&'static str>,
    /// `forward`, `reject`, `drop` or `pass`.
    #[serde(serialize_with = "verdict")]
    pub verdict: Verdict,
    /// Name of the reason, as in traces and counters.
    pub reason: &'static str,
    /// The reason in words.
    pub text: &'static str,
    /// For how many seconds the client stays with its backend.
    pub affinity: Option<u32>,
}

/// What kube-proxy's rules do.
#[derive(Debug, Serialize)]
pub struct Walked {
    /// `forward`, `reject`, `drop` or `pass`.
    #[serde(serialize_with = "verdict")]
    pub verdict: Verdict,
    /// The rules that match whatever the backend, in order.
    pub steps: Vec<RuleStep>,
}

/// A backend, and how it is reached.
#[derive(Debug, Serialize)]
pub struct Choice {
    /// Address and port.
    pub address: SocketAddr,
    /// How likely it is; 0 if only kube-proxy would take it.
    pub probability: f64,
    /// How likely it is with kube-proxy; 0 if only nodegate takes it.
    pub kube_proxy_probability: f64,
    /// Whether the backend sees this node instead of the client.
    #[serde(serialize_with = "masquerade")]
    pub masquerade: Masquerade,
    /// Whether it does with kube-proxy.
    pub kube_proxy_masquerade: bool,
    /// The rules that match on the way to this backend only.
    pub steps: Vec<RuleStep>,
}

/// Explains a connection.
pub fn connection(node: &Node, attempt: &Attempt) -> Connection {
    let outcomes = decide(node, attempt);
    let ways = walk_rules(node, attempt);
    let first = outcomes.decisions[0].decision;
    let steps = common(&ways);
    let backends = choices(&outcomes.decisions, &ways, steps.len());
    let kube_proxy = fate(&ways);
    Connection {
        source: source(node, attempt),
        destination: attempt.destination,
        protocol: attempt.protocol,
        differences: differences(node, attempt, &first, kube_proxy, &backends),
        nodegate: decided(node, attempt, outcomes.hook, &first),
        kube_proxy: Walked {
            verdict: kube_proxy,
            steps,
        },
        backends,
    }
}

/// What the core decides, and where.
struct Outcomes {
    hook: Hook,
    decisions: Vec<PossibleDecision>,
}

fn decide(node: &Node, attempt: &Attempt) -> Outcomes {
    let tables = node.tables();
    let flow = |origin| Flow {
        client: to_map(source(node, attempt)),
        destination: to_map(attempt.destination.ip()),
        port: attempt.destination.port(),
        protocol: attempt.protocol.number(),
        origin,
    };
    let origin = match attempt.client {
        Client::Node => Origin::NodeSocket,
        Client::Pod(_) => Origin::PodSocket,
        Client::Network(_) => Origin::Packet,
    };
    let decisions = tables.outcomes(&flow(origin));
    let socket = match attempt.destination {
        SocketAddr::V4(_) => Hook::Connect4,
        SocketAddr::V6(_) => Hook::Connect6,
    };
    match origin {
        _ if decisions[0].decision.reason == Reason::ByPacket => Outcomes {
            hook: Hook::Pod,
            decisions: tables.outcomes(&flow(Origin::PodPacket)),
        },
        Origin::NodeSocket | Origin::PodSocket => Outcomes {
            hook: socket,
            decisions,
        },
        Origin::Packet | Origin::PodPacket => Outcomes {
            hook: Hook::Ingress,
            decisions,
        },
    }
}

fn walk_rules(node: &Node, attempt: &Attempt) -> Vec<RuleWay> {
    let family = IpFamily::of(attempt.destination.ip());
    let interface = match attempt.client {
        Client::Node => None,
        Client::Pod(_) => Some(node.interface(family, true)),
        Client::Network(_) => Some(node.interface(family, false)),
    };
    let packet = FirstPacket {
        source: source(node, attempt),
        destination: attempt.destination,
        protocol: attempt.protocol,
        interface,
    };
    walk(node.rules(family), &packet, node.addresses())
}

fn source(node: &Node, attempt: &Attempt) -> IpAddr {
    match attempt.client {
        Client::Node => node.source(attempt.destination.ip()),
        Client::Pod(address) | Client::Network(address) => address,
    }
}

/// The steps that all ways begin with.
fn common(ways: &[RuleWay]) -> Vec<RuleStep> {
    let [first, rest @ ..] = ways else {
        return Vec::new();
    };
    let same = |index: &usize| {
        let step = &first.steps[*index];
        rest.iter().all(|way| way.steps.get(*index) == Some(step))
    };
    let count = (0..first.steps.len()).take_while(same).count();
    first.steps[..count].to_vec()
}

/// What kube-proxy's rules come to.
fn fate(ways: &[RuleWay]) -> Verdict {
    let Some(way) = ways.first() else {
        return Verdict::Pass;
    };
    match way.fate {
        PacketFate::Reject => Verdict::Reject,
        PacketFate::Drop => Verdict::Drop,
        PacketFate::Accept if way.translated.is_some() => Verdict::Forward,
        PacketFate::Accept => Verdict::Pass,
    }
}

fn choices(outcomes: &[PossibleDecision], ways: &[RuleWay], common: usize) -> Vec<Choice> {
    let mut choices: Vec<Choice> = Vec::new();
    let forwarded = outcomes
        .iter()
        .filter(|outcome| outcome.decision.backend != 0);
    for PossibleDecision {
        decision,
        probability,
    } in forwarded
    {
        choices.push(Choice {
            address: SocketAddr::new(from_map(decision.address), decision.port),
            probability: *probability,
            kube_proxy_probability: 0.0,
            masquerade: decision.masquerade,
            kube_proxy_masquerade: false,
            steps: Vec::new(),
        });
    }
    for way in ways.iter().filter(|way| way.fate == PacketFate::Accept) {
        let Some(address) = way.translated else {
            continue;
        };
        let known = choices.iter_mut().find(|choice| choice.address == address);
        let steps = way.steps[common..].to_vec();
        match known {
            Some(choice) => {
                choice.kube_proxy_probability += way.probability;
                choice.kube_proxy_masquerade = way.masqueraded;
                choice.steps = steps;
            }
            None => choices.push(Choice {
                address,
                probability: 0.0,
                kube_proxy_probability: way.probability,
                masquerade: Masquerade::No,
                kube_proxy_masquerade: way.masqueraded,
                steps,
            }),
        }
    }
    choices
}

fn decided(node: &Node, attempt: &Attempt, hook: Hook, decision: &Decision) -> Decided {
    let mirror = node.mirror();
    let found = decision.service != 0;
    let name = mirror.names.get(&decision.service);
    let flag = |flag| decision.flags & flag != 0;
    let frontend = if flag(Service::FLAG_NODE_PORT) {
        "node port"
    } else if flag(Service::FLAG_LOAD_BALANCER) {
        "load balancer IP"
    } else if flag(Service::FLAG_EXTERNAL) {
        "external IP"
    } else {
        "cluster IP"
    };
    let Attempt {
        destination,
        protocol,
        ..
    } = attempt;
    let lookup = if flag(Service::FLAG_NODE_PORT) {
        format!("node port {} {}", destination.port(), protocol.lowercase())
    } else if decision.reason == Reason::NoSuchPort {
        format!("{}, any port", destination.ip())
    } else {
        format!("{destination} {}", protocol.lowercase())
    };
    let affinity = mirror
        .services
        .values()
        .find(|service| found && service.id == decision.service)
        .map(|service| service.affinity)
        .filter(|seconds| *seconds != 0);
    Decided {
        hook: hook.name(),
        lookup: (decision.reason != Reason::NoService).then_some(lookup),
        service: name.map(|(name, ..)| name.to_string()),
        frontend: found.then_some(frontend),
        verdict: decision.verdict,
        reason: decision.reason.name(),
        text: decision.reason.text(),
        affinity,
    }
}

fn differences(
    node: &Node,
    attempt: &Attempt,
    decision: &Decision,
    kube_proxy: Verdict,
    backends: &[Choice],
) -> Vec<String> {
    let mut differences = Vec::new();
    if decision.verdict != kube_proxy {
        let why = match decision.reason {
            Reason::NoSuchPort => {
                ": a socket can be told at once, where kube-proxy's client waits for nobody"
            }
            _ if attempt.client == Client::Node && decision.flags & Service::FLAG_EXTERNAL != 0 => {
                ": its refusal of external addresses is in INPUT and FORWARD, which packets of the \
                 node's own processes do not pass"
            }
            _ => "",
        };
        differences.push(format!(
            "nodegate: {}; kube-proxy: {}{why}",
            decision.verdict.name(),
            kube_proxy.name()
        ));
        return differences;
    }
    if decision.flags & Service::FLAG_IN_TURN != 0 {
        differences.push(
            "kube-proxy sends to the gateway, whose TCP route is followed here without it".into(),
        );
        return differences;
    }
    let list = |only: fn(&Choice) -> bool| {
        let choices = backends.iter().filter(|choice| only(choice));
        let choices: Vec<_> = choices.map(|choice| choice.address.to_string()).collect();
        choices.join(", ")
    };
    for (who, addresses) in [
        (
            "nodegate",
            list(|choice| choice.kube_proxy_probability == 0.0),
        ),
        ("kube-proxy", list(|choice| choice.probability == 0.0)),
    ] {
        if !addresses.is_empty() {
            differences.push(format!("only {who} sends to {addresses}"));
        }
    }
    let family = IpFamily::of(attempt.destination.ip());
    let differs = |choice: &&Choice| {
        choice.masquerade.by_kube_proxy() != choice.kube_proxy_masquerade
            && !connects_itself(attempt, choice)
    };
    if let Some(choice) = backends.iter().find(differs) {
        let (who, why) = if choice.kube_proxy_masquerade {
            ("kube-proxy", "")
        } else if node.detects_local(family) {
            ("nodegate", "")
        } else {
            (
                "nodegate",
                ": kube-proxy does not know pods from others here (fix: --cluster-cidr)",
            )
        };
        differences.push(format!("only {who} masquerades{why}"));
    }
    differences
}

/// A pod's socket that is connected to the pod itself: there is no packet whose source would have to
/// be another.
fn connects_itself(attempt: &Attempt, choice: &Choice) -> bool {
    matches!(attempt.client, Client::Pod(address) if address == choice.address.ip())
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference"
)]
fn verdict<S: Serializer>(verdict: &Verdict, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(verdict.name())
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands over a reference"
)]
fn masquerade<S: Serializer>(masquerade: &Masquerade, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match masquerade {
        Masquerade::No => "no",
        Masquerade::Yes => "yes",
        Masquerade::Elided => "elided",
    })
}
