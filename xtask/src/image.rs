//! `cargo xtask image`: the container image that `deploy/` runs, without a container daemon.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use nodegate_testbed::product;

use crate::{binaries, setup};

pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask image                              a release build, target/nodegate.tar
  cargo xtask dist && cargo xtask image --binary target/dist/nodegate
  ctr -n k8s.io images import target/nodegate.tar      on a node
  cargo xtask cluster load target/nodegate.tar

The archive is OCI's, which containerd, podman, skopeo and CRI-O read. The same files make the same archive,
byte by byte. It has nodegate and iptables, as they are on this machine, and no shell.";

#[derive(Debug, Args)]
pub(crate) struct Image {
    /// Put this nodegate into it, rather than build one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where to write it [default: target/nodegate.tar]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Makes the image, and says where it is.
pub(crate) fn run(image: &Image) -> anyhow::Result<ExitCode> {
    setup::tools(&[nodegate_programs::Use::Product])?;
    let nodegate = match &image.binary {
        Some(binary) => binary.clone(),
        None => binaries::release()?.nodegate,
    };
    let target = binaries::workspace().join("target");
    let default = || target.join("nodegate.tar");
    let archive = image.output.clone().unwrap_or_else(default);
    let archive = product::image(&nodegate, &archive)?;
    eprintln!("image: {}", product::name());
    println!("{}", archive.display());
    Ok(ExitCode::SUCCESS)
}
