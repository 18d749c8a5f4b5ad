//! What the kernel programs cost: a report, and bounds that hold on any machine.
//!
//! | trials | what is judged |
//! |---|---|
//! | `calls:` | the map look-ups, other helpers and atomic operations of a packet or a call ([`counts`]) |
//! | `instructions:` | all the instructions that it executes |
//! | `walk:` | the instructions that the verifier walks |
//! | `time:` | a packet's time beside that of a program of fixed work, and with many Services beside few ([`ratios`]) |
//!
//! The recorded figures are in `figures.yaml`. They are the same on all machines, but instructions depend on
//! the compiler, and what the verifier walks also on the kernel: where no figure is recorded for this one,
//! they are printed, and the trials are ignored.
//!
//! Needs root and a BPF file system; without, all trials are ignored. `NODEGATE_BUDGET` asks for something
//! else in place of the trials: see [`Mode`].

mod bpf;
mod checksum;
mod counts;
mod figures;
mod fresh;
mod helpers;
mod interpreter;
mod judge;
mod memory;
mod nanoseconds;
mod packets;
mod paths;
mod ratios;
mod reference;
mod scene;
mod time;

use std::{collections::BTreeMap, env::consts::ARCH, process::ExitCode};

use anyhow::{Context as _, bail};
use counts::Programs;
use figures::{Figures, Work};
use nanoseconds::Effort;
use scene::{Scene, Size};

/// What is done, by `NODEGATE_BUDGET`.
enum Mode {
    /// Nothing said.
    Judge,
    /// `sizes`: print the programs' sizes.
    Sizes,
    /// `record`: write the figures down.
    Record,
    /// `nanoseconds`, `nanoseconds-long`: print times, as `cargo xtask bench packet` does.
    Nanoseconds(Effort),
}

/// What was counted.
struct Counted {
    paths: BTreeMap<String, Work>,
    sizes: BTreeMap<String, Size>,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("budget: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let mode = Mode::wanted()?;
    match mode {
        Mode::Judge => return judge::run(),
        Mode::Sizes => print_sizes(&sizes(&mut Scene::new()?)?),
        Mode::Record => record()?,
        Mode::Nanoseconds(effort) => nanoseconds::print(effort)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Mode {
    fn wanted() -> anyhow::Result<Self> {
        let effort = |calls, repeat| Self::Nanoseconds(Effort { calls, repeat });
        Ok(match std::env::var("NODEGATE_BUDGET").as_deref() {
            Err(_) | Ok("") => Self::Judge,
            Ok("sizes") => Self::Sizes,
            Ok("record") => Self::Record,
            Ok("nanoseconds") => effort(25, 20_000),
            Ok("nanoseconds-long") => effort(50, 100_000),
            Ok(other) => {
                bail!("NODEGATE_BUDGET={other}: not sizes, record, nanoseconds or nanoseconds-long")
            }
        })
    }
}

/// Why nothing can be counted; none if it can.
fn obstacle() -> Option<&'static str> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("not root (run it with sudo)");
    }
    let magic = nix::sys::statfs::statfs("/sys/fs/bpf").map(|stat| stat.filesystem_type());
    (magic != Ok(nix::sys::statfs::BPF_FS_MAGIC))
        .then_some("no BPF file system (mount -t bpf bpf /sys/fs/bpf)")
}

/// The running kernel's version, as far as the verifier depends on it: `6.18`.
fn kernel() -> anyhow::Result<String> {
    let name = nix::sys::utsname::uname()?;
    let release = name.release().to_string_lossy();
    let mut numbers = release.split('.');
    let (major, minor) = (numbers.next(), numbers.next());
    let (major, minor) = major.zip(minor).context("the kernel has an odd version")?;
    Ok(format!("{major}.{minor}"))
}

fn count() -> anyhow::Result<Counted> {
    let mut scene = Scene::new()?;
    Ok(Counted {
        sizes: sizes(&mut scene)?,
        paths: Programs::new()?.count(&mut scene)?,
    })
}

fn sizes(scene: &mut Scene) -> anyhow::Result<BTreeMap<String, Size>> {
    let names = scene.programs().into_iter();
    names
        .map(|name| Ok((name.clone(), scene.load(&name)?)))
        .collect()
}

fn record() -> anyhow::Result<()> {
    let Counted { paths, sizes } = count()?;
    let mut figures = Figures::read()?;
    let compiler = counts::compiler();
    if figures.compiler != compiler {
        // They are of another compiler's programs.
        figures.walked.clear();
    }
    let walked = sizes.into_iter().map(|(name, size)| (name, size.walked));
    figures.walked.insert(kernel()?, walked.collect());
    let ratios = ratios::beside_reference(&BTreeMap::new())?;
    figures.ratios.insert(ARCH.to_owned(), ratios);
    figures.compiler = compiler;
    figures.paths = paths;
    figures.write()
}

fn print_sizes(sizes: &BTreeMap<String, Size>) {
    println!(
        "{:<14} {:>12} {:>12} {:>22}",
        "PROGRAM", "BYTECODE", "MACHINE CODE", "VERIFIED INSTRUCTIONS"
    );
    for (name, size) in sizes {
        println!(
            "{name:<14} {:>10} B {:>10} B {:>22}",
            size.bytecode, size.machine_code, size.walked
        );
    }
}
