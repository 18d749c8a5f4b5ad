//! The file system of a machine that is booted: everything in memory, nothing but what is used.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;
use nodegate_testbed::rootfs::{Rootfs, libraries};

use super::packages::{run, text};
use crate::setup;

/// Modules that may be asked for: all of networking, veth and dummy, and what these need.
const MODULES: &[&str] = &[
    "*lib/modules/*/modules.*",
    "*lib/modules/*/kernel/net/*",
    "*lib/modules/*/kernel/lib/*",
    "*lib/modules/*/kernel/crypto/*",
    "*lib/modules/*/kernel/arch/*/crypto/*",
    "*lib/modules/*/kernel/drivers/net/dummy.ko*",
    "*lib/modules/*/kernel/drivers/net/veth.ko*",
    "*boot/vmlinuz-*",
];

/// A root directory in the making.
pub(super) struct Guest {
    directory: PathBuf,
    root: Rootfs,
}

/// One thing to do there.
pub(super) struct Step {
    /// One word.
    pub(super) name: String,
    /// How long it may take.
    pub(super) seconds: u64,
    /// A line of shell.
    pub(super) line: String,
}

impl Guest {
    /// An empty one. What an earlier one has left goes.
    pub(super) fn new(directory: &Path) -> anyhow::Result<Self> {
        let root = directory.join("root");
        if directory.exists() {
            fs::remove_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        // What programs are linked with is asked of it.
        setup::program(Program::Ldd)?;
        Ok(Self {
            directory: directory.to_owned(),
            root: Rootfs::new(root)?,
        })
    }

    /// Unpacks a kernel's modules, and gives the kernel itself.
    pub(super) fn kernel(&self, archive: &Path) -> anyhow::Result<PathBuf> {
        setup::unpack(archive, self.root.path(), MODULES)?;
        let modules = self.root.path().join("usr/lib/modules");
        let version = only(&modules)?;
        run(setup::command(Program::Depmod)?
            .arg("-b")
            .arg(self.root.path())
            .arg(version.file_name().unwrap_or_default()))?;
        let kernel = only(&self.root.path().join("boot"))?;
        let beside = self.directory.join("vmlinuz");
        fs::rename(&kernel, &beside).with_context(|| kernel.display().to_string())?;
        Ok(beside)
    }

    /// A program of this machine's, under the name that it has here, and what it is linked with.
    pub(super) fn program(&self, path: &Path) -> anyhow::Result<()> {
        self.root.program(path)
    }

    /// A program without what only debuggers read: it is held in memory.
    pub(super) fn stripped(&self, path: &Path) -> anyhow::Result<()> {
        for library in libraries(path)? {
            self.root.file(&library)?;
        }
        let to = self.root.place(path)?;
        run(setup::command(Program::Strip)?.arg("-o").arg(to).arg(path)).map(drop)
    }

    /// All files below a directory, under the names that they have here.
    pub(super) fn tree(&self, directory: &Path) -> anyhow::Result<()> {
        self.root.tree(directory)
    }

    /// Another name for something, unless it has that name already.
    pub(super) fn link(&self, name: &str, target: &Path) -> anyhow::Result<()> {
        self.root.link(name, target)
    }

    /// Packs it, with what is to be done and how many seconds the machine may live.
    pub(super) fn pack(self, steps: &[Step], limit: u64) -> anyhow::Result<PathBuf> {
        let mut lines = String::new();
        for Step {
            name,
            seconds,
            line,
        } in steps
        {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "{name} {seconds} {line}");
        }
        let root = self.root.path();
        fs::write(root.join("steps"), lines)?;
        fs::write(root.join("limit"), format!("{limit}\n"))?;
        let init = root.join("init");
        fs::write(&init, include_str!("init.sh"))?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        let image = self.directory.join("initramfs");
        archive(root, &image)?;
        // It is in the image now, and takes as much room.
        fs::remove_dir_all(root)?;
        Ok(image)
    }
}

/// Packs a directory as the kernel wants it (Documentation/driver-api/early-userspace/buffer-format.rst).
fn archive(root: &Path, image: &Path) -> anyhow::Result<()> {
    let mut names = String::from(".\n");
    list(root, Path::new("."), &mut names)?;
    let mut cpio = setup::command(Program::Busybox)?
        .args(["cpio", "--quiet", "-o", "-H", "newc"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(image).with_context(|| image.display().to_string())?)
        .stderr(Stdio::piped())
        .spawn()
        .context("starting busybox")?;
    // Dropped at once: that is the end of the list. Why it ends early it says itself.
    let written = cpio
        .stdin
        .take()
        .map(|mut input| input.write_all(names.as_bytes()));
    let output = cpio.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "busybox cpio: {}", said.trim());
    written
        .context("busybox' input")?
        .context("listing files for busybox")
}

/// The names of all that is below a directory, directories before what is in them.
fn list(root: &Path, below: &Path, names: &mut String) -> anyhow::Result<()> {
    let directory = root.join(below);
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let name = below.join(entry.file_name());
        // Writing to a String cannot fail.
        let _ = writeln!(names, "{}", name.display());
        if entry.file_type()?.is_dir() {
            list(root, &name, names)?;
        }
    }
    Ok(())
}

/// iptables and everything around it: what it can do is in files that it loads.
pub(super) fn iptables(guest: &Guest) -> anyhow::Result<()> {
    let iptables = setup::program(Program::Iptables)?;
    let directory = iptables.parent().context("it is in a directory")?;
    for entry in fs::read_dir(directory)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let begins = |prefix: &&str| name.starts_with(*prefix);
        if ["iptables", "ip6tables", "xtables"].iter().any(begins) && !name.contains("apply") {
            guest.program(&entry.path())?;
        }
    }
    let libraries = libraries(&iptables)?;
    let library = libraries
        .iter()
        .find(|path| text(path).contains("libxtables"));
    let extensions = library.and_then(|library| Some(library.parent()?.join("xtables")));
    match extensions {
        Some(extensions) if extensions.is_dir() => guest.tree(&extensions),
        // They are built in.
        _ => Ok(()),
    }
}

/// The only entry of a directory.
fn only(directory: &Path) -> anyhow::Result<PathBuf> {
    let entries: Vec<_> = fs::read_dir(directory)
        .with_context(|| directory.display().to_string())?
        .flatten()
        .collect();
    ensure!(
        entries.len() == 1,
        "{} has {} entries, and not one",
        directory.display(),
        entries.len()
    );
    Ok(entries[0].path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_packed_before_what_is_in_them() {
        if Program::Busybox.find().is_none() {
            eprintln!("skipped: no busybox");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (root, image) = (
            directory.path().join("root"),
            directory.path().join("image"),
        );
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(root.join("usr/bin/x"), "x").unwrap();
        archive(&root, &image).unwrap();
        let mut list = Program::Busybox.command();
        list.args(["cpio", "-t"])
            .stdin(fs::File::open(&image).unwrap());
        let listed = list.output().unwrap().stdout;
        assert_eq!(
            String::from_utf8_lossy(&listed),
            ".\nusr\nusr/bin\nusr/bin/x\n"
        );
    }
}
