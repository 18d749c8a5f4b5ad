//! The ways that packets and calls take through the kernel programs, one of each kind.

use std::net::{IpAddr, SocketAddr};

use gateway_common::{TCP, UDP};
use nodegate_model::service::{Endpoint, Protocol, ServicePort, SourceRanges};

use crate::{
    packets::{Bytes, Flag, arp, reset, sctp, socket, tcp, too_big, udp},
    scene::{NODE, NODE_PORT, service},
};

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A classifier gets a packet.
    Packet(&'static str, Bytes),
    /// A socket program gets a call's context, of a process of the node or of a pod.
    Call(&'static str, Bytes, From),
    /// The daemon has other endpoints.
    Replaced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Node,
    Pod,
}

/// What must become of a packet or a call, so that nothing else is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Untouched,
    Translated,
}

/// A way.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) name: &'static str,
    /// What happens first.
    pub(crate) before: Vec<Step>,
    /// What is counted.
    pub(crate) counted: Step,
    pub(crate) fate: Fate,
}

const WEB: [u8; 4] = [10, 96, 0, 10];
const WEB_POD: [u8; 4] = [10, 244, 1, 10];
const OTHER_WEB_POD: [u8; 4] = [10, 244, 1, 20];
const BALANCER: [u8; 4] = [203, 0, 113, 9];
const DNS: [u8; 4] = [10, 96, 0, 11];
const STICKY: [u8; 4] = [10, 96, 0, 12];
const SIGNALS: [u8; 4] = [10, 96, 0, 13];
const NOBODY: [u8; 4] = [10, 96, 0, 99];
const ROUTER: [u8; 4] = [192, 168, 170, 254];

fn at(address: [u8; 4], port: u16) -> SocketAddr {
    (IpAddr::from(address), port).into()
}

fn at_v6(subnet: u16, host: u16, port: u16) -> SocketAddr {
    let address = [0xfd00, subnet, 0, 0, 0, 0, 0, host];
    (IpAddr::from(address), port).into()
}

/// What the node serves.
pub(crate) fn services(replaced: bool) -> Vec<ServicePort> {
    let pod = if replaced { OTHER_WEB_POD } else { WEB_POD };
    let web = ServicePort {
        node_port: Some(NODE_PORT),
        load_balancer_ips: vec![BALANCER.into()],
        source_ranges: SourceRanges::parse(&["192.168.0.0/16"]),
        ..service("web", WEB.into(), at(pod, 8080))
    };
    let sticky = ServicePort {
        affinity: Some(10_800),
        ..service("sticky", STICKY.into(), at([10, 244, 1, 12], 8080))
    };
    let dns = ServicePort {
        protocol: Protocol::Udp,
        port: 53,
        ..service("dns", DNS.into(), at([10, 244, 1, 11], 5353))
    };
    let signals = ServicePort {
        protocol: Protocol::Sctp,
        ..service("signals", SIGNALS.into(), at([10, 244, 1, 13], 8080))
    };
    let v6 = service("v6", at_v6(0x96, 10, 0).ip(), at_v6(0x244, 10, 8080));
    // Never asked for: maps are never empty.
    let mut remote = service("remote", [10, 96, 0, 14].into(), at([10, 244, 2, 4], 80));
    remote.endpoints = vec![Endpoint::ready([10, 244, 2, 4].into(), 80, false)];
    vec![web, sticky, dns, signals, v6, remote]
}

fn ingress(packet: Bytes) -> Step {
    Step::Packet("ingress", packet)
}

fn egress(packet: Bytes) -> Step {
    Step::Packet("egress", packet)
}

/// A connection's first three packets.
fn connected(client: SocketAddr, frontend: SocketAddr, backend: SocketAddr) -> Vec<Step> {
    vec![
        ingress(tcp(client, frontend, Flag::Syn)),
        egress(tcp(backend, client, Flag::SynAck)),
        ingress(tcp(client, frontend, Flag::Ack)),
    ]
}

fn path(name: &'static str, before: Vec<Step>, counted: Step, fate: Fate) -> Path {
    Path {
        name,
        before,
        counted,
        fate,
    }
}

/// All of them.
pub(crate) fn all() -> Vec<Path> {
    [incoming(), other_protocols(), outgoing(), calls()].concat()
}

/// TCP on its way to Services. Each path has a client of its own.
fn incoming() -> Vec<Path> {
    use Fate::{Translated, Untouched};
    let client = |n: u8| at([192, 168, 170, n], 40_000);
    let to = |n, service, port, flag| tcp(client(n), at(service, port), flag);
    let opens = |n| ingress(to(n, WEB, 80, Flag::Syn));
    vec![
        path(
            "ingress: not IP",
            vec![],
            ingress(arp(&to(1, WEB, 80, Flag::Syn))),
            Untouched,
        ),
        path(
            "ingress: for no Service",
            vec![],
            ingress(to(2, NOBODY, 80, Flag::Syn)),
            Untouched,
        ),
        path(
            "ingress: of no known flow",
            vec![],
            ingress(to(3, NOBODY, 80, Flag::Ack)),
            Untouched,
        ),
        path("ingress: first of a flow", vec![], opens(4), Translated),
        path(
            "ingress: of a known flow",
            connected(client(5), at(WEB, 80), at(WEB_POD, 8080)),
            ingress(to(5, WEB, 80, Flag::Ack)),
            Translated,
        ),
        path(
            "ingress: first of a flow, once more",
            vec![opens(6)],
            opens(6),
            Translated,
        ),
        path(
            "ingress: first of a flow, to a node port",
            vec![],
            ingress(to(7, NODE, NODE_PORT, Flag::Syn)),
            Translated,
        ),
        path(
            "ingress: first of a flow, to a load balancer IP with source ranges",
            vec![],
            ingress(to(8, BALANCER, 80, Flag::Syn)),
            Translated,
        ),
        path(
            "ingress: first of a flow, with affinity",
            vec![],
            ingress(to(9, STICKY, 80, Flag::Syn)),
            Translated,
        ),
        path(
            "ingress: first of a flow, with affinity, of a client that was there",
            vec![ingress(tcp(
                at([192, 168, 170, 10], 40_001),
                at(STICKY, 80),
                Flag::Syn,
            ))],
            ingress(to(10, STICKY, 80, Flag::Syn)),
            Translated,
        ),
        path(
            "ingress: first of a flow, where the record of an earlier one is whose backend has gone",
            vec![opens(11), Step::Replaced],
            opens(11),
            Translated,
        ),
        path(
            "ingress: first of a flow, where the client's port has another one",
            vec![ingress(to(12, NODE, NODE_PORT, Flag::Syn))],
            opens(12),
            Translated,
        ),
        path(
            "ingress: first of a flow, past the Service whose endpoint has another one from its port",
            connected(client(13), at(WEB, 80), at(WEB_POD, 8080)),
            ingress(to(13, WEB_POD, 8080, Flag::Syn)),
            Translated,
        ),
        path(
            "ingress: first of a flow, where a connection is that is over",
            [
                connected(client(14), at(WEB, 80), at(WEB_POD, 8080)),
                vec![ingress(reset(client(14), at(WEB, 80)))],
            ]
            .concat(),
            opens(14),
            Translated,
        ),
        path(
            "pod_ingress: first of a flow",
            vec![],
            Step::Packet(
                "pod_ingress",
                tcp(at([10, 244, 1, 99], 40_000), at(WEB, 80), Flag::Syn),
            ),
            Translated,
        ),
    ]
}

fn other_protocols() -> Vec<Path> {
    use Fate::Translated;
    let client = |n: u8| at([192, 168, 170, n], 40_000);
    let client_v6 = at_v6(0xc0, 1, 40_000);
    let web_v6 = at_v6(0x96, 10, 80);
    let datagram = |n| ingress(udp(client(n), at(DNS, 53)));
    let answer = tcp(at(WEB, 80), client(24), Flag::Ack);
    vec![
        path(
            "ingress: first datagram of a flow",
            vec![],
            datagram(20),
            Translated,
        ),
        path(
            "ingress: datagram of a known flow",
            vec![datagram(21)],
            datagram(21),
            Translated,
        ),
        path(
            "ingress: first SCTP packet of a flow",
            vec![],
            ingress(sctp(client(22), at(SIGNALS, 80))),
            Translated,
        ),
        path(
            "ingress: ICMP error about an answer",
            vec![ingress(tcp(client(24), at(WEB, 80), Flag::Syn))],
            ingress(too_big(ROUTER.into(), WEB.into(), &answer)),
            Translated,
        ),
        path(
            "ingress: first of a flow, IPv6",
            vec![],
            ingress(tcp(client_v6, web_v6, Flag::Syn)),
            Translated,
        ),
        path(
            "ingress: of a known flow, IPv6",
            connected(client_v6, web_v6, at_v6(0x244, 10, 8080)),
            ingress(tcp(client_v6, web_v6, Flag::Ack)),
            Translated,
        ),
    ]
}

/// Answers.
fn outgoing() -> Vec<Path> {
    use Fate::{Translated, Untouched};
    let client = |n: u8| at([192, 168, 170, n], 40_000);
    let client_v6 = at_v6(0xc0, 2, 40_000);
    vec![
        path(
            "egress: not IP",
            vec![],
            egress(arp(&tcp(at(WEB_POD, 8080), client(30), Flag::Ack))),
            Untouched,
        ),
        path(
            "egress: of no known flow",
            vec![],
            egress(tcp(at(WEB_POD, 8080), client(31), Flag::Ack)),
            Untouched,
        ),
        path(
            "egress: answer",
            connected(client(32), at(WEB, 80), at(WEB_POD, 8080)),
            egress(tcp(at(WEB_POD, 8080), client(32), Flag::Answer)),
            Translated,
        ),
        path(
            "egress: answer, the first one",
            vec![ingress(tcp(client(34), at(WEB, 80), Flag::Syn))],
            egress(tcp(at(WEB_POD, 8080), client(34), Flag::SynAck)),
            Translated,
        ),
        path(
            "egress: datagram of no known flow",
            vec![],
            egress(udp(at(NODE, 40_000), client(35))),
            Untouched,
        ),
        path(
            "egress: first datagram of a process, from a frontend's port",
            vec![],
            egress(udp(at(DNS, 53), client(36))),
            Untouched,
        ),
        path(
            "egress: answer, a datagram",
            vec![ingress(udp(client(33), at(DNS, 53)))],
            egress(udp(at([10, 244, 1, 11], 5353), client(33))),
            Translated,
        ),
        path(
            "egress: answer, IPv6",
            connected(client_v6, at_v6(0x96, 10, 80), at_v6(0x244, 10, 8080)),
            egress(tcp(at_v6(0x244, 10, 8080), client_v6, Flag::Answer)),
            Translated,
        ),
    ]
}

/// Calls of sockets.
fn calls() -> Vec<Path> {
    use Fate::{Translated, Untouched};
    let connect = |peer, from| Step::Call("connect4", socket(peer, TCP), from);
    let connect_v6 = Step::Call("connect6", socket(at_v6(0x96, 10, 80), TCP), From::Pod);
    let datagram = |program, peer| Step::Call(program, socket(peer, UDP), From::Pod);
    let question = || datagram("sendmsg4", at(DNS, 53));
    let pod = at([10, 244, 1, 11], 5353);
    vec![
        path(
            "connect4: to no Service",
            vec![],
            connect(at(NOBODY, 80), From::Pod),
            Untouched,
        ),
        path(
            "connect4: on the node",
            vec![],
            connect(at(WEB, 80), From::Node),
            Translated,
        ),
        path(
            "connect4: in a pod",
            vec![],
            connect(at(WEB, 80), From::Pod),
            Translated,
        ),
        path("connect6: in a pod", vec![], connect_v6, Translated),
        path(
            "sendmsg4: to no Service",
            vec![],
            datagram("sendmsg4", at(NOBODY, 53)),
            Untouched,
        ),
        path("sendmsg4: first datagram", vec![], question(), Translated),
        path(
            "sendmsg4: another datagram",
            vec![question()],
            question(),
            Translated,
        ),
        path(
            "recvmsg4: of no Service",
            vec![],
            datagram("recvmsg4", pod),
            Untouched,
        ),
        path(
            "recvmsg4: answer",
            vec![question()],
            datagram("recvmsg4", pod),
            Translated,
        ),
        path(
            "getpeername4: of a Service",
            vec![connect(at(WEB, 80), From::Pod)],
            Step::Call("getpeername4", socket(at(WEB_POD, 8080), TCP), From::Pod),
            Translated,
        ),
    ]
}
