//! The image that `deploy/` runs: nodegate, and the programs that it starts, of this machine's Debian.
//!
//! `deploy/Containerfile` makes another one for those who have a container daemon.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use nodegate_programs::{Program, Use};

use crate::{
    image::{self, Process},
    rootfs::Rootfs,
};

/// The tag that `deploy/` names.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The authorities of the public Internet, for ServiceEntries with TLS.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What the image is called; Kubernetes writes it `nodegate:VERSION`.
pub fn name() -> String {
    format!("docker.io/library/nodegate:{VERSION}")
}

/// Makes the image's archive, in place of an older one.
///
/// # Errors
/// Fails if one of the programs is not installed here.
pub fn image(nodegate: &Path, archive: &Path) -> anyhow::Result<PathBuf> {
    if archive.exists() {
        fs::remove_file(archive).with_context(|| archive.display().to_string())?;
    }
    image::once(archive, &name(), |root| fill(root, nodegate))
}

fn fill(root: &Rootfs, nodegate: &Path) -> anyhow::Result<Process> {
    for library in crate::rootfs::libraries(nodegate)? {
        root.file(&library)?;
    }
    root.copy(nodegate, "/usr/local/bin/nodegate")?;
    for program in Program::of(&[Use::Product]) {
        let place = program.find();
        let place = place.with_context(|| format!("{}: {}", program.name(), program.remedy()))?;
        root.program(&place)?;
    }
    for extensions in extensions()? {
        root.tree(&extensions)?;
    }
    // protocols and services, by which iptables names numbers.
    for file in ["/etc/protocols", "/etc/services", AUTHORITIES] {
        if Path::new(file).exists() {
            root.file(Path::new(file))?;
        }
    }
    for directory in ["run", "tmp", "sys", "proc", "dev", "var/lib"] {
        fs::create_dir_all(root.path().join(directory))?;
    }
    Ok(Process::new(&["/usr/local/bin/nodegate"], &[]))
}

/// The directories of iptables' extensions, which it loads as it meets them.
fn extensions() -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/usr/lib").context("/usr/lib")? {
        let directory = entry?.path().join("xtables");
        if directory.is_dir() {
            found.push(directory);
        }
    }
    ensure!(
        !found.is_empty(),
        "iptables has no extensions in /usr/lib/*/xtables (fix: apt-get install iptables)"
    );
    Ok(found)
}
