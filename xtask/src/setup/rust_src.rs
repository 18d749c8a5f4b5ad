//! The standard library's source, which `-Zbuild-std` compiles for the kernel.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use nodegate_programs::Program;

use super::{Places, Rustc, archive, say};

/// Gets the source unless it is there.
pub(super) fn prepare(places: &Places) -> anyhow::Result<()> {
    let root = places.source.join("lib/rustlib/src/rust");
    if root.join("library/core/src/lib.rs").is_file() {
        return Ok(());
    }
    let rustc = Rustc::ask(&places.sysroot)?;
    let advice = "the standard library's source is missing: rustup component add rust-src";
    if Program::AptGet.find().is_none() {
        bail!(advice);
    }
    say(&format!(
        "getting the standard library's source from Debian's rust-src {}",
        rustc.release
    ));
    let work = tempfile::tempdir().context("making a temporary directory")?;
    let package = download(work.path(), &rustc.release).context(advice)?;
    unpack(&package, &rustc.release, &root).context(advice)
}

/// Suites that have had every release of Rust for years, newest first of those that a stable
/// release's apt can read.
fn suites(os_release: &str) -> Vec<String> {
    let own = os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| format!("{}-backports", name.trim_matches('"')));
    let mut suites = vec!["trixie-backports".to_string()];
    suites.extend(own.filter(|own| own != "trixie-backports"));
    suites.extend(["forky".into(), "sid".into()]);
    suites
}

/// Downloads rust-src of exactly this release. With an apt root of our own, so that the system's
/// lists and sources stay as they are; from the mirror that the system's apt uses.
fn download(work: &Path, release: &str) -> anyhow::Result<PathBuf> {
    let mirror = mirror()?;
    for directory in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(work.join(directory))?;
    }
    let sources = work.join("sources.list");
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let mut last = None;
    for suite in suites(&os_release) {
        let line = format!(
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} main\n"
        );
        fs::write(&sources, line)?;
        // A backports suite keeps several releases, each with a Debian revision of its own.
        let got = apt(work, &["update"])
            .and_then(|()| apt(work, &["download", &format!("rust-src={release}*")]));
        if let Err(error) = got {
            last = Some(error.context(suite));
            continue;
        }
        let package = fs::read_dir(work)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        if let Some(package) = package {
            return Ok(package);
        }
    }
    let error = last.context("apt-get has downloaded nothing")?;
    Err(error.context(format!("{mirror} has no rust-src {release}")))
}

/// The mirror that the system's apt uses.
pub(crate) fn mirror() -> anyhow::Result<String> {
    let output = Program::AptGet
        .command()
        .args([
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
        ])
        .output()
        .context("starting apt-get")?;
    choose_mirror(&String::from_utf8_lossy(&output.stdout))
        .or_else(|| {
            // Without package lists apt knows no targets, but its configuration names the mirror.
            let sources = fs::read_to_string("/etc/apt/sources.list.d/debian.sources").ok()?;
            let mirrors = sources
                .lines()
                .filter_map(|line| line.strip_prefix("URIs:"));
            choose_mirror(
                &mirrors
                    .flat_map(str::split_whitespace)
                    .collect::<Vec<_>>()
                    .join("\n"),
            )
        })
        .context("apt has no mirror configured")
}

/// The first that is no security archive: those have no backports.
fn choose_mirror(list: &str) -> Option<String> {
    list.lines()
        .map(str::trim)
        .find(|uri| !uri.is_empty() && !uri.contains("security"))
        .map(str::to_owned)
}

fn apt(work: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let root = work.display();
    let options = [
        format!("Dir::State::lists={root}/lists"),
        format!("Dir::Cache={root}/cache"),
        format!("Dir::Etc::sourcelist={root}/sources.list"),
        "Dir::Etc::sourceparts=-".into(),
        "Acquire::Languages=none".into(),
        "APT::Sandbox::User=root".into(),
    ];
    let mut command = Program::AptGet.command();
    for option in &options {
        command.args(["-o", option]);
    }
    let output = command
        .arg("-qq")
        .args(arguments)
        .current_dir(work)
        .output()
        .context("starting apt-get")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "apt-get {}: {}",
        arguments.join(" "),
        said.trim().lines().next().unwrap_or_default()
    );
    Ok(())
}

/// Unpacks `library/`, and nothing else of the package.
fn unpack(package: &Path, release: &str, root: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(root).with_context(|| format!("making {}", root.display()))?;
    // Beside its place and then renamed: half a library would be taken for a whole one.
    let half = tempfile::tempdir_in(root)?;
    let library = format!("./usr/src/rustc-{release}*/library");
    archive::unpack(package, half.path(), ["--strip-components=4", &library])?;
    let library = half.path().join("library");
    ensure!(
        library.join("core/src/lib.rs").is_file(),
        "{} has no library",
        package.display()
    );
    let place = root.join("library");
    // A broken one may be there.
    let _ = fs::remove_dir_all(&place);
    fs::rename(&library, &place).with_context(|| format!("making {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_taken_as_apt_has_them_without_security_archives() {
        let list = "http://mirror.example/debian-security/\nhttp://mirror.example/debian/\n";
        assert_eq!(
            choose_mirror(list).as_deref(),
            Some("http://mirror.example/debian/")
        );
        assert_eq!(choose_mirror("\n"), None);
    }

    #[test]
    fn suites_include_the_machines_own_backports_once() {
        assert_eq!(
            suites("VERSION_CODENAME=bookworm\n")[..2],
            ["trixie-backports", "bookworm-backports"]
        );
        let trixie = suites("VERSION_CODENAME=\"trixie\"\n");
        assert_eq!(
            trixie
                .iter()
                .filter(|suite| *suite == "trixie-backports")
                .count(),
            1
        );
    }
}
