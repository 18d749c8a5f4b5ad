//! A machine without disks and networks that boots a kernel, and what it tells.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;

use crate::setup;

/// What is booted.
pub(super) struct Machine<'m> {
    pub(super) kernel: &'m Path,
    pub(super) initramfs: &'m Path,
    /// Mebibytes.
    pub(super) memory: u32,
    /// How QEMU runs it: `tcg`, `kvm`.
    pub(super) accelerator: &'m str,
    /// Where the kernel's own messages and the whole report go.
    pub(super) directory: &'m Path,
    /// When it is turned off, whatever it does.
    pub(super) limit: Duration,
}

/// How one step went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) name: String,
    /// Its exit status; none if it was under way when the machine ended.
    pub(super) status: Option<i32>,
    /// What it printed.
    pub(super) output: String,
    /// How long it took.
    pub(super) time: Duration,
}

/// What a machine has told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// `uname -r`
    pub(super) release: String,
    pub(super) outcomes: Vec<Outcome>,
    /// Whether it has done everything.
    pub(super) complete: bool,
}

/// What lines begin with that are about steps.
const MARKERS: [&str; 5] = ["@release ", "@begin ", "@end ", "@done", "@late"];

/// A process that does not outlive its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine<'_> {
    /// Boots, and collects what is told until the machine turns itself off.
    pub(super) fn run(&self) -> anyhow::Result<Report> {
        let mut qemu = Process(self.start()?);
        let output = qemu.0.stdout.take().context("QEMU's output")?;
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line);
                if send.send(line.trim_end_matches('\r').to_owned()).is_err() {
                    break;
                }
            }
        });
        let mut collector = Collector::default();
        // Whoever does not want to wait can look on.
        let mut all = fs::File::create(self.directory.join("report"))?;
        let end = Instant::now() + self.limit;
        let left = || end.saturating_duration_since(Instant::now());
        // Until it has ended, or must.
        while let Ok(line) = lines.recv_timeout(left()) {
            writeln!(all, "{line}")?;
            collector.line(&line, Instant::now());
        }
        let report = collector.end();
        ensure!(
            !report.release.is_empty(),
            "the kernel has not come up: {}",
            self.last_words()
        );
        Ok(report)
    }

    fn start(&self) -> anyhow::Result<Child> {
        let cpu = if self.accelerator == "kvm" {
            "host"
        } else {
            "max"
        };
        setup::command(Program::Qemu)?
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-no-reboot", "-nic", "none", "-cpu", cpu, "-smp", "2"])
            .args(["-accel", self.accelerator])
            .args(["-m", &format!("{}M", self.memory)])
            .args(["-serial", "stdio", "-serial"])
            .arg(format!("file:{}", self.console().display()))
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            // A kernel that panics ends the machine.
            .args([
                "-append",
                "console=ttyS1 panic=-1 oops=panic loglevel=5 mitigations=off",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting QEMU")
    }

    /// The kernel's own messages.
    fn console(&self) -> PathBuf {
        self.directory.join("console")
    }

    /// The end of the kernel's messages.
    pub(super) fn last_words(&self) -> String {
        let console = fs::read(self.console()).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<_> = console.lines().map(str::trim_end).collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// Makes a report of lines.
#[derive(Default)]
struct Collector {
    report: Report,
    open: Option<(Outcome, Instant)>,
}

impl Collector {
    fn line(&mut self, line: &str, now: Instant) {
        // A program may have left its last line unfinished.
        let (before, marker) = match MARKERS.iter().find_map(|marker| line.find(marker)) {
            Some(at) => (&line[..at], Some(&line[at..])),
            None => (line, None),
        };
        if let Some((outcome, _)) = &mut self.open
            && (marker.is_none() || !before.is_empty())
        {
            outcome.output.push_str(before);
            outcome.output.push('\n');
        }
        let mut words = marker.unwrap_or_default().split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("@release"), Some(release), None) => self.report.release = release.into(),
            (Some("@begin"), Some(name), None) => {
                let outcome = Outcome {
                    name: name.into(),
                    ..Outcome::default()
                };
                self.open = Some((outcome, now));
            }
            (Some("@end"), Some(_), Some(status)) => {
                if let Some((mut outcome, began)) = self.open.take() {
                    outcome.status = status.parse().ok();
                    outcome.time = now - began;
                    eprintln!(
                        "  {}: {} in {} s",
                        outcome.name,
                        if outcome.status == Some(0) {
                            "passed"
                        } else {
                            "FAILED"
                        },
                        outcome.time.as_secs()
                    );
                    self.report.outcomes.push(outcome);
                }
            }
            (Some("@done"), None, None) => self.report.complete = true,
            _ => {}
        }
    }

    fn end(mut self) -> Report {
        self.report
            .outcomes
            .extend(self.open.take().map(|(outcome, _)| outcome));
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &[&str]) -> Report {
        let mut collector = Collector::default();
        let now = Instant::now();
        for line in lines {
            collector.line(line, now);
        }
        collector.end()
    }

    #[test]
    fn steps_have_a_status_and_an_output() {
        let report = report(&[
            "noise",
            "@release 6.1.0",
            "@begin one",
            "some@text",
            "unfinished@end one 0",
            "@begin two",
            "@end two 124",
            "@done",
        ]);
        assert!(report.complete);
        assert_eq!(report.release, "6.1.0");
        let [one, two] = &report.outcomes[..] else {
            panic!("{report:?}")
        };
        assert_eq!((one.name.as_str(), one.status), ("one", Some(0)));
        assert_eq!(one.output, "some@text\nunfinished\n");
        assert_eq!((two.status, two.output.as_str()), (Some(124), ""));
    }

    #[test]
    fn a_step_that_did_not_end_has_no_status() {
        let report = report(&["@release 6.1.0", "@begin one", "text"]);
        assert!(!report.complete);
        assert_eq!(report.outcomes.len(), 1);
        assert_eq!(report.outcomes[0].status, None);
        assert_eq!(report.outcomes[0].output, "text\n");
    }
}
