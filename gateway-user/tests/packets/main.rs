//! The kernel programs, packet by packet: bytes in, bytes and verdict out, through the real verifier
//! and `BPF_PROG_TEST_RUN`. Nothing is attached to anything.
//!
//! Needs root and a BPF file system; without, every test is reported as ignored.

mod bench;
mod traces;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::programs::CgroupSockAddr;
use bench::{Bench, DROP, NEXT, Ran, Segment};
use etherparse::{Icmpv4Header, Icmpv4Type, PacketBuilder};
use gateway_common::conntrack::{BUCKETS, WAYS};
use libtest_mimic::{Arguments, Failed, Trial};
use nodegate::model::service::{Protocol, SourceRanges, TrafficPolicy};

type Test = fn(&mut Bench, &Addresses) -> Result<(), Failed>;

/// Who is who, in one family.
struct Addresses {
    client: IpAddr,
    node: IpAddr,
    cluster_ip: IpAddr,
    balancer: IpAddr,
    gateway: IpAddr,
    second: IpAddr,
    remote: IpAddr,
    router: IpAddr,
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(subnet: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, subnet, 0, 0, 0, 0, 0, host))
}

const V4: Addresses = Addresses {
    client: v4(192, 168, 170, 1),
    node: v4(192, 168, 170, 137),
    cluster_ip: v4(10, 96, 190, 18),
    balancer: v4(203, 0, 113, 9),
    gateway: v4(10, 10, 1, 4),
    second: v4(10, 10, 1, 5),
    remote: v4(10, 10, 2, 4),
    router: v4(192, 168, 170, 254),
};

const V6: Addresses = Addresses {
    client: v6(0xc0, 1),
    node: v6(0xc0, 0x137),
    cluster_ip: v6(0x96, 0x18),
    balancer: v6(0xb0, 9),
    gateway: v6(0x10, 4),
    second: v6(0x10, 5),
    remote: v6(0x20, 4),
    router: v6(0xc0, 0xfe),
};

/// Runs for IPv4 and IPv6.
const BOTH: &[(&str, Test)] = &[
    ("a_syn_to_a_node_port_goes_to_the_backend", node_port),
    ("a_syn_to_a_cluster_ip_goes_to_the_backend", cluster_ip),
    ("replies_get_the_frontends_address_back", replies),
    ("later_packets_stay_on_their_backend", later_packets),
    ("a_packet_of_no_known_flow_is_left_alone", unknown_flow),
    ("what_is_no_service_is_left_alone", no_service),
    ("datagrams_are_translated_both_ways", datagrams),
    (
        "a_datagram_whose_backend_is_gone_is_decided_anew",
        stale_datagram,
    ),
    ("fragments_follow_their_first_one", fragments),
    (
        "a_datagram_after_all_backends_went_goes_to_the_new_one",
        renumbered_datagram,
    ),
    ("a_flow_that_its_client_reset_is_over", reset_by_client),
    (
        "without_endpoints_netfilter_is_asked_to_refuse",
        no_endpoints,
    ),
    (
        "policy_local_without_local_endpoints_drops",
        no_local_endpoints,
    ),
    ("source_ranges_are_kept", source_ranges),
    ("affinity_keeps_clients_with_their_backend", affinity),
    ("only_remote_backends_are_masqueraded", masquerade),
    ("a_port_used_again_is_a_new_connection", port_reuse),
    (
        "a_port_used_again_for_another_translators_connection_is_forgotten",
        port_reuse_elsewhere,
    ),
    (
        "a_syn_to_a_backend_that_is_gone_is_decided_anew",
        gone_backend,
    ),
    ("fault_a_flood_of_syns_displaces_only_itself", flood),
    ("two_flows_with_one_reply_get_two_ports", clash),
    ("five_flows_with_one_reply_are_too_many", more_clashes),
    (
        "a_direct_connection_supersedes_one_through_a_service",
        direct_connection,
    ),
    ("packets_from_pods_are_translated", pod_packets),
    ("sctp_gets_a_crc_for_its_ports", sctp),
    ("an_error_about_a_reply_finds_the_backend", error_to_backend),
    ("an_error_about_a_request_finds_the_client", error_to_client),
    ("damaged_packets_are_left_alone", damaged),
    ("traces_are_told_what_they_want", traces::filtered),
];

/// Runs once.
const ONCE: &[(&str, Test)] = &[
    ("ip_options_do_not_confuse", ip_options),
    (
        "a_udp_datagram_without_checksum_stays_without",
        no_udp_checksum,
    ),
    ("the_verifier_takes_the_socket_programs", socket_programs),
];

fn main() {
    let arguments = Arguments::from_args();
    let obstacle = bench::obstacle();
    if let Some(obstacle) = &obstacle {
        eprintln!("skipping the packet tests: {obstacle}");
    }
    let both = BOTH.iter().flat_map(|(name, test)| {
        [
            (format!("{name}_v4"), *test, &V4),
            (format!("{name}_v6"), *test, &V6),
        ]
    });
    let once = ONCE
        .iter()
        .map(|(name, test)| ((*name).to_owned(), *test, &V4));
    let trials = both
        .chain(once)
        .map(|(name, test, who)| {
            Trial::test(name, move || test(&mut Bench::new()?, who))
                .with_ignored_flag(obstacle.is_some())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

impl Addresses {
    /// The gateway's Service with these backends and whether they are local.
    fn serve(&self, bench: &mut Bench, backends: &[(IpAddr, bool)]) {
        self.serve_with(bench, backends, |_| {});
    }

    fn serve_with(
        &self,
        bench: &mut Bench,
        backends: &[(IpAddr, bool)],
        change: impl FnOnce(&mut nodegate::model::service::ServicePort),
    ) {
        let mut service = bench::service(Protocol::Tcp, self.cluster_ip, backends);
        change(&mut service);
        bench.serve(&[service], self.node);
    }

    fn from(&self) -> (IpAddr, u16) {
        (self.client, 50_000)
    }

    fn node_port(&self) -> (IpAddr, u16) {
        (self.node, 31373)
    }

    fn syn(&self) -> Segment {
        Segment::tcp(self.from(), self.node_port(), "S")
    }

    fn balanced(&self) -> (IpAddr, u16) {
        (self.balancer, 80)
    }
}

fn node_port(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let ran = bench.ingress(&who.syn())?;
    assert_eq!(ran.action, NEXT);
    assert_eq!(ran.ends(), (who.from(), (who.gateway, 8080)));
    assert_eq!(bench.count("chosen"), 1);
    Ok(())
}

fn cluster_ip(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let ran = bench.ingress(&Segment::tcp(who.from(), (who.cluster_ip, 80), "S"))?;
    assert_eq!(ran.ends(), (who.from(), (who.gateway, 8080)));
    Ok(())
}

fn replies(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.ingress(&who.syn())?;
    let ran = bench.egress(&Segment::tcp((who.gateway, 8080), who.from(), "SA"))?;
    assert_eq!(ran.action, NEXT);
    assert_eq!(ran.ends(), (who.node_port(), who.from()));
    // Of another client's connection: none of ours.
    let other = Segment::tcp((who.gateway, 8080), (who.client, 50_001), "SA");
    assert_eq!(bench.egress(&other)?.packet, other.bytes());
    Ok(())
}

fn later_packets(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true), (who.second, true)]);
    let (_, chosen) = bench.ingress(&who.syn())?.ends();
    for flags in ["S", "A", "A"] {
        let ran = bench.ingress(&Segment::tcp(who.from(), who.node_port(), flags))?;
        assert_eq!(ran.ends(), (who.from(), chosen), "{flags}");
    }
    // Even when the Service changes under it: the connection is the pod's until it ends.
    who.serve(bench, &[(who.remote, false)]);
    for flags in ["A", "FA", "A"] {
        let ran = bench.ingress(&Segment::tcp(who.from(), who.node_port(), flags))?;
        assert_eq!(ran.ends(), (who.from(), chosen), "{flags}");
    }
    Ok(())
}

fn unknown_flow(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    for flags in ["A", "SA", "FA", "R"] {
        let segment = Segment::tcp(who.from(), who.node_port(), flags);
        let ran = bench.ingress(&segment)?;
        assert_eq!((ran.action, ran.packet), (NEXT, segment.bytes()), "{flags}");
    }
    Ok(())
}

fn no_service(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    for to in [
        (who.node, 22),
        (who.node, 31374),
        (who.cluster_ip, 31373),
        (who.gateway, 8080),
        (who.client, 31373),
    ] {
        for segment in [
            Segment::tcp(who.from(), to, "S"),
            Segment::udp(who.from(), to),
        ] {
            let ran = bench.ingress(&segment)?;
            assert_eq!((ran.action, ran.packet), (NEXT, segment.bytes()), "{to:?}");
        }
    }
    // The right port of the other protocol.
    let datagram = Segment::udp(who.from(), who.node_port());
    assert_eq!(bench.ingress(&datagram)?.packet, datagram.bytes());
    Ok(())
}

fn serve_udp(bench: &mut Bench, who: &Addresses, backends: &[(IpAddr, bool)]) {
    let service = bench::service(Protocol::Udp, who.cluster_ip, backends);
    bench.serve(&[service], who.node);
}

fn datagrams(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    serve_udp(bench, who, &[(who.gateway, true), (who.second, true)]);
    let there = Segment::udp(who.from(), who.node_port());
    let (from, chosen) = bench.ingress(&there)?.ends();
    assert_eq!(from, who.from());
    for _ in 0..20 {
        assert_eq!(bench.ingress(&there)?.ends(), (who.from(), chosen));
    }
    let back = bench.egress(&Segment::udp(chosen, who.from()))?;
    assert_eq!(back.ends(), (who.node_port(), who.from()));
    Ok(())
}

fn stale_datagram(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let there = Segment::udp(who.from(), who.node_port());
    serve_udp(bench, who, &[(who.gateway, true)]);
    assert_eq!(bench.ingress(&there)?.ends().1, (who.gateway, 8080));
    serve_udp(bench, who, &[(who.second, true)]);
    assert_eq!(bench.ingress(&there)?.ends().1, (who.second, 8080));
    // To nobody, and back again.
    serve_udp(bench, who, &[]);
    let ran = bench.ingress(&there)?;
    assert_eq!(
        (ran.action, ran.mark),
        (NEXT, 0x1000),
        "refused by netfilter"
    );
    serve_udp(bench, who, &[(who.gateway, true)]);
    assert_eq!(bench.ingress(&there)?.ends().1, (who.gateway, 8080));
    Ok(())
}

/// The numbers of backends that went are given to new ones.
fn renumbered_datagram(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let there = Segment::udp(who.from(), who.node_port());
    serve_udp(bench, who, &[(who.gateway, true)]);
    assert_eq!(bench.ingress(&there)?.ends().1, (who.gateway, 8080));
    serve_udp(bench, who, &[]);
    serve_udp(bench, who, &[(who.second, true)]);
    assert_eq!(bench.ingress(&there)?.ends().1, (who.second, 8080));
    Ok(())
}

fn reset_by_client(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.ingress(&who.syn())?;
    bench.ingress(&Segment::tcp(who.from(), who.node_port(), "R"))?;
    // The same port of the client, through the cluster IP to the same backend.
    let other = Segment::tcp(who.from(), (who.cluster_ip, 80), "S");
    assert_eq!(
        bench.ingress(&other)?.ends(),
        (who.from(), (who.gateway, 8080))
    );
    let reply = Segment::tcp((who.gateway, 8080), who.from(), "SA");
    assert_eq!(
        bench.egress(&reply)?.ends(),
        ((who.cluster_ip, 80), who.from())
    );
    Ok(())
}

fn fragments(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    serve_udp(bench, who, &[(who.gateway, true)]);
    let datagram = Segment::udp(who.from(), who.node_port()).with_payload(3000);
    let parts = datagram.fragments(1200, 77);
    assert_eq!(parts.len(), 3);
    let mut whole = Vec::new();
    for part in &parts {
        let ran = bench.run("ingress", part)?;
        assert_eq!(ran.action, NEXT);
        whole.push(ran.packet);
    }
    // Put together again, the datagram is right to the last bit: checksum and all.
    let joined = bench::join(&whole);
    let expected = Segment::udp(who.from(), (who.gateway, 8080))
        .with_payload(3000)
        .bytes();
    assert_eq!(joined, bench::payload_of(&expected));
    // A later fragment without its first one cannot be placed.
    let lost = datagram.fragments(1200, 78).remove(1);
    let ran = bench.run("ingress", &lost)?;
    assert_eq!((ran.action, ran.packet), (NEXT, lost));
    assert_eq!(bench.count("lost-fragment"), 1);
    Ok(())
}

fn no_endpoints(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[]);
    let ran = bench.ingress(&who.syn())?;
    assert_eq!((ran.action, ran.mark), (NEXT, 0x1000));
    assert_eq!(ran.packet, who.syn().bytes());
    assert_eq!(bench.count("no-endpoints"), 1);
    Ok(())
}

fn no_local_endpoints(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve_with(bench, &[(who.remote, false)], |service| {
        service.external_policy = TrafficPolicy::Local;
    });
    assert_eq!(bench.ingress(&who.syn())?.action, DROP);
    assert_eq!(bench.count("no-local-endpoints"), 1);
    // The cluster IP has a policy of its own.
    let ran = bench.ingress(&Segment::tcp(who.from(), (who.cluster_ip, 80), "S"))?;
    assert_eq!(ran.ends().1, (who.remote, 8080));
    Ok(())
}

fn source_ranges(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let stranger = if who.client.is_ipv4() {
        v4(198, 51, 100, 7)
    } else {
        v6(0xdd, 7)
    };
    who.serve_with(bench, &[(who.gateway, true)], |service| {
        service.load_balancer_ips = vec![who.balancer];
        service.source_ranges = SourceRanges::parse(&["192.168.170.0/24", "fd00:c0::/32"]);
    });
    let ran = bench.ingress(&Segment::tcp(who.from(), who.balanced(), "S"))?;
    assert_eq!(ran.ends().1, (who.gateway, 8080));
    let refused = bench.ingress(&Segment::tcp((stranger, 50_000), who.balanced(), "S"))?;
    assert_eq!(refused.action, DROP);
    assert_eq!(bench.count("source-range"), 1);
    // Node ports are not guarded by them.
    let ran = bench.ingress(&Segment::tcp((stranger, 50_000), who.node_port(), "S"))?;
    assert_eq!(ran.ends().1, (who.gateway, 8080));
    Ok(())
}

fn affinity(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let backends: Vec<_> = (1..=8)
        .map(|i| {
            (
                if who.client.is_ipv4() {
                    v4(10, 10, 1, i)
                } else {
                    v6(0x10, i.into())
                },
                true,
            )
        })
        .collect();
    who.serve_with(bench, &backends, |service| service.affinity = Some(10_800));
    let connect = |bench: &mut Bench, port| -> Result<_, Failed> {
        let segment = Segment::tcp((who.client, port), who.node_port(), "S");
        Ok(bench.ingress(&segment)?.ends().1.0)
    };
    let chosen = connect(bench, 50_000)?;
    for port in 50_001..50_030 {
        assert_eq!(connect(bench, port)?, chosen);
    }
    assert_eq!(bench.count("affinity"), 29);
    // Another backend when that one goes; and then that one.
    let left: Vec<_> = backends
        .iter()
        .copied()
        .filter(|(address, _)| *address != chosen)
        .collect();
    who.serve_with(bench, &left, |service| service.affinity = Some(10_800));
    let second = connect(bench, 50_100)?;
    assert_ne!(second, chosen);
    assert_eq!(connect(bench, 50_101)?, second);
    Ok(())
}

fn masquerade(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    assert_eq!(bench.ingress(&who.syn())?.mark, 0x2000, "leave to pass");
    who.serve(bench, &[(who.remote, false)]);
    let ran = bench.ingress(&Segment::tcp((who.client, 50_001), who.node_port(), "S"))?;
    assert_eq!(ran.ends().1, (who.remote, 8080));
    assert_eq!(ran.mark, 0x6000, "KUBE-MARK-MASQ, and whose it is");
    // Should netfilter have lost the first packet, it hears of it again with the next one.
    let again = bench.ingress(&Segment::tcp((who.client, 50_001), who.node_port(), "S"))?;
    assert_eq!(again.mark, 0x6000, "a retransmission");
    // For the rest of the flow it remembers.
    let ran = bench.ingress(&Segment::tcp((who.client, 50_001), who.node_port(), "A"))?;
    assert_eq!(ran.mark, 0);
    Ok(())
}

fn port_reuse(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.ingress(&who.syn())?;
    who.serve(bench, &[(who.second, true), (who.gateway, true)]);
    bench.ingress(&Segment::tcp(who.from(), who.node_port(), "FA"))?;
    who.serve(bench, &[(who.second, true)]);
    let ran = bench.ingress(&who.syn())?;
    assert_eq!(ran.ends(), (who.from(), (who.second, 8080)));
    let reply = bench.egress(&Segment::tcp((who.second, 8080), who.from(), "SA"))?;
    assert_eq!(reply.ends(), (who.node_port(), who.from()));
    Ok(())
}

/// The Service is somebody else's by now.
fn port_reuse_elsewhere(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.ingress(&who.syn())?;
    bench.ingress(&Segment::tcp(who.from(), who.node_port(), "FA"))?;
    bench.serve(&[], who.node);
    for flags in ["S", "A", "FA"] {
        let segment = Segment::tcp(who.from(), who.node_port(), flags);
        let ran = bench.ingress(&segment)?;
        assert_eq!((ran.action, ran.packet), (NEXT, segment.bytes()), "{flags}");
    }
    Ok(())
}

fn gone_backend(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.ingress(&who.syn())?;
    who.serve(bench, &[(who.second, true)]);
    let ran = bench.ingress(&who.syn())?;
    assert_eq!(ran.ends(), (who.from(), (who.second, 8080)));
    // Only one of the two may answer.
    let late = Segment::tcp((who.gateway, 8080), who.from(), "SA");
    assert_eq!(bench.egress(&late)?.packet, late.bytes());
    let reply = bench.egress(&Segment::tcp((who.second, 8080), who.from(), "SA"))?;
    assert_eq!(reply.ends(), (who.node_port(), who.from()));
    Ok(())
}

/// Twice as many as the table holds, by clients that never hear the answer.
fn flood(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let ports = 50_000..50_200;
    for port in ports.clone() {
        let from = (who.client, port);
        bench.ingress(&Segment::tcp(from, who.node_port(), "S"))?;
        bench.egress(&Segment::tcp((who.gateway, 8080), from, "SA"))?;
        bench.ingress(&Segment::tcp(from, who.node_port(), "A"))?;
    }
    let flows = 2 * BUCKETS * WAYS as u32;
    let mut bytes = who.syn().bytes();
    // The last three bytes of the source address, and the port's last.
    let address = if who.client.is_ipv4() {
        27
    } else {
        14 + 8 + 13
    };
    for number in 0..flows {
        let [_, a, b, c] = number.to_be_bytes();
        bytes[address..address + 3].copy_from_slice(&[a | 0x40, b, c]);
        bench.pass("ingress", &bytes)?;
    }
    assert_eq!(bench.count("chosen"), u64::from(flows) + 200);
    for port in ports {
        let from = (who.client, port);
        let ran = bench.ingress(&Segment::tcp(from, who.node_port(), "A"))?;
        assert_eq!(ran.ends(), (from, (who.gateway, 8080)), "{port}");
    }
    assert_eq!(bench.count("table-full"), 0);
    Ok(())
}

fn clash(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.ingress(&who.syn())?;
    // The same port of the client, through the cluster IP to the same backend: for that one it is
    // another port.
    let second = (who.cluster_ip, 80);
    let syn = Segment::tcp(who.from(), second, "S");
    let (from, to) = bench.ingress(&syn)?.ends();
    assert_eq!(to, (who.gateway, 8080));
    assert_eq!(from.0, who.client);
    assert_ne!(from.1, who.from().1);
    // The same for the rest of both connections.
    for flags in ["S", "A", "FA"] {
        let ran = bench.ingress(&Segment::tcp(who.from(), second, flags))?;
        assert_eq!(ran.ends(), (from, (who.gateway, 8080)), "{flags}");
        let ran = bench.ingress(&Segment::tcp(who.from(), who.node_port(), "A"))?;
        assert_eq!(ran.ends(), (who.from(), (who.gateway, 8080)), "{flags}");
    }
    // And the client sees each answer from whom it has asked.
    for (seen, frontend) in [(who.from(), who.node_port()), (from, second)] {
        let answer = Segment::tcp((who.gateway, 8080), seen, "SA");
        assert_eq!(bench.egress(&answer)?.ends(), (frontend, who.from()));
        let error = answer.reply().with_payload(1400);
        let error = error.too_big(who.gateway, who.client, 1280);
        let (from, to, quoted) = bench.run("egress", &error)?.icmp_error();
        assert_eq!((from, to), (frontend.0, who.client));
        assert_eq!(quoted, (who.from(), frontend));
        let reply = Segment::tcp(frontend, who.from(), "A").with_payload(1400);
        let error = reply.too_big(who.router, who.node, 1280);
        let (_, to, quoted) = bench.run("ingress", &error)?.icmp_error();
        assert_eq!(to, who.gateway);
        assert_eq!(quoted, ((who.gateway, 8080), seen));
    }
    assert_eq!(bench.count("clash"), 0);
    // Who has that port from now on, on the way to the backend itself, must not get those answers.
    let direct = Segment::tcp(from, (who.gateway, 8080), "S");
    assert_eq!(bench.ingress(&direct)?.action, DROP);
    assert_eq!(bench.count("clash"), 1);
    Ok(())
}

/// There are four ports for the four.
fn more_clashes(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    let frontends = [
        (who.cluster_ip, 80),
        (who.node, 31373),
        (who.balancer, 80),
        (who.second, 80),
        (who.remote, 80),
    ];
    who.serve_with(bench, &[(who.gateway, true)], |service| {
        service.load_balancer_ips = vec![who.balancer, who.second, who.remote];
    });
    // Its lower 14 bits are enough for a port that may be given.
    let client = (who.client, 52_000);
    let mut seen = std::collections::BTreeSet::new();
    for frontend in &frontends[..4] {
        let ran = bench.ingress(&Segment::tcp(client, *frontend, "S"))?;
        assert_eq!(ran.action, NEXT);
        seen.insert(ran.ends().0.1);
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
    // No port of which a program may think that only the client's administrator has it.
    assert!(seen.first() >= Some(&1024));
    let fifth = Segment::tcp(client, frontends[4], "S");
    assert_eq!(bench.ingress(&fifth)?.action, DROP);
    assert_eq!(bench.count("clash"), 1);
    // Once one connection has ended on both sides, there is room.
    bench.ingress(&Segment::tcp(client, frontends[0], "FA"))?;
    bench.egress(&Segment::tcp((who.gateway, 8080), client, "FA"))?;
    let ran = bench.ingress(&fifth)?;
    assert_eq!(ran.ends(), (client, (who.gateway, 8080)));
    let reply = Segment::tcp((who.gateway, 8080), client, "A");
    assert_eq!(bench.egress(&reply)?.ends(), (frontends[4], client));
    Ok(())
}

/// The same client port, first through the Service, then to its backend directly: what the backend
/// answers then is for itself.
fn direct_connection(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    bench.ingress(&who.syn())?;
    let reply = Segment::tcp((who.gateway, 8080), who.from(), "SA");
    assert_eq!(bench.egress(&reply)?.ends().0, who.node_port());
    bench.ingress(&Segment::tcp(who.from(), who.node_port(), "FA"))?;
    let direct = Segment::tcp(who.from(), (who.gateway, 8080), "S");
    assert_eq!(bench.ingress(&direct)?.packet, direct.bytes());
    assert_eq!(bench.egress(&reply)?.packet, reply.bytes());
    // And through the Service again.
    bench.ingress(&who.syn())?;
    assert_eq!(bench.egress(&reply)?.ends().0, who.node_port());
    Ok(())
}

fn pod_packets(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let pod = (who.second, 40_000);
    let ran = bench.run(
        "pod_ingress",
        &Segment::tcp(pod, (who.cluster_ip, 80), "S").bytes(),
    )?;
    assert_eq!(ran.ends(), (pod, (who.gateway, 8080)));
    assert_eq!(
        ran.mark, 0x2000,
        "a pod's traffic to a cluster IP is not masqueraded"
    );
    let reply = bench.egress(&Segment::tcp((who.gateway, 8080), pod, "SA"))?;
    assert_eq!(reply.ends(), ((who.cluster_ip, 80), pod));
    // A pod that reaches itself has to see another source.
    let hairpin = Segment::tcp((who.gateway, 40_000), (who.cluster_ip, 80), "S");
    assert_eq!(bench.run("pod_ingress", &hairpin.bytes())?.mark, 0x6000);
    Ok(())
}

/// Chunk types (RFC 9260 §3.2).
const INIT: u8 = 1;
const DATA: u8 = 0;

/// SCTP's CRC covers ports and no addresses (RFC 9260 §6.8). What comes out is what would have been
/// sent to the backend in the first place, byte for byte.
fn sctp(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    for port in [8080, 80] {
        let mut service = bench::service(Protocol::Sctp, who.cluster_ip, &[(who.gateway, true)]);
        service.port = port;
        bench.serve(&[service], who.node);
        for (to, number) in [((who.cluster_ip, port), 50_000), (who.node_port(), 50_001)] {
            let from = (who.client, number + port);
            for (chunk, length) in [(INIT, 4), (DATA, 4), (DATA, 5), (DATA, 1400)] {
                let sent = Segment::sctp(from, to, chunk).with_payload(length);
                let ran = bench.ingress(&sent)?;
                assert_eq!(ran.action, NEXT);
                assert_eq!(ran.packet, sent.to((who.gateway, 8080)).bytes());
            }
            let answer = Segment::sctp((who.gateway, 8080), from, DATA).with_payload(100);
            let expected = Segment::sctp(to, from, DATA).with_payload(100);
            assert_eq!(bench.egress(&answer)?.packet, expected.bytes());
        }
    }
    // One that the network card has yet to compute stays empty.
    let from = (who.client, 40_000);
    let empty = |to| {
        let mut bytes = Segment::sctp(from, to, INIT).bytes();
        let at = bytes.len() - 8;
        bytes[at..at + 4].fill(0);
        bytes
    };
    let ran = bench.run("ingress", &empty(who.node_port()))?;
    assert_eq!(ran.packet, empty((who.gateway, 8080)));
    Ok(())
}

/// A router outside cannot pass on a reply that is too large: it tells the node, and the backend has
/// to hear of it.
fn error_to_backend(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    for (segment, protocol) in [
        (who.syn(), Protocol::Tcp),
        (Segment::udp(who.from(), who.node_port()), Protocol::Udp),
    ] {
        let service = bench::service(protocol, who.cluster_ip, &[(who.gateway, true)]);
        bench.serve(&[service], who.node);
        bench.ingress(&segment)?;
        let reply = segment.reply().with_payload(1400);
        let error = reply.too_big(who.router, who.node, 1280);
        let ran = bench.run("ingress", &error)?;
        assert_eq!(ran.action, NEXT);
        let (from, to, quoted) = ran.icmp_error();
        assert_eq!((from, to), (who.router, who.gateway));
        assert_eq!(quoted, ((who.gateway, 8080), who.from()), "{protocol:?}");
    }
    assert_eq!(bench.count("icmp-error"), 2);
    Ok(())
}

/// The pod, or a router on the way to it, has something to say about what the client sent.
fn error_to_client(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    for (segment, protocol) in [
        (who.syn(), Protocol::Tcp),
        (Segment::udp(who.from(), who.node_port()), Protocol::Udp),
    ] {
        let service = bench::service(protocol, who.cluster_ip, &[(who.gateway, true)]);
        bench.serve(&[service], who.node);
        bench.ingress(&segment)?;
        let translated = segment.to((who.gateway, 8080)).with_payload(1400);
        for router in [who.gateway, who.node] {
            let error = translated.too_big(router, who.client, 1280);
            let ran = bench.run("egress", &error)?;
            let (from, to, quoted) = ran.icmp_error();
            assert_eq!((from, to), (who.node, who.client), "{protocol:?}");
            assert_eq!(quoted, (who.from(), who.node_port()), "{protocol:?}");
        }
    }
    // Errors about other flows, and pings, are none of ours.
    let other = Segment::tcp((who.client, 50_777), (who.gateway, 8080), "S");
    let error = other.too_big(who.gateway, who.client, 1280);
    assert_eq!(bench.run("egress", &error)?.packet, error);
    let ping = ping(who);
    for program in ["ingress", "egress"] {
        assert_eq!(bench.run(program, &ping)?.packet, ping);
    }
    Ok(())
}

fn ping(who: &Addresses) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut bytes = Vec::new();
    let written = match (who.client, who.node) {
        (IpAddr::V4(client), IpAddr::V4(node)) => ethernet
            .ipv4(client.octets(), node.octets(), 64)
            .icmpv4_echo_request(1, 2)
            .write(&mut bytes, b"ping"),
        (IpAddr::V6(client), IpAddr::V6(node)) => ethernet
            .ipv6(client.octets(), node.octets(), 64)
            .icmpv6_echo_request(1, 2)
            .write(&mut bytes, b"ping"),
        _ => unreachable!("one family"),
    };
    written.expect("writing to memory");
    bytes
}

fn damaged(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    let good = who.syn().bytes();
    // The kernel refuses to run on less than an Ethernet and an IP header.
    let least = if who.client.is_ipv4() { 34 } else { 54 };
    for length in least..good.len() {
        let packet = &good[..length];
        let ran = bench.run("ingress", packet)?;
        assert!([NEXT, DROP].contains(&ran.action), "{length} bytes");
        assert_eq!(ran.packet.len(), packet.len());
    }
    let mut random = fastrand::Rng::with_seed(1);
    let error = who.syn().reply().too_big(who.router, who.node, 1280);
    for _ in 0..3_000 {
        let mut packet = if random.bool() {
            good.clone()
        } else {
            error.clone()
        };
        for _ in 0..random.usize(1..6) {
            let at = random.usize(14..packet.len());
            packet[at] = random.u8(..);
        }
        packet.truncate(random.usize(least..=packet.len()));
        for program in ["ingress", "egress", "pod_ingress"] {
            let ran = bench.run(program, &packet)?;
            assert_eq!(ran.packet.len(), packet.len());
            assert!([NEXT, DROP].contains(&ran.action), "{}", ran.action);
        }
    }
    Ok(())
}

fn ip_options(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    who.serve(bench, &[(who.gateway, true)]);
    for words in 1..=10u8 {
        let from = (who.client, 50_000 + u16::from(words));
        let packet = Segment::tcp(from, who.node_port(), "S").bytes_with_options(words);
        let ran: Ran = bench.run("ingress", &packet)?;
        assert_eq!(ran.ends(), (from, (who.gateway, 8080)), "{words} words");
    }
    Ok(())
}

/// 0 means "no checksum" (RFC 768).
fn no_udp_checksum(bench: &mut Bench, who: &Addresses) -> Result<(), Failed> {
    serve_udp(bench, who, &[(who.gateway, true)]);
    let mut packet = Segment::udp(who.from(), who.node_port()).bytes();
    let checksum = 14 + 20 + 6;
    packet[checksum..checksum + 2].fill(0);
    let ran = bench.run("ingress", &packet)?;
    assert_eq!(ran.packet[checksum..checksum + 2], [0, 0]);
    assert_eq!(ran.packet[30..34], [10, 10, 1, 4]);
    // An ICMP message that quotes nothing is no error about a flow.
    let kind = Icmpv4Type::Unknown {
        type_u8: 3,
        code_u8: 4,
        bytes5to8: [0; 4],
    };
    let header = Icmpv4Header::with_checksum(kind, &[]);
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 168, 170, 1], [192, 168, 170, 137], 64)
        .icmpv4(header.icmp_type)
        .write(&mut bytes, &[])?;
    assert_eq!(bench.run("ingress", &bytes)?.packet, bytes);
    Ok(())
}

fn socket_programs(bench: &mut Bench, _who: &Addresses) -> Result<(), Failed> {
    for name in [
        "connect4",
        "connect6",
        "sendmsg4",
        "sendmsg6",
        "recvmsg4",
        "recvmsg6",
        "getpeername4",
        "getpeername6",
    ] {
        let program = bench
            .ebpf
            .program_mut(name)
            .expect("the object has the program");
        let program: &mut CgroupSockAddr = program.try_into()?;
        program.load()?;
    }
    Ok(())
}
