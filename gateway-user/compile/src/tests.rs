mod entries;
mod fields;
mod gateway;
mod http;
mod incremental;
mod policies;
mod policy;
mod review;
mod scenarios;
mod services;
mod shifting;
mod tls;

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use nodegate_model::{
    Snapshot,
    gateway::{
        ChainProtocol, HttpRoute, HttpRoutes, Listener, ListenerProtocol, PathMatch, PathRewrite,
        TcpRoute, TlsChain,
    },
};
use nodegate_resources::{Resources, admission::Store, manifest::Manifest};
use nodegate_values::diagnostic::Severity;

use super::{GatewayIdentity, NodeIdentity, Publisher, ServiceScope, compile};

/// Admits texts, and files of the repository's `tests/manifests`.
#[derive(Default)]
struct Cluster {
    manifests: Vec<Manifest>,
}

impl Cluster {
    fn with(texts: &[&str]) -> Self {
        let mut cluster = Self::default();
        for text in texts {
            cluster.add(text);
        }
        cluster
    }

    fn scenario(files: &[&str]) -> Self {
        let mut cluster = Self::default();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/manifests");
        for file in files {
            let text = fs::read_to_string(root.join(file)).unwrap();
            cluster.manifests.push(Manifest::parse(file.into(), &text));
        }
        cluster
    }

    fn add(&mut self, text: &str) {
        let file = format!("{}.yaml", self.manifests.len());
        self.manifests.push(Manifest::parse(file.into(), text));
    }

    /// A pod, behind the Services of its namespace that are named, each with the port's name and
    /// number.
    fn pod(
        &mut self,
        pod: &str,
        address: &str,
        node: &str,
        labels: &str,
        services: &[(&str, &str, u16)],
    ) {
        let (namespace, name) = pod.split_once('/').unwrap();
        let mut text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{{labels}}}}}\n"
        );
        for (service, port, number) in services {
            write!(
                text,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: {namespace}, name: {service}-{name}-{number}, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{{name: \"{port}\", port: {number}, protocol: TCP}}]\nendpoints:\n- addresses: [{address}]\n  nodeName: {node}\n  conditions: {{ready: true}}\n  targetRef: {{kind: Pod, namespace: {namespace}, name: {name}}}\n"
            )
            .unwrap();
        }
        self.add(&text);
    }

    fn resources(&self) -> Resources {
        (*Store::default().admit(&self.manifests, Vec::new())).clone()
    }

    fn snapshot(&self, scope: &ServiceScope) -> std::sync::Arc<Snapshot> {
        self.snapshot_for("istio-system", scope)
    }

    /// The same with a gateway in that namespace.
    fn snapshot_for(&self, namespace: &str, scope: &ServiceScope) -> std::sync::Arc<Snapshot> {
        let labels = [("app", "istio-ingressgateway"), ("istio", "ingressgateway")];
        let identity = GatewayIdentity {
            namespace: namespace.into(),
            name: "istio-ingressgateway-0".into(),
            labels: labels.map(|(key, value)| (key.into(), value.into())).into(),
            ..GatewayIdentity::default()
        };
        let node = NodeIdentity::named("node1");
        let compiled = compile(&self.resources(), &node, Some(&identity), scope);
        Publisher::default().publish(compiled)
    }
}

/// Errors and warnings.
fn messages(snapshot: &Snapshot) -> Vec<String> {
    snapshot
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity > Severity::Info)
        .map(ToString::to_string)
        .collect()
}

/// The listeners, one line for each route.
fn listeners(snapshot: &Snapshot) -> Vec<String> {
    snapshot
        .gateway
        .listeners
        .iter()
        .flat_map(listener)
        .collect()
}

fn listener(listener: &Listener) -> Vec<String> {
    let port = listener.port;
    match &listener.protocol {
        ListenerProtocol::Tcp(route) => vec![format!(
            "{port} tcp {}/{}#{} ->{}",
            route.origin.namespace,
            route.origin.name,
            route.origin.index,
            destinations(&route.destinations)
        )],
        ListenerProtocol::Http(routes) => http(port, routes),
        ListenerProtocol::Tls(tls) => tls.chains.iter().flat_map(|of| chain(port, of)).collect(),
    }
}

fn http(port: u16, routes: &HttpRoutes) -> Vec<String> {
    let head = format!("{port} {}", routes.name);
    let hosts = routes.virtual_hosts.iter().flat_map(|host| {
        let domains = host.domains.join(",");
        let routes = host.routes.iter();
        routes.map(move |r| format!("{port} {} [{domains}] {}", host.name, route(r)))
    });
    [head].into_iter().chain(hosts).collect()
}

fn chain(port: u16, chain: &TlsChain) -> Vec<String> {
    let names = chain.server_names.join(",");
    let leading = |what: &str, route: &TcpRoute| {
        let to = destinations(&route.destinations);
        vec![format!("{port} {what} {} for [{names}] ->{to}", chain.name)]
    };
    match &chain.protocol {
        ChainProtocol::Passthrough(route) => leading("passes", route),
        ChainProtocol::Tls { route, .. } => leading("ends", route),
        ChainProtocol::Https { routes, .. } => {
            let mut lines = vec![format!("{port} ends {} for [{names}]", chain.name)];
            lines.extend(http(port, routes).into_iter().skip(1));
            lines
        }
    }
}

fn route(route: &HttpRoute) -> String {
    let path = match &route.matches.path {
        PathMatch::Exact(path) => format!("={path}"),
        PathMatch::Prefix(path) => format!("{path}*"),
        PathMatch::Regex(pattern) => format!("~{pattern}"),
    };
    let rewrite = route.action.forward().and_then(|to| to.rewrite.as_ref());
    let rewrite = rewrite.map(|to| match to {
        PathRewrite::Matched(to) => format!(" => {to}"),
        PathRewrite::Regex { substitution, .. } => format!(" ~> {}", substitution.as_str()),
    });
    let name = (!route.name.is_empty()).then(|| format!(" ({})", route.name));
    format!(
        "{path}{}{} {}/{}#{} ->{}",
        rewrite.unwrap_or_default(),
        name.unwrap_or_default(),
        route.origin.namespace,
        route.origin.name,
        route.origin.index,
        destinations(route.destinations())
    )
}

fn destinations(destinations: &[nodegate_model::gateway::Destination]) -> String {
    let each = destinations.iter();
    let each: Vec<_> = each
        .map(|to| format!(" {}*{}", to.cluster, to.weight))
        .collect();
    each.concat()
}

fn clusters(snapshot: &Snapshot) -> BTreeMap<&str, Vec<String>> {
    let clusters = snapshot.gateway.clusters.iter();
    clusters
        .map(|(name, cluster)| {
            let endpoints = cluster.endpoints.iter();
            let endpoints = endpoints.map(|to| to.address.to_string()).collect();
            assert_eq!(*name, cluster.name);
            (name.as_str(), endpoints)
        })
        .collect()
}

/// `name protocol port/nodePort clusterIPs externalIPs -> endpoints` of every Service port.
fn services(snapshot: &Snapshot) -> Vec<String> {
    let line = |service: &std::sync::Arc<nodegate_model::service::ServicePort>| {
        let endpoints: Vec<_> = service
            .endpoints
            .iter()
            .map(|to| {
                format!(
                    " {}:{}{}",
                    to.address,
                    to.port,
                    match (to.local, to.ready) {
                        (true, true) => "!",
                        (false, true) => "",
                        (true, false) => "!?",
                        (false, false) => "?",
                    }
                )
            })
            .collect();
        format!(
            "{} {} {}/{} {:?} {:?} ->{}",
            service.name,
            service.protocol.lowercase(),
            service.port,
            service.node_port.unwrap_or_default(),
            service.cluster_ips,
            service.external_ips,
            endpoints.concat(),
        )
    };
    snapshot.services.iter().map(line).collect()
}

#[test]
fn what_has_not_changed_is_shared_with_the_snapshot_before() {
    let service = |name: &str, port: u16| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"
        )
    };
    let mut publisher = Publisher::default();
    let mut publish = |services: &[(&str, u16)]| {
        let texts: Vec<_> = services
            .iter()
            .map(|(name, port)| service(name, *port))
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let resources = Cluster::with(&texts).resources();
        let node = NodeIdentity::default();
        publisher.publish(compile(&resources, &node, None, &ServiceScope::All))
    };
    let first = publish(&[("a", 80), ("c", 80), ("d", 80), ("e", 80)]);
    let second = publish(&[("b", 80), ("c", 80), ("d", 81), ("e", 80)]);
    let is_shared: Vec<_> = second
        .services
        .iter()
        .map(|service| {
            first
                .services
                .iter()
                .any(|old| std::sync::Arc::ptr_eq(old, service))
        })
        .collect();
    assert_eq!(is_shared, [false, true, false, true]);
}

#[test]
fn a_generation_is_new_only_when_there_is_something_to_apply() {
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";
    let mut publisher = Publisher::default();
    let mut publish = |texts: &[&str]| {
        let resources = Cluster::with(texts).resources();
        let node = NodeIdentity::default();
        publisher.publish(compile(&resources, &node, None, &ServiceScope::All))
    };
    let first = publish(&[service]);
    assert_eq!((first.generation, first.services.len()), (1, 1));
    assert!(std::sync::Arc::ptr_eq(&first, &publish(&[service])));
    let warned = publish(&[&service.replace("spec: {", "spec: {x: 1, ")]);
    assert_eq!((warned.generation, warned.diagnostics.len()), (1, 1));
    assert_eq!(publish(&[&service.replace("80", "81")]).generation, 2);
    assert_eq!(publish(&[]).generation, 3);
}
