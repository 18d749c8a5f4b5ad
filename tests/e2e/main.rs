//! The product end to end: real manifests, the real binary, the real kernel, real clients.
//!
//! Every trial has a testbed of its own. Where the machine lacks something, or nodegate is not built,
//! the trials are ignored, and the reason is printed.

use std::{num::NonZero, path::Path, process::ExitCode};

use libtest_mimic::{Arguments, Trial};

mod durability;
mod faults;
mod fft;
mod https;
mod kube_proxy;
mod live;
mod machine;
mod nodes;
mod paths;
mod probe;
mod restarts;
mod rules;
mod scene;
mod services;
mod simple;
mod tcp_shifting;
mod upgrade;
mod workshop;

use scene::Scene;

/// A trial: its name, the manifests it begins with, what it does.
type Case = (&'static str, Setting, fn(&Scene) -> anyhow::Result<()>);

/// What a trial begins with.
#[derive(Clone, Copy)]
struct Setting {
    /// A directory of `tests/manifests`.
    manifests: &'static str,
    /// Namespace of objects that name none.
    namespace: Option<&'static str>,
    nodes: usize,
}

const fn one_node(manifests: &'static str) -> Setting {
    Setting {
        manifests,
        namespace: None,
        nodes: 1,
    }
}

fn main() -> ExitCode {
    if let Some(code) = probe::run() {
        return code;
    }
    let mut arguments = Arguments::from_args();
    // They wait for the kernel's and TCP's timers more than they work.
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    arguments.test_threads.get_or_insert(2 * cores);
    let binaries = scene::binaries();
    if let Err(obstacle) = &binaries {
        eprintln!("skipped: {obstacle:#}");
    }
    let cases = [
        simple::CASES,
        fft::CASES,
        tcp_shifting::CASES,
        workshop::CASES,
        https::CASES,
        live::CASES,
        faults::CASES,
        durability::CASES,
        nodes::CASES,
        paths::CASES,
        restarts::CASES,
        kube_proxy::CASES,
        machine::CASES,
        rules::CASES,
        upgrade::CASES,
    ];
    let cases = cases.iter().chain(services::CASES);
    let lacks_multipath = !Path::new("/proc/sys/net/mptcp").exists();
    if lacks_multipath {
        let name = services::MULTIPATH;
        eprintln!("skipped: {name}: this kernel has no Multipath TCP (CONFIG_MPTCP)");
    }
    let trials = cases
        .copied()
        .flatten()
        .enumerate()
        .map(|(index, (name, setting, test))| {
            let binaries = binaries.as_ref().ok().cloned();
            let missing = binaries.is_none() || lacks_multipath && *name == services::MULTIPATH;
            Trial::test(*name, move || {
                let binaries = binaries.ok_or("there are no binaries")?;
                let scene = Scene::up(index, *setting, binaries)?;
                test(&scene).map_err(|error| scene.with_logs(&error))?;
                Ok(())
            })
            .with_ignored_flag(missing)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
