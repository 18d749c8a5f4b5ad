//! Compiles the kernel programs for `bpfel-unknown-none` and leaves the object in `OUT_DIR`.

use std::process::Command;

use anyhow::{Context as _, ensure};
use aya_build::{Package, Toolchain};

fn main() -> anyhow::Result<()> {
    // aya-build watches the kernel crate only; the decision core is compiled into it too.
    println!("cargo::rerun-if-changed=../gateway-common/src");
    println!("cargo::rerun-if-changed=../gateway-common/Cargo.toml");

    let linker = Command::new("bpf-linker").arg("--version").output();
    ensure!(
        linker.is_ok_and(|output| output.status.success()),
        "bpf-linker is not on PATH: run `cargo xtask setup` once"
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
    .context("building gateway-ebpf; if rust-src is missing, run `cargo xtask setup` once")
}
