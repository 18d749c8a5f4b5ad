//! nodegate and kube-proxy side by side: the same Services as kube-proxy's rules in netfilter on one
//! node, and as nodegate's maps and programs on another of the same shape; the same connections through
//! both. Where they end up, whom the backends see, and how refusals look must be the same, but for
//! what [`differences::DIFFERENCES`] lists; nodegate's must be as the decision core says; and both must be
//! as `nodegate explain` says.
//!
//! Needs root, iptables, a BPF file system and a cgroup2; without, every test is reported as ignored.
//! `NODEGATE_DIFFERENTIAL=full` runs 500 random sets of Services in place of 60: about 3 minutes in place
//! of 90 seconds on two cores. `NODEGATE_DIFFERENTIAL_IPTABLES=nft` loads kube-proxy's rules into nftables
//! in place of the older tables.

mod agent;
mod c8;
mod chance;
mod compare;
mod core;
mod differences;
mod explained;
mod flows;
mod generate;
#[path = "../support/random.rs"]
mod random;
mod recordings;
mod reuse;
mod sides;
#[path = "../support/golden.rs"]
mod support;
mod world;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use compare::{Tally, compare};
use libtest_mimic::{Arguments, Failed, Trial};
use random::Generator;
use sides::Sides;

/// So many sets of Services are loaded at a time, in the short form and in the full one.
const AT_ONCE: [usize; 2] = [10, 20];
/// So many flows of each go through both nodes.
const FLOWS: usize = 28;
const SEED: u64 = 0x6e6f_6465_6761_7465;

/// Pairs of nodes that no test has now. There are as many as tests ran at a time.
type Idle = Arc<Mutex<Vec<Sides>>>;

fn main() {
    if std::env::args().nth(1).as_deref() == Some(agent::ARGUMENT) {
        if let Err(error) = agent::main() {
            eprintln!("agent: {error:#}");
            std::process::exit(1);
        }
        return;
    }
    let mut arguments = Arguments::from_args();
    let obstacle = sides::obstacle();
    if let Some(obstacle) = &obstacle {
        eprintln!("skipped: {obstacle}");
    }
    let idle = Idle::default();
    let total = Arc::new(Mutex::new(Tally::default()));
    let full = std::env::var("NODEGATE_DIFFERENTIAL").is_ok_and(|value| value == "full");
    let mut runs = trials(full);
    if full && arguments.filter.is_none() {
        // The last of them looks at what the others have found.
        arguments.test_threads = Some(1);
        let total = Arc::clone(&total);
        runs.push((
            "every_difference_occurs".into(),
            Box::new(move |_| differences::all_occur(&lock(&total))),
        ));
    }
    let trials = runs
        .into_iter()
        .map(|(name, run)| {
            let (idle, total) = (Arc::clone(&idle), Arc::clone(&total));
            Trial::test(name, move || {
                let free = lock(&idle).pop();
                let mut sides = free.map_or_else(Sides::new, Ok).map_err(failed)?;
                // A test that fails may leave anything behind: nobody has its nodes again.
                let tally = run(&mut sides).map_err(failed)?;
                lock(&total).add(&tally);
                lock(&idle).push(sides);
                Ok(())
            })
            .with_ignored_flag(obstacle.is_some())
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    lock(&idle).clear();
    let total = lock(&total);
    if total.flows > 0 {
        eprintln!("{} flows, {} connections", total.flows, total.attempts);
        for difference in &differences::DIFFERENCES {
            let count = total.differences.get(difference.name);
            let (name, reason) = (difference.name, difference.reason);
            eprintln!("{:>7} {name}: {reason}", count.unwrap_or(&0));
        }
    }
    if total.again > 0 {
        eprintln!("{} flows were looked at twice", total.again);
    }
    conclusion.exit();
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: anyhow::Error) -> Failed {
    format!("{error:#}").into()
}

type Run = Box<dyn FnOnce(&mut Sides) -> anyhow::Result<Tally> + Send>;

fn trials(full: bool) -> Vec<(String, Run)> {
    let mut trials: Vec<(String, Run)> = Vec::new();
    for (name, knows_pods, all) in [
        ("base", true, false),
        ("without_local_detector", false, false),
        ("masquerade_all", true, true),
        ("masquerade_all_without_local_detector", false, true),
    ] {
        trials.push((
            format!("internal_and_external_masquerading_{name}"),
            Box::new(move |sides| c8::run(sides, knows_pods, all)),
        ));
    }
    let sets = if full { 500 } else { 60 };
    trials.push((
        format!("{sets}_random_sets_of_services"),
        Box::new(move |sides| {
            let mut generator = Generator::new(SEED);
            let mut tally = Tally::default();
            let at_once = AT_ONCE[usize::from(full)];
            for _ in 0..sets / at_once {
                let (load, flows) = generate::load(&mut generator, at_once, FLOWS);
                tally.add(&compare(sides, &load, &flows)?.0);
            }
            Ok(tally)
        }),
    ));
    trials.push((
        "every_backend_gets_its_share".into(),
        Box::new(chance::shares),
    ));
    trials.push((
        "clients_stay_and_who_counts_as_one".into(),
        Box::new(chance::affinity),
    ));
    trials.push((
        "unreadable_source_ranges".into(),
        Box::new(differences::unreadable_source_ranges),
    ));
    trials.push((
        "client_ports_are_used_again_by_another_way".into(),
        Box::new(reuse::ways_in_turn),
    ));
    for set in recordings::sets() {
        trials.push((
            format!("recording_{}", set.name),
            Box::new(move |sides| recordings::run(sides, &set)),
        ));
    }
    trials
}
