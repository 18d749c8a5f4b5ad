//! Decisions of the kernel programs, with names.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use gateway_common::{
    decide::{Masquerade, Reason, Verdict},
    event::{Event, Hook},
};
use nodegate_model::service::ServicePortName;
use serde::Serialize;

use super::{address::from_map, identity::PortKey};

mod walk;

use walk::walk;

/// One decision, with names: what `nodegate trace` shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TracedDecision {
    /// Seconds since the machine started (`CLOCK_MONOTONIC`).
    pub time: f64,
    /// The socket's cookie, at the socket hooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<u64>,
    /// Where in the kernel.
    pub hook: &'static str,
    /// The client, where it is known: the address of a packet's sender; of a process the address
    /// of its network namespace, with port 0.
    pub client: Option<SocketAddr>,
    /// The process that connects.
    pub process: Option<Process>,
    /// What the client asked for.
    pub destination: SocketAddr,
    /// The Service port, as kube-proxy writes it: `ns/name:port`.
    pub service: Option<String>,
    /// The same in its parts.
    #[serde(skip)]
    pub port: Option<ServicePortName>,
    /// The chains that the packet would pass in kube-proxy's rules, from KUBE-SERVICES or
    /// KUBE-NODEPORTS on.
    pub chains: Vec<String>,
    /// Where it goes.
    pub backend: Option<SocketAddr>,
    /// Whether the backend sees this node's address: `no`, `yes`, or `elided` where kube-proxy would
    /// and there is no need.
    pub masquerade: &'static str,
    /// `forward`, `reject`, `drop` or `pass`.
    pub verdict: &'static str,
    /// Name of the reason.
    pub reason: &'static str,
    /// The reason in words.
    #[serde(skip)]
    pub text: &'static str,
}

/// A process that connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its command; unknown if it has ended already.
    pub command: Option<String>,
}

/// What the node knows of a process that connects, beyond its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Its command; unknown if it has ended already.
    pub command: Option<String>,
    /// The first address of its network namespace: a pod's address, or the node's.
    pub address: Option<IpAddr>,
}

impl TracedDecision {
    /// Puts names to an event: those of the Service ports by number, and what is known of the process
    /// that connects.
    pub fn new(event: &Event, names: &BTreeMap<u32, PortKey>, facts: ProcessFacts) -> Self {
        let destination = SocketAddr::new(from_map(event.destination), event.destination_port);
        let backend = (event.backend != 0)
            .then(|| SocketAddr::new(from_map(event.backend_address), event.backend_port));
        let reason = Reason::from_number(event.reason);
        let hook = Hook::from_number(event.hook);
        let process = (event.pid != 0).then_some(Process {
            pid: event.pid,
            command: facts.command,
        });
        let client = match hook {
            Some(Hook::Ingress | Hook::Pod | Hook::Connected | Hook::Egress) => {
                Some(SocketAddr::new(from_map(event.source), event.source_port))
            }
            _ => facts.address.map(|address| SocketAddr::new(address, 0)),
        };
        let service = names.get(&event.service);
        Self {
            time: event.time as f64 / 1e9,
            cookie: (event.cookie != 0).then_some(event.cookie),
            hook: hook.map_or("unknown", Hook::name),
            client,
            process,
            destination,
            service: service.map(|(name, ..)| name.to_string()),
            port: service.map(|(name, ..)| name.clone()),
            // A packet of a flow that was decided before passes no chains any more.
            chains: service
                .filter(|_| event.flags != 0 || backend.is_none())
                .map_or_else(Vec::new, |(name, protocol, _)| {
                    walk(name, *protocol, event, backend)
                }),
            backend,
            masquerade: match Masquerade::from_number(event.masquerade) {
                Some(Masquerade::Yes) => "yes",
                Some(Masquerade::Elided) => "elided",
                Some(Masquerade::No) | None => "no",
            },
            verdict: Verdict::from_number(event.verdict).map_or("unknown", Verdict::name),
            reason: reason.map_or("unknown", Reason::name),
            text: reason.map_or("", Reason::text),
        }
    }
}

impl fmt::Display for TracedDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} ", self.hook)?;
        match (&self.client, &self.process) {
            (Some(client), None) => write!(f, "{client}")?,
            (client, process) => {
                match client {
                    Some(client) => write!(f, "{}", client.ip())?,
                    None => f.write_str("?")?,
                }
                if let Some(Process { pid, command }) = process {
                    write!(f, " ({}[{pid}])", command.as_deref().unwrap_or("?"))?;
                }
            }
        }
        write!(f, " -> {}", self.destination)?;
        if let Some(service) = &self.service {
            write!(f, "  {service}")?;
        }
        if !self.chains.is_empty() {
            write!(f, "  {}", self.chains.join(" > "))?;
        }
        match self.backend {
            Some(backend) if self.verdict == "forward" => {
                write!(f, "  => {backend}")?;
                match self.masquerade {
                    "yes" => f.write_str(" (masqueraded)"),
                    // kube-proxy would have hidden the client here.
                    "elided" => f.write_str(" (masquerade elided)"),
                    _ => Ok(()),
                }
            }
            _ => write!(f, "  {}: {}", self.verdict, self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_common::{TCP, UNSPECIFIED, mapped, maps::Service};
    use nodegate_model::service::{IpFamily, Protocol};

    use super::*;

    fn gateway() -> BTreeMap<u32, PortKey> {
        let name = ServicePortName {
            namespace: "istio-system".into(),
            name: "istio-ingressgateway".into(),
            port: "http2".into(),
        };
        BTreeMap::from([(7, (name, Protocol::Tcp, IpFamily::V4))])
    }

    fn event() -> Event {
        Event {
            time: 1_500_000_000,
            netns: 0,
            cookie: 0,
            source: mapped([192, 168, 170, 1]),
            destination: mapped([192, 168, 170, 137]),
            backend_address: mapped([10, 10, 1, 4]),
            source_port: 50_000,
            destination_port: 31373,
            backend_port: 8080,
            protocol: TCP,
            hook: Hook::Ingress as u8,
            verdict: Verdict::Forward as u8,
            reason: Reason::Chosen as u8,
            flags: Service::FLAG_NODE_PORT | Service::FLAG_EXTERNAL,
            service: 7,
            backend: 100,
            pid: 0,
            interface: 2,
            masquerade: Masquerade::No as u8,
            reserved: 0,
        }
    }

    #[test]
    fn a_node_port_from_outside_walks_the_chains_that_people_know() {
        assert_eq!(
            TracedDecision::new(&event(), &gateway(), ProcessFacts::default()).to_string(),
            "ingress  192.168.170.1:50000 -> 192.168.170.137:31373  \
             istio-system/istio-ingressgateway:http2  \
             KUBE-SERVICES > KUBE-NODEPORTS > KUBE-EXT-G6D3V5KS3PXPUEDS > \
             KUBE-SVC-G6D3V5KS3PXPUEDS > KUBE-SEP-LAV34IONK7IOT5SV  => 10.10.1.4:8080"
        );
    }

    #[test]
    fn without_a_backend_the_reason_is_told() {
        let event = Event {
            backend_address: UNSPECIFIED,
            backend_port: 0,
            backend: 0,
            verdict: Verdict::Reject as u8,
            reason: Reason::NoEndpoints as u8,
            flags: 0,
            ..event()
        };
        let decision = TracedDecision::new(&event, &gateway(), ProcessFacts::default());
        assert_eq!(decision.backend, None);
        assert_eq!(decision.chains, ["KUBE-SERVICES"]);
        let line = decision.to_string();
        assert!(
            line.ends_with("reject: the Service has no endpoints"),
            "{line}"
        );
    }

    #[test]
    fn an_answer_that_is_dropped_passes_no_chains() {
        let event = Event {
            hook: Hook::Egress as u8,
            verdict: Verdict::Drop as u8,
            reason: Reason::FragmentedSctp as u8,
            flags: 0,
            ..event()
        };
        let decision = TracedDecision::new(&event, &gateway(), ProcessFacts::default());
        assert_eq!(decision.chains, [""; 0]);
        let line = decision.to_string();
        assert!(
            line.starts_with("egress   192.168.170.1:50000 -> "),
            "{line}"
        );
        assert!(line.contains("drop: a fragmented SCTP packet"), "{line}");
    }

    #[test]
    fn the_client_of_a_socket_is_its_namespace() {
        let event = Event {
            hook: Hook::Connect4 as u8,
            pid: 7,
            ..event()
        };
        let facts = ProcessFacts {
            command: Some("curl".into()),
            address: Some([10, 10, 1, 13].into()),
        };
        let decision = TracedDecision::new(&event, &gateway(), facts);
        assert_eq!(decision.client, Some(([10, 10, 1, 13], 0).into()));
        assert!(
            decision
                .to_string()
                .starts_with("connect4 10.10.1.13 (curl[7]) -> "),
            "{decision}"
        );
    }
}
