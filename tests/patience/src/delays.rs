//! How long threads have waited for a CPU: the second number of `/proc/PID/task/TID/schedstat`
//! (Documentation/scheduler/sched-stats.rst), which is 0 where the kernel does not count it.

use std::{
    cell::Cell,
    collections::HashMap,
    fs, io,
    process::{Child, ExitStatus},
    sync::{LazyLock, mpsc},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::wait::{Id, WaitPidFlag, waitid},
    unistd::Pid,
};

/// By thread.
pub(crate) type Delays = HashMap<u32, Duration>;

thread_local! {
    /// What [`wait`] has counted on this thread.
    static CHILDREN: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// How long this thread, and the children that it has [`wait`]ed for, have waited for a CPU.
pub fn mine() -> Duration {
    of_file("/proc/thread-self/schedstat") + CHILDREN.get()
}

/// How long this thread alone has waited for a CPU.
pub(crate) fn own() -> Duration {
    of_file("/proc/thread-self/schedstat")
}

/// All threads of these processes, and the kernel's that deliver packets and end grace periods.
pub(crate) fn of(processes: impl IntoIterator<Item = u32>) -> Delays {
    let mut delays = Delays::new();
    for process in processes.into_iter().chain(WORKERS.iter().copied()) {
        delays.extend(of_threads(process));
    }
    delays
}

/// What has been added since; threads that have ended since are not in it.
pub(crate) fn since(before: &Delays, after: &Delays) -> Duration {
    let grown = |(thread, delay): (&u32, &Duration)| {
        let before = before.get(thread).copied().unwrap_or_default();
        delay.saturating_sub(before)
    };
    after.iter().map(grown).sum()
}

/// Waits for a child up to a limit. What held it up counts as this thread's: with its end its schedstat is
/// gone. This thread sleeps meanwhile: one that looks now and then would wait for a CPU each time, and so
/// would seem to be held up.
///
/// # Errors
///
/// If the child cannot be waited for, or not be ended after the limit.
pub fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let (sender, ended) = mpsc::channel();
    let pid = Pid::from_raw(child.id().cast_signed());
    thread::spawn(move || {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        let ended = loop {
            match waitid(Id::Pid(pid), flags) {
                Err(Errno::EINTR) => {}
                ended => break ended,
            }
        };
        // After the limit nobody waits for it any more.
        let _ = sender.send(ended);
    });
    match ended.recv_timeout(limit) {
        Ok(Ok(_)) => {}
        // It has been waited for before: `Child` knows the status.
        Ok(Err(Errno::ECHILD)) => return child.try_wait(),
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => return Ok(None),
    }
    let delay: Duration = of_threads(child.id()).values().sum();
    CHILDREN.set(CHILDREN.get() + delay);
    child.wait().map(Some)
}

fn of_threads(process: u32) -> Delays {
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    let threads = threads.into_iter().flatten().flatten();
    threads
        .filter_map(|thread| {
            let number = thread.file_name().to_str()?.parse().ok()?;
            let delay = of_file(thread.path().join("schedstat").to_str()?);
            Some((number, delay))
        })
        .collect()
}

/// It may have ended meanwhile.
fn of_file(schedstat: &str) -> Duration {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    let delay = text.split_ascii_whitespace().nth(1);
    let nanoseconds = delay.and_then(|delay| delay.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}

/// The kernel's threads that others wait for.
static WORKERS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| {
            let number = process.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(process.path().join("comm")).ok()?;
            let works = name.starts_with("ksoftirqd/") || name.starts_with("rcu_");
            works.then_some(number)
        })
        .collect()
});

#[cfg(test)]
mod tests {
    use std::{hint::black_box, process::Stdio};

    use nodegate_programs::itself;

    use super::*;

    #[test]
    #[ignore = "it is what the next test starts"]
    fn keeps_a_cpu_busy() {
        for number in 0..50_000_000_u64 {
            black_box(number);
        }
    }

    /// More than there are CPUs wait for each other.
    #[test]
    fn what_a_child_waits_for_is_counted_after_its_end() {
        let start = |_| {
            let mut busy = itself().unwrap();
            busy.args(["--exact", "--ignored", "delays::tests::keeps_a_cpu_busy"]);
            busy.stdout(Stdio::null()).spawn().unwrap()
        };
        let before = mine();
        let many = 2 * thread::available_parallelism().unwrap().get();
        let mut children: Vec<_> = (0..many).map(start).collect();
        for child in &mut children {
            let status = wait(child, crate::limit()).unwrap();
            assert!(status.is_some_and(|it| it.success()));
            // Once is enough.
            assert_eq!(wait(child, crate::limit()).unwrap(), status);
        }
        // Everybody has waited for some nanoseconds, where the kernel counts.
        if of_file("/proc/1/schedstat").is_zero() {
            return;
        }
        let counted = mine().saturating_sub(before);
        assert!(counted > Duration::from_millis(10), "{counted:?}");
    }

    #[test]
    fn only_what_is_added_counts() {
        let second = Duration::from_secs(1);
        let before = Delays::from([(1, second), (2, second), (3, second)]);
        let after = Delays::from([(1, 3 * second), (2, second), (4, second)]);
        assert_eq!(since(&before, &after), 3 * second);
    }
}
