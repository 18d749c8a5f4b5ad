//! Compiles the kernel programs for `bpfel-unknown-none` and leaves the object in `OUT_DIR`. Tells the
//! crate which commit and profile it is built from.

use std::{env, path::Path, process::Command};

use anyhow::{Context as _, ensure};
use aya_build::{Package, Toolchain};
use nodegate_programs::{Program, itself};

#[path = "build/commit.rs"]
mod commit;

/// Names a profile of its own: `cargo xtask dist` sets it.
const PROFILE: &str = "NODEGATE_BUILD_PROFILE";

/// What kernel programs are compiled for.
const TARGET: &str = "bpfel-unknown-none";

/// Set in the inner run, see [`main`].
const INNER: &str = "NODEGATE_BUILD_KERNEL_PROGRAMS";

/// Set where the script stands in for rustc, see [`compile`].
const WRAPPER: &str = "NODEGATE_COMPILE_KERNEL_PROGRAMS";

/// aya-build hands on all that cargo prints, as warnings, so that every build shows some forty lines
/// that warn of nothing. So the script runs itself once more for that part, and filters.
fn main() -> anyhow::Result<()> {
    if env::var_os(WRAPPER).is_some() {
        return compile();
    }
    if env::var_os(INNER).is_some() {
        return build();
    }
    // aya-build watches the kernel crate only; the decision core is compiled into it too.
    println!("cargo::rerun-if-changed=../../gateway-common/src");
    println!("cargo::rerun-if-changed=../../gateway-common/Cargo.toml");
    tell_version();
    check_toolchain()?;
    let output = itself()?.env(INNER, "1").output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    for line in printed.lines().filter(|line| !is_progress(line)) {
        println!("{line}");
    }
    ensure!(
        output.status.success(),
        "building gateway-ebpf failed, see the warnings above; {}",
        String::from_utf8_lossy(&output.stderr)
            .lines()
            .next()
            .unwrap_or_default()
    );
    Ok(())
}

fn tell_version() {
    println!("cargo::rerun-if-env-changed={PROFILE}");
    let commit = commit::commit(Path::new("../.."));
    let commit = commit.as_deref().unwrap_or("unknown");
    println!("cargo::rustc-env=NODEGATE_COMMIT={commit}");
    let profile = env::var(PROFILE).or_else(|_| env::var("PROFILE"));
    let profile = profile.as_deref().unwrap_or("unknown");
    println!("cargo::rustc-env=NODEGATE_PROFILE={profile}");
}

fn is_progress(line: &str) -> bool {
    line.strip_prefix("cargo:warning=").is_some_and(|text| {
        [
            "Compiling ",
            "Finished ",
            "Downloading ",
            "Downloaded ",
            "Blocking ",
            "Locking ",
            "Updating ",
        ]
        .iter()
        .any(|progress| text.trim_start().starts_with(progress))
    })
}

fn build() -> anyhow::Result<()> {
    // Building `core` for the kernel (`-Zbuild-std`) needs a nightly, or this. Set here, in the build
    // script's own process, and not in .cargo/config.toml, where it would reach every host crate.
    // SAFETY: the build script has no other thread.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    // Third, as the compiler of that build: see `compile`.
    // SAFETY: as above.
    unsafe { env::set_var("RUSTC_WRAPPER", env::current_exe()?) };
    // SAFETY: as above.
    unsafe { env::set_var(WRAPPER, "1") };
    // The toolchain of the outer build: rustup's proxies export its name.
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".into());
    aya_build::build_ebpf(
        [Package {
            name: "gateway-ebpf",
            root_dir: "../../gateway-ebpf",
            features: &["bpf"],
            ..Default::default()
        }],
        Toolchain::Custom(&toolchain),
    )
}

/// Runs rustc, with the third version of the kernel's instruction set (Linux 5.12) where it compiles
/// for the kernel: it has atomic operations that give what was there before. aya-build sets all of
/// RUSTFLAGS itself, which is the usual place for this.
fn compile() -> anyhow::Result<()> {
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next().context("cargo names the compiler first")?;
    let mut command = Program::Rustc.at(rustc);
    let arguments: Vec<_> = arguments.collect();
    if arguments.iter().any(|argument| argument == TARGET) {
        command.arg("-Ctarget-cpu=v3");
    }
    let status = command.args(&arguments).status()?;
    std::process::exit(status.code().unwrap_or(1));
}

/// Says what is missing before cargo says it in its own words.
fn check_toolchain() -> anyhow::Result<()> {
    // By name: aya-build and rustc look for it on PATH, too.
    ensure!(
        run(Program::BpfLinker.by_name().arg("--version")).is_ok(),
        "bpf-linker is not on PATH: run `cargo xtask setup` once"
    );
    let rustc = env::var_os("RUSTC").map(|place| Program::Rustc.at(place));
    let mut rustc = rustc.unwrap_or_else(|| Program::Rustc.command());
    let sysroot = run(rustc.args(["--print", "sysroot"]))?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    ensure!(
        core.exists(),
        "rust-src is missing ({} does not exist): run `cargo xtask setup` once",
        core.display()
    );
    Ok(())
}

/// Runs a command and gives what it printed.
fn run(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("running {program}"))?;
    ensure!(output.status.success(), "{program}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
