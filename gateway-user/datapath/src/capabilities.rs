//! The capabilities that the redirector needs, and those that this process lacks.

use std::fs;

/// The capabilities that the redirector needs (include/uapi/linux/capability.h).
const CAPABILITIES: [(&str, u32); 3] = [
    ("CAP_NET_ADMIN", CAP_NET_ADMIN),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];
const CAP_NET_ADMIN: u32 = 12;
/// Stands for `CAP_PERFMON` and `CAP_BPF`, on older kernels alone; and finds programs of others.
const CAP_SYS_ADMIN: u32 = 21;
/// For looking at processes of other users, or with other capabilities.
const CAP_SYS_PTRACE: u32 = 19;

/// The capabilities that the redirector needs and this process lacks.
pub(crate) fn missing() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    missing_capabilities(&status)
}

/// Whether this process may look at others.
pub(crate) fn sees_processes() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective(&status) & (1 << CAP_SYS_PTRACE) != 0
}

/// Whether this process may find the programs that another one has pinned or attached
/// (`BPF_PROG_GET_FD_BY_ID`, which asks for `CAP_SYS_ADMIN`: kernel/bpf/syscall.c).
pub(crate) fn finds_programs() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective(&status) & (1 << CAP_SYS_ADMIN) != 0
}

fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = effective(status);
    let has = |bit: u32| effective & (1 << bit) != 0;
    CAPABILITIES
        .iter()
        .filter(|(_, bit)| !has(*bit))
        .filter(|(_, bit)| *bit == CAP_NET_ADMIN || !has(CAP_SYS_ADMIN))
        .map(|(name, _)| *name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status() {
        assert_eq!(missing_capabilities("CapEff:\t000001ffffffffff\n"), [""; 0]);
        assert_eq!(
            missing_capabilities("CapEff:\t0000000000000000\n"),
            ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]
        );
        // CAP_NET_ADMIN and CAP_SYS_ADMIN.
        assert_eq!(missing_capabilities("CapEff:\t0000000000201000\n"), [""; 0]);
        assert_eq!(missing_capabilities("").len(), 3);
    }
}
