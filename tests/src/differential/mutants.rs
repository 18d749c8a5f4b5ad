//! Faults that are made on purpose, to see whether the comparison finds them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use data_encoding::HEXLOWER;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{Options, Report, batch, stage::Stage};

/// Directories of the workspace that are no sources.
const NO_SOURCES: [&str; 3] = ["target", ".git", "node_modules"];

/// A fault in the sources.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// Name.
    pub name: String,
    /// What is wrong then.
    pub what: String,
    /// The file, from the workspace's root.
    file: PathBuf,
    /// The text that is replaced: it is there once.
    from: String,
    /// By what.
    to: String,
}

/// All faults that a workspace has in `tests/mutants.yaml`. Each of them can be made.
///
/// # Errors
///
/// If the file cannot be read, or one of them can no longer be made.
pub fn mutants(workspace: &Path) -> anyhow::Result<Vec<Mutant>> {
    let file = workspace.join("tests/mutants.yaml");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let mutants: Vec<Mutant> =
        serde_yaml::from_str(&text).with_context(|| format!("reading {}", file.display()))?;
    for mutant in &mutants {
        mutant.changed(workspace)?;
    }
    Ok(mutants)
}

impl Mutant {
    /// Makes it in a copy of a workspace, in which there is no other then. Files that stay as they are keep
    /// their times, so that little is built.
    pub fn make(&self, workspace: &Path, copy: &Path) -> anyhow::Result<()> {
        let (except, text) = (copy.join(&self.file), self.changed(workspace)?);
        copy_sources(workspace, copy, &except)
            .with_context(|| format!("copying {} to {}", workspace.display(), copy.display()))?;
        write_other(&except, text.as_bytes())
            .with_context(|| format!("writing {}", except.display()))
    }

    /// A name for what is built of it: another one for other sources.
    pub fn build(&self, workspace: &Path) -> anyhow::Result<String> {
        let mut digest = Sha256::new();
        digest.update(self.changed(workspace)?);
        for part in [
            "gateway-common",
            "gateway-ebpf",
            "gateway-user",
            "Cargo.toml",
            "Cargo.lock",
        ] {
            add(&workspace.join(part), &mut digest)
                .with_context(|| format!("reading {}", workspace.join(part).display()))?;
        }
        let digest = HEXLOWER.encode(&digest.finalize()[..6]);
        Ok(format!("{}-{digest}", self.name))
    }

    /// The file's text with the fault.
    fn changed(&self, workspace: &Path) -> anyhow::Result<String> {
        let file = workspace.join(&self.file);
        let text =
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let from = self.from.trim();
        ensure!(
            text.matches(from).count() == 1,
            "the mutant {}: {} has the text {from:?} {} times (fix: say in tests/mutants.yaml what is to be \
             replaced)",
            self.name,
            file.display(),
            text.matches(from).count()
        );
        Ok(text.replace(from, self.to.trim()))
    }
}

/// Adds all files below a path to a digest, in the order of their names.
fn add(path: &Path, digest: &mut Sha256) -> io::Result<()> {
    if path.is_file() {
        digest.update(path.as_os_str().as_encoded_bytes());
        digest.update(fs::read(path)?);
        return Ok(());
    }
    let entries = fs::read_dir(path)?;
    let mut paths: Vec<_> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    paths.sort();
    paths.iter().try_for_each(|path| add(path, digest))
}

/// Copies what differs, but for one file.
fn copy_sources(from: &Path, to: &Path, except: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if NO_SOURCES.iter().any(|none| name == *none) {
            continue;
        }
        let (own, other) = (entry.path(), to.join(&name));
        if entry.file_type()?.is_dir() {
            copy_sources(&own, &other, except)?;
        } else if other != except {
            write_other(&other, &fs::read(&own)?)?;
            fs::set_permissions(&other, entry.metadata()?.permissions())?;
        }
    }
    Ok(())
}

/// Writes a file, unless that is what it says.
fn write_other(file: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(file).is_ok_and(|before| before == bytes) {
        return Ok(());
    }
    fs::write(file, bytes)
}

/// After how many cases something differs that is not known, and in what; none: after all of them nothing does.
pub fn found(stage: &mut Stage, options: &Options) -> anyhow::Result<Option<(u64, String)>> {
    let mut report = Report::default();
    let mut number = 0;
    while number < options.cases {
        let count = options.batch.min(options.cases - number);
        let findings = batch(stage, options, number..number + count, &mut report)?;
        let first = findings.iter().min_by_key(|finding| finding.number);
        if let Some(first) = first {
            let aspects: Vec<_> = first.aspects().into_iter().collect();
            return Ok(Some((first.number + 1, aspects.join(", "))));
        }
        number += count;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn all_mutants_can_be_made() {
        let mutants = mutants(&workspace()).unwrap();
        assert_eq!(mutants.len(), 10);
        for mutant in &mutants {
            let changed = mutant.changed(&workspace()).unwrap();
            let before = fs::read_to_string(workspace().join(&mutant.file)).unwrap();
            assert_ne!(changed, before, "{}", mutant.name);
        }
    }

    #[test]
    fn one_that_no_longer_applies_is_an_error() {
        let mutant = Mutant {
            name: "gone".into(),
            what: String::new(),
            file: "Cargo.toml".into(),
            from: "there is no such text".into(),
            to: String::new(),
        };
        let error = mutant.changed(&workspace()).unwrap_err().to_string();
        assert!(error.starts_with("the mutant gone: "), "{error}");
    }

    #[test]
    fn a_copy_has_one_fault_and_what_stays_keeps_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::create_dir_all(from.join("target")).unwrap();
        for (name, text) in [("a", "1 2"), ("b", "3"), ("target/c", "")] {
            fs::write(from.join(name), text).unwrap();
        }
        let mutant = |file: &str, text: &str| Mutant {
            name: String::new(),
            what: String::new(),
            file: file.into(),
            from: text.into(),
            to: "x".into(),
        };
        mutant("a", "2").make(&from, &to).unwrap();
        let time = |name: &str| fs::metadata(to.join(name)).unwrap().modified().unwrap();
        let before = time("b");
        assert_eq!(fs::read_to_string(to.join("a")).unwrap(), "1 x");
        assert!(!to.join("target").exists());
        mutant("a", "1").make(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("a")).unwrap(), "x 2");
        assert_eq!(time("b"), before);
    }
}
