//! What the machine must have before a testbed can stand on it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use nodegate_programs::{Program, Use};
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
    /// Kubernetes' programs have not been built.
    #[error("the cluster's parts are not built: cargo xtask cluster parts")]
    Parts,
    /// Helm, which only the test of the chart needs, has not been built.
    #[error("Helm is not built: cargo xtask cluster parts --for chart")]
    Helm,
    /// The servers of people's examples, which only their tests need, have not been built.
    #[error("the servers of examples are not built: cargo xtask cluster parts --for samples")]
    Samples,
    /// Istio's control plane, which only a cluster with Istio needs, has not been built.
    #[error("Istio's control plane is not built: cargo xtask cluster parts --for istio")]
    Istio,
    /// Kubernetes' own tests have not been built.
    #[error("Kubernetes' own tests are not built: cargo xtask conformance services --list")]
    Suite,
    /// The public suite of HTTP/2, which only attacks need, has not been built.
    #[error("h2spec is not built: cargo xtask attack, where Go is installed")]
    H2spec,
    /// A program is not on PATH.
    #[error("`{}`, which {}, is missing: {}", .0.name(), .0.task(), .0.remedy())]
    Program(Program),
}

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

/// Whether the programs are here that somebody needs.
pub fn programs(needs: &[Use]) -> Result<(), Unmet> {
    match Program::missing(needs).first() {
        Some(program) => Err(Unmet::Program(*program)),
        None => Ok(()),
    }
}

/// Names an Envoy, in place of the one that `cargo xtask` gets.
pub const ENVOY: &str = "NODEGATE_ENVOY";

/// Where there is an Envoy to compare with.
pub fn envoy() -> Result<PathBuf, Unmet> {
    if let Some(program) = env::var_os(ENVOY) {
        return Ok(program.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/envoy/lib");
    let pythons = fs::read_dir(root).into_iter().flatten().flatten();
    let programs = pythons.map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    let mut found = programs.filter(|program| program.is_file());
    found.next().ok_or(Unmet::Program(Program::Envoy))
}

/// The first thing that a testbed lacks here.
pub fn check() -> Result<(), Unmet> {
    root()?;
    programs(&[Use::Testbed])?;
    cgroup2()?;
    bpffs()?;
    ipv6()?;
    btf()
}

/// The first thing that trials in a testbed lack here.
pub fn check_for_tests() -> Result<(), Unmet> {
    check()?;
    programs(&[Use::Tests])
}

/// The first thing that a cluster lacks here, beside its [parts](Unmet::Parts).
pub fn check_for_cluster() -> Result<(), Unmet> {
    root()?;
    programs(&[Use::Testbed, Use::Cluster])?;
    cgroup2()?;
    bpffs()?;
    ipv6()
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
    fn a_program_that_is_missing_is_named_with_its_work_and_the_fix() {
        let message = Unmet::Program(Program::Conntrack).to_string();
        assert_eq!(
            message,
            "`conntrack`, which shows and forgets the flows that netfilter knows, is missing: \
             apt-get install conntrack"
        );
    }
}
