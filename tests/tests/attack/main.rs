//! Attacks in their short form, on the nodegate of this checkout, beside Envoy where it is there.
//!
//! Where there is no nodegate, or the machine lacks what a testbed needs, the trials that need it are ignored, and
//! the reason is printed.

use std::{env, path::Path, process::ExitCode};

use anyhow::{Context as _, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use nodegate_testbed::{
    Binaries,
    attack::{Class, H2SPEC, Options, run},
    cluster::parts::{Parts, Purpose},
    environment,
};

/// What part of a flood there is.
const PART: usize = 20;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each has the machine's cores to itself: neighbours are measured.
    arguments.test_threads.get_or_insert(1);
    let binaries = binaries();
    if let Err(obstacle) = &binaries {
        eprintln!("skipped: {obstacle:#}");
    }
    let envoy = env::var_os(environment::ENVOY).map(Into::into);
    if envoy.is_none() {
        eprintln!("not compared: no Envoy: `cargo xtask test` gets one");
    }
    let h2spec = Parts::find_for(Purpose::Attack).map(|parts| parts.file(H2SPEC));
    let trials = Class::ALL.into_iter().map(|class| {
        let unmet = match class {
            Class::Suites => h2spec.as_ref().err().cloned(),
            Class::Packets => environment::check_for_tests().err(),
            _ => None,
        };
        if let Some(unmet) = &unmet {
            eprintln!("skipped: {}: {unmet}", class.name());
        }
        let is_ignored = binaries.is_err() || unmet.is_some();
        let binaries = binaries.as_ref().ok().cloned();
        let envoy = envoy.clone();
        let h2spec = h2spec.as_ref().ok().cloned();
        Trial::test(format!("{} do no harm", class.name()), move || {
            let options = Options {
                binaries: binaries.ok_or("there are no binaries")?,
                envoy,
                h2spec,
                only: String::new(),
                classes: vec![class],
                part: PART,
            };
            hold(&options)
        })
        .with_ignored_flag(is_ignored)
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn hold(options: &Options) -> Result<(), Failed> {
    let report = run(options, |_| {}).map_err(|error| format!("{error:#}"))?;
    let failed = report
        .failed()
        .into_iter()
        .map(|(row, broken)| format!("{} ({}): {}", row.name, row.about, broken.join("; ")));
    let failed: Vec<_> = failed.collect();
    if report.rows.is_empty() || !failed.is_empty() {
        return Err(format!("{} attacks\n{}", report.rows.len(), failed.join("\n")).into());
    }
    println!("{} attacks hold", report.rows.len());
    Ok(())
}

fn binaries() -> anyhow::Result<Binaries> {
    let nodegate = env::var_os("NODEGATE_BIN")
        .context("NODEGATE_BIN names no nodegate: run the tests with `cargo xtask test`")?;
    let pod = Path::new(env!("CARGO_BIN_EXE_testbed-node")).with_file_name("testbed-pod");
    ensure!(
        pod.is_file(),
        "{} is not built (fix: cargo xtask test)",
        pod.display()
    );
    Ok(Binaries {
        nodegate: nodegate.into(),
        pod,
    })
}
