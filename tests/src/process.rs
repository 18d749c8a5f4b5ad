//! Processes in a namespace and a cgroup, and bounded waiting for them.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::{
        fd::AsFd as _,
        unix::{fs::FileTypeExt as _, net::UnixStream, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use nix::{
    sched::CloneFlags,
    sys::signal::kill,
    unistd::{self, Pid},
};

use crate::names::NETNS_ROOT;

/// Lets the command start in a network namespace and a cgroup: it is in both before its program
/// begins, so that no socket of it escapes the cgroup's programs.
pub(crate) fn enter(command: &mut Command, netns: &str, cgroup: &Path) -> anyhow::Result<()> {
    join(command, cgroup)?;
    enter_network(command, netns)
}

/// Lets the command start in a network namespace, and no host's cgroup.
pub fn enter_network(command: &mut Command, netns: &str) -> anyhow::Result<()> {
    let namespace = File::open(Path::new(NETNS_ROOT).join(netns))
        .with_context(|| format!("the network namespace {netns}"))?;
    let hook = move || {
        Ok(nix::sched::setns(
            namespace.as_fd(),
            CloneFlags::CLONE_NEWNET,
        )?)
    };
    // SAFETY: between fork and exec the hook makes one system call and allocates nothing.
    unsafe { command.pre_exec(hook) };
    Ok(())
}

/// Lets the command start in a cgroup. When that has gone meanwhile it doesn't start at all: whoever
/// empties a cgroup knows that nothing comes after.
pub(crate) fn join(command: &mut Command, cgroup: &Path) -> anyhow::Result<()> {
    let procs = OpenOptions::new()
        .write(true)
        .open(cgroup.join("cgroup.procs"))
        .with_context(|| format!("the cgroup {}", cgroup.display()))?;
    // Writing 0 moves the writer.
    let hook = move || Ok(unistd::write(procs.as_fd(), b"0").map(drop)?);
    // SAFETY: between fork and exec the hook makes one system call and allocates nothing.
    unsafe { command.pre_exec(hook) };
    Ok(())
}

/// Starts the command on its own: it outlives us, hears no signal of our terminal and writes to
/// the log.
pub(crate) fn detach(mut command: Command, log: &Path) -> anyhow::Result<Pid> {
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("opening {}", log.display()))?;
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    // SAFETY: setsid is a system call and allocates nothing.
    unsafe { command.pre_exec(|| Ok(unistd::setsid().map(drop)?)) };
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    // In a long-lived process (a test) somebody must reap it.
    let pid = Pid::from_raw(child.id().cast_signed());
    thread::spawn(move || child.wait());
    Ok(pid)
}

/// Waits until a process that we started has made a file, by which it says that it is there; of a
/// socket, until it listens.
pub(crate) fn await_file(file: &Path, pid: Pid, log: &Path) -> anyhow::Result<()> {
    let made = patience::try_until(|| {
        if is_there(file) {
            return Ok(Some(()));
        }
        ensure!(kill(pid, None).is_ok(), "it has ended; {}", tail(log));
        Ok(None)
    });
    made.with_context(|| format!("it has not made {}; {}", file.display(), tail(log)))
}

/// A socket's file is there after bind(2), but connections are refused until listen(2).
fn is_there(file: &Path) -> bool {
    match fs::metadata(file) {
        Ok(metadata) if metadata.file_type().is_socket() => UnixStream::connect(file).is_ok(),
        metadata => metadata.is_ok(),
    }
}

/// Runs the command to its end, or ends it when it takes too long. Its standard input is empty.
pub(crate) fn output(command: Command) -> anyhow::Result<Output> {
    output_within(command, patience::outer_limit())
}

fn output_within(mut command: Command, limit: Duration) -> anyhow::Result<Output> {
    let what = command.get_program().to_os_string();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", what.display()))?;
    let started = Instant::now();
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait_within(&mut child, limit)?;
    let late = || {
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        format!(
            "{} {} took longer than {limit:?}",
            what.display(),
            arguments.join(" ")
        )
    };
    let status = status.with_context(late)?;
    // Something that it has left in the background may hold its output open.
    let collect = |bytes: Receiver<Vec<u8>>| {
        let left = limit.saturating_sub(started.elapsed());
        bytes.recv_timeout(left).ok().with_context(late)
    };
    Ok(Output {
        status,
        stdout: collect(stdout)?,
        stderr: collect(stderr)?,
    })
}

/// Waits for the child; ends it when it takes too long, and gives none then.
pub(crate) fn wait(child: &mut Child) -> anyhow::Result<Option<ExitStatus>> {
    wait_within(child, patience::outer_limit())
}

fn wait_within(child: &mut Child, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let status = patience::wait(child, limit)?;
    if status.is_none() {
        child.kill()?;
        child.wait()?;
    }
    Ok(status)
}

fn drain(source: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut source) = source {
            // What was read until an error is all there is.
            let _ = source.read_to_end(&mut bytes);
        }
        // Nobody waits for it any more after the limit.
        let _ = sender.send(bytes);
    });
    receiver
}

/// Runs the command; an error with what it said when it fails.
pub(crate) fn run(command: Command) -> anyhow::Result<String> {
    let what = format!("{command:?}");
    let output = output(command)?;
    ensure!(
        output.status.success(),
        "{what}: {} ({})",
        String::from_utf8_lossy(&output.stderr).trim(),
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last lines of a log, on one line, for an error's end.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_default();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = &lines[lines.len().saturating_sub(5)..];
    if last.is_empty() {
        "its log is empty".into()
    } else {
        format!("its log ends: {}", last.join(" | "))
    }
}

#[cfg(test)]
mod tests {
    use nodegate_programs::Program;

    use super::*;

    #[test]
    fn commands_are_bounded() {
        let sleep = |seconds: &str| {
            let mut sleep = Program::Sleep.command();
            sleep.arg(seconds);
            sleep
        };
        let error = output_within(sleep("600"), Duration::from_millis(50))
            .unwrap_err()
            .to_string();
        assert!(error.contains("sleep 600 took longer"), "{error}");
        let background = Program::Setsid.around(["--fork"], &sleep("60"));
        let error = output_within(background, Duration::from_millis(200)).unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
    }

    #[test]
    fn a_socket_is_there_when_it_listens() {
        use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};

        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("socket");
        assert!(!is_there(&file));
        let kind = (AddressFamily::Unix, SockType::Stream);
        let socket = socket::socket(kind.0, kind.1, SockFlag::empty(), None).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        socket::bind(fd, &UnixAddr::new(&file).unwrap()).unwrap();
        assert!(file.exists() && !is_there(&file));
        socket::listen(&socket, Backlog::new(1).unwrap()).unwrap();
        assert!(is_there(&file));
        let plain = directory.path().join("file");
        fs::write(&plain, "").unwrap();
        assert!(is_there(&plain));
    }

    #[test]
    fn failures_say_what_the_command_said() {
        let mut command = Program::Cat.command();
        command.arg("/proc/self/not-there");
        let error = run(command).unwrap_err().to_string();
        assert!(
            error.contains("not-there: No such file") && error.contains("exit status: 1"),
            "{error}"
        );
    }
}
