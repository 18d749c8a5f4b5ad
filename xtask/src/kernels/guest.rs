//! The file system of a machine that is booted: everything in memory, nothing but what is used.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;

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
    root: PathBuf,
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
        Ok(Self {
            directory: directory.to_owned(),
            root,
        })
    }

    /// Unpacks a kernel's modules, and gives the kernel itself.
    pub(super) fn kernel(&self, archive: &Path) -> anyhow::Result<PathBuf> {
        setup::unpack(archive, &self.root, MODULES)?;
        let modules = self.root.join("usr/lib/modules");
        let version = only(&modules)?;
        run(setup::command(Program::Depmod)?
            .arg("-b")
            .arg(&self.root)
            .arg(version.file_name().unwrap_or_default()))?;
        let kernel = only(&self.root.join("boot"))?;
        let beside = self.directory.join("vmlinuz");
        fs::rename(&kernel, &beside).with_context(|| kernel.display().to_string())?;
        Ok(beside)
    }

    /// A program of this machine's, under the name that it has here, and what it is linked with.
    pub(super) fn program(&self, path: &Path) -> anyhow::Result<()> {
        for library in libraries(path)? {
            self.file(&library)?;
        }
        self.file(path)
    }

    /// A program without what only debuggers read: it is held in memory.
    pub(super) fn stripped(&self, path: &Path) -> anyhow::Result<()> {
        for library in libraries(path)? {
            self.file(&library)?;
        }
        let to = self.place(path)?;
        run(setup::command(Program::Strip)?.arg("-o").arg(to).arg(path)).map(drop)
    }

    /// A file under the name that it has here; where that is a link, also what it leads to.
    pub(super) fn file(&self, path: &Path) -> anyhow::Result<()> {
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

    /// All files below a directory.
    pub(super) fn tree(&self, directory: &Path) -> anyhow::Result<()> {
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

    fn place(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let place = self.root.join(path.strip_prefix("/")?);
        let directory = place.parent().context("a file is in a directory")?;
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        Ok(place)
    }

    /// Another name for something, unless it has that name already.
    pub(super) fn link(&self, name: &str, target: &Path) -> anyhow::Result<()> {
        let place = self.place(Path::new(name))?;
        if place.exists() {
            return Ok(());
        }
        symlink(target, &place).with_context(|| place.display().to_string())
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
        fs::write(self.root.join("steps"), lines)?;
        fs::write(self.root.join("limit"), format!("{limit}\n"))?;
        let init = self.root.join("init");
        fs::write(&init, include_str!("init.sh"))?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        let image = self.directory.join("initramfs");
        archive(&self.root, &image)?;
        // It is in the image now, and takes as much room.
        fs::remove_dir_all(&self.root)?;
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

/// What a program is linked with, and the loader that it wants; nothing for static ones.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    // It fails for static ones.
    let output = setup::command(Program::Ldd)?
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

    #[test]
    fn files_keep_their_names_and_links_what_they_lead_to() {
        let here = tempfile::tempdir().unwrap();
        let (target, link) = (here.path().join("a-1.0"), here.path().join("a"));
        fs::write(&target, "x").unwrap();
        symlink(&target, &link).unwrap();
        let there = tempfile::tempdir().unwrap();
        let guest = Guest::new(&there.path().join("guest")).unwrap();
        guest.file(&link).unwrap();
        guest.file(&link).unwrap();
        let place = guest.place(&link).unwrap();
        assert_eq!(
            fs::read_link(place).unwrap(),
            target.canonicalize().unwrap()
        );
        assert_eq!(
            fs::read_to_string(guest.place(&target).unwrap()).unwrap(),
            "x"
        );
    }
}
