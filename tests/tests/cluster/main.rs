//! A real Kubernetes: that it is one, and that nothing is left of it.
//!
//! The trials want what `cargo xtask cluster parts` builds, which takes long: without it they are ignored.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use nodegate_testbed::{
    cluster::parts::Parts,
    environment::{self, Unmet},
};

mod chart;
mod deploy;
mod left;
mod life;
mod load;
mod rights;
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

/// Trials of what `deploy/` has, with nodegate.
const DEPLOY: &[(&str, Test)] = &[
    (
        "deploy_goes_from_nothing_to_ready_through_upgrades_to_nothing",
        deploy::from_nothing_to_nothing,
    ),
    (
        "deploy_gives_every_right_that_is_needed_and_no_other",
        rights::all_are_needed,
    ),
];

fn main() -> ExitCode {
    if let Some(code) = load::run() {
        return code;
    }
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
    let nodegate = deploy::nodegate();
    if let (Ok(_), Err(lacks)) = (&parts, &nodegate) {
        eprintln!("skipped: {lacks:#}");
    }
    let before = left::on_the_machine();
    let alone = TESTS.iter().map(|test| (test, false));
    let all = alone.chain(DEPLOY.iter().map(|test| (test, true)));
    let mut trials: Vec<_> = all
        .enumerate()
        .map(|(index, ((name, test), with_nodegate))| {
            // Short and its own: several runs may go on at the same time.
            let cluster = format!("c{}-{index}", std::process::id());
            let (parts, before) = (parts.clone(), before.clone());
            let missing = parts.is_err() || with_nodegate && nodegate.is_err();
            Trial::test(*name, move || {
                test(&cluster, &parts?).map_err(|error| Failed::from(format!("{error:#}")))?;
                left::nothing_of(&cluster, &before).map_err(Failed::from)
            })
            .with_ignored_flag(missing)
        })
        .collect();
    trials.push(chart());
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// It needs no cluster, but a part that is built for it alone.
fn chart() -> Trial {
    let parts = Parts::find_with("helm");
    if let Err(lacks @ Unmet::OptionalPart(_)) = &parts {
        eprintln!("skipped: {lacks}");
    }
    let missing = parts.is_err();
    Trial::test("the_chart_means_what_the_kustomizations_mean", move || {
        Ok(chart::means_the_same(&parts?)?)
    })
    .with_ignored_flag(missing)
}
