//! What both write down about a request: flags, details, route, cluster.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use nodegate_observe::{Record, Subscription, Tap};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::client::Answer;

/// How often a line is looked for.
const PAUSE: Duration = Duration::from_millis(2);

/// Room for records that nobody has asked for yet.
const BUFFER: usize = 1 << 12;

/// A line of an access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) status: String,
    /// Letters, sorted: Envoy has them in the order in which they came up.
    pub(crate) flags: String,
    pub(crate) details: String,
    pub(crate) route: String,
    pub(crate) cluster: String,
    /// Which of endpoint, its connection, the client's addresses and the request's id are known.
    pub(crate) known: String,
}

/// Envoy's access log, read as it is written.
#[derive(Debug)]
pub(crate) struct EnvoyLog(Mutex<LogReader>);

#[derive(Debug)]
struct LogReader {
    file: BufReader<File>,
    /// The beginning of a line: Envoy writes its buffers one by one, and lines go across them.
    begun: String,
    lines: Lines,
}

/// The proxy's records.
#[derive(Debug)]
pub(crate) struct Records(Mutex<(Subscription, Lines)>);

/// Lines by the port that the client came from.
/// By the port of the client; and when the request came, in microseconds since 1970. Ports come again.
type Lines = HashMap<u16, (i64, Line)>;

/// Sets Envoy's log up.
pub(crate) fn configure(bootstrap: &mut Value, path: &Path) {
    let fields = [
        "DOWNSTREAM_DIRECT_REMOTE_PORT",
        "START_TIME(%s%6f)",
        "RESPONSE_CODE",
        "RESPONSE_FLAGS",
        "RESPONSE_CODE_DETAILS",
        "ROUTE_NAME",
        "UPSTREAM_CLUSTER_RAW",
        "UPSTREAM_HOST",
        "UPSTREAM_LOCAL_ADDRESS",
        "REQ(X-FORWARDED-FOR)",
        "REQ(X-REQUEST-ID)",
    ];
    let format = fields.map(|field| format!("%{field}%")).join("\t") + "\n";
    let log = json!([{
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"text_format_source": {"inline_string": format}},
        },
    }]);
    let listeners = bootstrap["static_resources"]["listeners"].as_array_mut();
    for listener in listeners.into_iter().flatten() {
        listener["filter_chains"][0]["filters"][0]["typed_config"]["access_log"] = log.clone();
    }
}

impl EnvoyLog {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(Mutex::new(LogReader {
            file: BufReader::new(File::open(path)?),
            begun: String::new(),
            lines: Lines::new(),
        })))
    }

    /// The line about a request that has been answered, once it is there.
    pub(crate) fn take(&self, answer: &Answer) -> io::Result<Option<Line>> {
        let deadline = patience::Deadline::new();
        while !deadline.passed() {
            let mut locked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let LogReader { file, begun, lines } = &mut *locked;
            while file.read_line(begun)? > 0 && begun.ends_with('\n') {
                lines.extend(parse(begun));
                begun.clear();
            }
            if let Some(line) = newest(lines, answer) {
                return Ok(Some(line));
            }
            drop(locked);
            thread::sleep(PAUSE);
        }
        Ok(None)
    }
}

/// The line of the request, and not an older one from the same port.
fn newest(lines: &mut Lines, answer: &Answer) -> Option<Line> {
    let (_, line) = lines
        .remove(&answer.port)
        .filter(|(came, _)| *came >= answer.asked)?;
    Some(line)
}

fn parse(text: &str) -> Option<(u16, (i64, Line))> {
    let mut fields = text.trim_end_matches('\n').split('\t');
    let port = fields.next()?.parse().ok()?;
    let came = fields.next()?.parse().ok()?;
    let mut next = || Some(fields.next()?.trim_matches('-').to_owned());
    let line = Line {
        status: next()?,
        flags: sorted(&next()?),
        details: next()?,
        route: next()?,
        cluster: next()?,
        known: known([
            !next()?.is_empty(),
            !next()?.is_empty(),
            !next()?.is_empty(),
            !next()?.is_empty(),
        ]),
    };
    Some((port, (came, line)))
}

/// What is known of endpoint, its connection, the client's addresses and the request's id, in words.
fn known(facts: [bool; 4]) -> String {
    let words = ["endpoint", "connection", "addresses", "id"];
    let known = words.into_iter().zip(facts).filter(|(_, known)| *known);
    known.map(|(word, _)| word).collect::<Vec<_>>().join(" ")
}

fn sorted(flags: &str) -> String {
    let mut flags: Vec<_> = flags.split(',').collect();
    flags.sort_unstable();
    flags.join(",")
}

impl Records {
    pub(crate) fn of(tap: &Tap) -> Self {
        Self(Mutex::new((tap.subscribe(BUFFER), Lines::new())))
    }

    /// The record of a request that has been answered, once it is there.
    pub(crate) fn take(&self, runtime: &Runtime, answer: &Answer) -> Option<Line> {
        let mut locked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (subscription, lines) = &mut *locked;
        runtime.block_on(async {
            loop {
                if let Some(line) = newest(lines, answer) {
                    return Some(line);
                }
                let received = tokio::time::timeout(patience::limit(), subscription.recv());
                let Record::Request(record) = &*received.await.ok()? else {
                    continue;
                };
                let decision = &record.decision;
                let line = Line {
                    status: record.status.to_string(),
                    flags: sorted(&record.flags.to_string()),
                    details: record.details.to_string(),
                    route: decision.route.clone().unwrap_or_default(),
                    cluster: decision.cluster.clone().unwrap_or_default(),
                    known: known([
                        decision.endpoint.is_some(),
                        record.upstream_local.is_some(),
                        record.forwarded_for.is_some(),
                        !record.request_id.is_empty(),
                    ]),
                };
                let came = record.time.as_microsecond();
                lines.insert(record.client.port(), (came, line));
            }
        })
    }
}
