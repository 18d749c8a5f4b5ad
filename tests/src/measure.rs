//! What a process takes of the machine.

use std::{fs, io, os::unix::process::CommandExt as _, process::Command, time::Duration};

use anyhow::Context as _;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Pid,
};

/// Lets the command, and whatever it starts, run on one CPU only.
pub fn pin(command: &mut Command, cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("CPU {cpu}"))?;
    // SAFETY: between fork and exec the hook makes one system call and allocates nothing.
    unsafe { command.pre_exec(move || Ok(sched_setaffinity(Pid::from_raw(0), &set)?)) };
    Ok(())
}

/// Lets this process have as many files open as it may: every connection is one.
pub fn raise_file_limit() -> anyhow::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// CPU time that a process's threads have had, in and out of the kernel.
// proc_pid_schedstat(5): the first number is nanoseconds on the CPU; stat(5) has ticks of 10 ms.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut all = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let first = text.split_ascii_whitespace().next();
        let nanoseconds = first.and_then(|first| first.parse().ok());
        all += Duration::from_nanos(nanoseconds.ok_or(io::ErrorKind::InvalidData)?);
    }
    Ok(all)
}

/// Memory that a process has to itself, in bytes.
// proc_pid_smaps_rollup(5)
pub fn memory(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kibibytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let private = kibibytes("Private_Dirty:").zip(kibibytes("Private_Clean:"));
    let (dirty, clean) = private.ok_or(io::ErrorKind::InvalidData)?;
    Ok((dirty + clean) * 1024)
}

#[cfg(test)]
mod tests {
    use std::process;

    use nodegate_programs::Program;

    use super::*;

    #[test]
    fn work_takes_time() {
        // Not this process: what threads of other tests have had goes with them.
        let start = |words: &str| {
            let mut sh = Program::Sh.command();
            sh.args(["-c", words]).stdin(process::Stdio::piped());
            sh.spawn().unwrap()
        };
        let mut children = [start("while :; do :; done"), start("read line")];
        let [busy, waiting] = children.each_ref().map(process::Child::id);
        let worked = patience::until(|| {
            let took = cpu_time(busy).unwrap();
            (took > Duration::from_millis(100)).then_some(())
        });
        let waited = cpu_time(waiting).unwrap();
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        worked.unwrap();
        assert!(waited < Duration::from_millis(100), "{waited:?}");
    }

    #[test]
    fn memory_that_is_used_is_counted() {
        // Other tests of this process may let go of some meanwhile.
        let counted = patience::until(|| {
            let before = memory(process::id()).unwrap();
            let block = vec![1_u8; 32 << 20];
            let after = memory(process::id()).unwrap();
            drop(block);
            (after >= before + (30 << 20)).then_some(())
        });
        counted.expect("32 MiB are seen");
    }

    #[test]
    fn the_file_limit_is_raised() {
        raise_file_limit().unwrap();
        let (now, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(now, most);
    }

    #[test]
    fn commands_stay_on_their_cpu() {
        let mut command = Program::Cat.command();
        command.arg("/proc/self/status");
        pin(&mut command, 0).unwrap();
        let output = command.output().unwrap();
        let status = String::from_utf8_lossy(&output.stdout);
        let mut lines = status.lines();
        assert!(
            lines.any(|line| line == "Cpus_allowed_list:\t0"),
            "{status}"
        );
    }
}
