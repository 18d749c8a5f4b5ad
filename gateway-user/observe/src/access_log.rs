//! The access log: a line per request and per TCP connection that is over, in Istio's words.
//!
//! Lines are made and written by a thread of their own. If the thread is behind by the whole buffer,
//! records are lost; requests never wait.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    thread,
};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

mod format;

pub use format::{Encoding, LineFormat, LogFormatError};

use super::{
    record::{ConnectionState, Record},
    tap::{Subscription, Tap},
};

/// Records that may wait to be written.
const BUFFER: usize = 8192;

/// Where the log goes and what it looks like.
#[derive(Clone, Debug)]
pub struct AccessLogOptions {
    /// The file; `/dev/stdout` and `/dev/stderr` are the process's own streams, also where these are
    /// sockets, which cannot be opened by name.
    pub path: PathBuf,
    /// The lines.
    pub format: LineFormat,
}

/// A log that is being written.
#[derive(Debug)]
pub struct AccessLog {
    stop: CancellationToken,
    thread: thread::JoinHandle<()>,
}

struct Writer {
    options: AccessLogOptions,
    records: Subscription,
    file: BufWriter<Sink>,
    /// Losses that have been told.
    told: u64,
    failing: bool,
}

enum Sink {
    File(File),
    Stdout(io::Stdout),
    Stderr(io::Stderr),
}

impl AccessLog {
    /// Logs what goes through the tap from now on. The file is opened for appending, and opened again
    /// on SIGHUP, so that it can be rotated.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened, or the thread that writes it cannot be started.
    pub fn start(tap: &Tap, options: AccessLogOptions) -> io::Result<Self> {
        let sink = Sink::open(&options.path)?;
        let mut writer = Writer {
            options,
            records: tap.subscribe(BUFFER),
            file: BufWriter::new(sink),
            told: 0,
            failing: false,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let hangup = {
            let _guard = runtime.enter();
            signal(SignalKind::hangup())?
        };
        let stop = CancellationToken::new();
        let token = stop.clone();
        let thread = thread::Builder::new()
            .name("access-log".into())
            .spawn(move || runtime.block_on(writer.run(hangup, &token)))?;
        Ok(Self { stop, thread })
    }

    /// Writes what is there, and ends.
    pub async fn finish(self) {
        self.stop.cancel();
        let joined = tokio::task::spawn_blocking(|| self.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the access log had panicked");
        }
    }
}

impl Writer {
    async fn run(&mut self, mut hangup: Signal, stop: &CancellationToken) {
        loop {
            tokio::select! {
                biased;
                _ = hangup.recv() => self.reopen(),
                record = self.records.recv() => self.write(&record),
                () = stop.cancelled() => {
                    self.flush();
                    return;
                }
            }
            // All records that wait go into the buffer before it is flushed: one write for many lines.
            while let Some(record) = self.records.try_recv() {
                self.write(&record);
            }
            self.flush();
            self.tell_losses();
        }
    }

    fn write(&mut self, record: &Record) {
        if let Record::Connection(record) = record
            && record.state == ConnectionState::Opened
        {
            return;
        }
        let line = self.options.format.line(record);
        let written = self.file.write_all(line.as_bytes());
        self.report(written);
    }

    fn flush(&mut self) {
        let flushed = self.file.flush();
        self.report(flushed);
    }

    fn reopen(&mut self) {
        self.flush();
        match Sink::open(&self.options.path) {
            Ok(sink) => self.file = BufWriter::new(sink),
            Err(error) => {
                tracing::warn!(
                    path = %self.options.path.display(),
                    %error,
                    "the access log goes on in the old file"
                );
            }
        }
    }

    /// Says once that the log can't be written, and once that it can again.
    fn report(&mut self, result: io::Result<()>) {
        match result {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("the access log is written again");
            }
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::warn!(
                    path = %self.options.path.display(),
                    %error,
                    "the access log can't be written: lines are lost"
                );
            }
            _ => {}
        }
    }

    fn tell_losses(&mut self) {
        let lost = self.records.dropped();
        // Not one line for each.
        if lost > self.told * 2 {
            tracing::warn!(lost, "the access log is behind: records are lost");
            self.told = lost;
        }
    }
}

impl Sink {
    fn open(path: &Path) -> io::Result<Self> {
        // A process's standard output may be a socket, which can't be opened by its name.
        if path == Path::new("/dev/stdout") {
            return Ok(Self::Stdout(io::stdout()));
        }
        if path == Path::new("/dev/stderr") {
            return Ok(Self::Stderr(io::stderr()));
        }
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map(Self::File)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::Stderr(stderr) => stderr.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Stdout(stdout) => stdout.flush(),
            Self::Stderr(stderr) => stderr.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::request;

    #[tokio::test]
    async fn lines_are_written_and_the_file_can_be_rotated() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let tap = Tap::default();
        let log = AccessLog::start(
            &tap,
            AccessLogOptions {
                path: path.clone(),
                format: LineFormat::new(Encoding::Text, Some("%RESPONSE_CODE%")).unwrap(),
            },
        )
        .unwrap();
        let send = |status| {
            let mut record = request();
            record.status = status;
            tap.send(Record::Request(Box::new(record)));
        };
        let wait = async |path: &Path, wanted: &str| {
            let deadline = patience::Deadline::new();
            while !std::fs::read_to_string(path).is_ok_and(|text| text == wanted) {
                assert!(!deadline.passed(), "{:?}", std::fs::read_to_string(path));
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        send(200);
        wait(&path, "200\n").await;
        let rotated = directory.path().join("access.log.1");
        std::fs::rename(&path, &rotated).unwrap();
        nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGHUP).unwrap();
        wait(&path, "").await;
        send(404);
        log.finish().await;
        wait(&path, "404\n").await;
        wait(&rotated, "200\n").await;
        assert!(!tap.is_active());
    }
}
