//! A root directory made of this machine's own files: programs, and the libraries that they want.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;

/// A root directory in the making.
#[derive(Debug)]
pub struct Rootfs {
    root: PathBuf,
}

impl Rootfs {
    /// One with nothing but the directories that everybody expects.
    pub fn new(root: PathBuf) -> anyhow::Result<Self> {
        for part in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "root", "etc"] {
            fs::create_dir_all(root.join(part)).with_context(|| root.display().to_string())?;
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(Path::new("usr").join(name), root.join(name))?;
        }
        fs::write(
            root.join("etc/hosts"),
            "127.0.0.1 localhost\n::1 localhost\n",
        )?;
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n")?;
        Ok(Self { root })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// A program of this machine's, under the name that it has here, and what it is linked with.
    pub fn program(&self, path: &Path) -> anyhow::Result<()> {
        for library in libraries(path)? {
            self.file(&library)?;
        }
        self.file(path)
    }

    /// A file under the name that it has here; where that is a link, also what it leads to.
    pub fn file(&self, path: &Path) -> anyhow::Result<()> {
        let target = path
            .canonicalize()
            .with_context(|| path.display().to_string())?;
        let to = self.place(&target)?;
        if !to.exists() {
            fs::copy(&target, &to).with_context(|| to.display().to_string())?;
        }
        let name = self.place(path)?;
        if !name.exists() {
            symlink(&target, &name).with_context(|| name.display().to_string())?;
        }
        Ok(())
    }

    /// A file under another name than it has here.
    pub fn copy(&self, from: &Path, name: &str) -> anyhow::Result<()> {
        let to = self.place(Path::new(name))?;
        fs::copy(from, &to).with_context(|| from.display().to_string())?;
        Ok(())
    }

    /// All files below a directory.
    pub fn tree(&self, directory: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                self.tree(&path)?;
            } else {
                self.file(&path)?;
            }
        }
        Ok(())
    }

    /// Another name for something, unless it has that name already.
    pub fn link(&self, name: &str, target: &Path) -> anyhow::Result<()> {
        let place = self.place(Path::new(name))?;
        if place.exists() {
            return Ok(());
        }
        symlink(target, &place).with_context(|| place.display().to_string())
    }

    /// Where a file belongs that has this name in it.
    pub fn place(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let place = self.root.join(path.strip_prefix("/")?);
        let directory = place.parent().context("a file is in a directory")?;
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        Ok(place)
    }
}

/// What a program is linked with, and the loader that it wants; nothing for static ones.
pub fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    // It fails for static ones.
    let output = Program::Ldd
        .command()
        .arg(program)
        .output()
        .context("starting ldd")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        !said.contains("not found"),
        "{} lacks a library: {said}",
        program.display()
    );
    Ok(linked(&said))
}

/// The paths in what `ldd` prints.
fn linked(said: &str) -> Vec<PathBuf> {
    said.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_what_ldd_says() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(linked(said), expected.map(PathBuf::from));
        assert_eq!(linked("\tstatically linked\n"), [""; 0].map(PathBuf::from));
    }

    #[test]
    fn files_keep_their_names_and_links_what_they_lead_to() {
        let here = tempfile::tempdir().unwrap();
        let (target, link) = (here.path().join("a-1.0"), here.path().join("a"));
        fs::write(&target, "x").unwrap();
        symlink(&target, &link).unwrap();
        let there = tempfile::tempdir().unwrap();
        let root = Rootfs::new(there.path().join("root")).unwrap();
        root.file(&link).unwrap();
        root.file(&link).unwrap();
        let place = root.place(&link).unwrap();
        assert_eq!(
            fs::read_link(place).unwrap(),
            target.canonicalize().unwrap()
        );
        assert_eq!(
            fs::read_to_string(root.place(&target).unwrap()).unwrap(),
            "x"
        );
    }
}
