//! The Services that the pinned maps implement, in the form in which they are read from rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use aya::maps::{HashMap, MapData, lpm_trie::LpmTrie};
use gateway_common::maps::{
    AddressKey, Backend, NodeAddress, Service as Element, ServiceKey, SourceRange,
};
use ipnet::IpNet;
use nodegate_iptables::services::{Fate, Frontend, PortRules, ServicePortKey, Services, Treatment};
use nodegate_model::service::IpFamily;
use nodegate_programming::{address::from_map, identity::PortKey};

use super::{super::error::Error, Pins, elements, wrap};

impl Pins {
    /// What the maps do for each Service port of a family. Health check ports are not in them.
    ///
    /// # Errors
    /// Fails if a map is not pinned or cannot be read.
    pub fn implemented(&self, family: IpFamily) -> Result<Services, Error> {
        let map: HashMap<MapData, ServiceKey, Element> = self.map("services")?;
        let ranges = self.source_ranges()?;
        let serves_node_ports = self.serves_node_ports(family)?;
        let mut services: BTreeMap<u32, PortRules> = BTreeMap::new();
        for (key, element) in elements(&map) {
            let is_of_family = |(.., of): &PortKey| *of == family;
            let is_guard = element.flags & Element::FLAG_GUARD != 0;
            if is_guard || !self.names.get(&element.id).is_some_and(is_of_family) {
                continue;
            }
            let service = services.entry(element.id).or_default();
            let (frontend, path) = frontend(&key, &element, &ranges, serves_node_ports);
            service.frontends.insert(frontend, path);
            service.affinity = (element.affinity != 0).then_some(element.affinity);
        }
        for backend in self.backends.values() {
            let Some(service) = services.get_mut(&backend.service) else {
                continue;
            };
            let address = SocketAddr::new(from_map(backend.address), backend.port);
            if backend.flags & Backend::FLAG_IN_CLUSTER_SET != 0 {
                service.cluster.push(address);
            }
            if backend.flags & Backend::FLAG_IN_LOCAL_SET != 0 {
                service.local.push(address);
            }
        }
        let named = services.into_iter().filter_map(|(id, mut service)| {
            let (name, protocol, _) = self.names.get(&id)?;
            // kube-proxy's order.
            service.cluster.sort_by_cached_key(ToString::to_string);
            service.local.sort_by_cached_key(ToString::to_string);
            if service.cluster.is_empty() && service.local.is_empty() {
                // Without endpoints, rules do not say.
                service.affinity = None;
            }
            let key = ServicePortKey {
                name: name.clone(),
                protocol: *protocol,
            };
            Some((key, service))
        });
        Ok(named.collect())
    }

    /// By Service, the networks that are let in.
    fn source_ranges(&self) -> Result<BTreeMap<u32, BTreeSet<IpNet>>, Error> {
        let map: LpmTrie<MapData, SourceRange, u32> = self.map("source_ranges")?;
        let mut ranges: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
        for (key, _) in map.iter().map_while(Result::ok) {
            let range = key.data();
            let address = from_map(range.address);
            // 32 bits are the Service's id, and 96 more an IPv4 address's prefix.
            let length = match address {
                _ if key.prefix_len() < 32 => continue,
                std::net::IpAddr::V4(_) => (key.prefix_len() - 32).saturating_sub(96),
                std::net::IpAddr::V6(_) => key.prefix_len() - 32,
            };
            let network = u8::try_from(length).ok();
            if let Some(Ok(network)) = network.map(|length| IpNet::new(address, length)) {
                ranges.entry(range.service).or_default().insert(network);
            }
        }
        Ok(ranges)
    }

    /// Whether any address of the family has node ports.
    fn serves_node_ports(&self, family: IpFamily) -> Result<bool, Error> {
        let map: HashMap<MapData, AddressKey, NodeAddress> = self.map("node_addresses")?;
        map.iter()
            .try_fold(false, |any, entry| {
                let (key, address) = entry?;
                let serves = address.flags & NodeAddress::FLAG_NODE_PORTS != 0;
                Ok(any || (serves && IpFamily::of(from_map(key.address)) == family))
            })
            .map_err(wrap("node_addresses"))
    }
}

/// An element of `services`, as rules would have it.
fn frontend(
    key: &ServiceKey,
    element: &Element,
    ranges: &BTreeMap<u32, BTreeSet<IpNet>>,
    serves_node_ports: bool,
) -> (Frontend, Treatment) {
    let flag = |flag| element.flags & flag != 0;
    let address = SocketAddr::new(from_map(key.address), key.port);
    let is_node_port = key.scope == ServiceKey::NODE_PORT;
    let frontend = if is_node_port {
        Frontend::NodePort { port: key.port }
    } else if flag(Element::FLAG_EXTERNAL) {
        Frontend::External { address }
    } else {
        Frontend::ClusterIp { address }
    };
    let is_local = flag(Element::FLAG_LOCAL);
    let size = if is_local {
        element.local
    } else {
        element.cluster
    };
    let fate = match (flag(Element::FLAG_HAS_ENDPOINTS), size) {
        (false, _) => Fate::Reject,
        (true, 0) => Fate::Drop,
        (true, _) if is_node_port && !serves_node_ports => Fate::Pass,
        (true, _) if is_local => Fate::Local,
        (true, _) => Fate::Cluster,
    };
    let is_guarded = flag(Element::FLAG_SOURCE_RANGES) && fate != Fate::Reject;
    let sources = is_guarded.then(|| {
        let networks = ranges.get(&element.id).into_iter().flatten();
        networks.copied().collect()
    });
    (frontend, Treatment { fate, sources })
}
