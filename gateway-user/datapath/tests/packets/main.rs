//! The kernel programs, packet by packet: bytes in, bytes and verdict out, through the real verifier
//! and `BPF_PROG_TEST_RUN`. Nothing is attached to anything but a cgroup of one process.
//!
//! Needs root, a BPF file system and a cgroup2; without, every test is reported as ignored.

mod arbitrary;
mod bench;
mod datagrams;
mod flows;
mod headers;
mod policies;
mod refusals;
mod states;
mod traces;
mod turns;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::ExitCode,
};

use aya::programs::CgroupSockAddr;
use libtest_mimic::{Arguments, Failed, Trial};
use nodegate_model::service::Protocol;

use bench::{Bench, Segment};

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
    ("arbitrary_packets_do_no_harm", arbitrary::do_no_harm),
    ("a_syn_to_a_node_port_goes_to_the_backend", flows::node_port),
    (
        "a_syn_to_a_cluster_ip_goes_to_the_backend",
        flows::cluster_ip,
    ),
    ("replies_get_the_frontends_address_back", flows::replies),
    ("later_packets_stay_on_their_backend", flows::later_packets),
    (
        "a_packet_of_no_known_flow_is_left_alone",
        flows::unknown_flow,
    ),
    ("what_is_no_service_is_left_alone", flows::no_service),
    ("datagrams_are_translated_both_ways", datagrams::datagrams),
    (
        "a_datagram_whose_backend_is_gone_is_decided_anew",
        datagrams::stale_datagram,
    ),
    ("fragments_follow_their_first_one", datagrams::fragments),
    (
        "a_datagram_after_all_backends_went_goes_to_the_new_one",
        datagrams::renumbered_datagram,
    ),
    (
        "a_flow_that_its_client_reset_is_over",
        flows::reset_by_client,
    ),
    (
        "without_endpoints_netfilter_is_asked_to_refuse",
        policies::no_endpoints,
    ),
    (
        "policy_local_without_local_endpoints_drops",
        policies::no_local_endpoints,
    ),
    ("source_ranges_are_kept", policies::source_ranges),
    (
        "affinity_keeps_clients_with_their_backend",
        policies::affinity,
    ),
    ("connections_take_turns_by_weight", turns::by_weight),
    ("a_client_that_stays_takes_one_turn", turns::with_affinity),
    ("only_remote_backends_are_masqueraded", policies::masquerade),
    ("a_port_used_again_is_a_new_connection", flows::port_reuse),
    (
        "a_port_used_again_for_another_translators_connection_is_forgotten",
        flows::port_reuse_elsewhere,
    ),
    (
        "a_syn_to_a_backend_that_is_gone_is_decided_anew",
        flows::gone_backend,
    ),
    ("fault_a_flood_of_syns_displaces_only_itself", flows::flood),
    (
        "fault_a_packet_whose_bucket_is_being_changed_is_dropped_and_counted",
        flows::busy,
    ),
    ("two_flows_with_one_reply_get_two_ports", flows::clash),
    (
        "five_flows_with_one_reply_are_too_many",
        flows::more_clashes,
    ),
    (
        "a_direct_connection_and_one_through_a_service_live_beside_each_other",
        flows::direct_connection,
    ),
    (
        "fault_nothing_that_a_stranger_forges_changes_a_connection",
        states::forged,
    ),
    (
        "fault_a_connection_after_a_reset_begins_anew",
        states::after_a_reset,
    ),
    (
        "a_syn_that_is_not_the_same_one_is_decided_anew",
        states::decided_anew,
    ),
    (
        "a_syn_where_a_connection_is_asks_its_backend",
        states::questions,
    ),
    (
        "a_port_that_the_backend_has_a_connection_from_is_left_to_that",
        states::occupied,
    ),
    (
        "what_an_endpoint_has_in_time_wait_is_reset_by_the_client",
        states::waits,
    ),
    (
        "all_ports_of_an_opening_are_tried_before_one_is_tried_again",
        states::occupied_one_by_one,
    ),
    (
        "a_connection_past_a_service_keeps_its_port_from_the_services",
        states::beside,
    ),
    ("a_connection_is_forgotten_after_its_time", states::patience),
    (
        "window_scales_are_read_wherever_they_stand",
        states::window_scales,
    ),
    (
        "sctp_associations_are_known_by_their_tags",
        states::associations,
    ),
    (
        "answers_to_what_the_node_asks_from_a_frontends_port_are_its_own",
        datagrams::ours,
    ),
    (
        "datagrams_past_the_service_are_told_from_those_through_it",
        datagrams::direct,
    ),
    ("packets_from_pods_are_translated", flows::pod_packets),
    ("sctp_gets_a_crc_for_its_ports", headers::sctp),
    (
        "sctp_in_fragments_is_dropped_where_its_port_changes_and_told",
        headers::fragmented_sctp,
    ),
    (
        "an_error_about_a_reply_finds_the_backend",
        headers::error_to_backend,
    ),
    (
        "an_error_about_a_request_finds_the_client",
        headers::error_to_client,
    ),
    ("damaged_packets_are_left_alone", headers::damaged),
    (
        "frames_for_other_stations_are_left_alone",
        headers::other_stations,
    ),
    ("traces_that_are_too_slow_are_told", traces::lost),
    ("traces_are_told_what_they_want", traces::filtered),
];

/// Runs once.
const ONCE: &[(&str, Test)] = &[
    ("ip_options_do_not_confuse", headers::ip_options),
    (
        "a_udp_datagram_without_checksum_stays_without",
        datagrams::no_udp_checksum,
    ),
    ("the_verifier_takes_the_socket_programs", socket_programs),
    ("refused_calls_fail_at_once", refusals::told),
];

fn main() -> ExitCode {
    if let Some(code) = refusals::connect() {
        return code;
    }
    let arguments = Arguments::from_args();
    let obstacle = bench::obstacle();
    if let Some(obstacle) = &obstacle {
        eprintln!("skipped: {obstacle}");
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
    libtest_mimic::run(&arguments, trials).exit_code()
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
        change: impl FnOnce(&mut nodegate_model::service::ServicePort),
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
