//! Filters of a trace: which of the kernel's decisions a client of the trace wants to see.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
};

use gateway_common::{
    Address,
    decide::Verdict,
    event::{Event, Hook, TraceFilter},
};
use ipnet::IpNet;
use nodegate_model::service::{Protocol, ServicePortName};

use super::{address, decision::TracedDecision, identity::PortKey};

/// A decision passes if it satisfies every condition; an empty condition is satisfied by all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The client of the decision.
    pub from: Option<Source>,
    /// The frontend that was asked for, or the backend.
    pub to: Option<Target>,
    /// The Service.
    pub service: Option<ServicePattern>,
    /// The verdict is one of these.
    pub verdicts: Vec<Verdict>,
    /// The hook of the kernel is one of these.
    pub hooks: Vec<Hook>,
    /// The transport protocol.
    pub protocol: Option<Protocol>,
}

/// The client of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Processes in the node's own network namespace.
    Node,
    /// Clients with addresses in this network.
    Network(IpNet),
}

/// Address and port of the frontend or of the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// None: any.
    pub network: Option<IpNet>,
    /// None: any.
    pub port: Option<u16>,
}

/// A Service, or one of its ports: `ns/name` or `ns/name:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePattern {
    /// Namespace and name.
    pub service: (String, String),
    /// Name of the port; none: any.
    pub port: Option<String>,
}

/// A text that is no part of a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {fix}")]
pub struct NoFilter {
    text: String,
    fix: &'static str,
}

impl NoFilter {
    fn of(text: &str, fix: &'static str) -> Self {
        Self {
            text: text.to_owned(),
            fix,
        }
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpAddr>()
        .map(IpNet::from)
        .or_else(|_| text.parse())
        .ok()
}

impl FromStr for Source {
    type Err = NoFilter;

    fn from_str(text: &str) -> Result<Self, NoFilter> {
        let fix = "is nobody (fix: `node`, an address, or a network such as 10.10.0.0/16)";
        match text {
            "node" => Ok(Self::Node),
            _ => network(text)
                .map(Self::Network)
                .ok_or_else(|| NoFilter::of(text, fix)),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Network(net) => net.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = NoFilter;

    fn from_str(text: &str) -> Result<Self, NoFilter> {
        let fix = "is nothing to connect to (fix: an address, a network, ADDRESS:PORT, or :PORT)";
        if let Some(network) = network(text) {
            return Ok(Self {
                network: Some(network),
                port: None,
            });
        }
        let wrong = || NoFilter::of(text, fix);
        let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let network = match address {
            "" => None,
            address => Some(network(address).ok_or_else(wrong)?),
        };
        let port: u16 = port.parse().map_err(|_| wrong())?;
        Ok(Self {
            network,
            port: Some(port).filter(|port| *port != 0),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.network, self.port) {
            (Some(IpNet::V6(net)), Some(port)) => write!(f, "[{net}]:{port}"),
            (Some(net), Some(port)) => write!(f, "{net}:{port}"),
            (Some(net), None) => net.fmt(f),
            (None, port) => write!(f, ":{}", port.unwrap_or_default()),
        }
    }
}

impl FromStr for ServicePattern {
    type Err = NoFilter;

    fn from_str(text: &str) -> Result<Self, NoFilter> {
        let (service, port) = match text.split_once(':') {
            Some((service, port)) => (service, Some(port.to_owned())),
            None => (text, None),
        };
        let fix = "is no Service (fix: NAMESPACE/NAME, or NAMESPACE/NAME:PORTNAME)";
        match service.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(Self {
                service: (namespace.to_owned(), name.to_owned()),
                port,
            }),
            _ => Err(NoFilter::of(text, fix)),
        }
    }
}

impl fmt::Display for ServicePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespace, name) = &self.service;
        write!(f, "{namespace}/{name}")?;
        match &self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl ServicePattern {
    /// Whether it is this Service port.
    pub fn matches(&self, name: &ServicePortName) -> bool {
        let (namespace, service) = &self.service;
        let is_port = |port: &String| *port == name.port;
        *namespace == name.namespace
            && *service == name.name
            && self.port.as_ref().is_none_or(is_port)
    }
}

impl Filter {
    /// As the kernel programs evaluate it.
    pub fn compile(&self, host_netns: u64) -> TraceFilter {
        let mut filter = TraceFilter {
            host_netns,
            verdicts: bits(self.verdicts.iter().map(|verdict| *verdict as u8)),
            hooks: bits(self.hooks.iter().map(|hook| *hook as u8)),
            protocol: self.protocol.map_or(0, Protocol::number),
            by_service: u32::from(self.service.is_some()),
            ..TraceFilter::ALL
        };
        match &self.from {
            None => {}
            Some(Source::Node) => {
                filter.sockets = TraceFilter::NODE_SOCKETS;
                // Packets come from outside or from pods.
                filter.source_mask = [0xff; 16];
            }
            Some(Source::Network(net)) => (filter.source, filter.source_mask) = masked(net),
        }
        if let Some(Target { network, port }) = &self.to {
            filter.target_port = port.unwrap_or_default();
            if let Some(net) = network {
                (filter.target, filter.target_mask) = masked(net);
            }
        }
        filter
    }

    /// The numbers of the Services that are asked for: the kernel programs know no names. They change.
    pub fn services<'n>(
        &'n self,
        names: &'n BTreeMap<u32, PortKey>,
    ) -> impl Iterator<Item = u32> + 'n {
        let pattern = self.service.iter();
        pattern.flat_map(move |pattern| {
            let ids = names.iter();
            ids.filter(|(_, (name, ..))| pattern.matches(name))
                .map(|(id, _)| *id)
        })
    }

    /// Whether a decision passes: by what the kernel programs evaluate, and by the client's address, which
    /// they do not know of a process.
    pub fn matches(
        &self,
        compiled: &TraceFilter,
        event: &Event,
        decision: &TracedDecision,
    ) -> bool {
        let is_from = match (&self.from, decision.client) {
            (Some(Source::Network(net)), Some(client)) => net.contains(&client.ip()),
            (Some(Source::Network(_)), None) => false,
            (Some(Source::Node) | None, _) => true,
        };
        let of_service = self.service.as_ref().is_some_and(|pattern| {
            let port = decision.port.as_ref();
            port.is_some_and(|name| pattern.matches(name))
        });
        is_from && compiled.matches(event, of_service)
    }
}

/// One filter that passes all that any of the filters passes, and the ids of the Service ports that are
/// asked for, if only some are; none if there is no filter, so no trace.
pub fn cover<'f>(
    filters: impl Iterator<Item = &'f Filter>,
    host_netns: u64,
    names: &BTreeMap<u32, PortKey>,
) -> Option<(TraceFilter, BTreeSet<u32>)> {
    let (mut services, mut cover) = (BTreeSet::new(), None);
    for filter in filters {
        services.extend(filter.services(names));
        let compiled = filter.compile(host_netns);
        cover = Some(match cover {
            None => compiled,
            Some(cover) => both(cover, &compiled),
        });
    }
    let cover = cover?;
    if cover.by_service == 0 {
        services.clear();
    }
    Some((cover, services))
}

/// What passes both filters or one of them: a condition in which they differ is left out.
fn both(a: TraceFilter, b: &TraceFilter) -> TraceFilter {
    let bits = |a: u32, b: u32| if a == 0 || b == 0 { 0 } else { a | b };
    let any = TraceFilter::ALL;
    let from = (a.source, a.source_mask, a.sockets) == (b.source, b.source_mask, b.sockets);
    let to = (a.target, a.target_mask, a.target_port) == (b.target, b.target_mask, b.target_port);
    let (from, to) = (if from { b } else { &any }, if to { b } else { &any });
    TraceFilter {
        host_netns: a.host_netns,
        source: from.source,
        source_mask: from.source_mask,
        sockets: from.sockets,
        target: to.target,
        target_mask: to.target_mask,
        target_port: to.target_port,
        by_service: a.by_service & b.by_service,
        verdicts: bits(a.verdicts, b.verdicts),
        hooks: bits(a.hooks, b.hooks),
        protocol: if a.protocol == b.protocol {
            a.protocol
        } else {
            0
        },
        reserved: any.reserved,
    }
}

fn bits(numbers: impl Iterator<Item = u8>) -> u32 {
    numbers.fold(0, |bits, number| bits | 1 << number)
}

/// A network's address and its mask, as maps have them.
fn masked(net: &IpNet) -> (Address, Address) {
    let (address, length) = address::network(net);
    let mut mask = [0u8; 16];
    for bit in 0..usize::from(length) {
        mask[bit / 8] |= 128 >> (bit % 8);
    }
    (address, mask)
}

#[cfg(test)]
mod tests {
    use nodegate_model::service::IpFamily;

    use super::*;

    fn names() -> BTreeMap<u32, PortKey> {
        let name = |name: &str, port: &str| ServicePortName {
            namespace: "default".into(),
            name: name.into(),
            port: port.into(),
        };
        BTreeMap::from([
            (1, (name("web", "http"), Protocol::Tcp, IpFamily::V4)),
            (2, (name("web", "http"), Protocol::Tcp, IpFamily::V6)),
            (3, (name("web", "admin"), Protocol::Tcp, IpFamily::V4)),
            (4, (name("other", ""), Protocol::Udp, IpFamily::V4)),
        ])
    }

    #[test]
    fn texts_are_read_and_written() {
        for text in ["node", "10.10.0.0/16", "fd00::/64"] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        for (text, written) in [
            ("10.96.0.1", "10.96.0.1/32"),
            ("10.96.0.0/16:80", "10.96.0.0/16:80"),
            (":31373", ":31373"),
            ("[fd00::1]:80", "[fd00::1/128]:80"),
            ("fd00::1", "fd00::1/128"),
        ] {
            let to: Target = text.parse().unwrap();
            assert_eq!(to.to_string(), written);
            assert_eq!(written.parse::<Target>().unwrap(), to);
        }
        for text in ["ns/name", "ns/name:http"] {
            assert_eq!(text.parse::<ServicePattern>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_none_says_what_would_be() {
        let error = "nobody".parse::<Source>().unwrap_err().to_string();
        assert!(error.starts_with("`nobody` is nobody (fix: "), "{error}");
        for text in ["web", "10.96.0.1:http", "1.2.3.4:70000", ""] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains("ADDRESS:PORT"), "{error}");
        }
        for text in ["web", "/web", "ns/"] {
            let error = text.parse::<ServicePattern>().unwrap_err().to_string();
            assert!(error.contains("NAMESPACE/NAME"), "{error}");
        }
    }

    #[test]
    fn services_are_numbers_to_the_kernel() {
        for (text, numbers) in [
            ("default/web", vec![1, 2, 3]),
            ("default/web:http", vec![1, 2]),
            ("default/other", vec![4]),
            ("default/nothing", vec![]),
        ] {
            let filter = Filter {
                service: Some(text.parse().unwrap()),
                ..Filter::default()
            };
            assert_eq!(filter.services(&names()).collect::<Vec<_>>(), numbers);
            assert_eq!(filter.compile(9).by_service, 1, "{text}");
        }
        assert_eq!(Filter::default().compile(9).by_service, 0);
    }

    #[test]
    fn of_several_who_trace_what_covers_all() {
        let filter = |from: &str, service: Option<&str>, verdict| Filter {
            from: Some(from.parse().unwrap()),
            to: Some(":80".parse().unwrap()),
            service: service.map(|text| text.parse().unwrap()),
            verdicts: vec![verdict],
            ..Filter::default()
        };
        let cover = |filters: &[Filter]| cover(filters.iter(), 9, &names());
        assert_eq!(cover(&[]), None);
        let web = filter("10.0.0.1", Some("default/web"), Verdict::Drop);
        let alone = cover(std::slice::from_ref(&web)).unwrap();
        assert_eq!(alone, (web.compile(9), BTreeSet::from([1, 2, 3])));

        let other = filter("10.0.0.2", Some("default/other"), Verdict::Reject);
        let (both, services) = cover(&[web.clone(), other.clone()]).unwrap();
        assert_eq!(services, BTreeSet::from([1, 2, 3, 4]));
        assert_eq!((both.target_port, both.verdicts), (80, 0b1100));
        assert_eq!(both.source_mask, [0; 16], "of either client");

        let any = filter("10.0.0.1", None, Verdict::Drop);
        let (all, services) = cover(&[web.clone(), any.clone(), other.clone()]).unwrap();
        assert_eq!((all.by_service, services.len()), (0, 0), "any Service");
        assert_eq!(cover(&[other, any, web]).unwrap(), (all, services));
    }

    #[test]
    fn a_network_is_its_mapped_bits() {
        let filter = Filter {
            from: Some("10.10.0.0/16".parse().unwrap()),
            to: Some(":80".parse().unwrap()),
            verdicts: vec![Verdict::Reject, Verdict::Drop],
            ..Filter::default()
        };
        let compiled = filter.compile(9);
        assert_eq!(compiled.source, gateway_common::mapped([10, 10, 0, 0]));
        assert_eq!(compiled.source_mask[..14], [0xff; 14]);
        assert_eq!(compiled.source_mask[14..], [0, 0]);
        assert_eq!((compiled.target_mask, compiled.target_port), ([0; 16], 80));
        assert_eq!(compiled.verdicts, 0b1100);
        assert_eq!(compiled.sockets, TraceFilter::ANY_SOCKET, "told apart here");
    }
}
