//! `cargo xtask kernels`: the redirector on other kernels than this machine's.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use nodegate_programs::{Program, Use, find, search_path};
use nodegate_testbed::environment;

mod guest;
mod machine;
mod packages;
mod report;

use guest::{Guest, Step};
use machine::{Machine, Report};
use packages::{Kernel, text};

use crate::{
    binaries::{self, Binaries},
    setup,
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask kernels                          the newest kernel of each series that apt has
  cargo xtask kernels 6.1 --trials services_   one series, and only these trials; '' is all of them
  cargo xtask kernels 6.1 --short              no packet tests, one trial
  cargo xtask kernels ./linux-image-5.15.0-amd64.deb
  cargo xtask kernels 6.1 --exec 'nodegate preflight; bpftool feature probe'
  cargo xtask kernels 6.1 --with tcpdump --with ./look.sh --exec \"sh $PWD/look.sh\"";

/// Trials that between them go through every hook, in both families, and through what the kernel is
/// asked for beside: links, masquerading, ended sockets.
const TRIALS: &[&str] = &[
    "simple_node_port_and_cluster_ip_answer",
    "simple_requests_have_the_number_of_their_decision",
    "durable_",
    "nodes_everyone",
    "paths_",
    "services_granular",
    "services_be_rejected_when",
    "services_end_connected",
    "services_hairpin",
    "services_pods_whose_sockets",
];

#[derive(Debug, Args)]
pub(crate) struct Kernels {
    /// Versions (6.1), packages (linux-image-…), or files of packages [default: the newest kernel of
    /// each series that apt has]
    #[arg(value_name = "KERNEL")]
    wanted: Vec<String>,
    /// Only load the programs, and run the end-to-end trials whose names have this in them
    #[arg(long, value_name = "NAME")]
    trials: Vec<String>,
    /// Only load the programs, and run the first trial
    #[arg(long, conflicts_with = "trials")]
    short: bool,
    /// Run this line of shell instead, and print what it prints
    #[arg(long, value_name = "LINE", conflicts_with_all = ["trials", "short"])]
    exec: Option<String>,
    /// A program or a script of this machine's to be there too: a name, or a path, which it keeps
    #[arg(long, value_name = "PROGRAM")]
    with: Vec<PathBuf>,
    /// Minutes that each kernel may take
    #[arg(long, default_value_t = 60, value_name = "MINUTES")]
    limit: u64,
    /// Memory of the machine, in MiB
    #[arg(long, default_value_t = 4096)]
    memory: u32,
    /// How QEMU runs it: kvm is fast, and not everywhere
    #[arg(long, default_value = "tcg", value_parser = ["tcg", "kvm"])]
    accelerator: String,
}

/// Boots each kernel in a machine of its own and prints how it went.
pub(crate) fn run(kernels: &Kernels) -> anyhow::Result<ExitCode> {
    let chosen = packages::choose(&kernels.wanted)?;
    let programs = Programs::build()?;
    let steps = kernels.steps(&programs);
    let mut reports = Vec::new();
    let mut good = true;
    for kernel in &chosen {
        eprintln!("{}:", kernel.name);
        match one(kernels, kernel, &programs, &steps) {
            Ok(report) => reports.push(report),
            Err(error) => {
                eprintln!("error: {}: {error:#}", kernel.name);
                good = false;
            }
        }
    }
    if kernels.exec.is_some() {
        for outcome in reports.iter().flat_map(|report| &report.outcomes) {
            print!("{}", outcome.output);
            good &= outcome.status == Some(0);
        }
    } else {
        good &= report::print(&reports);
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What is tried there.
struct Programs {
    binaries: Binaries,
    packets: PathBuf,
    budget: PathBuf,
    e2e: PathBuf,
}

impl Programs {
    fn build() -> anyhow::Result<Self> {
        let binaries = binaries::build()?;
        let [packets, budget, e2e] = binaries::tests()?;
        Ok(Self {
            binaries,
            packets,
            budget,
            e2e,
        })
    }
}

impl Kernels {
    fn steps(&self, programs: &Programs) -> Vec<Step> {
        let step = |name: &str, seconds: u64, line: String| Step {
            name: name.into(),
            seconds,
            line,
        };
        let all = self.limit * 60;
        if let Some(line) = &self.exec {
            return vec![step("exec", all, line.clone())];
        }
        let preflight = "nodegate preflight --uplink uplink0 -o json".into();
        let sizes = format!("NODEGATE_BUDGET=sizes {}", text(&programs.budget));
        let mut steps = vec![
            step(report::PREFLIGHT, 300, preflight),
            step(report::PROGRAMS, 300, sizes),
        ];
        if !self.short && self.trials.is_empty() {
            let line = format!("{} --color never --test-threads 2", text(&programs.packets));
            steps.push(step(report::PACKETS, all, line));
        }
        let own: Vec<_> = self.trials.iter().map(String::as_str).collect();
        let trials = match (self.short, own.is_empty()) {
            (true, _) => &TRIALS[..1],
            (false, true) => TRIALS,
            (false, false) => &own,
        };
        for (number, name) in trials.iter().enumerate() {
            // Where everything is emulated, everything takes longer.
            let patience = if self.accelerator == "tcg" { 10 } else { 1 };
            let line = format!(
                "{}={patience} {} --color never --test-threads 1 {name}",
                environment::PATIENCE,
                text(&programs.e2e)
            );
            steps.push(step(&format!("{}{number}", report::TRIALS), all, line));
        }
        steps
    }
}

/// Boots one kernel.
fn one(
    kernels: &Kernels,
    kernel: &Kernel,
    programs: &Programs,
    steps: &[Step],
) -> anyhow::Result<Report> {
    let directory = binaries::workspace().join("target/kernels");
    let archive = kernel.archive(&directory.join("packages"))?;
    let directory = directory.join(&kernel.name);
    let guest = Guest::new(&directory)?;
    let image = guest.kernel(&archive)?;
    furnish(&guest, programs)?;
    for program in &kernels.with {
        guest.program(&located(program)?)?;
    }
    let limit = Duration::from_secs(kernels.limit * 60);
    let initramfs = guest.pack(steps, limit.as_secs())?;
    let machine = Machine {
        kernel: &image,
        initramfs: &initramfs,
        memory: kernels.memory,
        accelerator: &kernels.accelerator,
        directory: &directory,
        // It turns itself off before, unless it hangs.
        limit: limit + Duration::from_secs(30),
    };
    let report = machine.run()?;
    if !report.complete {
        eprintln!(
            "error: the machine ended early, its last words:\n{}",
            machine.last_words()
        );
    }
    Ok(report)
}

/// Where a program is that was named or whose path was given.
fn located(program: &Path) -> anyhow::Result<PathBuf> {
    if program.components().count() > 1 {
        return std::path::absolute(program).with_context(|| program.display().to_string());
    }
    let name = program.to_string_lossy();
    find(&*name, &search_path())
        .with_context(|| format!("there is no program {name}; give its path, or install it"))
}

/// Puts in what runs there: the programs under test, and the tools that they and the testbed call.
fn furnish(guest: &Guest, programs: &Programs) -> anyhow::Result<()> {
    for program in [
        &programs.binaries.nodegate,
        &programs.binaries.pod,
        &programs.packets,
        &programs.budget,
        &programs.e2e,
    ] {
        guest.stripped(program)?;
    }
    guest.link("/usr/bin/nodegate", &programs.binaries.nodegate)?;
    // Of Debian's: the others are the project's own, and no trial there is about Envoy.
    let packaged = Program::of(&[Use::Product, Use::Testbed, Use::Tests])
        .filter(|program| program.package().is_some());
    for program in packaged.chain([Program::Modprobe]) {
        guest.program(&setup::program(program)?)?;
    }
    guest::iptables(guest)?;
    let busybox = setup::program(Program::Busybox)?;
    guest.program(&busybox)?;
    for name in ["/bin/busybox", "/bin/sh"] {
        guest.link(name, &busybox)?;
    }
    let manifests = binaries::workspace().join("tests/manifests");
    let manifests = manifests.canonicalize().context("the trials' manifests")?;
    guest.tree(&manifests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name_or_path() {
        let shell = located(Path::new("sh")).unwrap();
        assert!(shell.is_absolute() && shell.ends_with("sh"), "{shell:?}");
        let script = located(Path::new("./look.sh")).unwrap();
        assert_eq!(script, std::env::current_dir().unwrap().join("look.sh"));
        let error = located(Path::new("no-such-program")).unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }
}
