//! A real Kubernetes: that it is one, that nothing is left of it, and nodegate in it.
//!
//! The trials want what `cargo xtask cluster parts` builds, which takes long: without it they are ignored.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

use anyhow::ensure;
use libtest_mimic::{Arguments, Failed, Trial};
use nodegate_programs::Use;
use nodegate_testbed::{
    cluster::parts::{Parts, Purpose},
    environment,
};

mod admission;
mod chart;
mod conformance;
mod controller;
mod deploy;
mod differential;
mod faults;
mod handover;
mod istio;
mod left;
mod life;
mod load;
mod posts;
mod rights;
mod services;
mod source;

/// Makes this program a process that builds a cluster and waits, to be killed in the middle.
const VICTIM: &str = "CLUSTER_TEST_VICTIM";

/// Gets the name of its cluster.
type Test = fn(&str, &Parts) -> anyhow::Result<()>;

/// What a trial needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// A cluster.
    Cluster,
    /// A cluster, and nodegate.
    Nodegate,
    /// These, and Kubernetes' own tests.
    Conformance,
    /// A cluster, nodegate, and the servers of people's examples.
    Samples,
    /// A cluster, nodegate, and Istio.
    Istio,
    /// Helm, and the part of a cluster that reads kustomizations.
    Chart,
}

const TESTS: &[(&str, Needs, Test)] = &[
    (
        "services_are_reached_from_pods_by_name_and_from_outside",
        Needs::Cluster,
        services::with_iptables,
    ),
    (
        "clusters_stand_side_by_side_with_nftables_and_without_kube_proxy",
        Needs::Cluster,
        services::side_by_side,
    ),
    (
        "images_are_loaded_from_archives",
        Needs::Cluster,
        life::images,
    ),
    (
        "an_existing_name_is_refused",
        Needs::Cluster,
        life::existing_name,
    ),
    (
        "what_a_killed_up_leaves_goes_down",
        Needs::Cluster,
        life::killed_up,
    ),
    (
        "what_a_killed_node_leaves_goes_down",
        Needs::Cluster,
        life::killed_node,
    ),
    (
        "the_api_server_is_followed_and_done_without",
        Needs::Nodegate,
        source::outage,
    ),
    (
        "deploy_goes_from_nothing_to_ready_through_upgrades_to_nothing",
        Needs::Nodegate,
        deploy::from_nothing_to_nothing,
    ),
    (
        "no_connection_fails_from_kube_proxy_to_nodegate_and_back",
        Needs::Nodegate,
        handover::there_and_back,
    ),
    (
        "an_older_state_and_a_start_without_the_api_server_are_no_outage",
        Needs::Nodegate,
        faults::older_state_and_reboot,
    ),
    ("what_posts_tell_to_do_works", Needs::Samples, posts::work),
    (
        "istio_and_nodegate_answer_the_same",
        Needs::Istio,
        istio::same_answers,
    ),
    (
        "istio_and_nodegate_answer_the_same_by_chance",
        Needs::Istio,
        differential::by_chance,
    ),
    (
        "deploy_gives_every_right_that_is_needed_and_no_other",
        Needs::Nodegate,
        rights::all_are_needed,
    ),
    (
        "nodegate_passes_kubernetes_own_tests_of_services",
        Needs::Conformance,
        conformance::services,
    ),
    (
        "the_chart_means_what_the_kustomizations_mean",
        Needs::Chart,
        |_, parts| chart::means_the_same(parts),
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
    let before = left::on_the_machine();
    let mut lacking = BTreeSet::new();
    let trials = TESTS
        .iter()
        .enumerate()
        .map(|(index, (name, needs, test))| {
            // Short and its own: several runs may go on at the same time.
            let cluster = format!("c{}-{index}", std::process::id());
            let parts = needs.parts();
            if let Err(lacks) = &parts {
                lacking.insert(format!("{lacks:#}"));
            }
            let before = before.clone();
            let missing = parts.is_err();
            Trial::test(*name, move || {
                test(&cluster, &parts?)
                    .and_then(|()| left::nothing_of(&cluster, &before))
                    .map_err(|error| Failed::from(format!("{error:#}")))
            })
            .with_ignored_flag(missing)
        })
        .collect();
    for lacks in lacking {
        eprintln!("skipped: {lacks}");
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

impl Needs {
    /// The parts, if all that is needed is here.
    fn parts(self) -> anyhow::Result<Parts> {
        let purpose = match self {
            Self::Cluster | Self::Nodegate => Purpose::Cluster,
            Self::Conformance => Purpose::Conformance,
            Self::Chart => Purpose::Chart,
            Self::Samples => Purpose::Samples,
            Self::Istio => Purpose::Istio,
        };
        let parts = Parts::find_for(purpose)?;
        if self == Self::Chart {
            return Ok(parts);
        }
        environment::check_for_cluster()?;
        if self == Self::Istio {
            environment::envoy()?;
        }
        if self != Self::Cluster {
            environment::btf()?;
            nodegate()?;
        }
        Ok(parts)
    }
}

/// The nodegate that is tried: of `NODEGATE_BIN`, or from beside the tests' own programs.
fn nodegate() -> anyhow::Result<PathBuf> {
    environment::programs(&[Use::Product])?;
    let nodegate = match std::env::var_os("NODEGATE_BIN") {
        Some(path) => path.into(),
        None => PathBuf::from(env!("CARGO_BIN_EXE_testbed-node")).with_file_name("nodegate"),
    };
    ensure!(
        nodegate.is_file(),
        "{} is not built (fix: cargo xtask test)",
        nodegate.display()
    );
    Ok(nodegate)
}
