//! Which pods there must be: replicas of Deployments, Pods, gateways; on which node, with which
//! address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, bail, ensure};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    admission::Store,
    config::{self, Layout},
    names::{self, Host},
    object::Object,
};

/// Annotation: the pod's addresses, with commas between them, and between those of the replicas: the
/// first of each family is the first replica's.
pub const ADDRESS: &str = "testbed.nodegate.io/address";
/// Annotation: the pod's node, or those of the replicas.
pub const NODE: &str = "testbed.nodegate.io/node";
/// Annotation: `false` for a pod that runs, but whose readiness probe fails. One value for all
/// replicas, or one for each. Changes do not replace the pod.
pub const READY: &str = "testbed.nodegate.io/ready";
/// Annotation: `true` for a pod that has been deleted and has not ended yet; it goes on serving. As
/// with [`READY`] otherwise.
pub const TERMINATING: &str = "testbed.nodegate.io/terminating";

/// What a pod is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// What Services select it by.
    pub labels: BTreeMap<String, String>,
    /// Read for [`ADDRESS`], [`NODE`], [`READY`] and [`TERMINATING`].
    pub annotations: BTreeMap<String, String>,
    /// The `PodSpec`, as written.
    pub spec: Value,
}

/// A pod that runs, or is about to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The object that it belongs to: `Deployment/simple/nginx`.
    pub owner: String,
    /// Which of the owner's replicas it is, from 0.
    pub index: usize,
    /// Changes with the template.
    pub hash: String,
    /// The node that it runs on.
    pub node: String,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// Its IPv6 address.
    pub address_v6: Ipv6Addr,
    /// Whether its readiness probe succeeds.
    pub ready: bool,
    /// Since when it is terminating, in RFC 3339.
    pub deleted: Option<String>,
    /// Whether it runs nodegate's proxy, not the built-in server.
    pub gateway: bool,
    /// What it is made from.
    pub template: Template,
    /// When it was made, in RFC 3339.
    pub created: String,
}

impl Pod {
    /// The pod as a machine.
    pub fn host(&self) -> Host {
        Host::pod(&self.namespace, &self.name)
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.address.into(), self.address_v6.into()]
    }

    /// Takes over what may change in a pod that runs.
    fn update(&mut self, template: &Template, now: &str) -> anyhow::Result<()> {
        let flag = |annotation| {
            let flag = template.flag(annotation, self.index);
            flag.with_context(|| self.owner.clone())
        };
        self.ready = flag(READY)?.unwrap_or(true);
        let terminating = flag(TERMINATING)?.unwrap_or(false);
        let since = self.deleted.take().unwrap_or_else(|| now.into());
        self.deleted = terminating.then_some(since);
        self.template.clone_from(template);
        Ok(())
    }
}

impl Template {
    /// What an annotation says about a replica: its one value counts for all of them.
    fn flag(&self, annotation: &str, index: usize) -> anyhow::Result<Option<bool>> {
        let Some(list) = self.annotations.get(annotation) else {
            return Ok(None);
        };
        let mut items = list.split(',').map(str::trim);
        let item = if list.contains(',') {
            items.nth(index)
        } else {
            items.next()
        };
        match item {
            None | Some("") => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => bail!("annotation {annotation}: `{other}` is neither true nor false"),
        }
    }
}

/// What one owner wants.
#[derive(Clone, Debug)]
struct Wanted {
    owner: String,
    namespace: String,
    /// A pod's name, or what it begins with.
    name: String,
    /// Whether `name` is the whole of it.
    exact: bool,
    replicas: usize,
    template: Template,
    gateway: bool,
    hash: String,
}

/// What must happen.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Pods that stay.
    pub(crate) keep: Vec<Pod>,
    /// Pods that must go.
    pub(crate) remove: Vec<Pod>,
    /// Pods that must be started.
    pub(crate) add: Vec<Pod>,
}

/// Compares what the objects want with what runs.
pub(crate) fn plan(
    store: &Store,
    layout: &Layout,
    running: &[Pod],
    created: &str,
) -> anyhow::Result<Change> {
    let mut wanted = Vec::new();
    for object in store.values() {
        match (object.key.group.as_str(), object.key.kind.as_str()) {
            ("apps", "Deployment") => wanted.push(deployment(object)?),
            ("", "Pod") => wanted.push(pod(object)?),
            _ => {}
        }
    }
    if !wanted.iter().any(|wanted| wanted.gateway) {
        wanted.extend(gateways(layout)?);
    }

    let mut change = Change::default();
    let mut missing = Vec::new();
    for wanted in &wanted {
        let mut kept: Vec<&Pod> = running
            .iter()
            .filter(|pod| pod.owner == wanted.owner && pod.hash == wanted.hash)
            .collect();
        kept.sort_by_key(|pod| pod.index);
        kept.truncate(wanted.replicas);
        let taken: BTreeSet<usize> = kept.iter().map(|pod| pod.index).collect();
        let free = (0..).filter(|index| !taken.contains(index));
        missing.extend(
            free.take(wanted.replicas - kept.len())
                .map(|index| (wanted, index)),
        );
        for pod in kept {
            let mut pod = pod.clone();
            pod.update(&wanted.template, created)?;
            change.keep.push(pod);
        }
    }
    // A pod that is replaced may have its successor's name, but has another hash.
    let stays = |pod: &Pod| {
        let mut keep = change.keep.iter();
        keep.any(|kept| kept.host() == pod.host() && kept.hash == pod.hash)
    };
    change.remove = running.iter().filter(|pod| !stays(pod)).cloned().collect();
    Placement::new(layout, &change).place(missing, created, &mut change.add)?;
    Ok(change)
}

fn deployment(object: &Object) -> anyhow::Result<Wanted> {
    let replicas = match object.at("/spec/replicas") {
        None | Some(Value::Null) => 1,
        Some(count) => count
            .as_u64()
            .filter(|count| *count <= 250)
            .with_context(|| format!("{}: spec.replicas: {count} is not in 0-250", object.key))?
            as usize,
    };
    let template = object
        .at("/spec/template")
        .with_context(|| format!("{} has no spec.template", object.key))?;
    let template =
        read_template(template).with_context(|| format!("{}: spec.template", object.key))?;
    Ok(Wanted::new(object, replicas, template, false))
}

fn pod(object: &Object) -> anyhow::Result<Wanted> {
    let template = read_template(&object.value).with_context(|| object.key.to_string())?;
    Ok(Wanted::new(object, 1, template, true))
}

fn read_template(value: &Value) -> anyhow::Result<Template> {
    let strings = |field: &str| -> anyhow::Result<BTreeMap<String, String>> {
        let found = value
            .get("metadata")
            .and_then(|metadata| metadata.get(field));
        match found {
            None | Some(Value::Null) => Ok(BTreeMap::new()),
            Some(found) => serde_json::from_value(found.clone()).with_context(|| {
                format!("metadata.{field}: every value must be a string (quote it)")
            }),
        }
    };
    Ok(Template {
        labels: strings("labels")?,
        annotations: strings("annotations")?,
        spec: value.get("spec").cloned().unwrap_or(Value::Null),
    })
}

/// The built-in gateways: one on each node (or on those that are named).
fn gateways(layout: &Layout) -> anyhow::Result<Vec<Wanted>> {
    let config = &layout.gateway;
    let nodes: Vec<&str> = if config.nodes.is_empty() {
        layout.nodes.iter().map(|node| node.name.as_str()).collect()
    } else {
        config.nodes.iter().map(String::as_str).collect()
    };
    let of_family = |v6: bool| config.addresses.iter().filter(move |ip| ip.is_ipv6() == v6);
    for (v6, family) in [(false, "IPv4"), (true, "IPv6")] {
        let count = of_family(v6).count();
        ensure!(
            count <= nodes.len(),
            "testbed.yaml: gateway has {count} {family} addresses for {} nodes",
            nodes.len()
        );
    }
    let alone = nodes.len() == 1;
    let mut wanted = Vec::new();
    for (index, node) in nodes.into_iter().enumerate() {
        let name = match &config.name {
            Some(name) if alone => name.clone(),
            name => format!(
                "{}-{node}",
                name.as_deref().unwrap_or("istio-ingressgateway")
            ),
        };
        let mut annotations = BTreeMap::from([(NODE.into(), node.into())]);
        let written = [false, true].map(|v6| of_family(v6).nth(index));
        let written: Vec<String> = written.iter().flatten().map(ToString::to_string).collect();
        if !written.is_empty() {
            annotations.insert(ADDRESS.into(), written.join(","));
        }
        let template = Template {
            labels: config.labels.clone(),
            annotations,
            spec: json!({"containers": [{"name": "istio-proxy", "image": "nodegate"}]}),
        };
        wanted.push(Wanted {
            owner: format!("Gateway/{}/{name}", config.namespace),
            namespace: config.namespace.clone(),
            hash: template_hash(&template),
            name,
            exact: true,
            replicas: 1,
            template,
            gateway: true,
        });
    }
    Ok(wanted)
}

impl Wanted {
    fn new(object: &Object, replicas: usize, template: Template, exact: bool) -> Self {
        Self {
            owner: format!(
                "{}/{}/{}",
                object.key.kind, object.key.namespace, object.key.name
            ),
            namespace: object.key.namespace.clone(),
            name: object.key.name.clone(),
            exact,
            replicas,
            gateway: template
                .labels
                .get("istio")
                .is_some_and(|value| value == "ingressgateway"),
            hash: template_hash(&template),
            template,
        }
    }

    /// As `ReplicaSets` name their pods, but always the same for the same replica.
    fn pod_name(&self, index: usize) -> String {
        if self.exact {
            return self.name.clone();
        }
        let suffix = names::hash(&format!("{}/{}/{index}", self.owner, self.hash), 5);
        format!("{}-{}-{suffix}", self.name, self.hash)
    }
}

/// Changes with what only a new pod can have.
fn template_hash(template: &Template) -> String {
    let mut annotations = template.annotations.clone();
    annotations.retain(|name, _| name != READY && name != TERMINATING);
    let text = format!("{:?}{annotations:?}{}", template.labels, template.spec);
    names::hash(&text, 10)
}

/// Gives pods their nodes and addresses.
struct Placement<'a> {
    layout: &'a Layout,
    /// Addresses of pods that stay or have been placed, and whose they are.
    held: BTreeMap<IpAddr, String>,
    /// Addresses that must not be given out by chance: of pods that are about to go, and those that
    /// testbed.yaml gives to somebody.
    reserved: BTreeSet<IpAddr>,
    /// Owner and node of every pod.
    placed: Vec<(String, String)>,
}

/// What somebody has written down for a pod.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl<'a> Placement<'a> {
    fn new(layout: &'a Layout, change: &Change) -> Self {
        let mut reserved: BTreeSet<IpAddr> =
            change.remove.iter().flat_map(Pod::addresses).collect();
        reserved.extend(layout.pods.iter().flat_map(|rule| rule.addresses.iter()));
        reserved.extend(&layout.gateway.addresses);
        reserved.extend(layout.nodes.iter().flat_map(config::Node::addresses));
        reserved.extend(layout.client_addresses());
        let keep = change.keep.iter();
        Self {
            layout,
            held: keep
                .clone()
                .flat_map(|pod| pod.addresses().map(|ip| (ip, pod.host().to_string())))
                .collect(),
            reserved,
            placed: keep
                .map(|pod| (pod.owner.clone(), pod.node.clone()))
                .collect(),
        }
    }

    /// First those that ask for an address, so that no other gets it by chance.
    fn place(
        &mut self,
        missing: Vec<(&Wanted, usize)>,
        created: &str,
        add: &mut Vec<Pod>,
    ) -> anyhow::Result<()> {
        let mut chosen = Vec::new();
        for (wanted, index) in missing {
            let name = wanted.pod_name(index);
            let written = self.asked(wanted, index, &name)?;
            chosen.push((wanted, index, name, written));
        }
        for (wanted, index, name, written) in chosen {
            let node = self.node(wanted, index, &name)?;
            let address = match written.v4 {
                Some(address) => address,
                None => self.free(&node)?,
            };
            let address_v6 = match written.v6 {
                Some(address) => address,
                None => self.free_v6(&node, address)?,
            };
            self.placed.push((wanted.owner.clone(), node.clone()));
            let mut pod = Pod {
                namespace: wanted.namespace.clone(),
                name,
                owner: wanted.owner.clone(),
                index,
                hash: wanted.hash.clone(),
                node,
                address,
                address_v6,
                ready: true,
                deleted: None,
                gateway: wanted.gateway,
                template: Template::default(),
                created: created.into(),
            };
            pod.update(&wanted.template, created)?;
            let holder = pod.host().to_string();
            self.held
                .extend(pod.addresses().map(|ip| (ip, holder.clone())));
            add.push(pod);
        }
        Ok(())
    }

    /// The longest rule of testbed.yaml that fits the pod.
    fn rule(&self, wanted: &Wanted, pod: &str) -> Option<&'a config::PodRule> {
        self.layout
            .pods
            .iter()
            .filter(|rule| rule.namespace == wanted.namespace && pod.starts_with(&rule.name))
            .max_by_key(|rule| rule.name.len())
    }

    /// The addresses that somebody has written down for the pod.
    fn asked(&mut self, wanted: &Wanted, index: usize, pod: &str) -> anyhow::Result<Written> {
        let host = Host::pod(&wanted.namespace, pod).to_string();
        let mut written = annotated(wanted, index)?;
        for address in written.addresses() {
            if let Some(other) = self.held.get(&address) {
                bail!("{host}: its address {address} is {other}'s: choose another");
            }
        }
        if let Some(rule) = self.rule(wanted, pod) {
            let free = |ip: &&IpAddr| !self.held.contains_key(*ip);
            for ip in rule.addresses.iter().filter(free) {
                match ip {
                    IpAddr::V4(ip) => _ = written.v4.get_or_insert(*ip),
                    IpAddr::V6(ip) => _ = written.v6.get_or_insert(*ip),
                }
            }
        }
        for address in written.addresses() {
            if let Some(owner) = self.layout.owner(address) {
                bail!("{host}: its address {address} is {owner}'s: choose another");
            }
            self.held.insert(address, host.clone());
        }
        Ok(written)
    }

    /// The node that somebody has written down, or the one with the fewest pods.
    fn node(&self, wanted: &Wanted, index: usize, pod: &str) -> anyhow::Result<String> {
        let written = item(wanted, NODE, index)
            .or_else(|| wanted.template.spec.get("nodeName").and_then(Value::as_str))
            .or_else(|| self.rule(wanted, pod).and_then(|rule| rule.node.as_deref()));
        if let Some(name) = written {
            ensure!(
                self.layout.node(name).is_some(),
                "{}: no node is called `{name}`",
                wanted.owner
            );
            return Ok(name.into());
        }
        let count = |node: &str, owner: Option<&str>| {
            let on_it = self.placed.iter().filter(|placed| placed.1 == node);
            on_it
                .filter(|placed| owner.is_none_or(|owner| placed.0 == owner))
                .count()
        };
        let best = self.layout.nodes.iter().min_by_key(|node| {
            (
                count(&node.name, Some(&wanted.owner)),
                count(&node.name, None),
            )
        });
        Ok(best
            .context("a cluster has at least one node")?
            .name
            .clone())
    }

    /// The next free address of the node's part of the pod CIDR.
    fn free(&self, node: &str) -> anyhow::Result<Ipv4Addr> {
        let range = node_cidr(self.layout, self.position(node));
        // The first address is a bridge's in most clusters; some tools take it for one.
        let mut hosts = range.hosts().skip(1);
        hosts
            .find(|address| self.is_free((*address).into()))
            .with_context(|| {
                format!("no pod address is left in {range} on {node}: give testbed.yaml a larger podCIDR")
            })
    }

    /// A free address of the node's part of the IPv6 pod CIDR.
    fn free_v6(&self, node: &str, v4: Ipv4Addr) -> anyhow::Result<Ipv6Addr> {
        let range = node_cidr_v6(self.layout, self.position(node));
        config::similar(range, v4, |address| self.is_free(address.into())).with_context(|| {
            format!(
                "no pod address is left in {range} on {node}: give testbed.yaml a larger podCIDRV6"
            )
        })
    }

    fn position(&self, node: &str) -> usize {
        let mut nodes = self.layout.nodes.iter();
        nodes.position(|other| other.name == node).unwrap_or(0)
    }

    fn is_free(&self, address: IpAddr) -> bool {
        !self.held.contains_key(&address) && !self.reserved.contains(&address)
    }
}

impl Written {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (v4, v6) = (self.v4.map(IpAddr::V4), self.v6.map(IpAddr::V6));
        v4.into_iter().chain(v6)
    }
}

/// The addresses that the annotation gives a replica. An empty item leaves out both of one replica.
fn annotated(wanted: &Wanted, index: usize) -> anyhow::Result<Written> {
    let mut written = Written::default();
    let Some(list) = wanted.template.annotations.get(ADDRESS) else {
        return Ok(written);
    };
    let (mut v4s, mut v6s) = (0, 0);
    for text in list.split(',').map(str::trim) {
        if text.is_empty() {
            v4s += 1;
            v6s += 1;
            continue;
        }
        let address = text.parse().with_context(|| {
            format!(
                "{}: annotation {ADDRESS}: `{text}` is no IP address",
                wanted.owner
            )
        })?;
        match address {
            IpAddr::V4(ip) => {
                if v4s == index {
                    written.v4 = Some(ip);
                }
                v4s += 1;
            }
            IpAddr::V6(ip) => {
                if v6s == index {
                    written.v6 = Some(ip);
                }
                v6s += 1;
            }
        }
    }
    Ok(written)
}

/// The item of a comma-separated annotation for a replica; none when the list is too short.
fn item<'a>(wanted: &'a Wanted, annotation: &str, index: usize) -> Option<&'a str> {
    let list = wanted.template.annotations.get(annotation)?;
    list.split(',')
        .nth(index)
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// A node's part of the pod CIDR: a /24 where it holds one for each node (from the second, so
/// that 10.10.1.0/24 is the first node's), else the whole.
pub(crate) fn node_cidr(layout: &Layout, index: usize) -> Ipv4Net {
    let whole = layout.pod_cidr.trunc();
    if whole.prefix_len() <= 24
        && let Ok(mut parts) = whole.subnets(24)
        && (1usize << (24 - whole.prefix_len())) > layout.nodes.len()
        && let Some(part) = parts.nth(index + 1)
    {
        return part;
    }
    whole
}

/// A node's part of the IPv6 pod CIDR: a /64, as with [`node_cidr`].
pub(crate) fn node_cidr_v6(layout: &Layout, index: usize) -> Ipv6Net {
    let whole = layout.pod_cidr_v6.trunc();
    if whole.prefix_len() <= 64
        && let Ok(mut parts) = whole.subnets(64)
        && (1u128 << (64 - whole.prefix_len())) > layout.nodes.len() as u128
        && let Some(part) = parts.nth(index + 1)
    {
        return part;
    }
    whole
}

#[cfg(test)]
mod tests;
