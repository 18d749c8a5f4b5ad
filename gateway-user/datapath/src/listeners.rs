//! Sockets of the node on its own node ports.
//!
//! What comes to a node port is redirected before any socket is asked, so a process that listens there
//! waits in vain, and silently. It is the same with kube-proxy; nodegate tells.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt, fs,
};

use nodegate_model::{
    Snapshot,
    service::{Protocol, ServicePort},
};
use nodegate_programming::difference::{Difference, difference};

/// `TCP_LISTEN` and `TCP_CLOSE` (include/net/tcp_states.h); the latter is the state of datagram sockets
/// that are not connected.
const TABLES: [(&str, Protocol, &str); 4] = [
    ("tcp", Protocol::Tcp, "0A"),
    ("tcp6", Protocol::Tcp, "0A"),
    ("udp", Protocol::Udp, "07"),
    ("udp6", Protocol::Udp, "07"),
];

/// 127.0.0.1 and ::1 as `/proc/net` writes them: words of four bytes in the machine's order.
const LOOPBACK: [[u32; 4]; 2] = [
    [u32::from_ne_bytes([127, 0, 0, 1]), 0, 0, 0],
    [0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])],
];

/// A port of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodePort {
    protocol: Protocol,
    port: u16,
}

impl fmt::Display for NodePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol.lowercase(), self.port)
    }
}

/// The node ports of all Services, and how many Service ports have each: one for TCP, say, that two
/// Services claim.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodePorts(BTreeMap<NodePort, usize>);

impl NodePorts {
    /// Goes from one Snapshot to the next; gives the node ports that there were none of before.
    pub(crate) fn follow(
        &mut self,
        before: Option<&Snapshot>,
        now: &Snapshot,
    ) -> BTreeSet<NodePort> {
        let before = before.map_or(&[][..], |before| &before.services);
        match difference(before, &now.services) {
            Some(Difference { come, gone }) => self.change(
                come.into_iter().map(|service| &**service),
                gone.into_iter().map(|service| &**service),
            ),
            None => self.change(
                now.services.iter().map(|service| &**service),
                before.iter().map(|service| &**service),
            ),
        }
    }

    /// Takes Service ports in and out; gives the node ports that there were none of before.
    fn change<'s>(
        &mut self,
        come: impl Iterator<Item = &'s ServicePort>,
        gone: impl Iterator<Item = &'s ServicePort>,
    ) -> BTreeSet<NodePort> {
        let Self(ports) = self;
        let mut new = BTreeSet::new();
        // One that stays, of a Service that has changed, is never at none.
        for port in come.filter_map(NodePort::of) {
            let services = ports.entry(port).or_default();
            *services += 1;
            if *services == 1 {
                new.insert(port);
            }
        }
        for port in gone.filter_map(NodePort::of) {
            if let Entry::Occupied(mut services) = ports.entry(port) {
                *services.get_mut() -= 1;
                if *services.get() == 0 {
                    services.remove();
                }
            }
        }
        new
    }
}

impl NodePort {
    fn of(service: &ServicePort) -> Option<Self> {
        Some(Self {
            protocol: service.protocol,
            port: service.node_port?,
        })
    }
}

/// Those of the ports on which a process of this network namespace listens, but for loopback.
pub(crate) fn taken(ports: &BTreeSet<NodePort>) -> BTreeSet<NodePort> {
    let mut taken = BTreeSet::new();
    if ports.is_empty() {
        return taken;
    }
    for (table, protocol, state) in TABLES {
        // Without IPv6 there is no such table.
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
        let listening = listening(&text, state).map(|port| NodePort { protocol, port });
        taken.extend(listening.filter(|port| ports.contains(port)));
    }
    taken
}

/// `sl local_address rem_address st …` (`tcp4_seq_show`, net/ipv4/tcp_ipv4.c)
fn listening(table: &str, state: &str) -> impl Iterator<Item = u16> {
    table.lines().skip(1).filter_map(move |line| {
        let mut words = line.split_whitespace().skip(1);
        let (address, port) = words.next()?.split_once(':')?;
        (words.nth(1)? == state && !is_loopback(address)).then_some(())?;
        u16::from_str_radix(port, 16).ok()
    })
}

fn is_loopback(address: &str) -> bool {
    let mut words = [0; 4];
    for (word, digits) in words.iter_mut().zip(address.as_bytes().chunks(8)) {
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        *word = u32::from_str_radix(digits, 16).unwrap_or_default();
    }
    LOOPBACK.contains(&words)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn port(protocol: Protocol, port: u16) -> NodePort {
        NodePort { protocol, port }
    }

    #[test]
    fn fault_a_process_on_a_node_port_is_found() {
        let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
        let tcp = (tcp.local_addr().unwrap().port(), tcp);
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let udp = (udp.local_addr().unwrap().port(), udp);
        let local = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = (local.local_addr().unwrap().port(), local);
        let ports = BTreeSet::from([
            port(Protocol::Tcp, tcp.0),
            port(Protocol::Udp, udp.0),
            port(Protocol::Tcp, local.0),
        ]);
        assert_eq!(
            taken(&ports),
            BTreeSet::from([port(Protocol::Tcp, tcp.0), port(Protocol::Udp, udp.0)])
        );
        assert_eq!(taken(&BTreeSet::new()), BTreeSet::new());
    }

    #[test]
    fn a_node_port_is_new_once() {
        let name = nodegate_model::service::ServicePortName {
            namespace: "default".into(),
            name: "web".into(),
            port: String::new(),
        };
        let service = ServicePort {
            node_port: Some(30_080),
            ..ServicePort::new(name, Protocol::Tcp, 80)
        };
        let mut ports = NodePorts::default();
        let mut change = |come: &[&ServicePort], gone: &[&ServicePort]| {
            let new = ports.change(come.iter().copied(), gone.iter().copied());
            new.len()
        };
        assert_eq!(change(&[&service], &[]), 1);
        // The Service has changed, its node port has not.
        assert_eq!(change(&[&service], &[&service]), 0);
        assert_eq!(change(&[], &[&service]), 0);
        assert_eq!(change(&[&service], &[]), 1);
    }

    #[test]
    fn only_those_who_listen_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
                        0: 00000000:7A8D 00000000:0000 0A 00000000:00000000\n\
                        1: 00000000:7A8E 0100007F:1234 01 00000000:00000000\n\
                        2: damaged\n";
        assert_eq!(listening(table, "0A").collect::<Vec<_>>(), [0x7a8d]);
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn loopback_is_no_address_of_the_node() {
        assert!(is_loopback("0100007F"));
        assert!(is_loopback("00000000000000000000000001000000"));
        assert!(!is_loopback("00000000"));
        assert!(!is_loopback("00000000000000000000000000000000"));
        assert!(!is_loopback("0B00A8C0"));
    }
}
