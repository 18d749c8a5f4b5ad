//! Taking files out of Debian packages.

use std::{ffi::OsStr, path::Path, process::Stdio};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;

use super::command;

/// Unpacks what the arguments tell tar to take, below a directory.
pub(crate) fn unpack<S: AsRef<OsStr>>(
    package: &Path,
    directory: &Path,
    arguments: impl IntoIterator<Item = S>,
) -> anyhow::Result<()> {
    let mut archive = command(Program::DpkgDeb)?
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting dpkg-deb")?;
    let files = archive.stdout.take().context("dpkg-deb's output")?;
    let unpacked = command(Program::Tar)?
        .args(["-x", "-C"])
        .arg(directory)
        .arg("--wildcards")
        .args(arguments)
        .stdin(files)
        .output()
        .context("starting tar")?;
    let archive = archive.wait_with_output()?;
    // Where one fails, the other complains of it.
    let said = [archive.stderr, unpacked.stderr].concat();
    ensure!(
        archive.status.success() && unpacked.status.success(),
        "unpacking {}: {}",
        package.display(),
        String::from_utf8_lossy(&said).trim().replace('\n', " | ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_asked_for_is_unpacked() {
        if Program::DpkgDeb.find().is_none() {
            eprintln!("skipped: no dpkg-deb");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (tree, out) = (directory.path().join("tree"), directory.path().join("out"));
        for place in ["tree/DEBIAN", "tree/usr/src", "tree/usr/doc", "out"] {
            fs::create_dir_all(directory.path().join(place)).unwrap();
        }
        let control = "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\n\
                       Description: x\n";
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        fs::write(tree.join("usr/src/lib.rs"), "source").unwrap();
        fs::write(tree.join("usr/doc/x"), "words").unwrap();
        let package = directory.path().join("x.deb");
        let mut build = Program::DpkgDeb.command();
        build.arg("--build").arg(&tree).arg(&package);
        assert!(build.output().unwrap().status.success());
        unpack(&package, &out, ["--strip-components=2", "./usr/s*"]).unwrap();
        assert_eq!(fs::read(out.join("src/lib.rs")).unwrap(), b"source");
        assert!(!out.join("doc").exists());
    }

    #[test]
    fn what_is_no_package_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let package = directory.path().join("x.deb");
        fs::write(&package, "no archive").unwrap();
        let error = unpack(&package, directory.path(), ["./usr"]).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("x.deb: ") && error.contains("dpkg-deb: "),
            "{error}"
        );
    }
}
