//! What the machine must have before a testbed can stand on it.

use std::{
    ffi::CString,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access, geteuid};
use thiserror::Error;

/// Something that the machine lacks. The message is one line: what, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unmet {
    /// Network namespaces, cgroups and BPF need root.
    #[error("this needs root: run it with sudo, or in a privileged container")]
    Root,
    /// No unified cgroup hierarchy; cgroup programs have nothing to attach to.
    #[error(
        "cgroup2 is not mounted: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
    )]
    Cgroup2,
    /// No BPF file system to pin maps in.
    #[error("bpffs is not mounted: mount -t bpf bpf {BPFFS}")]
    Bpffs,
    /// The kernel gives no type information.
    #[error(
        "{VMLINUX} is missing: boot a kernel with CONFIG_DEBUG_INFO_BTF=y (every distribution's is)"
    )]
    Btf,
    /// The kernel was booted without IPv6.
    #[error("the kernel has no IPv6: boot it without ipv6.disable=1")]
    Ipv6,
    /// A program is not on PATH.
    #[error("`{0}` is missing: install {1} (apt-get install {1})")]
    Tool(&'static str, &'static str),
}

/// A program that the testbed or the tests call, and the Debian package that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// What is looked for on PATH.
    pub program: &'static str,
    /// What to install.
    pub package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// Every program that is called by name.
pub const TOOLS: &[Tool] = &[
    tool("ip", "iproute2"),
    tool("curl", "curl"),
    tool("nc", "netcat-openbsd"),
    tool("bpftool", "bpftool"),
    tool("iptables", "iptables"),
    tool("iptables-restore", "iptables"),
    tool("nsenter", "util-linux"),
    tool("strace", "strace"),
];

/// Where the BPF file system is.
pub const BPFFS: &str = "/sys/fs/bpf";
/// The kernel's own types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

pub use patience::VARIABLE as PATIENCE;

/// Whether we are root.
pub fn root() -> Result<(), Unmet> {
    if geteuid().is_root() {
        Ok(())
    } else {
        Err(Unmet::Root)
    }
}

/// Where the unified cgroup hierarchy is mounted.
pub fn cgroup2() -> Result<PathBuf, Unmet> {
    mount_point(&mounts(), "cgroup2").ok_or(Unmet::Cgroup2)
}

/// Whether the BPF file system is mounted at [`BPFFS`].
pub fn bpffs() -> Result<(), Unmet> {
    let mounted = mounts().lines().any(|line| {
        let mut fields = line.split(' ');
        fields.nth(1) == Some(BPFFS) && fields.next() == Some("bpf")
    });
    if mounted { Ok(()) } else { Err(Unmet::Bpffs) }
}

/// Whether the kernel has type information.
pub fn btf() -> Result<(), Unmet> {
    if Path::new(VMLINUX).exists() {
        Ok(())
    } else {
        Err(Unmet::Btf)
    }
}

/// Whether network namespaces can have IPv6 addresses; a namespace that has none of them is fine.
pub fn ipv6() -> Result<(), Unmet> {
    if Path::new("/proc/sys/net/ipv6").exists() {
        Ok(())
    } else {
        Err(Unmet::Ipv6)
    }
}

/// The tools that are not on PATH.
pub fn missing_tools() -> Vec<Tool> {
    let path = search_path();
    TOOLS
        .iter()
        .copied()
        .filter(|tool| find_program(tool.program, &path).is_none())
        .collect()
}

/// The first thing that a testbed lacks here.
pub fn check() -> Result<(), Unmet> {
    root()?;
    if let Some(tool) = missing_tools().first() {
        return Err(Unmet::Tool(tool.program, tool.package));
    }
    cgroup2()?;
    bpffs()?;
    ipv6()?;
    btf()
}

/// PATH, and the directories of system tools, which an ordinary user's PATH may lack.
pub fn search_path() -> Vec<PathBuf> {
    let mut path: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    for extra in ["/usr/local/sbin", "/usr/sbin", "/sbin"] {
        let extra = PathBuf::from(extra);
        if !path.contains(&extra) {
            path.push(extra);
        }
    }
    path
}

/// The first executable of that name.
pub fn find_program(program: &str, path: &[PathBuf]) -> Option<PathBuf> {
    path.iter()
        .map(|directory| directory.join(program))
        .find(|file| file.is_file() && is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    CString::new(file.as_os_str().as_bytes())
        .is_ok_and(|file| access(file.as_c_str(), AccessFlags::X_OK).is_ok())
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mounts").unwrap_or_default()
}

/// The first mount point of a file system type, in the format of fstab(5).
fn mount_point(mounts: &str, kind: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (point, found) = (fields.nth(1)?, fields.next()?);
        (found == kind).then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_on_unified_and_hybrid_machines() {
        let unified = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(
            mount_point(unified, "cgroup2"),
            Some("/sys/fs/cgroup".into())
        );
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(
            mount_point(hybrid, "cgroup2"),
            Some("/sys/fs/cgroup/unified".into())
        );
        let legacy = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n";
        assert_eq!(mount_point(legacy, "cgroup2"), None);
    }

    #[test]
    fn programs_are_found_only_when_they_can_be_run() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ip");
        fs::write(&file, "").unwrap();
        let path = [directory.path().to_owned()];
        // Root may "execute" nothing that has no x bit at all, so this holds for root too.
        assert_eq!(find_program("ip", &path), None);
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(find_program("ip", &path), Some(file));
        assert_eq!(find_program("curl", &path), None);
    }
}
