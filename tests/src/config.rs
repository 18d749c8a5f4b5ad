//! `testbed.yaml`: what manifests cannot say about a cluster. See the crate's documentation.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::names::{self, SWITCH};

/// The file, as users write it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// The nodes, in order; more are added when more are asked for.
    pub nodes: Vec<NodeConfig>,
    /// The machine outside the cluster.
    pub client: ClientConfig,
    /// Where pods get addresses from.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<Ipv4Net>,
    /// Addresses and nodes of pods.
    pub pods: Vec<PodRule>,
    /// The gateway pods that run when the manifests have none.
    pub gateway: GatewayConfig,
    /// External IPs that no node has.
    #[serde(rename = "unownedExternalIPs")]
    pub unowned_external_ips: BTreeSet<Ipv4Addr>,
}

/// A node of the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its name.
    pub name: String,
    /// Its `InternalIP`; allocated when absent.
    pub address: Option<Ipv4Addr>,
}

/// The client of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientConfig {
    /// Allocated when absent.
    pub address: Option<Ipv4Addr>,
}

/// Where pods go whose names begin so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodRule {
    /// Their namespace.
    pub namespace: String,
    /// What their names begin with; the longest rule that fits counts.
    pub name: String,
    /// Their addresses, one after the other.
    #[serde(default)]
    pub addresses: Vec<Ipv4Addr>,
    /// The node that they run on.
    #[serde(default)]
    pub node: Option<String>,
}

/// The built-in gateway pods: one on each node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// The pod's name, where there is one; else `istio-ingressgateway`, and the node's name is added.
    pub name: Option<String>,
    /// Its namespace.
    pub namespace: String,
    /// What Gateways and Services select it by.
    pub labels: BTreeMap<String, String>,
    /// Addresses, in the order of the nodes.
    pub addresses: Vec<Ipv4Addr>,
    /// Which nodes have one; all when empty.
    pub nodes: Vec<String>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            name: None,
            namespace: "istio-system".into(),
            labels: BTreeMap::from([
                ("app".into(), "istio-ingressgateway".into()),
                ("istio".into(), "ingressgateway".into()),
            ]),
            addresses: Vec::new(),
            nodes: Vec::new(),
        }
    }
}

/// The cluster's fixed frame: the file with everything absent filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// At least one.
    pub nodes: Vec<Node>,
    /// The client's address.
    pub client: Ipv4Addr,
    /// Where pods get addresses from.
    pub pod_cidr: Ipv4Net,
    /// Addresses and nodes of pods.
    pub pods: Vec<PodRule>,
    /// The built-in gateway pods.
    pub gateway: GatewayConfig,
    /// External IPs that no node has.
    pub unowned_external_ips: BTreeSet<Ipv4Addr>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its `InternalIP`.
    pub address: Ipv4Addr,
}

impl Config {
    /// Reads the file.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let text =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        Self::parse(&text).with_context(|| file.display().to_string())
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        // An empty document is no mapping, but says the same as an empty one.
        let config: Option<Self> = serde_yaml::from_str(text)?;
        Ok(config.unwrap_or_default())
    }

    /// Fills in what is absent. `taken` are addresses that manifests give to something else.
    pub fn layout(
        self,
        nodes: Option<usize>,
        taken: &BTreeSet<Ipv4Addr>,
    ) -> anyhow::Result<Layout> {
        let count = nodes.unwrap_or(self.nodes.len().max(1));
        ensure!(count >= 1, "a cluster has at least one node");
        ensure!(
            count >= self.nodes.len(),
            "testbed.yaml names {} nodes, --nodes {count} asks for fewer: remove them there",
            self.nodes.len()
        );
        let mut configured = self.nodes;
        for index in configured.len()..count {
            configured.push(NodeConfig {
                name: format!("node{}", index + 1),
                address: None,
            });
        }

        let mut used: BTreeSet<Ipv4Addr> = taken | &self.unowned_external_ips;
        used.extend(configured.iter().filter_map(|node| node.address));
        used.extend(self.client.address);
        // Whatever is absent joins the subnet of the first address that is there.
        let near = configured
            .iter()
            .find_map(|node| node.address)
            .or(self.client.address)
            .unwrap_or(Ipv4Addr::new(192, 168, 170, 0));
        let subnet = Ipv4Net::new(near, 24)?.trunc();
        let mut free = subnet.hosts().skip(9);
        let mut next = |what: &str| {
            let address = free
                .find(|address| !used.contains(address))
                .with_context(|| format!("no address is left in {subnet} for {what}"))?;
            anyhow::Ok(address)
        };

        let client = match self.client.address {
            Some(address) => address,
            None => next("the client")?,
        };
        let nodes = configured
            .into_iter()
            .map(|node| {
                let address = match node.address {
                    Some(address) => address,
                    None => next(&node.name)?,
                };
                Ok(Node {
                    name: node.name,
                    address,
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;

        let layout = Layout {
            nodes,
            client,
            pod_cidr: self
                .pod_cidr
                .unwrap_or(Ipv4Net::new_assert(Ipv4Addr::new(10, 10, 0, 0), 16)),
            pods: self.pods,
            gateway: self.gateway,
            unowned_external_ips: self.unowned_external_ips,
        };
        layout.check()?;
        Ok(layout)
    }
}

impl Layout {
    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    fn check(&self) -> anyhow::Result<()> {
        let mut hosts = BTreeMap::from([(self.client, "client")]);
        let mut seen = BTreeSet::from(["client", SWITCH]);
        for node in &self.nodes {
            ensure!(
                names::is_label(&node.name),
                "`{}` is not a node's name: write a-z, 0-9 and -",
                node.name
            );
            ensure!(
                seen.insert(&node.name),
                "the node name `{}` is taken: choose another",
                node.name
            );
            if let Some(other) = hosts.insert(node.address, &node.name) {
                bail!("{other} and {} both have {}", node.name, node.address);
            }
        }
        let rules = self.pods.iter().filter_map(|rule| rule.node.as_ref());
        for name in rules.chain(&self.gateway.nodes) {
            ensure!(
                self.node(name).is_some(),
                "testbed.yaml: no node is called `{name}`: add it to `nodes`"
            );
        }
        Ok(())
    }
}

/// Whether a file is configuration, and no manifest.
pub(crate) fn is_config(file: &Path) -> bool {
    file.file_name()
        .is_some_and(|name| name == "testbed.yaml" || name == "testbed.yml")
}

/// The configuration that belongs to these paths: in a directory, or next to a file.
pub(crate) fn find(paths: &[PathBuf]) -> anyhow::Result<Option<PathBuf>> {
    let mut found = BTreeSet::new();
    for path in paths {
        let directory = if path.is_dir() {
            path.as_path()
        } else {
            path.parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new("."))
        };
        for name in ["testbed.yaml", "testbed.yml"] {
            let file = directory.join(name);
            if file.is_file() {
                found.insert(fs::canonicalize(&file).unwrap_or(file));
            }
        }
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(first), Some(second)) => bail!(
            "{} and {} both describe the testbed: keep one",
            first.display(),
            second.display()
        ),
        (first, _) => Ok(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(text: &str, nodes: Option<usize>) -> anyhow::Result<Layout> {
        Config::parse(text)?.layout(nodes, &BTreeSet::new())
    }

    #[test]
    fn nothing_configured_is_one_node_and_a_client_in_one_subnet() {
        let layout = layout("", None).unwrap();
        assert_eq!(layout.nodes.len(), 1);
        assert_eq!(layout.nodes[0].name, "node1");
        assert_eq!(
            layout.client.octets()[..3],
            layout.nodes[0].address.octets()[..3]
        );
        assert_ne!(layout.client, layout.nodes[0].address);
    }

    #[test]
    fn absent_addresses_join_the_subnet_of_those_given() {
        let text = "nodes: [{name: master, address: 192.168.96.50}]";
        let layout = layout(text, Some(3)).unwrap();
        let names: Vec<&str> = layout.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["master", "node2", "node3"]);
        for node in &layout.nodes {
            assert_eq!(node.address.octets()[..3], [192, 168, 96]);
        }
        assert_eq!(layout.client.octets()[..3], [192, 168, 96]);
    }

    #[test]
    fn addresses_that_manifests_use_are_not_given_to_nodes() {
        let external = Ipv4Addr::new(192, 168, 170, 10);
        let layout = Config::default()
            .layout(Some(2), &BTreeSet::from([external]))
            .unwrap();
        assert_ne!(layout.client, external);
        assert!(layout.nodes.iter().all(|node| node.address != external));
    }

    #[test]
    fn unknown_keys_are_named() {
        let error = layout("podCidr: 10.0.0.0/8", None).unwrap_err().to_string();
        assert!(error.contains("podCidr"), "{error}");
        let error = layout("nodes: [{name: a, ip: 1.2.3.4}]", None)
            .unwrap_err()
            .to_string();
        assert!(error.contains("`ip`"), "{error}");
    }

    #[test]
    fn contradictions_are_refused() {
        for (text, nodes, part) in [
            ("nodes: [{name: a}, {name: b}]", Some(1), "--nodes 1"),
            ("nodes: [{name: a}, {name: a}]", None, "`a` is taken"),
            ("nodes: [{name: client}]", None, "`client` is taken"),
            ("nodes: [{name: Node_1}]", None, "not a node's name"),
            (
                "nodes: [{name: a, address: 10.0.0.1}]\nclient: {address: 10.0.0.1}",
                None,
                "both have",
            ),
            ("gateway: {nodes: [x]}", None, "no node is called `x`"),
        ] {
            let error = layout(text, nodes).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
