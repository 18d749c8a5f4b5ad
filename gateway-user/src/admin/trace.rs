//! Decisions of the kernel and of the proxy in one stream of lines.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::{
    datapath::{self, redirector::Redirector},
    observe::Tap,
};

/// Lines that a client may be behind before it loses some.
const BACKLOG: usize = 1024;

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Where decisions come from in this process.
#[derive(Clone, Default)]
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Traces {
    /// The kernel's, if this process holds the datapath.
    pub kernel: Option<Arc<Redirector>>,
    /// The proxy's, if this process is a gateway.
    pub proxy: Option<Tap>,
}

impl Traces {
    /// Listens from now on: when this returns, no decision is missed any more. Lines end with a
    /// newline. Listening ends when the receiver is dropped.
    pub fn listen(&self, format: Format) -> Result<mpsc::Receiver<String>, datapath::Error> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        if let Some(redirector) = &self.kernel {
            let mut listener = redirector.listen()?;
            let sender = sender.clone();
            tokio::spawn(async move {
                loop {
                    let decision = tokio::select! {
                        decision = listener.next() => decision,
                        () = sender.closed() => None,
                    };
                    let Some(decision) = decision else { return };
                    let line = line(format, &*decision);
                    if sender.send(line).await.is_err() {
                        return;
                    }
                }
            });
        }
        if let Some(tap) = &self.proxy {
            let mut records = tap.subscribe(BACKLOG);
            tokio::spawn(async move {
                loop {
                    let record = tokio::select! {
                        record = records.recv() => record,
                        () = sender.closed() => return,
                    };
                    if sender.send(line(format, &*record)).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(receiver)
    }
}

fn line(format: Format, decision: &(impl serde::Serialize + std::fmt::Display)) -> String {
    let mut line = match format {
        Format::Text => decision.to_string(),
        // Records are maps with text keys: writing them to memory cannot fail.
        Format::Json => serde_json::to_string(decision).unwrap_or_default(),
    };
    line.push('\n');
    line
}
