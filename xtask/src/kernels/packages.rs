//! Kernels, as Debian packages: which there are, and getting them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};
use nodegate_programs::Program;

use crate::setup;

const PREFIX: &str = "linux-image-";

/// A kernel to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// The package's name without `linux-image-`: what `uname -r` will say.
    pub(super) name: String,
    /// A package that is here already.
    archive: Option<PathBuf>,
}

/// What the words on the command line mean; all series that apt knows when there are none.
pub(super) fn choose(words: &[String]) -> anyhow::Result<Vec<Kernel>> {
    let (archives, words): (Vec<_>, Vec<_>) = words
        .iter()
        .partition(|word| Path::new(word).extension().is_some_and(|e| e == "deb"));
    let mut kernels = archives
        .into_iter()
        .map(|archive| from_archive(Path::new(archive)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    if kernels.is_empty() || !words.is_empty() {
        let series = series()?;
        ensure!(
            !series.is_empty(),
            "apt knows no kernel packages: apt-get update"
        );
        kernels.extend(select(&series, &words)?);
    }
    Ok(kernels)
}

fn from_archive(archive: &Path) -> anyhow::Result<Kernel> {
    let archive = archive
        .canonicalize()
        .with_context(|| archive.display().to_string())?;
    let package = output(Program::DpkgDeb, &["--field", &text(&archive), "Package"])?;
    let name = package.trim().strip_prefix(PREFIX);
    Ok(Kernel {
        name: name
            .with_context(|| format!("{} is no linux-image", archive.display()))?
            .into(),
        archive: Some(archive),
    })
}

/// The newest kernel of every series: what the metapackages `linux-image-amd64` and
/// `linux-image-6.12-amd64` depend on.
fn series() -> anyhow::Result<Vec<String>> {
    let architecture = output(Program::Dpkg, &["--print-architecture"])?;
    ensure!(
        architecture.trim() == "amd64",
        "kernels are booted on amd64 only, and this is {}",
        architecture.trim()
    );
    let names = output(Program::AptCache, &["pkgnames", PREFIX])?;
    let mut series = Vec::new();
    for metapackage in names.lines().filter(|name| is_metapackage(name)) {
        let depends = output(Program::AptCache, &["depends", metapackage])?;
        series.extend(image(&depends).map(str::to_owned));
    }
    series.sort();
    series.dedup();
    Ok(series)
}

/// `linux-image-amd64`, `linux-image-6.12-amd64`; no special builds.
fn is_metapackage(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.strip_suffix("amd64"))
        .is_some_and(|version| {
            version.is_empty()
                || version.strip_suffix('-').is_some_and(|version| {
                    let mut numbers = version.split('.');
                    let all_digits = |part: &str| {
                        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
                    };
                    numbers.clone().count() == 2 && numbers.all(all_digits)
                })
        })
}

/// The kernel's name in what `apt-cache depends` prints of a metapackage.
fn image(depends: &str) -> Option<&str> {
    depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: ")?.strip_prefix(PREFIX))
}

/// Words are names of packages, or beginnings of versions: 6.1 is no beginning of 6.12.
fn select(series: &[String], words: &[&String]) -> anyhow::Result<Vec<Kernel>> {
    let kernel = |name: &str| Kernel {
        name: name.into(),
        archive: None,
    };
    if words.is_empty() {
        return Ok(series.iter().map(|name| kernel(name)).collect());
    }
    let mut kernels = Vec::new();
    for word in words {
        if let Some(name) = word.strip_prefix(PREFIX) {
            kernels.push(kernel(name));
            continue;
        }
        let begins = |name: &&String| {
            name.strip_prefix(word.as_str())
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        match series.iter().find(begins) {
            Some(name) => kernels.push(kernel(name)),
            None => bail!(
                "apt has no series {word}: it has {}; or name a package (linux-image-…), or a file",
                series.join(", ")
            ),
        }
    }
    Ok(kernels)
}

impl Kernel {
    /// The package, which apt downloads if it is not here; it checks what it has downloaded.
    pub(super) fn archive(&self, directory: &Path) -> anyhow::Result<PathBuf> {
        if let Some(archive) = &self.archive {
            return Ok(archive.clone());
        }
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let package = format!("{PREFIX}{}", self.name);
        let download = || {
            let mut command = Program::AptGet.command();
            command.args(["-qq", "-o", "APT::Sandbox::User=root", "download", &package]);
            run(command.current_dir(directory))
        };
        if let Err(error) = download() {
            // The lists may be older than the archive.
            setup::say("apt-get update");
            run(Program::AptGet.command().args(["-qq", "update"]))
                .and_then(|_| download())
                .map_err(|_| error)?;
        }
        newest(directory, &format!("{package}_"))
            .with_context(|| format!("apt-get has downloaded no {package}"))
    }
}

/// The file that was changed last, of those whose names begin so.
fn newest(directory: &Path, prefix: &str) -> Option<PathBuf> {
    fs::read_dir(directory)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .max_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok())
        .map(|entry| entry.path())
}

/// What a program prints; it must succeed.
pub(super) fn output(program: Program, arguments: &[&str]) -> anyhow::Result<String> {
    run(setup::command(program)?.args(arguments))
}

/// What a command prints; it must succeed.
pub(super) fn run(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("starting {program}"))?;
    ensure!(
        output.status.success(),
        "{program}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A path as a word of a command line.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metapackages_are_told_from_kernels_and_special_builds() {
        for name in ["linux-image-amd64", "linux-image-6.12-amd64"] {
            assert!(is_metapackage(name), "{name}");
        }
        for name in [
            "linux-image-cloud-amd64",
            "linux-image-6.12-rt-amd64",
            "linux-image-6.1.0-56-amd64",
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-arm64",
        ] {
            assert!(!is_metapackage(name), "{name}");
        }
    }

    #[test]
    fn a_metapackage_depends_on_its_kernel() {
        let depends = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(image(depends), Some("6.1.0-56-amd64"));
        assert_eq!(image("linux-image-amd64\n  Depends: kmod\n"), None);
    }

    #[test]
    fn versions_are_whole_numbers() {
        let series = ["6.1.0-56-amd64".to_owned(), "6.12.117-amd64".to_owned()];
        let names = |words: &[&str]| -> Vec<String> {
            let words: Vec<_> = words.iter().map(|&word| word.to_owned()).collect();
            select(&series, &words.iter().collect::<Vec<_>>())
                .unwrap()
                .into_iter()
                .map(|kernel| kernel.name)
                .collect()
        };
        assert_eq!(names(&[]), series);
        assert_eq!(names(&["6.1"]), series[..1]);
        assert_eq!(names(&["6.12"]), series[1..]);
        assert_eq!(names(&["linux-image-5.10.0-amd64"]), ["5.10.0-amd64"]);
        let unknown = "5.10".to_owned();
        let error = select(&series, &[&unknown]).unwrap_err().to_string();
        assert!(error.contains("6.1.0-56-amd64, 6.12.117-amd64"), "{error}");
    }
}
