//! A program that the kernel does not take, and why that may be.

use std::{fmt, io};

use super::capabilities;

/// How many of the verifier's lines are shown: the last ones say what it stumbled over.
const LINES: usize = 40;

/// What became of a program that the kernel refused.
#[derive(Debug)]
pub struct Rejection {
    program: &'static str,
    error: io::Error,
    /// The last of the verifier's lines.
    log: Vec<String>,
    cause: Cause,
}

/// The likely cause.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cause {
    /// The process may not; names of the capabilities that it lacks.
    Capabilities(Vec<&'static str>),
    /// The verifier has looked at as many instructions as it is willing to.
    TooLarge,
    /// The kernel has no such function for programs.
    Helper(String),
    /// There is too little memory.
    Memory,
    /// A cause that is not known.
    Unknown,
}

impl Rejection {
    pub(crate) fn new(program: &'static str, error: io::Error, log: &str) -> Self {
        let missing = capabilities::missing();
        Self {
            program,
            cause: Cause::of(&error, log, missing),
            error,
            log: last(log),
        }
    }
}

fn last(log: &str) -> Vec<String> {
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(LINES);
    lines[from..].iter().map(ToString::to_string).collect()
}

impl Cause {
    fn of(error: &io::Error, log: &str, missing: Vec<&'static str>) -> Self {
        let code = error.raw_os_error();
        // "BPF program is too large. Processed 1000001 insn", and "The sequence of 8193 jumps is too
        // complex" (do_check and push_stack in kernel/bpf/verifier.c).
        if code == Some(libc::E2BIG) || log.contains("is too large") || log.contains("too complex")
        {
            return Self::TooLarge;
        }
        if code == Some(libc::ENOMEM) {
            return Self::Memory;
        }
        // Without them, the verifier has other rules: no arithmetic with pointers that it cannot bound,
        // no comparison of pointers, nothing of them in maps.
        if !missing.is_empty() {
            return Self::Capabilities(missing);
        }
        // "unknown func bpf_ktime_get_coarse_ns#160", "program of this type cannot use helper …"
        // (check_helper_call).
        let helper = log.lines().rev().find(|line| {
            ["unknown func ", "invalid func ", "cannot use helper "]
                .iter()
                .any(|sign| line.contains(sign))
        });
        match helper {
            Some(line) => Self::Helper(line.trim().to_owned()),
            None => Self::Unknown,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capabilities(missing) => {
                let missing = missing.join(" and ");
                write!(
                    f,
                    "this process has no {missing}, and the verifier stricter rules for it then (fix: \
                     run it with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or as root with all)"
                )
            }
            Self::TooLarge => f.write_str(
                "this kernel's verifier gives up before the end (fix: Linux 6.1 or newer)",
            ),
            Self::Helper(line) => write!(
                f,
                "this kernel has not what the program calls, \"{line}\" (fix: Linux 6.1 or \
                 newer)"
            ),
            Self::Memory => f.write_str(
                "there is too little memory (fix: a higher memory limit for this process's cgroup, or \
                 `ulimit -l unlimited` before Linux 5.11)",
            ),
            Self::Unknown => f.write_str(
                "this kernel's verifier follows the program less well than those that it was tried on \
                 (fix: another kernel; `nodegate preflight` says what else is missing; a report with \
                 the lines below helps)",
            ),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            program,
            error,
            log,
            cause,
        } = self;
        write!(
            f,
            "the kernel refuses the program {program}: {error}\nlikely cause: {cause}\nwhat was attached \
             before stays, and goes on as it was"
        )?;
        if log.is_empty() {
            return f.write_str("\nthe verifier says nothing");
        }
        write!(f, "\nthe verifier's last {} lines:", log.len())?;
        log.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for Rejection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // Told already.
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(code: i32, log: &str, missing: &[&'static str]) -> Cause {
        Cause::of(&io::Error::from_raw_os_error(code), log, missing.to_vec())
    }

    #[test]
    fn causes_are_told_apart() {
        let perfmon = ["CAP_PERFMON"];
        for (code, log, missing, expected) in [
            (
                libc::EACCES,
                "R1 pointer arithmetic prohibited",
                &perfmon[..],
                Cause::Capabilities(perfmon.to_vec()),
            ),
            (
                libc::E2BIG,
                "BPF program is too large. Processed 1000001 insn",
                &[],
                Cause::TooLarge,
            ),
            (
                libc::EINVAL,
                "7: (85) call unknown#160\ninvalid func unknown#160\nprocessed 8 insns",
                &[],
                Cause::Helper("invalid func unknown#160".into()),
            ),
            (libc::ENOMEM, "", &[], Cause::Memory),
            (
                libc::EACCES,
                "R1 invalid mem access 'scalar'",
                &[],
                Cause::Unknown,
            ),
        ] {
            assert_eq!(cause(code, log, missing), expected, "{log}");
        }
    }

    #[test]
    fn the_last_lines_are_shown_under_the_program_and_the_fix() {
        let lines: Vec<_> = (1..=100)
            .map(|line| format!("{line}: (95) exit\n"))
            .collect();
        let log = lines.join("\n");
        let rejection = Rejection {
            program: "ingress",
            error: io::Error::from_raw_os_error(libc::EACCES),
            log: last(&log),
            cause: Cause::Capabilities(vec!["CAP_PERFMON"]),
        };
        let told = rejection.to_string();
        let lines: Vec<_> = told.lines().collect();
        assert!(
            lines[0].contains("the program ingress: Permission denied"),
            "{told}"
        );
        assert!(
            lines[1].contains("no CAP_PERFMON") && lines[1].contains("(fix: "),
            "{told}"
        );
        assert_eq!(lines[3], "the verifier's last 40 lines:");
        assert_eq!(lines[4], "  61: (95) exit");
        assert_eq!(lines.last(), Some(&"  100: (95) exit"));
        assert_eq!(lines.len(), 44);
    }
}
