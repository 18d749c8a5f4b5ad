//! Who asks, and what for: what people write, and what it means in a cluster.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use http::Uri;
use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use serde::Serialize;

use super::{
    cluster::{Cluster, PodFacts, PodName},
    connection::Client,
};
use nodegate_model::service::{IpFamily, Protocol};
use nodegate_resources::{Resources, lookup::service_of, object::Object};
use nodegate_values::spelling::nearest;

/// Whom `external` stands for: addresses for documentation (RFC 5737, RFC 3849), which are nobody's.
const OUTSIDE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientSpec {
    /// `external`: a machine outside the cluster.
    External,
    /// `node`: a process on the node.
    Node,
    /// `pod/NS/NAME`: a process in a pod.
    Pod(PodName),
    /// Whoever has this address.
    Address(IpAddr),
}

/// Why a text names neither a client nor a target.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// No client is written like this.
    #[error("`{0}` is nobody (fix: `external`, `node`, `pod/NAMESPACE/NAME` or an address)")]
    NoClient(String),
    /// A pod lacks its namespace or name.
    #[error("a pod is written pod/NAMESPACE/NAME")]
    NoPodName,
    /// An address alone; with an example of one with a port.
    #[error("`{text}` has no port (fix: {example}, or another port)")]
    NoPort {
        /// What was written.
        text: String,
        /// The address with a port.
        example: SocketAddr,
    },
    /// Not a URL, although it has `://`.
    #[error("`{text}` is no URL: {source}")]
    NoUrl {
        /// What was written.
        text: String,
        /// What is wrong with it.
        source: http::uri::InvalidUri,
    },
    /// A URL of another scheme than http and https.
    #[error(
        "`{0}`: only http:// and https:// are understood (fix: ADDRESS:PORT, for the connection)"
    )]
    OtherScheme(String),
    /// A URL without a host.
    #[error("`{0}` has no host (fix: http://ADDRESS:PORT/PATH)")]
    NoHost(String),
    /// No target is written like this.
    #[error(
        "`{0}` is nothing to connect to (fix: ADDRESS:PORT such as 10.96.0.1:80 or [fd00::1]:80, \
         http://ADDRESS:PORT/PATH, or a Service as NAMESPACE/NAME:PORT)"
    )]
    NoTarget(String),
}

/// What for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetSpec {
    /// An address and a port.
    Address(SocketAddr),
    /// `http://HOST:PORT/PATH`, or with `https`
    Url {
        /// Whether TLS is spoken.
        secure: bool,
        /// An address, or a name of a Service.
        host: String,
        /// That of the scheme if the URL has none.
        port: u16,
        /// Host and port as the URL has them.
        authority: String,
        /// Path and query.
        path: String,
    },
    /// `NS/NAME:PORT`: the cluster IP of a Service.
    Service {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Number or name of the port; none if there is only one.
        port: Option<String>,
    },
}

/// What cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    /// There is no such Service.
    #[error("there is no Service {namespace}/{name} among the manifests{hint}")]
    NoService {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// What may be meant.
        hint: String,
    },
    /// The Service has no address of its own.
    #[error(
        "Service {0} has no cluster IP: its clients connect to its pods themselves (fix: give a \
         pod's address)"
    )]
    NoClusterIp(String),
    /// The Service's port is not given, or it has no such port.
    #[error("Service {service} has {what} (fix: {ports})")]
    Port {
        /// Which Service.
        service: String,
        /// What is wrong.
        what: String,
        /// Those that it has.
        ports: String,
    },
    /// A name that means nothing here.
    #[error(
        "`{0}` is neither an address nor a Service's name: names are not looked up (fix: \
         http://ADDRESS:PORT/PATH --host {0})"
    )]
    Name(String),
    /// There is no such pod.
    #[error("there is no Pod {0} among the manifests{1}")]
    NoPod(PodName, String),
    /// Nothing says what the pod's address is.
    #[error(
        "Pod {0} has no {1} address: neither its status.podIPs nor an EndpointSlice has one (fix: \
         add it, or give the address in place of the pod)"
    )]
    NoPodAddress(PodName, IpFamily),
    /// Nothing says which node it is about.
    #[error("{what} (fix: --node NAME{candidates})")]
    Node {
        /// Why that is not clear.
        what: String,
        /// Those that there are.
        candidates: String,
    },
    /// A client's own loopback address.
    #[error(
        "{0} is the client's own machine: nothing comes here (fix: `node` in place of FROM, for a \
         process on the node)"
    )]
    Loopback(IpAddr),
    /// Two families.
    #[error("{0} cannot send to {1}: one is IPv4, the other IPv6")]
    Families(IpAddr, IpAddr),
}

/// Who asks, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Asker {
    /// A machine outside the cluster.
    External,
    /// A process on the node.
    Node,
    /// A process in a pod.
    Pod {
        /// Which.
        pod: PodName,
        /// The node that it is on, if that is known.
        node: Option<String>,
    },
}

/// Where `to` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Address and port.
    pub socket: SocketAddr,
    /// The protocol of the Service's port, if one was named.
    pub protocol: Option<Protocol>,
}

// === impl ClientSpec ===

impl FromStr for ClientSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "external" {
            return Ok(Self::External);
        }
        if text == "node" {
            return Ok(Self::Node);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let parts: Vec<_> = text.split('/').collect();
        match parts[..] {
            ["pod", namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::Pod(PodName {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                }))
            }
            ["pod", ..] => Err(SpecError::NoPodName),
            _ => Err(SpecError::NoClient(text.to_owned())),
        }
    }
}

impl ClientSpec {
    /// Resolves it for a client on, or a packet that arrives at, the node `node`.
    ///
    /// # Errors
    ///
    /// If the cluster has no such pod or node, or it has no address of the family that is asked for.
    pub fn resolve(
        &self,
        cluster: &Cluster,
        node: &str,
        own: &[IpAddr],
        destination: IpAddr,
    ) -> Result<(Asker, Client), QuestionError> {
        let family = IpFamily::of(destination);
        let (asker, client) = match self {
            Self::Node => (Asker::Node, Client::Node),
            Self::External => {
                let outside = OUTSIDE.iter().filter_map(|text| text.parse().ok());
                let address = outside.into_iter().find(|a| IpFamily::of(*a) == family);
                let client = address.map_or(Client::Node, Client::Network);
                (Asker::External, client)
            }
            Self::Address(address) if address.is_loopback() || own.contains(address) => {
                (Asker::Node, Client::Node)
            }
            Self::Address(address) => match cluster.pod_with(*address) {
                Some((pod, _)) => in_pod(cluster, pod, node, Some(*address), family)?,
                None => (Asker::External, Client::Network(*address)),
            },
            Self::Pod(pod) => in_pod(cluster, pod, node, None, family)?,
        };
        match client {
            Client::Node => {}
            Client::Pod(_) | Client::Network(_) if destination.is_loopback() => {
                return Err(QuestionError::Loopback(destination));
            }
            Client::Pod(address) | Client::Network(address) => {
                if IpFamily::of(address) != family {
                    return Err(QuestionError::Families(address, destination));
                }
            }
        }
        Ok((asker, client))
    }
}

fn in_pod(
    cluster: &Cluster,
    pod: &PodName,
    node: &str,
    address: Option<IpAddr>,
    family: IpFamily,
) -> Result<(Asker, Client), QuestionError> {
    let Some(facts) = cluster.pods().get(pod) else {
        let like = cluster.pods().keys().filter(|other| {
            other.namespace == pod.namespace && other.name.starts_with(pod.name.as_str())
        });
        let hint = one_of(like.map(|pod| format!("pod/{pod}")));
        return Err(QuestionError::NoPod(pod.clone(), hint));
    };
    let mut addresses = facts.addresses.iter().copied();
    let address = address.or_else(|| addresses.find(|address| IpFamily::of(*address) == family));
    let address = address.ok_or_else(|| QuestionError::NoPodAddress(pod.clone(), family))?;
    let here = facts.node.as_deref().is_none_or(|its| its == node);
    let asker = Asker::Pod {
        pod: pod.clone(),
        node: facts.node.clone(),
    };
    let client = if here {
        Client::Pod(address)
    } else {
        // On its own node it may have been translated already; what is asked here is what this node
        // does with what arrives.
        Client::Network(address)
    };
    Ok((asker, client))
}

/// ` (fix: …)`, or nothing.
fn one_of(candidates: impl Iterator<Item = String>) -> String {
    let mut candidates: Vec<_> = candidates.take(4).collect();
    let more = if candidates.len() > 3 { ", …" } else { "" };
    candidates.truncate(3);
    if candidates.is_empty() {
        String::new()
    } else {
        format!(" (fix: {}{more})", candidates.join(", "))
    }
}

// === impl TargetSpec ===

impl FromStr for TargetSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            let address = socket.ip().to_canonical();
            return Ok(Self::Address(SocketAddr::new(address, socket.port())));
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            let example = SocketAddr::new(address, 80);
            let text = text.to_owned();
            return Err(SpecError::NoPort { text, example });
        }
        if text.contains("://") {
            return url(text);
        }
        service(text).ok_or_else(|| SpecError::NoTarget(text.to_owned()))
    }
}

fn url(text: &str) -> Result<TargetSpec, SpecError> {
    let uri: Uri = text.parse().map_err(|source| SpecError::NoUrl {
        text: text.to_owned(),
        source,
    })?;
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(SpecError::OtherScheme(text.to_owned())),
    };
    let (host, authority) = match (uri.host(), uri.authority()) {
        (Some(host), Some(authority)) if !host.is_empty() => (host, authority.as_str()),
        _ => return Err(SpecError::NoHost(text.to_owned())),
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok(TargetSpec::Url {
        secure,
        host: host.trim_matches(['[', ']']).to_owned(),
        port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
        authority: authority.to_owned(),
        path: path.to_owned(),
    })
}

/// `NS/NAME` or `NS/NAME:PORT`
fn service(text: &str) -> Option<TargetSpec> {
    let (namespace, rest) = text.split_once('/')?;
    let (name, port) = match rest.split_once(':') {
        Some((name, port)) => (name, Some(port.to_owned())),
        None => (rest, None),
    };
    let is_name = |name: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        !name.is_empty() && name.bytes().all(plain)
    };
    let port_is_sound = port.as_deref().is_none_or(is_name);
    (is_name(namespace) && is_name(name) && port_is_sound).then(|| TargetSpec::Service {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        port,
    })
}

impl TargetSpec {
    /// Resolves it.
    ///
    /// # Errors
    ///
    /// If there is no such Service or port, or more than one fits.
    pub fn resolve(&self, resources: &Resources) -> Result<Target, QuestionError> {
        match self {
            Self::Address(socket) => Ok(Target {
                socket: *socket,
                protocol: None,
            }),
            Self::Url { host, port, .. } => {
                if let Ok(address) = host.parse::<IpAddr>() {
                    let socket = SocketAddr::new(address.to_canonical(), *port);
                    return Ok(Target {
                        socket,
                        protocol: Some(Protocol::Tcp),
                    });
                }
                let (namespace, name) =
                    named(resources, host).ok_or_else(|| QuestionError::Name(host.clone()))?;
                cluster_ip(resources, &namespace, &name, Some(&port.to_string()))
            }
            Self::Service {
                namespace,
                name,
                port,
            } => cluster_ip(resources, namespace, name, port.as_deref()),
        }
    }

    /// Whether it is the URL of something that speaks TLS.
    pub fn is_secure(&self) -> bool {
        matches!(self, Self::Url { secure: true, .. })
    }

    /// Host and path, if it is a URL.
    pub fn url(&self) -> Option<(String, String)> {
        match self {
            Self::Url {
                authority, path, ..
            } => Some((authority.clone(), path.clone())),
            Self::Address(_) | Self::Service { .. } => None,
        }
    }
}

/// The Service that a host name is about: `name.namespace`, and so on up to `.svc.cluster.local`.
fn named(resources: &Resources, host: &str) -> Option<(String, String)> {
    let full = match host.strip_suffix(".svc") {
        Some(short) => format!("{short}.svc.cluster.local"),
        None if service_of(host).is_some() => host.to_owned(),
        None => format!("{host}.svc.cluster.local"),
    };
    let (namespace, name) = service_of(&full)?;
    resources.service(namespace, name)?;
    Some((namespace.to_owned(), name.to_owned()))
}

fn cluster_ip(
    resources: &Resources,
    namespace: &str,
    name: &str,
    port: Option<&str>,
) -> Result<Target, QuestionError> {
    let Some(service) = resources.service(namespace, name) else {
        let written = |object: &Object| format!("{}/{}", object.key.namespace, object.key.name);
        let elsewhere = resources
            .services()
            .filter(|(object, _)| object.key.name == name)
            .map(|(object, _)| written(object));
        let mut meant: Vec<_> = elsewhere.collect();
        if meant.is_empty() {
            let all = resources.services().map(|(object, _)| written(object));
            meant.extend(nearest(&format!("{namespace}/{name}"), all));
        }
        return Err(QuestionError::NoService {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            hint: one_of(meant.into_iter()),
        });
    };
    let service_name = format!("{namespace}/{name}");
    let spec = service.spec.as_ref();
    let port = the_port(&service_name, spec, port)?;
    let number = u16::try_from(port.port).unwrap_or_default();
    let several = spec.and_then(|spec| spec.cluster_ips.as_ref());
    let one = spec.and_then(|spec| spec.cluster_ip.as_ref());
    let mut addresses = several.into_iter().flatten().chain(one);
    let address = addresses.find_map(|address| address.parse().ok());
    let address: IpAddr = address.ok_or(QuestionError::NoClusterIp(service_name))?;
    Ok(Target {
        socket: SocketAddr::new(address, number),
        protocol: Some(match port.protocol.as_deref() {
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            _ => Protocol::Tcp,
        }),
    })
}

/// The port that is named, by its name or its number, or the only one.
fn the_port<'s>(
    service_name: &str,
    spec: Option<&'s ServiceSpec>,
    port: Option<&str>,
) -> Result<&'s ServicePort, QuestionError> {
    let ports: Vec<_> = spec
        .and_then(|spec| spec.ports.as_ref())
        .into_iter()
        .flatten()
        .collect();
    let wrong = |what: String| QuestionError::Port {
        service: service_name.to_owned(),
        what,
        ports: ports
            .iter()
            .map(|port| match port.name.as_deref() {
                Some(name) if !name.is_empty() => format!("{service_name}:{name}"),
                _ => format!("{service_name}:{}", port.port),
            })
            .collect::<Vec<_>>()
            .join(" or "),
    };
    let found = match (port, &ports[..]) {
        (None, [only]) => Some(only),
        (None, _) => return Err(wrong("several ports".to_owned())),
        (Some(wanted), _) => ports
            .iter()
            .find(|port| port.name.as_deref() == Some(wanted) || port.port.to_string() == *wanted),
    };
    let found = found.ok_or_else(|| wrong(format!("no port {}", port.unwrap_or_default())))?;
    match u16::try_from(found.port) {
        Ok(_) => Ok(found),
        Err(_) => Err(wrong(format!("the port {}, which is none", found.port))),
    }
}

/// Which node it is about: the one that is named, that of the pod which asks, the one that has the
/// address, or the only one.
///
/// # Errors
///
/// If the node that is named is not there, or several nodes could be meant.
pub fn node(
    cluster: &Cluster,
    named: Option<&str>,
    from: &ClientSpec,
    destination: IpAddr,
) -> Result<String, QuestionError> {
    let nodes = cluster.nodes();
    let candidates = || {
        let names: Vec<_> = nodes.keys().map(String::as_str).collect();
        if names.is_empty() {
            String::new()
        } else {
            format!("; there are {}", names.join(", "))
        }
    };
    if let Some(name) = named {
        if nodes.is_empty() || nodes.contains_key(name) {
            return Ok(name.to_owned());
        }
        return Err(QuestionError::Node {
            what: format!("there is no node {name}: neither a Node nor an endpoint names it"),
            candidates: candidates(),
        });
    }
    let pod = match from {
        ClientSpec::Pod(pod) => cluster.pods().get(pod),
        ClientSpec::Address(address) => cluster.pod_with(*address).map(|(_, facts)| facts),
        ClientSpec::External | ClientSpec::Node => None,
    };
    let of_pod = pod.and_then(|facts| facts.node.as_deref());
    let only = || (nodes.len() == 1).then(|| nodes.keys().next().map(String::as_str));
    let found = of_pod
        .or_else(|| cluster.node_with(destination))
        .or_else(|| only().flatten());
    match found {
        Some(name) => Ok(name.to_owned()),
        None if nodes.is_empty() => Err(QuestionError::Node {
            what: "the manifests name no node, neither in Nodes nor in EndpointSlices".to_owned(),
            candidates: String::new(),
        }),
        None => Err(QuestionError::Node {
            what: "there are several nodes, and each may decide otherwise".to_owned(),
            candidates: candidates(),
        }),
    }
}

/// The node that decides what becomes of a connection, as far as objects tell. A process's connection is
/// decided where the process is; a client's from outside, where its packets arrive.
pub fn decider(cluster: &Cluster, from: &ClientSpec, destination: IpAddr) -> Option<String> {
    let of_pod = |facts: &PodFacts| facts.node.clone();
    let where_it_arrives = || {
        let node = cluster.node_with(destination).map(str::to_owned);
        node.or_else(|| {
            cluster
                .pod_with(destination)
                .and_then(|(_, pod)| of_pod(pod))
        })
    };
    match from {
        // On whichever is asked.
        ClientSpec::Node => None,
        ClientSpec::Pod(pod) => cluster.pods().get(pod).and_then(of_pod),
        ClientSpec::Address(address) => match cluster.pod_with(*address) {
            Some((_, pod)) => of_pod(pod),
            None => cluster
                .node_with(*address)
                .map(str::to_owned)
                .or_else(where_it_arrives),
        },
        ClientSpec::External => where_it_arrives(),
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::External => f.write_str("a client outside the cluster"),
            Self::Node => f.write_str("a process on the node"),
            Self::Pod { pod, node } => {
                write!(f, "Pod {pod}")?;
                match node {
                    Some(node) => write!(f, " on {node}"),
                    None => Ok(()),
                }
            }
        }
    }
}
