//! Compiles the kernel programs for `bpfel-unknown-none` and leaves the object in `OUT_DIR`.

use std::{path::Path, process::Command};

use anyhow::{Context as _, ensure};
use aya_build::{Package, Toolchain};

fn main() -> anyhow::Result<()> {
    // aya-build watches the kernel crate only; the decision core is compiled into it too.
    println!("cargo::rerun-if-changed=../gateway-common/src");
    println!("cargo::rerun-if-changed=../gateway-common/Cargo.toml");

    ensure!(
        run("bpf-linker", &["--version"]).is_ok(),
        "bpf-linker is not on PATH: run `cargo xtask setup` once"
    );
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let sysroot = run(&rustc, &["--print", "sysroot"])?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    ensure!(
        core.exists(),
        "rust-src is missing ({} does not exist): run `cargo xtask setup` once",
        core.display()
    );

    // Building `core` for the kernel (`-Zbuild-std`) needs a nightly, or this. Set here, in the build
    // script's own process, and not in .cargo/config.toml, where it would reach every host crate.
    // SAFETY: the build script has no other thread.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    // The toolchain of the outer build: rustup's proxies export its name.
    let toolchain = std::env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".into());
    aya_build::build_ebpf(
        [Package {
            name: "gateway-ebpf",
            root_dir: "../gateway-ebpf",
            features: &["bpf"],
            ..Default::default()
        }],
        Toolchain::Custom(&toolchain),
    )
}

/// Runs a program and gives what it printed.
fn run(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("running {program}"))?;
    ensure!(output.status.success(), "{program}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
