//! `testbed.yaml`: what manifests cannot say about a cluster. See the crate's documentation.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

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
    /// And IPv6 addresses.
    #[serde(rename = "podCIDRV6")]
    pub pod_cidr_v6: Option<Ipv6Net>,
    /// Addresses and nodes of pods.
    pub pods: Vec<PodRule>,
    /// The gateway pods that run when the manifests have none.
    pub gateway: GatewayConfig,
    /// External IPs that no node has.
    #[serde(rename = "unownedExternalIPs")]
    pub unowned_external_ips: BTreeSet<IpAddr>,
}

/// A node of the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfig {
    /// Its name.
    pub name: String,
    /// Its IPv4 `InternalIP`; allocated when absent.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 `InternalIP`; allocated when absent.
    pub address_v6: Option<Ipv6Addr>,
    /// Its zone: short for the label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Its labels, beside `kubernetes.io/hostname`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The nodegate on it.
    #[serde(default)]
    pub nodegate: NodegateConfig,
}

/// `nodegate: false`, or how it is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodegateConfig(pub Option<Nodegate>);

/// How a node's nodegate is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nodegate {
    /// More arguments of `nodegate run`; an option that the testbed gives, too, replaces the
    /// testbed's.
    pub args: Vec<String>,
    /// More variables, for every command on the node.
    pub env: BTreeMap<String, String>,
}

/// The client of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientConfig {
    /// Allocated when absent.
    pub address: Option<Ipv4Addr>,
    /// Allocated when absent.
    pub address_v6: Option<Ipv6Addr>,
}

/// Where pods go whose names begin so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodRule {
    /// Their namespace.
    pub namespace: String,
    /// What their names begin with; the longest rule that fits counts.
    pub name: String,
    /// Their addresses, one after the other in each family.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
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
    /// Addresses, in the order of the nodes in each family.
    pub addresses: Vec<IpAddr>,
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
    /// The client's IPv6 address.
    pub client_v6: Ipv6Addr,
    /// Where pods get addresses from.
    pub pod_cidr: Ipv4Net,
    /// And IPv6 addresses.
    pub pod_cidr_v6: Ipv6Net,
    /// Addresses and nodes of pods.
    pub pods: Vec<PodRule>,
    /// The built-in gateway pods.
    pub gateway: GatewayConfig,
    /// External IPs that no node has.
    pub unowned_external_ips: BTreeSet<IpAddr>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its IPv4 `InternalIP`.
    pub address: Ipv4Addr,
    /// Its IPv6 `InternalIP`.
    pub address_v6: Ipv6Addr,
    /// The labels of its object.
    pub labels: BTreeMap<String, String>,
    /// The nodegate on it; none for a node that is left to others.
    pub nodegate: Option<Nodegate>,
}

/// The label that says which zone a node is in (`v1.LabelTopologyZone`).
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

impl Default for NodegateConfig {
    fn default() -> Self {
        Self(Some(Nodegate::default()))
    }
}

impl<'de> Deserialize<'de> for NodegateConfig {
    /// By hand: of an untagged enum serde says only that nothing fits.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = NodegateConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("false, or a mapping with `args` and `env`")
            }

            fn visit_bool<E>(self, run: bool) -> Result<Self::Value, E> {
                Ok(NodegateConfig(run.then(Nodegate::default)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let nodegate = Nodegate::deserialize(MapAccessDeserializer::new(map))?;
                Ok(NodegateConfig(Some(nodegate)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl NodeConfig {
    fn new(name: String) -> Self {
        Self {
            name,
            address: None,
            address_v6: None,
            zone: None,
            labels: BTreeMap::new(),
            nodegate: NodegateConfig::default(),
        }
    }

    /// All labels of the node's object.
    fn labels(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut labels = self.labels.clone();
        labels
            .entry("kubernetes.io/hostname".into())
            .or_insert_with(|| self.name.clone());
        if let Some(zone) = &self.zone
            && let Some(other) = labels.insert(ZONE.into(), zone.clone())
        {
            ensure!(
                other == *zone,
                "testbed.yaml: {} is in zone `{zone}` by `zone`, in `{other}` by its labels: keep one",
                self.name
            );
        }
        Ok(labels)
    }
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
    pub fn layout(self, nodes: Option<usize>, taken: &BTreeSet<IpAddr>) -> anyhow::Result<Layout> {
        let count = nodes.unwrap_or(self.nodes.len().max(1));
        ensure!(count >= 1, "a cluster has at least one node");
        ensure!(
            count >= self.nodes.len(),
            "testbed.yaml names {} nodes, --nodes {count} asks for fewer: remove them there",
            self.nodes.len()
        );
        let mut configured = self.nodes;
        for index in configured.len()..count {
            configured.push(NodeConfig::new(format!("node{}", index + 1)));
        }

        let mut used: BTreeSet<IpAddr> = taken | &self.unowned_external_ips;
        for node in &configured {
            used.extend(node.address.map(IpAddr::V4));
            used.extend(node.address_v6.map(IpAddr::V6));
        }
        used.extend(self.client.address.map(IpAddr::V4));
        used.extend(self.client.address_v6.map(IpAddr::V6));
        // Whatever is absent joins the subnet of the first address that is there.
        let near = configured.iter().find_map(|node| node.address);
        let near = near.or(self.client.address);
        let near_v6 = configured.iter().find_map(|node| node.address_v6);
        let near_v6 = near_v6.or(self.client.address_v6);
        let mut hosts = HostAddresses {
            v4: Ipv4Net::new(near.unwrap_or(NODES), NODE_PREFIX)?.trunc(),
            v6: Ipv6Net::new(near_v6.unwrap_or(NODES_V6), NODE_PREFIX_V6)?.trunc(),
            used,
        };

        let (client, client_v6) =
            hosts.take("the client", self.client.address, self.client.address_v6)?;
        let nodes = configured
            .into_iter()
            .map(|node| {
                let (address, address_v6) =
                    hosts.take(&node.name, node.address, node.address_v6)?;
                Ok(Node {
                    address,
                    address_v6,
                    labels: node.labels()?,
                    name: node.name,
                    nodegate: node.nodegate.0,
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;

        let layout = Layout {
            nodes,
            client,
            client_v6,
            pod_cidr: self
                .pod_cidr
                .unwrap_or(Ipv4Net::new_assert(Ipv4Addr::new(10, 10, 0, 0), 16)),
            pod_cidr_v6: self.pod_cidr_v6.unwrap_or(Ipv6Net::new_assert(
                Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0),
                48,
            )),
            pods: self.pods,
            gateway: self.gateway,
            unowned_external_ips: self.unowned_external_ips,
        };
        layout.check()?;
        Ok(layout)
    }
}

/// The hosts' subnets when no address is written down.
const NODES: Ipv4Addr = Ipv4Addr::new(192, 168, 170, 0);
const NODES_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xc0, 0, 0, 0, 0, 0, 0);
/// Length of the hosts' subnets' prefixes.
pub(crate) const NODE_PREFIX: u8 = 24;
pub(crate) const NODE_PREFIX_V6: u8 = 64;

/// Gives the client and the nodes their addresses.
struct HostAddresses {
    v4: Ipv4Net,
    v6: Ipv6Net,
    used: BTreeSet<IpAddr>,
}

impl HostAddresses {
    /// The written addresses of a host, and free ones for those that are absent.
    fn take(
        &mut self,
        what: &str,
        v4: Option<Ipv4Addr>,
        v6: Option<Ipv6Addr>,
    ) -> anyhow::Result<(Ipv4Addr, Ipv6Addr)> {
        let v4 = match v4 {
            Some(address) => address,
            None => self
                .v4
                .hosts()
                .skip(9)
                .find(|address| !self.used.contains(&IpAddr::V4(*address)))
                .with_context(|| format!("no address is left in {} for {what}", self.v4))?,
        };
        let v6 = match v6 {
            Some(address) => address,
            None => similar(self.v6, v4, |address| {
                !self.used.contains(&IpAddr::V6(address))
            })
            .with_context(|| format!("no address is left in {} for {what}", self.v6))?,
        };
        self.used.extend([IpAddr::V4(v4), IpAddr::V6(v6)]);
        Ok((v4, v6))
    }
}

/// The free address of the range that reads most like an IPv4 address: `::137` for 192.168.170.137.
pub(crate) fn similar(
    range: Ipv6Net,
    v4: Ipv4Addr,
    free: impl Fn(Ipv6Addr) -> bool,
) -> Option<Ipv6Addr> {
    // The digits of the decimal number, taken for hexadecimal ones.
    let last = u128::from(v4.octets()[3]);
    let alike = last / 100 * 0x100 + last / 10 % 10 * 0x10 + last % 10;
    let first = range.network().to_bits();
    // Beyond the numbers that other hosts' last parts make.
    let others = (0x1000..0x1_0000).chain(2..0x1000);
    std::iter::once(alike)
        .chain(others)
        // Zero is every router's (RFC 4291 §2.6.1).
        .filter(|host| *host != 0)
        .filter_map(|host| first.checked_add(host).map(Ipv6Addr::from_bits))
        .find(|address| range.contains(address) && free(*address))
}

impl Node {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.address.into(), self.address_v6.into()]
    }
}

impl Layout {
    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The client's addresses, IPv4 first.
    pub fn client_addresses(&self) -> [IpAddr; 2] {
        [self.client.into(), self.client_v6.into()]
    }

    /// Which host has the address.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<&str> {
        if self.client_addresses().contains(&address) {
            return Some("client");
        }
        let owns = |node: &&Node| node.addresses().contains(&address);
        self.nodes.iter().find(owns).map(|node| node.name.as_str())
    }

    fn check(&self) -> anyhow::Result<()> {
        let mut hosts = BTreeMap::from([
            (IpAddr::V4(self.client), "client"),
            (IpAddr::V6(self.client_v6), "client"),
        ]);
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
            for address in node.addresses() {
                if let Some(other) = hosts.insert(address, &node.name) {
                    bail!("{other} and {} both have {address}", node.name);
                }
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
        let external: BTreeSet<IpAddr> = ["192.168.170.10", "192.168.170.12", "fd00:c0::12"]
            .map(|ip| ip.parse().unwrap())
            .into();
        let layout = Config::default().layout(Some(2), &external).unwrap();
        for ip in &external {
            assert_eq!(layout.owner(*ip), None);
        }
    }

    #[test]
    fn ipv6_addresses_read_like_the_ipv4_ones() {
        let text = "{nodes: [{name: a, address: 192.168.170.137}, {name: b, address: 10.0.0.137}, \
                    {name: c, addressV6: 'fd00:c0::77'}], client: {address: 192.168.170.1}}";
        let layout = layout(text, None).unwrap();
        assert_eq!(layout.client_v6.to_string(), "fd00:c0::1");
        let addresses: Vec<String> = layout
            .nodes
            .iter()
            .map(|node| node.address_v6.to_string())
            .collect();
        // The second one's like is taken.
        assert_eq!(addresses, ["fd00:c0::137", "fd00:c0::1000", "fd00:c0::77"]);
        assert_eq!(layout.owner("fd00:c0::77".parse().unwrap()), Some("c"));

        let other = "nodes: [{name: a, addressV6: '2001:db8:1::5'}]";
        let client = self::layout(other, None).unwrap().client_v6.segments();
        assert_eq!(client[..4], [0x2001, 0xdb8, 1, 0]);
    }

    #[test]
    fn nodes_have_labels_and_a_zone() {
        let text = "nodes: [{name: a, zone: z1, labels: {tier: front}}, {name: b}]";
        let layout = layout(text, None).unwrap();
        let labels = &layout.nodes[0].labels;
        for (label, value) in [
            ("kubernetes.io/hostname", "a"),
            (ZONE, "z1"),
            ("tier", "front"),
        ] {
            assert_eq!(labels.get(label).map(String::as_str), Some(value));
        }
        assert!(!layout.nodes[1].labels.contains_key(ZONE));
    }

    #[test]
    fn nodegate_runs_unless_a_node_says_otherwise() {
        let text = "nodes: [{name: a}, {name: b, nodegate: false}, {name: c, nodegate: true}, \
                    {name: d, nodegate: {args: [--attach, clsact], env: {A: b}}}]";
        let nodes = layout(text, None).unwrap().nodes;
        assert_eq!(nodes[0].nodegate, Some(Nodegate::default()));
        assert_eq!(nodes[1].nodegate, None);
        assert_eq!(nodes[2].nodegate, Some(Nodegate::default()));
        let last = nodes[3].nodegate.as_ref().unwrap();
        assert_eq!(last.args, ["--attach", "clsact"]);
        assert_eq!(last.env["A"], "b");
        for (text, part) in [
            ("nodes: [{name: a, nodegate: {arg: []}}]", "`arg`"),
            ("nodes: [{name: a, nodegate: no-thanks}]", "expected false"),
        ] {
            let error = layout(text, None).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_documented_file_is_one() {
        let readme = include_str!("../README.md");
        let block = readme.split("```yaml\n").nth(1).unwrap();
        let layout = layout(block.split("```").next().unwrap(), Some(2)).unwrap();
        assert_eq!(layout.nodes[0].address_v6.to_string(), "fd00:c0::137");
        assert_eq!(layout.gateway.nodes, ["master"]);
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
            (
                "nodes: [{name: a, addressV6: '::5'}, {name: b, addressV6: '::5'}]",
                None,
                "both have ::5",
            ),
            (
                "nodes: [{name: a, zone: x, labels: {topology.kubernetes.io/zone: y}}]",
                None,
                "keep one",
            ),
            ("gateway: {nodes: [x]}", None, "no node is called `x`"),
        ] {
            let error = layout(text, nodes).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
