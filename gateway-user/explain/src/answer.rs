//! All that is to be said about a question.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use gateway_common::decide::Verdict;
use serde::Serialize;

use super::{
    cluster::{Cluster, PodFacts, PodName},
    connection::{Attempt, Client, Connection, connection},
    node::{Choices, Loaded, Node},
    question::{Asker, ClientSpec, QuestionError, TargetSpec, decider, node},
    request::{Known, Request, Routed, TlsAsked, route},
};
use nodegate_compile::{
    GatewayIdentity, NodeIdentity, ServiceScope, TcpShifting, Unenforced, compile, gateway,
    kube_proxy,
};
use nodegate_iptables::config::{ConfigError, KubeProxyArgs, KubeProxyConfig};
use nodegate_model::service::{Protocol, ServicePort};
use nodegate_resources::{Resources, lookup::selects};
use nodegate_values::diagnostic::JSON_SCHEMA;

mod closed;
mod endpoints;
mod outcome;
mod said;
mod shifted;
mod text;

pub use outcome::Outcome;
use outcome::outcome;
pub use shifted::{Shifted, ShiftedShare};
pub use text::{Brief, LABEL};

/// What is asked, as it is written.
#[derive(Debug)]
pub struct Question {
    /// Who asks.
    pub from: ClientSpec,
    /// What for.
    pub to: TargetSpec,
    /// Transport protocol; none for that of the Service's port, else TCP.
    pub protocol: Option<Protocol>,
    /// Which node it is about.
    pub node: Option<String>,
    /// What is asked of a gateway; none for that of the URL.
    pub request: RequestParts,
}

/// What is said about a request; the rest is that of the URL, or what clients usually send.
#[derive(Clone, Debug, Default)]
pub struct RequestParts {
    /// `GET`, …
    pub method: Option<String>,
    /// The `Host` header.
    pub host: Option<String>,
    /// Path and query.
    pub path: Option<String>,
    /// Other headers.
    pub headers: Vec<(String, String)>,
    /// The name that is asked for in TLS, if it is another than the host's.
    pub server_name: Option<String>,
}

/// How the node is set up, beside what manifests say.
#[derive(Debug)]
pub struct Setup {
    /// kube-proxy's flags, but for the node's name.
    pub kube_proxy: KubeProxyArgs,
    /// nodegate's.
    pub choices: Choices,
    /// Which Services nodegate redirects.
    pub services: ServiceScope,
    /// kube-proxy's Services, where they are known from its rules and not from the objects.
    pub by_kube_proxy: Option<Vec<ServicePort>>,
    /// What gateways do where a policy is for them that is not enforced.
    pub unenforced: Unenforced,
    /// Who follows TCP routes that are nothing but weights.
    pub tcp_shifting: TcpShifting,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The question makes no sense.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// Nothing says what the node's addresses are.
    #[error(
        "there is no Node {0} among the manifests, so nothing says what its addresses are (fix: add \
         the Node object, or --node-address IP)"
    )]
    NoNode(String),
    /// The node is not known well enough.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// See [`JSON_SCHEMA`].
    pub schema: u32,
    /// The node that it is about.
    pub node: String,
    /// Who asks.
    pub from: Asker,
    /// What becomes of the connection.
    pub connection: Connection,
    /// The pods behind the addresses that occur.
    pub pods: BTreeMap<SocketAddr, PodAt>,
    /// The TCP route that takes it over, if the Service port has one.
    pub shift: Option<Shifted>,
    /// What the gateway does, if it leads to one.
    pub gateway: Option<Routed>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
    /// How it ends.
    pub result: Outcome,
}

/// A pod, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodAt {
    /// Which.
    pub pod: PodName,
    /// The node that it is on.
    pub node: Option<String>,
}

/// Answers a question; with `loaded`, by what the maps of a running nodegate hold, else by what they
/// would.
///
/// # Errors
///
/// If the question names what is not there, or the node's rules cannot be predicted.
pub fn explain(
    resources: &Resources,
    setup: &Setup,
    loaded: Option<Loaded>,
    question: &Question,
) -> Result<Answer, ExplainError> {
    let cluster = Cluster::new(resources);
    let target = question.to.resolve(resources)?;
    let name = node(
        &cluster,
        question.node.as_deref(),
        &question.from,
        target.socket.ip(),
    )?;
    let world = World::new(resources, setup, loaded, &name)?;
    let own = world.node.addresses();
    let (from, client) = question
        .from
        .resolve(&cluster, &name, own, target.socket.ip())?;
    let attempt = Attempt {
        client,
        destination: target.socket,
        protocol: question
            .protocol
            .or(target.protocol)
            .unwrap_or(Protocol::Tcp),
    };
    let connection = connection(&world.node, &attempt);
    let ends = ends(&connection);
    let shift = Shifted::of(&world.compiled, &connection);
    let request = question.request(attempt.destination);
    let (gateway, told) = ends
        .first()
        .and_then(|end| {
            (attempt.protocol == Protocol::Tcp)
                .then(|| world.gateway(&cluster, *end, request.as_ref()))?
        })
        .unzip();
    let closed = ends.first().filter(|_| gateway.is_none()).and_then(|end| {
        let identity = identity(resources, &cluster, &world.services, *end)?;
        (attempt.protocol == Protocol::Tcp).then(|| closed::why(&world, &identity, *end))?
    });
    let mut notes = world.node.refused().to_vec();
    notes.extend(notes_on(&world, &name, &attempt, &connection));
    notes.extend(endpoints::notes(&world, &connection));
    let told = told.unwrap_or_default();
    let first = told.first().cloned();
    notes.extend(told);
    if let Some(end) = ends.first()
        && gateway.is_none()
        && closed.is_none()
        && request.is_some()
    {
        notes.push(format!(
            "{end} is no listener of a gateway: the request goes to whatever is there"
        ));
    }
    let result = match closed {
        Some(text) => Outcome {
            good: false,
            text,
            why: String::new(),
        },
        None => outcome(
            &connection,
            &cluster,
            &ends,
            shift.as_ref(),
            gateway.as_ref(),
        ),
    };
    let why = match result.why.as_str() {
        "" => first.unwrap_or_default(),
        _ => result.why,
    };
    let result = Outcome { why, ..result };
    Ok(Answer {
        schema: JSON_SCHEMA,
        node: name,
        from,
        pods: pods(&cluster, &ends, gateway.as_ref()),
        connection,
        shift,
        gateway,
        notes,
        result,
    })
}

/// The node that decides, if it is another one than `here`, and the question names none.
///
/// # Errors
///
/// If the question names what is not there.
pub fn decided_elsewhere(
    resources: &Resources,
    question: &Question,
    here: &str,
) -> Result<Option<String>, ExplainError> {
    if question.node.is_some() {
        return Ok(None);
    }
    let target = question.to.resolve(resources)?;
    let cluster = Cluster::new(resources);
    let decider = decider(&cluster, &question.from, target.socket.ip());
    Ok(decider.filter(|node| node != here))
}

/// What is made of the manifests.
struct World<'w> {
    resources: &'w Resources,
    /// As kube-proxy has them.
    services: Vec<ServicePort>,
    /// As nodegate has them.
    compiled: Vec<Arc<ServicePort>>,
    node: Node,
    unenforced: Unenforced,
}

// === impl World ===

impl<'w> World<'w> {
    fn new(
        resources: &'w Resources,
        setup: &Setup,
        loaded: Option<Loaded>,
        name: &str,
    ) -> Result<Self, ExplainError> {
        if resources.node(name).is_none() && setup.kube_proxy.node_addresses.is_empty() {
            return Err(ExplainError::NoNode(name.to_owned()));
        }
        let identity = NodeIdentity {
            name: name.to_owned(),
            tcp_shifting: setup.tcp_shifting,
        };
        let args = setup.kube_proxy.on(resources, name);
        let config = KubeProxyConfig::new(&args, resources)?;
        let by_kube_proxy = if let Some(services) = &setup.by_kube_proxy {
            services.clone()
        } else {
            kube_proxy(resources, &identity, &mut Vec::new())
        };
        let (compiled, node) = if let Some(mut loaded) = loaded {
            let compiled = std::mem::take(&mut loaded.services);
            (compiled, Node::running(&by_kube_proxy, config, loaded))
        } else {
            let mut compiled = compile(resources, &identity, None, &setup.services);
            if let Some(services) = &setup.by_kube_proxy {
                compiled = compiled.with_services(services, &[], &setup.services);
            }
            let node = Node::new(&by_kube_proxy, &compiled.services, config, &setup.choices);
            (compiled.services, node)
        };
        Ok(Self {
            compiled,
            resources,
            services: by_kube_proxy,
            node,
            unenforced: setup.unenforced,
        })
    }

    /// What the gateway pod at this address does, if there is one and it listens there.
    fn gateway(
        &self,
        cluster: &Cluster,
        at: SocketAddr,
        request: Option<&Request>,
    ) -> Option<(Routed, Vec<String>)> {
        let identity = GatewayIdentity {
            unenforced: self.unenforced,
            ..identity(self.resources, cluster, &self.services, at)?
        };
        let mut diagnostics = Vec::new();
        let known = Known {
            gateway: &gateway(self.resources, &identity, &mut diagnostics),
            resources: self.resources,
            services: &self.services,
            identity: &identity,
        };
        let routed = route(&known, at.port(), request)?;
        let told = said::about(&known, &diagnostics, &routed);
        Some((routed, told))
    }
}

/// The pod at an address, as a gateway. Of a pod whose object is not among the manifests, the labels
/// are those that its Service wants.
fn identity(
    resources: &Resources,
    cluster: &Cluster,
    services: &[ServicePort],
    at: SocketAddr,
) -> Option<GatewayIdentity> {
    let pod = cluster.pod_with(at.ip());
    if let Some((pod, facts)) = pod
        && let Some(labels) = &facts.labels
    {
        return Some(GatewayIdentity {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            labels: labels.clone(),
            ..GatewayIdentity::default()
        });
    }
    let leads_here = |service: &&ServicePort| {
        service
            .endpoints
            .iter()
            .any(|endpoint| endpoint.socket() == at)
    };
    services.iter().filter(leads_here).find_map(|service| {
        let name = &service.name;
        let spec = resources
            .service(&name.namespace, &name.name)?
            .spec
            .as_ref()?;
        let labels = spec.selector.as_ref().filter(|labels| !labels.is_empty())?;
        let chosen = |selector| selects(selector, Some(labels));
        resources
            .gateways()
            .any(|(_, gateway)| chosen(&gateway.spec.selector))
            .then(|| GatewayIdentity {
                namespace: name.namespace.clone(),
                name: pod.map_or_else(|| name.name.clone(), |(pod, _)| pod.name.clone()),
                labels: labels.clone(),
                ..GatewayIdentity::default()
            })
    })
}

// === impl Question ===

impl Question {
    /// The request, if there is anything to say about one.
    fn request(&self, destination: SocketAddr) -> Option<Request> {
        let RequestParts {
            method,
            host,
            path,
            headers,
            server_name,
        } = &self.request;
        let url = self.to.url();
        let asked = method.is_some() || host.is_some() || path.is_some() || !headers.is_empty();
        if url.is_none() && !asked {
            return None;
        }
        let (authority, url_path) = url.unzip();
        let of_target = || authority.unwrap_or_else(|| destination.to_string());
        let host = host.clone().unwrap_or_else(of_target);
        // As `curl --resolve` does: the name that is asked for is the host's.
        let server_name = server_name.clone().or_else(|| name_of(&host));
        let secure = self.to.is_secure() || self.request.server_name.is_some();
        Some(Request {
            method: method.clone().unwrap_or_else(|| "GET".to_owned()),
            tls: secure.then_some(TlsAsked { server_name }),
            host,
            path: path.clone().or(url_path).unwrap_or_else(|| "/".to_owned()),
            headers: headers.clone(),
        })
    }
}

/// The name in a host; none of an address.
fn name_of(host: &str) -> Option<String> {
    let bare = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_address = host.starts_with('[') || bare.parse::<IpAddr>().is_ok();
    (!is_address).then(|| bare.to_ascii_lowercase())
}

/// Where the connection may go.
fn ends(connection: &Connection) -> Vec<SocketAddr> {
    match connection.nodegate.verdict {
        Verdict::Forward => {
            let taken = connection.backends.iter().filter(|b| b.probability > 0.0);
            taken.map(|backend| backend.address).collect()
        }
        Verdict::Pass => vec![connection.destination],
        Verdict::Reject | Verdict::Drop => Vec::new(),
    }
}

fn pods(
    cluster: &Cluster,
    ends: &[SocketAddr],
    gateway: Option<&Routed>,
) -> BTreeMap<SocketAddr, PodAt> {
    let shares = gateway.into_iter().flat_map(|routed| &routed.destinations);
    let endpoints = shares.flat_map(|share| &share.endpoints);
    let all = ends.iter().chain(endpoints);
    let pods = all.filter_map(|address| {
        let (pod, PodFacts { node, .. }) = cluster.pod_with(address.ip())?;
        let at = PodAt {
            pod: pod.clone(),
            node: node.clone(),
        };
        Some((*address, at))
    });
    pods.collect()
}

/// What an address is that leads nowhere.
fn notes_on(
    world: &World<'_>,
    node: &str,
    attempt: &Attempt,
    connection: &Connection,
) -> Vec<String> {
    let mut notes = Vec::new();
    let (ip, port) = (attempt.destination.ip(), attempt.destination.port());
    let is_cluster_ip = |service: &&ServicePort| service.cluster_ips.contains(&ip);
    if matches!(attempt.client, Client::Network(_))
        && world.services.iter().any(|s| is_cluster_ip(&s))
    {
        notes.push(format!(
            "{ip} is a cluster IP: outside the cluster there is no route to it, unless somebody has \
             made one"
        ));
    }
    if connection.nodegate.service.is_some() || connection.kube_proxy.verdict == Verdict::Forward {
        return notes;
    }
    let here = world.services.iter().filter(|service| {
        is_cluster_ip(service)
            || service.external_ips.contains(&ip)
            || service.load_balancer_ips.contains(&ip)
    });
    let mut here = here.peekable();
    if let Some(first) = here.peek() {
        let service = format!("{}/{}", first.name.namespace, first.name.name);
        let ports: Vec<_> = here
            .map(|service| format!("{} {}", service.port, service.protocol.lowercase()))
            .collect();
        notes.push(format!(
            "{ip} is an address of Service {service}, whose ports are {}",
            ports.join(", ")
        ));
    } else if world.node.addresses().contains(&ip) || ip.is_loopback() {
        let all = world.services.iter();
        if let Some(service) = all
            .clone()
            .find(|service| service.node_port == Some(port) && service.cluster_ips.is_empty())
        {
            notes.push(format!(
                "{port} is the node port of Service {}, which has no cluster IP: kube-proxy leaves such out, and so \
                 does nodegate (fix: clusterIP, which the API server gives; `nodegate collect` writes it)",
                service.name
            ));
            return notes;
        }
        let ports: Vec<_> = all
            .filter_map(|service| Some(format!("{} ({})", service.node_port?, service.name)))
            .collect();
        let list = if ports.is_empty() {
            "there are none".to_owned()
        } else {
            format!("they are {}", ports.join(", "))
        };
        notes.push(format!("{port} is no node port: {list}"));
    } else if matches!(attempt.client, Client::Network(_)) {
        notes.push(format!(
            "{ip} is no address of node {node}, nor of a Service: if another node has it, that one decides (fix: \
             ask there)"
        ));
    }
    notes
}

impl PodAt {
    /// Whether it is on the node.
    pub fn is_on(&self, node: &str) -> bool {
        self.node.as_deref() == Some(node)
    }
}
