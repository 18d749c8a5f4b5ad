//! `cargo xtask fuzz`: arbitrary input, for as long as one wants.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use nodegate_programs::Use;

use crate::{binaries, setup};

pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask fuzz                         every target, a minute each
  cargo xtask fuzz matcher --seconds 600   one target, ten minutes
  cargo xtask fuzz --short                 every target, five seconds each
  cargo xtask fuzz packets --seconds 600   the kernel programs, through the kernel; needs root

An input that makes a target fail is kept in fuzz/artifacts; what has led to new paths through the
code, in target/fuzz. The corpus in fuzz/corpus is also replayed by `cargo test`.";

/// The target that is no program of libFuzzer's: packets by chance through the kernel programs, whose coverage nobody
/// tells.
const PACKETS: &str = "packets";

/// What cargo-fuzz would set, which needs a nightly compiler only for its sanitizers.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    --cfg fuzzing -Ccodegen-units=1";

#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// Targets [default: all]
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u32,
    /// Five seconds each
    #[arg(long, conflicts_with = "seconds")]
    short: bool,
}

/// Builds the targets and runs them one after the other.
pub(crate) fn run(fuzz: Fuzz) -> anyhow::Result<ExitCode> {
    // The kernel programs' toolchain only where packets are asked for.
    setup::tools(&[Use::Build])?;
    let known = targets()?;
    if let Some(unknown) = fuzz.targets.iter().find(|target| !known.contains(target)) {
        bail!(
            "there is no target `{unknown}`: there are {}",
            known.join(", ")
        );
    }
    let targets = if fuzz.targets.is_empty() {
        known
    } else {
        fuzz.targets
    };
    let seconds = if fuzz.short { 5 } else { fuzz.seconds };
    if targets.iter().any(|target| target != PACKETS) {
        build()?;
    }
    let mut failed = Vec::new();
    for target in &targets {
        println!("{target}: {seconds} s");
        let is_fine = if target == PACKETS {
            packets(seconds)?
        } else {
            one(target, seconds)?
        };
        if !is_fine {
            failed.push(target.as_str());
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("error: {} failed: see fuzz/artifacts", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

/// The names of all targets.
fn targets() -> anyhow::Result<Vec<String>> {
    let directory = binaries::workspace().join("fuzz/fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        targets.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    targets.push(PACKETS.to_owned());
    targets.sort();
    Ok(targets)
}

/// Whether packets by chance do no harm, of either family for half of the time.
fn packets(seconds: u32) -> anyhow::Result<bool> {
    setup::toolchain()?;
    let status = setup::cargo()
        .args([
            "test",
            "--package",
            "nodegate-datapath",
            "--test",
            "packets",
        ])
        .args(["--", "arbitrary", "--nocapture"])
        .env("NODEGATE_PACKETS_SECONDS", seconds.div_ceil(2).to_string())
        .env("PATH", setup::path_with_linker()?)
        .current_dir(binaries::workspace())
        .status()
        .context("starting cargo")?;
    Ok(status.success())
}

fn build() -> anyhow::Result<()> {
    let status = setup::cargo()
        // With a target named, build scripts are left as they are.
        .args(["build", "--release", "--target", &host()])
        .env("RUSTFLAGS", COVERAGE)
        .current_dir(binaries::workspace().join("fuzz"))
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "building the fuzz targets failed");
    Ok(())
}

fn host() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Whether the target has found nothing.
fn one(target: &str, seconds: u32) -> anyhow::Result<bool> {
    let root = binaries::workspace();
    let fuzz = root.join("fuzz");
    let found = root.join("target/fuzz").join(target);
    let artifacts = fuzz.join("artifacts").join(target);
    for directory in [&found, &artifacts] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let mut command = nodegate_programs::own(
        fuzz.join("target")
            .join(host())
            .join("release")
            .join(target),
    );
    command
        .arg(format!("-max_total_time={seconds}"))
        .args([
            "-timeout=20",
            "-max_len=4096",
            "-print_final_stats=1",
            "-verbosity=0",
        ])
        .arg(format!("-artifact_prefix={}/", artifacts.display()));
    let words = fuzz.join(format!("{target}.dict"));
    if Path::new(&words).is_file() {
        command.arg(format!("-dict={}", words.display()));
    }
    let status = command
        .arg(found)
        .arg(fuzz.join("corpus").join(target))
        .status()
        .with_context(|| format!("starting {target}"))?;
    Ok(status.success())
}
