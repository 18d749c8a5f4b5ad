//! Where packets from outside arrive, unless the user names the interfaces: what holds a default route, and
//! cards on which the node has an address that node ports have.
//!
//! An address that comes with a network is a card's: others in that network send to it. Host routes to
//! pods and tunnels between nodes have an address without (/32, /128). Bridges are pods' in most clusters;
//! they count where the default route leads there.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use ipnet::IpNet;
use nix::net::if_::InterfaceFlags;

use super::error::Error;

/// `ARPHRD_ETHER`, include/uapi/linux/if_arp.h
const ETHERNET: u16 = 1;

/// An address of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    interface: String,
    address: IpAddr,
    /// Whether it comes with a network.
    in_network: bool,
}

/// The interfaces, with node ports on the node's addresses in these networks; in none for all addresses.
///
/// # Errors
/// Fails if the system does not list its routes, or its addresses.
pub fn find(node_ports: &[IpNet]) -> Result<Vec<String>, Error> {
    let mut uplinks = default_routes()?;
    uplinks.extend(cards(node_ports)?);
    Ok(uplinks.into_iter().collect())
}

/// The cards on which the node has an address that node ports have.
///
/// # Errors
/// Fails if the system does not list its addresses.
pub fn cards(node_ports: &[IpNet]) -> Result<BTreeSet<String>, Error> {
    Ok(with_node_ports(&held()?, node_ports)
        .filter(|interface| !is_bridge(interface))
        .collect())
}

fn with_node_ports(held: &[Held], node_ports: &[IpNet]) -> impl Iterator<Item = String> {
    held.iter()
        .filter(|held| held.in_network && !is_local(held.address))
        .filter(|held| {
            let mut networks = node_ports.iter();
            node_ports.is_empty() || networks.any(|network| network.contains(&held.address))
        })
        .map(|held| held.interface.clone())
}

/// Whether an address means something on its own link only. Each interface has such a one.
const fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
    }
}

/// The addresses of Ethernet devices.
fn held() -> Result<Vec<Held>, Error> {
    let listed = nix::ifaddrs::getifaddrs().map_err(|error| Error::Node {
        what: "listing the node's addresses",
        source: error.into(),
    })?;
    let mut ethernet = BTreeSet::new();
    let mut held = Vec::new();
    for entry in listed {
        let Some(address) = entry.address else {
            continue;
        };
        let link = address.as_link_addr();
        if link.is_some_and(|link| link.hatype() == ETHERNET) {
            ethernet.insert(entry.interface_name.clone());
        }
        let mask = entry.netmask.as_ref();
        let v4 = address.as_sockaddr_in().map(|v4| {
            let mask = mask.and_then(|mask| mask.as_sockaddr_in());
            let whole = mask.is_none_or(|mask| mask.ip() == Ipv4Addr::BROADCAST);
            (IpAddr::V4(v4.ip()), !whole)
        });
        let v6 = address.as_sockaddr_in6().map(|v6| {
            let mask = mask.and_then(|mask| mask.as_sockaddr_in6());
            let whole = mask.is_none_or(|mask| mask.ip() == Ipv6Addr::from_bits(u128::MAX));
            (IpAddr::V6(v6.ip()), !whole)
        });
        let Some((address, in_network)) = v4.or(v6) else {
            continue;
        };
        if !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            held.push(Held {
                interface: entry.interface_name,
                address,
                in_network,
            });
        }
    }
    held.retain(|held| ethernet.contains(&held.interface));
    Ok(held)
}

fn is_bridge(interface: &str) -> bool {
    let device = Path::new("/sys/class/net").join(interface);
    device.join("bridge").exists()
}

fn default_routes() -> Result<BTreeSet<String>, Error> {
    let table = fs::read_to_string("/proc/net/route").map_err(|source| Error::Node {
        what: "reading the routes (/proc/net/route)",
        source,
    })?;
    Ok(default_routes_of(&table))
}

/// Columns of /proc/net/route: Iface, Destination, Gateway, Flags, …, Mask, …; numbers in hex.
fn default_routes_of(table: &str) -> BTreeSet<String> {
    let lines = table.lines().skip(1);
    lines
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let interface = fields.next()?;
            let destination = fields.next()?;
            let mask = fields.nth(5)?;
            (destination == "00000000" && mask == "00000000").then(|| interface.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplinks_are_where_the_default_route_points() {
        let table = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t01AAA8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t00AAA8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
wlan0\t00000000\t01BBA8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
cni0\t00010A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";
        let found = default_routes_of(table);
        assert_eq!(Vec::from_iter(found), ["eth0", "wlan0"]);
        assert!(default_routes_of("Iface\tDestination\n").is_empty());
    }

    #[test]
    fn cards_have_an_address_in_a_network() {
        let held = |interface: &str, address: &str, in_network| Held {
            interface: interface.into(),
            address: address.parse().unwrap(),
            in_network,
        };
        let held = [
            held("eth1", "10.98.0.11", true),
            held("eth2", "fd00:98::11", true),
            // A pod's, and a tunnel's.
            held("veth1", "10.10.1.1", false),
            held("flannel.1", "10.10.1.0", false),
            held("eth3", "fe80::1", true),
            held("eth4", "169.254.20.10", true),
        ];
        let found = |networks: &[&str]| -> Vec<String> {
            let networks: Vec<IpNet> = networks.iter().map(|net| net.parse().unwrap()).collect();
            with_node_ports(&held, &networks).collect()
        };
        assert_eq!(found(&[]), ["eth1", "eth2"]);
        assert_eq!(found(&["10.98.0.0/16"]), ["eth1"]);
        assert!(found(&["192.0.2.0/24"]).is_empty());
    }
}
