//! A testbed of one trial, and the clients that people use.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
};

use anyhow::{Context as _, bail, ensure};
use libtest_mimic::Failed;
use nodegate_programs::Program;
use nodegate_testbed::{Binaries, Options, Testbed, environment, inside, ps::PodAddress};
use patience::Stopwatch;
use serde_json::Value;

use crate::Setting;

/// The binaries under test: nodegate from `NODEGATE_BIN`, or from beside the testbed's own, as the pods'
/// server.
pub(crate) fn binaries() -> anyhow::Result<Binaries> {
    environment::check_for_tests()?;
    let beside = |name: &str| Path::new(env!("CARGO_BIN_EXE_testbed-node")).with_file_name(name);
    let pod = beside("testbed-pod");
    let nodegate = match std::env::var_os("NODEGATE_BIN") {
        Some(path) => path.into(),
        None => beside("nodegate"),
    };
    for program in [&pod, &nodegate] {
        ensure!(
            program.is_file(),
            "{} is not built (fix: cargo xtask test)",
            program.display()
        );
    }
    Ok(Binaries { nodegate, pod })
}

/// A testbed; it goes down when this is dropped.
pub(crate) struct Scene {
    pub(crate) testbed: Testbed,
}

/// A manifest directory of this crate.
pub(crate) fn manifests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("manifests")
        .join(name)
}

impl Scene {
    pub(crate) fn up(index: usize, setting: Setting, binaries: Binaries) -> anyhow::Result<Self> {
        let name = format!("e{}-{index}", std::process::id());
        let mut options = Options::new(&name, binaries, vec![manifests(setting.manifests)]);
        options.namespace = setting.namespace.map(Into::into);
        options.nodes = Some(setting.nodes);
        let testbed = Testbed::up(&options)?;
        let report = testbed.report();
        ensure!(
            !report.has_errors(),
            "the manifests are not clean: {report:?}"
        );
        Ok(Self { testbed })
    }

    /// A failure, with the ends of the logs: the testbed is gone when people read it.
    pub(crate) fn with_logs(&self, error: &anyhow::Error) -> Failed {
        let mut text = format!("{error:#}\n");
        for node in self.testbed.nodes().unwrap_or_default() {
            let decisions = self
                .status(&node.name)
                .map(|s| s["datapath"]["decisions"].clone());
            // Writing to a String cannot fail.
            let _ = writeln!(text, "--- decisions on {}: {decisions:?}", node.name);
        }
        let logs = self.testbed.log(&nodegate_testbed::names::Host::Client);
        let directory = logs.parent().unwrap_or(&logs).to_owned();
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(15).collect();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "--- {}", entry.path().display());
            for line in lines.iter().rev() {
                let _ = writeln!(text, "{line}");
            }
        }
        text.into()
    }

    /// Runs a program and takes what it prints; it must succeed.
    pub(crate) fn run(
        &self,
        host: &str,
        program: Program,
        arguments: &[&str],
    ) -> anyhow::Result<String> {
        let output = self.testbed.exec(host, program, arguments)?;
        ensure!(
            output.status.success(),
            "{} {arguments:?} on {host}: {}: {}",
            program.name(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// As [`Self::run`], with the arguments in one line.
    pub(crate) fn run_line(
        &self,
        host: &str,
        program: Program,
        line: &str,
    ) -> anyhow::Result<String> {
        let arguments: Vec<_> = line.split_whitespace().collect();
        self.run(host, program, &arguments)
    }

    /// Runs a program with an input and takes what it prints, whatever its status.
    pub(crate) fn feed(
        &self,
        host: &str,
        program: Program,
        arguments: &[&str],
        input: &str,
    ) -> anyhow::Result<Output> {
        let mut child = self.testbed.spawn(host, program, arguments)?;
        // Dropped at once: that is the end of the input.
        let written = child
            .stdin
            .take()
            .context("piped")?
            .write_all(input.as_bytes());
        let output = child.wait_with_output()?;
        // A program that fails early says why.
        ensure!(
            written.is_ok() || !output.status.success(),
            "{} has not read its input: {written:?}",
            program.name()
        );
        Ok(output)
    }

    /// Sets something of a host's network, which is named as below /proc/sys/net.
    pub(crate) fn set(&self, host: &str, setting: &str, value: &str) -> anyhow::Result<()> {
        let netns = self.testbed.names().netns(&self.testbed.host(host)?);
        set(&netns, setting, value)
    }

    /// A stopwatch for what the testbed's processes take part in.
    pub(crate) fn stopwatch(&self) -> Stopwatch<'_> {
        Stopwatch::with(|| self.testbed.processes())
    }

    /// A request with curl.
    pub(crate) fn curl(&self, host: &str, arguments: &[&str]) -> anyhow::Result<Answer> {
        let limit = limit();
        let fixed = ["-s", "-i", "--max-time", &limit];
        let all = fixed.iter().chain(arguments);
        let output = self.testbed.exec(host, Program::Curl, all)?;
        Answer::read(&output)
    }

    /// Begins a download with curl, at a megabyte a second; returns when something has come.
    pub(crate) fn download(&self, host: &str, name: &str, url: &str) -> anyhow::Result<Download> {
        let file = tempfile::NamedTempFile::new()?;
        let mut command = self.testbed.command(host, Program::Curl)?;
        let limit = patience::outer_limit().as_secs().to_string();
        command.args(["-s", "--max-time", &limit, "--limit-rate", "1M", "-o"]);
        command.arg(file.path());
        command.args(["-w", "%{http_code} %{size_download}"]);
        command.args(["-H", &format!("Host: {name}"), url]);
        let process = command.stdout(Stdio::piped()).spawn()?;
        let begun = || Ok((file.as_file().metadata()?.len() > 0).then_some(()));
        wait(begun).with_context(|| format!("nothing of {url} has come"))?;
        Ok(Download { process, file })
    }

    /// A request to a URL, with a Host header.
    pub(crate) fn get(&self, host: &str, name: &str, url: &str) -> anyhow::Result<Answer> {
        self.curl(host, &["-H", &format!("Host: {name}"), url])
    }

    /// The only gateway pod, as a host.
    pub(crate) fn gateway(&self) -> anyhow::Result<String> {
        Ok(self.pod("istio-system", "istio-ingressgateway")?.0)
    }

    /// A pod by the beginning of its name: as a host, and its row.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> anyhow::Result<(String, PodAddress)> {
        let pods = self.testbed.ps()?.pods;
        let pod = pods
            .into_iter()
            .find(|pod| pod.namespace == namespace && pod.name.starts_with(name))
            .with_context(|| format!("there is no pod {namespace}/{name}"))?;
        Ok((format!("pod/{}/{}", pod.namespace, pod.name), pod))
    }

    /// `nodegate status -o json` on a host; it may well say that something is wrong.
    pub(crate) fn status(&self, host: &str) -> anyhow::Result<Value> {
        let output = self
            .testbed
            .exec(host, Program::Nodegate, ["status", "-o", "json"])?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "nodegate status: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// What nodegate says is wrong, on a host.
    pub(crate) fn diagnostics(&self, host: &str) -> anyhow::Result<Vec<String>> {
        let status = self.status(host)?;
        let lines = status["diagnostics"]
            .as_array()
            .context("no diagnostics in the status")?;
        Ok(lines
            .iter()
            .filter_map(Value::as_str)
            .map(Into::into)
            .collect())
    }

    /// Follows the decisions on a host from now on.
    pub(crate) fn trace(&self, host: &str) -> anyhow::Result<Trace> {
        self.trace_only(host, &[])
    }

    /// As [`Self::trace`], with further options of `nodegate trace`.
    pub(crate) fn trace_only(&self, host: &str, options: &[&str]) -> anyhow::Result<Trace> {
        let file = tempfile::NamedTempFile::new()?;
        let told = tempfile::NamedTempFile::new()?;
        let mut command = self.testbed.command(host, Program::Nodegate)?;
        command.args(["trace", "-o", "json", "--for", "3600s"]);
        command.args(options);
        command.stdin(Stdio::null());
        command.stdout(file.reopen()?).stderr(told.reopen()?);
        let mut process = command.spawn()?;
        let on = wait(|| {
            Ok(fs::read_to_string(told.path())?
                .contains("tracing")
                .then_some(()))
        });
        if on.is_err() {
            let _ = process.kill();
            bail!("nodegate trace: {}", fs::read_to_string(told.path())?);
        }
        Ok(Trace { process, file })
    }
}

/// A download under way.
pub(crate) struct Download {
    process: Child,
    file: tempfile::NamedTempFile,
}

impl Download {
    /// Its status and length, when it has ended.
    pub(crate) fn end(self) -> anyhow::Result<String> {
        let output = self.process.wait_with_output()?;
        drop(self.file);
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Sets something of a network namespace.
pub(crate) fn set(netns: &str, setting: &str, value: &str) -> anyhow::Result<()> {
    let file = Path::new("/proc/sys/net").join(setting);
    inside(netns, || {
        fs::write(&file, value).with_context(|| format!("setting {} in {netns}", file.display()))
    })
}

/// Decisions that are being followed.
pub(crate) struct Trace {
    process: Child,
    file: tempfile::NamedTempFile,
}

impl Trace {
    /// Waits for a decision.
    pub(crate) fn wait_for(&self, is_it: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        wait(|| Ok(self.decisions()?.into_iter().find(|line| is_it(line))))
            .with_context(|| format!("not traced; there are {:?}", self.decisions()))
    }

    /// All decisions up to now.
    pub(crate) fn decisions(&self) -> anyhow::Result<Vec<Value>> {
        let text = fs::read_to_string(self.file.path())?;
        // The last line may be half written.
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The limit of a wait in seconds, for the command lines of curl and nc.
pub(crate) fn limit() -> String {
    patience::limit().as_secs().to_string()
}

/// Asks until there is an answer, or for too long.
pub(crate) fn wait<T>(ask: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    patience::try_until(ask)
}

/// What curl got.
#[derive(Debug)]
pub(crate) struct Answer {
    /// curl's exit status: 7 is "could not connect".
    pub(crate) exit: i32,
    /// 0 without a response.
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    fn read(output: &Output) -> anyhow::Result<Self> {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut answer = Self {
            exit: output.status.code().context("curl was killed")?,
            status: 0,
            headers: Vec::new(),
            body: String::new(),
        };
        // "100 Continue" comes before the response.
        while let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let mut lines = head.lines();
            let status = lines.next().and_then(|line| line.split(' ').nth(1));
            answer.status = status.context("no status line")?.parse()?;
            answer.headers = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            text = rest.into();
            if answer.status >= 200 {
                break;
            }
        }
        answer.body = text;
        Ok(answer)
    }

    /// A header of the response; names are compared as written.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Path and query as the pod received them.
    pub(crate) fn seen_path(&self) -> &str {
        self.header("x-testbed-path")
            .unwrap_or("(no pod has answered)")
    }
}

/// Fails, naming what is compared, unless both are equal.
#[macro_export]
macro_rules! same {
    ($left:expr, $right:expr, $($what:tt)+) => {{
        let (left, right) = (&$left, &$right);
        anyhow::ensure!(*left == *right, "{}: {left:?}, expected {right:?}", format!($($what)+));
    }};
}
