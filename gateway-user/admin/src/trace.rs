//! Decisions of the kernel and of the proxy in one stream of lines.

use std::{net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{
    ProxyOnly,
    wanted::{Format, Wanted},
};
use nodegate_datapath::{
    redirector::{Heard, Redirector},
    report::Report,
};
use nodegate_observe::{Record, RecordFilter, Tap, ends};
use nodegate_programming::filter::{Filter, Source};

/// Lines that a client may be behind before it loses some.
const BACKLOG: usize = 1024;

/// Where decisions come from in this process.
#[derive(Clone, Default)]
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Traces {
    /// The kernel's, if this process holds the datapath.
    pub kernel: Option<Arc<Redirector>>,
    /// The proxy's, if this process is a gateway.
    pub proxy: Option<Tap>,
}

/// A line, and what it takes to join it to others ([`Wanted::joinable`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What it is about.
    pub kind: Kind,
    /// Of the client's socket: a decision's and its connection's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<u64>,
    /// The client, with its port; none where that is not known yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<SocketAddr>,
    /// The backend: where the client's packets arrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<SocketAddr>,
    /// As it is written, without a line end. Nothing to be shown of [`Kind::Connected`].
    pub line: String,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A decision of the kernel programs.
    Decision,
    /// From where the socket of an earlier decision connects.
    Connected,
    /// A request, or a TCP connection, of the proxy.
    Request,
    /// Decisions that are missing here.
    Lost,
}

/// Why nobody can trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The proxy does not know what is asked for.
    #[error(transparent)]
    NoRedirector(#[from] ProxyOnly),
    /// The datapath refuses.
    #[error(transparent)]
    Datapath(#[from] nodegate_datapath::Error),
}

impl Traces {
    /// Listens from now on: when this returns, no decision is missed any more. Lines end with a
    /// newline. Listening ends when the receiver is dropped.
    ///
    /// # Errors
    /// Fails when it is asked for what is not known here, or the kernel cannot be told.
    pub fn listen(&self, wanted: &Wanted) -> Result<mpsc::Receiver<String>, TraceError> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        match &self.kernel {
            Some(redirector) => {
                follow_kernel(redirector, wanted.clone(), sender.clone())?;
            }
            None => {
                if let Some(what) = of_the_kernel(&wanted.kernel) {
                    let fix =
                        "trace on the node, and name this socket with --gateway-admin to see both";
                    return Err(ProxyOnly { what, fix }.into());
                }
            }
        }
        if let Some(tap) = &self.proxy {
            let records = self.records(wanted);
            follow_proxy(tap, wanted.clone(), records, sender);
        }
        Ok(receiver)
    }

    /// Which records are wanted. Who asks for what is the kernel's to say where both are: the proxy
    /// sees the backend's address as its own, and not the one that was asked for.
    fn records(&self, wanted: &Wanted) -> RecordFilter {
        let mut filter = wanted.records.clone();
        if self.kernel.is_none() {
            if let Some(Source::Network(net)) = &wanted.kernel.from {
                filter.client = Some(*net);
            }
            if let Some(to) = &wanted.kernel.to {
                (filter.local, filter.local_port) = (to.network, to.port);
            }
        }
        filter
    }
}

/// The option of a filter that only the kernel programs know about.
fn of_the_kernel(filter: &Filter) -> Option<&'static str> {
    if filter.service.is_some() {
        Some("--service")
    } else if !filter.verdicts.is_empty() {
        Some("--verdict")
    } else if !filter.hooks.is_empty() {
        Some("--hook")
    } else if filter.protocol.is_some() {
        Some("--protocol")
    } else if filter.from == Some(Source::Node) {
        Some("--from node")
    } else {
        None
    }
}

fn follow_kernel(
    redirector: &Arc<Redirector>,
    wanted: Wanted,
    sender: mpsc::Sender<String>,
) -> Result<(), nodegate_datapath::Error> {
    let mut listener = redirector.listen(wanted.kernel.clone())?;
    tokio::spawn(async move {
        loop {
            let heard = tokio::select! {
                heard = listener.next() => heard,
                () = sender.closed() => None,
            };
            let line = match heard {
                Some(Heard::Report(report)) => of_report(&wanted, &report),
                Some(Heard::Lost(lost)) => Some(of_lost(&wanted, lost)),
                None => return,
            };
            let Some(line) = line else {
                continue;
            };
            if sender.send(line).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn follow_proxy(tap: &Tap, wanted: Wanted, filter: RecordFilter, sender: mpsc::Sender<String>) {
    let mut records = tap.subscribe(BACKLOG);
    tokio::spawn(async move {
        loop {
            let record = tokio::select! {
                record = records.recv() => record,
                () = sender.closed() => return,
            };
            if filter.matches(&record) && sender.send(of_record(&wanted, &record)).await.is_err() {
                return;
            }
        }
    });
}

fn of_report(wanted: &Wanted, report: &Report) -> Option<String> {
    let Report { decision, .. } = report;
    let connected = report.is_connected();
    if !wanted.joinable {
        return (!connected).then(|| ended(text(wanted.format, decision)));
    }
    Some(joinable(&Line {
        kind: if connected {
            Kind::Connected
        } else {
            Kind::Decision
        },
        cookie: decision.cookie,
        from: decision.client.filter(|client| client.port() != 0),
        to: decision.backend,
        line: if connected {
            String::new()
        } else {
            text(wanted.format, decision)
        },
    }))
}

/// A gap. Whether what is missing was wanted, nobody knows.
fn of_lost(wanted: &Wanted, lost: u64) -> String {
    let line = match wanted.format {
        Format::Text => format!(
            "{lost} decisions are missing here: there were more than this trace could take \
             (fix: ask for less with --from, --to or --service)"
        ),
        Format::Json => format!("{{\"lost\":{lost}}}"),
    };
    if !wanted.joinable {
        return ended(line);
    }
    joinable(&Line {
        kind: Kind::Lost,
        cookie: None,
        from: None,
        to: None,
        line,
    })
}

fn of_record(wanted: &Wanted, record: &Record) -> String {
    let line = text(wanted.format, record);
    if !wanted.joinable {
        return ended(line);
    }
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    let (client, local) = ends(record);
    joinable(&Line {
        kind: Kind::Request,
        cookie: None,
        from: Some(canonical(client)),
        to: Some(canonical(local)),
        line,
    })
}

fn text(format: Format, decision: &(impl Serialize + std::fmt::Display)) -> String {
    match format {
        Format::Text => decision.to_string(),
        // Records are maps with text keys: writing them to memory cannot fail.
        Format::Json => serde_json::to_string(decision).unwrap_or_default(),
    }
}

fn joinable(line: &Line) -> String {
    ended(serde_json::to_string(line).unwrap_or_default())
}

fn ended(mut line: String) -> String {
    line.push('\n');
    line
}
