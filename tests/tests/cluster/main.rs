//! A real Kubernetes: that it is one, and that nothing is left of it.
//!
//! The trials want what `cargo xtask cluster parts` builds, which takes long: without it they are ignored.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use nodegate_testbed::{cluster::parts::Parts, environment};

mod left;
mod life;
mod services;
mod source;

/// Makes this program a process that builds a cluster and waits, to be killed in the middle.
const VICTIM: &str = "CLUSTER_TEST_VICTIM";

type Test = fn(&str, &Parts) -> anyhow::Result<()>;

const TESTS: &[(&str, Test)] = &[
    (
        "services_are_reached_from_pods_by_name_and_from_outside",
        services::with_iptables,
    ),
    (
        "clusters_stand_side_by_side_with_nftables_and_without_kube_proxy",
        services::side_by_side,
    ),
    ("images_are_loaded_from_archives", life::images),
    (
        "the_api_server_is_followed_and_done_without",
        source::outage,
    ),
    ("an_existing_name_is_refused", life::existing_name),
    ("what_a_killed_up_leaves_goes_down", life::killed_up),
    ("what_a_killed_node_leaves_goes_down", life::killed_node),
];

fn main() -> ExitCode {
    if let Some(name) = std::env::var_os(VICTIM) {
        return life::victim(&name.to_string_lossy());
    }
    let mut arguments = Arguments::from_args();
    // Each is a gigabyte and more.
    arguments.test_threads.get_or_insert(1);
    let parts = Parts::find().and_then(|parts| environment::check_for_cluster().map(|()| parts));
    if let Err(lacks) = &parts {
        eprintln!("skipped: {lacks}");
    }
    let before = left::on_the_machine();
    let trials = TESTS
        .iter()
        .enumerate()
        .map(|(index, (name, test))| {
            // Short and its own: several runs may go on at the same time.
            let cluster = format!("c{}-{index}", std::process::id());
            let (parts, before) = (parts.clone(), before.clone());
            let missing = parts.is_err();
            Trial::test(*name, move || {
                test(&cluster, &parts?)?;
                left::nothing_of(&cluster, &before).map_err(Failed::from)
            })
            .with_ignored_flag(missing)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
