//! The cluster itself, with a stand-in for nodegate: networks, pods, changes, and that nothing is
//! left behind. What nodegate does in it is the end-to-end tests' subject.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use nodegate_testbed::environment;

mod life;
mod network;
mod nodes;
mod scene;
mod services;
mod stand_in;

/// Makes this program a process that builds a testbed and waits, to be killed in the middle.
const VICTIM: &str = "TESTBED_TEST_VICTIM";

type Test = fn(&str) -> anyhow::Result<()>;

const TESTS: &[(&str, Test)] = &[
    (
        "pods_and_nodes_reach_pods_and_the_client_does_not",
        network::pods_and_nodes_reach_pods,
    ),
    (
        "the_client_reaches_nodes_and_the_external_ips_that_they_own",
        network::external_ips,
    ),
    (
        "nodes_in_different_subnets_reach_each_other",
        network::different_subnets,
    ),
    ("ipv6_leads_wherever_ipv4_does_without_delay", network::ipv6),
    ("udp_is_answered_on_both_families", network::udp),
    (
        "dual_stack_services_have_addresses_and_slices_of_both_families",
        services::dual_stack,
    ),
    (
        "readiness_and_termination_change_slices_and_no_pods",
        services::conditions,
    ),
    (
        "load_balancer_addresses_are_routed_and_no_nodes",
        services::load_balancer_ips,
    ),
    ("nodegate_is_killed_and_started_again", nodes::restarts),
    ("nodes_choose_how_nodegate_runs", nodes::node_options),
    (
        "processes_are_in_their_nodes_cgroup_and_namespace",
        nodes::cgroups,
    ),
    ("changes_start_replace_and_stop_pods", life::changes),
    (
        "requests_under_way_outlive_their_pods_endpoint",
        life::requests_under_way,
    ),
    ("testbeds_stand_side_by_side", life::side_by_side),
    ("an_existing_name_is_refused", life::existing_name),
    (
        "a_nodegate_that_ends_is_an_error_with_its_log",
        life::failing_nodegate,
    ),
    ("what_a_killed_up_leaves_goes_down", life::killed_up),
];

fn main() -> ExitCode {
    if let Some(code) = stand_in::play() {
        return code;
    }
    if let Some(name) = std::env::var_os(VICTIM) {
        return life::victim(&name.to_string_lossy());
    }
    let arguments = Arguments::from_args();
    let lacks = environment::check_for_tests().err();
    if let Some(lacks) = &lacks {
        eprintln!("skipped: {lacks}");
    }
    let trials = TESTS
        .iter()
        .enumerate()
        .map(|(index, (name, test))| {
            // Short and its own: several runs may go on at the same time.
            let testbed = format!("t{}-{index}", std::process::id());
            Trial::test(*name, move || {
                test(&testbed)?;
                life::nothing_left(&testbed).map_err(Failed::from)
            })
            .with_ignored_flag(lacks.is_some())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
