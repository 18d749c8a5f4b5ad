//! What this kernel and machine can do: the questions behind `nodegate preflight`.
//!
//! Each check tries the thing itself where that changes nothing, and otherwise asks the kernel.

use std::{fs, io, path::Path};

use aya::{
    programs::{Program, ProgramError},
    util::KernelVersion,
};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use nodegate_programs::{Program as Tool, Use};
use serde::Serialize;

use super::{
    capabilities::{finds_programs, missing},
    features::Features,
    node, object, sockets, uplinks,
    verifier::uninterrupted,
};

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckOutcome {
    /// As it should be.
    Ok,
    /// It works, in another way or with a limit.
    Warning,
    /// nodegate cannot do its work.
    Failed,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it went.
    pub outcome: CheckOutcome,
    /// What was found.
    pub found: String,
    /// What to do about it; none where there is nothing to do.
    pub fix: Option<String>,
}

impl Check {
    /// All is well.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            outcome: CheckOutcome::Ok,
            found: found.into(),
            fix: None,
        }
    }

    /// Something is not.
    pub fn bad(
        name: &'static str,
        outcome: CheckOutcome,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            name,
            outcome,
            found: found.into(),
            fix: Some(fix.into()),
        }
    }
}

/// The oldest kernel that has what there is no other way for: `SO_NETNS_COOKIE` (5.14). Also atomic
/// compare-and-exchange in programs (5.12) and `bpf_ktime_get_coarse_ns` (5.11).
const OLDEST: KernelVersion = KernelVersion::new(5, 14, 0);
/// The oldest kernel that `cargo xtask kernels` has been run with.
const TRIED: KernelVersion = KernelVersion::new(6, 1, 0);

/// Everything, in the order in which things depend on each other.
pub fn all(bpffs: &Path, cgroup: Option<&Path>, uplinks: &[String]) -> Vec<Check> {
    let mut checks = vec![
        kernel(),
        capabilities(),
        btf(),
        bpf_file_system(bpffs),
        cgroup2(cgroup),
    ];
    let features = Features::probe();
    checks.push(netns_cookie());
    checks.extend(programs(features));
    // Without the capabilities the kernel tells nothing of itself, and what it says would be blamed on it.
    if missing().is_empty() {
        checks.push(refusals(features));
        checks.push(packet_hooks(features, uplinks));
        checks.push(datagrams());
        checks.push(netfilter(Tool::Iptables, "ip_tables"));
        checks.push(netfilter(Tool::Ip6tables, "ip6_tables"));
    } else {
        checks.push(unknown());
    }
    checks.extend(tools(&Tool::missing(&[Use::Product])));
    checks.push(forwarding());
    checks.push(node_port_range());
    checks
}

fn kernel() -> Check {
    let name = "kernel";
    match KernelVersion::current() {
        Ok(version) => {
            let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
            let found = text.trim();
            if version >= TRIED {
                Check::ok(name, found)
            } else if version >= OLDEST {
                let found = format!("{found}: nodegate has not been tried on kernels before 6.1");
                Check::bad(name, CheckOutcome::Warning, found, "Linux 6.1 or newer")
            } else {
                let found = format!("{found}: it lacks SO_NETNS_COOKIE");
                let fix = "Linux 5.14 at least, better 6.1 or newer";
                Check::bad(name, CheckOutcome::Failed, found, fix)
            }
        }
        Err(error) => Check::bad(
            name,
            CheckOutcome::Warning,
            error.to_string(),
            "Linux 6.1 or newer",
        ),
    }
}

fn capabilities() -> Check {
    let name = "capabilities";
    let missing = missing();
    if missing.is_empty() && !finds_programs() {
        let found =
            "without CAP_SYS_ADMIN a redirector cannot take over from one that ran before it";
        let fix = "add it to the container, or run `nodegate cleanup` before each start";
        Check::bad(name, CheckOutcome::Warning, found, fix)
    } else if missing.is_empty() {
        Check::ok(name, "all that the redirector needs")
    } else {
        let found = format!("missing: {}", missing.join(", "));
        Check::bad(
            name,
            CheckOutcome::Failed,
            found,
            "run as root, or add them to the container",
        )
    }
}

/// What only a process with the capabilities is told.
fn unknown() -> Check {
    Check::bad(
        "not tried",
        CheckOutcome::Warning,
        "refusals, packet hooks, datagrams, iptables, ip6tables: they need the capabilities",
        "as for capabilities",
    )
}

fn btf() -> Check {
    let (name, path) = ("BTF", "/sys/kernel/btf/vmlinux");
    if Path::new(path).exists() {
        Check::ok(name, path)
    } else {
        let fix = "a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions' are";
        Check::bad(
            name,
            CheckOutcome::Failed,
            format!("{path} is missing"),
            fix,
        )
    }
}

fn bpf_file_system(path: &Path) -> Check {
    let name = "bpffs";
    // The pin directory itself may not be there yet.
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    match statfs(existing).map(|stat| stat.filesystem_type()) {
        Ok(BPF_FS_MAGIC) => Check::ok(name, existing.display().to_string()),
        _ => Check::bad(
            name,
            CheckOutcome::Failed,
            format!("{} is on no BPF file system", path.display()),
            "mount -t bpf bpf /sys/fs/bpf",
        ),
    }
}

fn cgroup2(path: Option<&Path>) -> Check {
    let name = "cgroup2";
    let fix = "mount -t cgroup2 none /sys/fs/cgroup, or --cgroup DIR";
    let Some(path) = path else {
        return Check::bad(
            name,
            CheckOutcome::Failed,
            "no cgroup2 hierarchy is mounted",
            fix,
        );
    };
    if statfs(path).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC) {
        return Check::ok(name, path.display().to_string());
    }
    let found = format!("{} is no cgroup2 directory", path.display());
    Check::bad(name, CheckOutcome::Failed, found, fix)
}

fn netns_cookie() -> Check {
    let name = "netns cookie";
    match node::netns_cookie() {
        Ok(_) => Check::ok(name, "the node's sockets are told from pods'"),
        Err(error) => Check::bad(
            name,
            CheckOutcome::Failed,
            error.to_string(),
            "Linux 5.14 or newer",
        ),
    }
}

/// Loads every program, on maps that go again at once.
fn programs(features: Features) -> Vec<Check> {
    let name = "programs";
    let mut ebpf = match object::loader(features).load(object::OBJECT) {
        Ok(ebpf) => ebpf,
        Err(error) => {
            let found = chain(&error);
            return vec![Check::bad(
                name,
                CheckOutcome::Failed,
                found,
                "as for capabilities and BTF",
            )];
        }
    };
    let mut loaded = 0;
    let mut dearest = (0, String::new());
    let mut checks = Vec::new();
    for (program_name, program) in ebpf.programs_mut() {
        let result = match program {
            Program::SchedClassifier(program) => {
                uninterrupted(|| program.load()).and_then(|()| program.info())
            }
            Program::CgroupSockAddr(program) => {
                uninterrupted(|| program.load()).and_then(|()| program.info())
            }
            _ => continue,
        };
        match result {
            Ok(info) => {
                loaded += 1;
                let cost = info.verified_instruction_count().unwrap_or(0);
                dearest = dearest.max((cost, program_name.to_owned()));
            }
            Err(error) => {
                let found = format!("{program_name}: {}", verdict(&error));
                let fix = "a newer kernel; please report it with the output of uname -a";
                checks.push(Check::bad(name, CheckOutcome::Failed, found, fix));
            }
        }
    }
    let mut found = format!("{loaded} pass this kernel's verifier");
    if let (cost @ 1.., program) = dearest {
        found.push_str("; the dearest, ");
        found.push_str(&program);
        found.push_str(", after ");
        found.push_str(&cost.to_string());
        found.push_str(" of at most 1000000 instructions");
    }
    checks.insert(0, Check::ok(name, found));
    checks
}

/// What a process is told whose connection must not be.
fn refusals(features: Features) -> Check {
    let name = "refusals";
    if features.set_retval {
        return Check::ok(name, "processes get ECONNREFUSED or EHOSTUNREACH");
    }
    Check::bad(
        name,
        CheckOutcome::Warning,
        "no bpf_set_retval in socket hooks: processes get EPERM where they would be refused",
        "Linux 6.1 or newer",
    )
}

/// The end of the verifier's log, which says why.
fn verdict(error: &ProgramError) -> String {
    if let ProgramError::LoadError { verifier_log, .. } = error {
        let log = verifier_log.to_string();
        let lines: Vec<_> = log
            .lines()
            .rev()
            .filter(|line| !line.is_empty())
            .take(5)
            .collect();
        return lines.into_iter().rev().collect::<Vec<_>>().join(" | ");
    }
    chain(error)
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn packet_hooks(features: Features, uplinks: &[String]) -> Check {
    let name = "packet hooks";
    let Some(uplink) = uplinks.first() else {
        let fix = "--uplink INTERFACE, for each one on which packets from outside arrive";
        return Check::bad(
            name,
            CheckOutcome::Failed,
            "no interface has a default route, or an address that node ports have",
            fix,
        );
    };
    if let Err(error) = nix::net::if_::if_nametoindex(uplink.as_str()) {
        let found = format!("there is no interface {uplink}: {error}");
        return Check::bad(name, CheckOutcome::Failed, found, "--uplink INTERFACE");
    }
    let mut left_out = uplinks::cards(&[]).unwrap_or_default();
    left_out.retain(|card| !uplinks.contains(card));
    let uplinks = uplinks.join(", ");
    if !left_out.is_empty() {
        let left_out = Vec::from_iter(left_out).join(", ");
        return Check::bad(
            name,
            CheckOutcome::Warning,
            format!("on {uplinks}, but node ports have addresses on {left_out}, too"),
            "--uplink for each, or for none: then they are found",
        );
    }
    if features.tcx {
        return Check::ok(name, format!("tcx on {uplinks}"));
    }
    Check::bad(
        name,
        CheckOutcome::Warning,
        format!("no tcx: clsact filters on {uplinks}"),
        "Linux 6.6 or newer, for links that cannot be removed by others",
    )
}

/// Connected datagram sockets can only be ended when their endpoint goes.
fn datagrams() -> Check {
    let name = "datagrams";
    let stay = |error: io::Error, fix| {
        let found = format!("connected sockets stay with endpoints that are gone: {error}");
        Check::bad(name, CheckOutcome::Warning, found, fix)
    };
    if let Err(error) = sockets::check() {
        let fix = "a kernel with CONFIG_INET_DIAG_DESTROY=y and CONFIG_INET_UDP_DIAG";
        return stay(error, fix);
    }
    match sockets::reach() {
        Ok(()) => Check::ok(name, "connected sockets are ended when their endpoint goes"),
        Err(error) => stay(
            io::Error::other(format!("pods' network namespaces: {error}")),
            "CAP_SYS_ADMIN and CAP_SYS_PTRACE",
        ),
    }
}

/// Masquerading and refusing is netfilter's work.
fn netfilter(program: Tool, module: &str) -> Check {
    let tool = program.name();
    let output = program
        .command()
        .args(["-w", "5", "-t", "nat", "-S", "POSTROUTING"])
        .output();
    match output {
        Ok(output) if output.status.success() => Check::ok(tool, "the nat table can be read"),
        Ok(output) => {
            let found = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Check::bad(
                tool,
                CheckOutcome::Warning,
                found,
                format!("modprobe {module}"),
            )
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Check::bad(
            tool,
            CheckOutcome::Warning,
            "not installed: endpoints on other nodes are out of reach from outside",
            "install iptables",
        ),
        Err(error) => Check::bad(
            tool,
            CheckOutcome::Warning,
            error.to_string(),
            "install iptables",
        ),
    }
}

/// The programs that nodegate starts: those that are missing, each with what doesn't work without it.
fn tools(missing: &[Tool]) -> Vec<Check> {
    let name = "tools";
    if missing.is_empty() {
        let all = Tool::of(&[Use::Product]).count();
        let found = format!("all {all} programs that nodegate starts are there");
        return vec![Check::ok(name, found)];
    }
    let check = |tool: &Tool| {
        let found = format!(
            "no {}, which {}: {}",
            tool.name(),
            tool.task(),
            tool.without().unwrap_or("nobody else does")
        );
        let fix = format!("install {}", tool.package().unwrap_or(tool.name()));
        Check::bad(name, CheckOutcome::Warning, found, fix)
    };
    missing.iter().map(check).collect()
}

fn forwarding() -> Check {
    let name = "forwarding";
    match fs::read_to_string("/proc/sys/net/ipv4/ip_forward") {
        Ok(text) if text.trim() == "1" => Check::ok(name, "net.ipv4.ip_forward = 1"),
        _ => Check::bad(
            name,
            CheckOutcome::Failed,
            "net.ipv4.ip_forward is off: packets don't reach pods",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
    }
}

/// A local socket on a node port would get what the node port's clients send.
fn node_port_range() -> Check {
    let name = "node ports";
    let read =
        |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    let range = read("ip_local_port_range");
    let overlap = overlaps(&range, &read("ip_local_reserved_ports"));
    if overlap {
        Check::bad(
            name,
            CheckOutcome::Warning,
            format!(
                "30000-32767 overlaps local ports {}",
                range.split_whitespace().collect::<Vec<_>>().join("-")
            ),
            "sysctl -w net.ipv4.ip_local_reserved_ports=30000-32767",
        )
    } else {
        Check::ok(name, "30000-32767 is apart from local ports")
    }
}

/// Whether the kernel may give a port of 30000–32767 to a socket.
fn overlaps(range: &str, reserved: &str) -> bool {
    let mut ends = range
        .split_whitespace()
        .filter_map(|end| end.parse::<u32>().ok());
    let (Some(low), Some(high)) = (ends.next(), ends.next()) else {
        return false;
    };
    let covered = reserved.trim().split(',').any(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (from.parse::<u32>(), to.parse::<u32>());
        from.is_ok_and(|from| from <= 30_000) && to.is_ok_and(|to| to >= 32_767)
    });
    low <= 32_767 && high >= 30_000 && !covered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ports_overlap_local_ports() {
        assert!(!overlaps("32768\t60999\n", "\n"));
        assert!(overlaps("1024\t65535\n", "\n"));
        assert!(overlaps("32000\t60999\n", "8080,30000-32000\n"));
        assert!(!overlaps("1024\t65535\n", "8080,30000-32767\n"));
    }

    #[test]
    fn a_tool_that_is_missing_is_explained() {
        let checks = tools(&[Tool::Ip6tablesRestore]);
        assert_eq!(
            checks[0].found,
            "no ip6tables-restore, which sets nodegate's rules in IPv6's tables: nothing is masqueraded \
             and refused for IPv6: endpoints on other nodes are out of reach from outside"
        );
        assert_eq!(checks[0].fix.as_deref(), Some("install iptables"));
        let [all] = &tools(&[])[..] else {
            panic!("one line for all")
        };
        assert_eq!(all.outcome, CheckOutcome::Ok);
    }

    #[test]
    fn this_machine_is_looked_at() {
        let checks = all(Path::new("/sys/fs/bpf/nodegate"), None, &[]);
        let names: Vec<_> = checks.iter().map(|check| check.name).collect();
        for name in [
            "kernel",
            "capabilities",
            "BTF",
            "bpffs",
            "cgroup2",
            "programs",
            "node ports",
        ] {
            assert!(names.contains(&name), "{names:?}");
        }
        for check in &checks {
            assert_eq!(
                check.fix.is_some(),
                check.outcome != CheckOutcome::Ok,
                "{check:?}"
            );
            assert!(!check.found.is_empty(), "{check:?}");
        }
    }
}
