//! The trials: what was counted and measured, against what is recorded.

use std::{collections::BTreeMap, env::consts::ARCH, process::ExitCode};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::{
    Counted, count, counts,
    figures::{Figures, Work, walked_above},
    kernel, obstacle, paths, print_sizes, ratios,
};

/// How the figures are written down.
const RECORD: &str = "NODEGATE_BUDGET=record cargo test -p nodegate-datapath --test budget";

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    // They would be in each other's way.
    arguments.test_threads = Some(1);
    let recorded = Figures::read()?;
    let obstacle = obstacle();
    if let Some(obstacle) = obstacle {
        eprintln!("budget: all trials are ignored: {obstacle}");
    }
    let counted = match obstacle {
        None if !arguments.list => Some(count()?),
        _ => None,
    };
    if let Some(counted) = &counted {
        print_sizes(&counted.sizes);
        print_paths(&counted.paths, &recorded);
    }
    let trials = [
        on_paths(&recorded, counted.as_ref()),
        of_the_verifier(&recorded, counted.as_ref())?,
        of_time(recorded, counted.is_some()),
    ];
    let trials = trials.into_iter().flatten().collect();
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}

fn print_paths(paths: &BTreeMap<String, Work>, recorded: &Figures) {
    println!(
        "\n{:>12} {:>8} {:>8} {:>13} {:>8}  PATH",
        "INSTRUCTIONS", "RECORDED", "LOOK-UPS", "OTHER HELPERS", "ATOMICS"
    );
    for (path, work) in paths {
        let recorded = recorded.paths.get(path).map_or(0, |work| work.instructions);
        let (look_ups, others) = work.numbers();
        println!(
            "{:>12} {recorded:>8} {look_ups:>8} {others:>13} {:>8}  {path}",
            work.instructions, work.atomics
        );
    }
}

/// A trial of what was found: an empty reason is none.
fn trial(name: String, found: Option<Vec<String>>) -> Trial {
    let ignored = found.is_none();
    let found = found.unwrap_or_default();
    let verdict = move || match found.as_slice() {
        [] => Ok(()),
        reasons => Err(Failed::from(format!(
            "{}\nif that is as it should be: {RECORD}",
            reasons.join("\n")
        ))),
    };
    Trial::test(name, verdict).with_ignored_flag(ignored)
}

/// Calls and instructions of each path.
fn on_paths(recorded: &Figures, counted: Option<&Counted>) -> Vec<Trial> {
    let compiler = counts::compiler();
    let same_compiler = compiler == recorded.compiler;
    if counted.is_some() && !same_compiler {
        eprintln!(
            "budget: instructions are reported and not judged (ignored): those recorded are of {}, these of \
             {compiler}; to record them: {RECORD}",
            recorded.compiler
        );
    }
    let mut trials = Vec::new();
    for path in paths::all() {
        let work = counted.and_then(|counted| counted.paths.get(path.name));
        let judged = |judge: fn(&Work, &Work) -> Vec<String>| {
            work.map(|work| match recorded.paths.get(path.name) {
                Some(recorded) => judge(work, recorded),
                None => vec!["no figures are recorded for it".to_owned()],
            })
        };
        let calls = judged(Work::more_calls);
        let instructions =
            judged(|work, recorded| work.more_instructions(recorded).into_iter().collect());
        trials.push(trial(format!("calls: {}", path.name), calls));
        trials.push(trial(
            format!("instructions: {}", path.name),
            instructions.filter(|_| same_compiler),
        ));
    }
    trials
}

/// What the verifier walks of each program.
fn of_the_verifier(recorded: &Figures, counted: Option<&Counted>) -> anyhow::Result<Vec<Trial>> {
    let kernel = kernel()?;
    let mut figures = recorded.walked.get(&kernel);
    if counts::compiler() != recorded.compiler {
        figures = None;
    }
    if counted.is_some() && figures.is_none() {
        eprintln!(
            "budget: verified instructions are reported and not judged (ignored): none are recorded for \
             Linux {kernel} and {}; to record them: {RECORD}",
            counts::compiler()
        );
    }
    let trials = counts::Programs::new()?.names().into_iter().map(|name| {
        let size = counted.and_then(|counted| counted.sizes.get(&name));
        let above = size
            .zip(figures)
            .map(|(size, figures)| match figures.get(&name) {
                Some(recorded) => walked_above(size.walked, *recorded).into_iter().collect(),
                None => vec!["no figure is recorded for it".to_owned()],
            });
        trial(format!("walk: {name}"), above)
    });
    Ok(trials.collect())
}

fn of_time(mut recorded: Figures, possible: bool) -> Vec<Trial> {
    let ratios = recorded.ratios.remove(ARCH);
    if possible && ratios.is_none() {
        eprintln!(
            "budget: ratios are not judged (ignored): none are recorded for {ARCH}; to record them: {RECORD}"
        );
    }
    let judged = possible && ratios.is_some();
    let ratios = ratios.unwrap_or_default();
    let beside = move || ratios::judge(&ratios).map_err(|error| Failed::from(format!("{error:#}")));
    let growth = || ratios::growth().map_err(|error| Failed::from(format!("{error:#}")));
    vec![
        Trial::test("time: beside a program of fixed work", beside).with_ignored_flag(!judged),
        Trial::test("time: with many Services beside few", growth).with_ignored_flag(!possible),
    ]
}
