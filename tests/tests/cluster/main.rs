//! A real Kubernetes: that it is one, and that nothing is left of it.
//!
//! The trials want what `cargo xtask cluster parts` builds, which takes long: without it they are ignored. So is
//! the trial with nodegate without Kubernetes' own tests, which `cargo xtask conformance` builds.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use nodegate_testbed::{
    cluster::parts::{Parts, Purpose},
    environment,
};

mod conformance;
mod left;
mod life;
mod services;

/// Makes this program a process that builds a cluster and waits, to be killed in the middle.
const VICTIM: &str = "CLUSTER_TEST_VICTIM";

type Test = fn(&str, &Parts) -> anyhow::Result<()>;

/// Their names, what they need, and what they do.
const TESTS: &[(&str, Purpose, Test)] = &[
    (
        "services_are_reached_from_pods_by_name_and_from_outside",
        Purpose::Cluster,
        services::with_iptables,
    ),
    (
        "clusters_stand_side_by_side_with_nftables_and_without_kube_proxy",
        Purpose::Cluster,
        services::side_by_side,
    ),
    (
        "images_are_loaded_from_archives",
        Purpose::Cluster,
        life::images,
    ),
    (
        "an_existing_name_is_refused",
        Purpose::Cluster,
        life::existing_name,
    ),
    (
        "what_a_killed_up_leaves_goes_down",
        Purpose::Cluster,
        life::killed_up,
    ),
    (
        "what_a_killed_node_leaves_goes_down",
        Purpose::Cluster,
        life::killed_node,
    ),
    (
        "nodegate_passes_kubernetes_own_tests_of_services",
        Purpose::Conformance,
        conformance::services,
    ),
];

fn main() -> ExitCode {
    if let Some(name) = std::env::var_os(VICTIM) {
        return life::victim(&name.to_string_lossy());
    }
    let mut arguments = Arguments::from_args();
    // Each is a gigabyte and more.
    arguments.test_threads.get_or_insert(1);
    let needs = [Purpose::Cluster, Purpose::Conformance].map(|purpose| (purpose, parts(purpose)));
    // Whoever lacks what a cluster needs lacks it for all of them.
    if let Some(lacks) = needs.iter().find_map(|(_, parts)| parts.as_ref().err()) {
        eprintln!("skipped: {lacks:#}");
    }
    let before = left::on_the_machine();
    let trials = TESTS
        .iter()
        .enumerate()
        .map(|(index, (name, purpose, test))| {
            // Short and its own: several runs may go on at the same time.
            let cluster = format!("c{}-{index}", std::process::id());
            let parts = needs.iter().find(|(need, _)| need == purpose);
            let parts = parts.and_then(|(_, parts)| parts.as_ref().ok().cloned());
            let before = before.clone();
            let missing = parts.is_none();
            Trial::test(*name, move || {
                let parts = parts.ok_or("the parts are missing")?;
                test(&cluster, &parts)
                    .and_then(|()| left::nothing_of(&cluster, &before))
                    .map_err(|error| Failed::from(format!("{error:#}")))
            })
            .with_ignored_flag(missing)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What trials need.
fn parts(purpose: Purpose) -> anyhow::Result<Parts> {
    let parts = Parts::find_for(purpose)?;
    environment::check_for_cluster()?;
    if purpose == Purpose::Conformance {
        conformance::nodegate()?;
    }
    Ok(parts)
}
