//! What hangs on to a request until its response is over: the connection that it goes over, and the
//! record of it.

use std::{borrow::Cow, rc::Rc, time::Instant};

use http::HeaderValue;
use jiff::Timestamp;

use super::body::Progress;
use crate::{
    observe::{Decision, Record, RequestRecord, ResponseFlag},
    proxy::{connections::Handle, pool::Upstream, worker::Worker},
};

/// One request and its response. Dropped before it is complete, the client has left.
#[derive(Debug)]
pub(in crate::proxy) struct Exchange {
    worker: Rc<Worker>,
    client: Rc<Handle>,
    upstream: Option<Upstream>,
    request_body: Option<Rc<Progress>>,
    log: Option<Box<Log>>,
    over: bool,
}

/// A record in the making: only while somebody listens.
#[derive(Debug)]
struct Log {
    started: Instant,
    record: RequestRecord,
}

impl Exchange {
    /// Starts with the head of a request.
    pub(super) fn new(worker: &Rc<Worker>, client: &Rc<Handle>) -> Self {
        client.request_began(worker.now());
        Self {
            worker: Rc::clone(worker),
            client: Rc::clone(client),
            upstream: None,
            request_body: None,
            log: None,
            over: false,
        }
    }

    /// Keeps a record, if somebody listens.
    pub(super) fn record(&mut self, started: Instant, record: impl FnOnce() -> RequestRecord) {
        if self.worker.tap.is_active() {
            self.log = Some(Box::new(Log {
                started,
                record: record(),
            }));
        }
    }

    /// Adds to the record, if one is kept.
    pub(super) fn note(&mut self, note: impl FnOnce(&mut RequestRecord)) {
        if let Some(log) = &mut self.log {
            note(&mut log.record);
        }
    }

    /// Notes where the matcher led to, if a record is kept.
    pub(super) fn note_decision(&mut self, decision: impl FnOnce(&mut Decision)) {
        self.note(|record| decision(&mut record.decision));
    }

    /// Notes the identity of the request.
    pub(super) fn note_request_id(&mut self, id: &HeaderValue) {
        self.note(|record| {
            id.to_str()
                .unwrap_or_default()
                .clone_into(&mut record.request_id);
        });
    }

    /// Notes how it was answered.
    pub(super) fn note_answer(
        &mut self,
        status: u16,
        flag: Option<ResponseFlag>,
        details: impl Into<Cow<'static, str>>,
    ) {
        self.note(|record| {
            record.status = status;
            record.flag = flag;
            record.details = details.into();
        });
    }

    /// Watches the request's body.
    pub(super) fn set_request_body(&mut self, progress: Option<Rc<Progress>>) {
        self.request_body = progress;
    }

    /// The client gets the head of a response.
    pub(super) fn answered(&self) {
        self.client.answered();
    }

    /// Keeps the connection that the response comes over.
    pub(super) fn set_upstream(&mut self, upstream: Upstream) {
        self.upstream = Some(upstream);
    }

    /// Closes the connection that the response came over.
    pub(super) fn abandon_upstream(&mut self) {
        self.upstream = None;
    }

    /// Counts bytes of the response's body.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.note(|record| record.bytes_sent += bytes);
    }

    /// The whole response has been handed over.
    pub(super) fn complete(&mut self) {
        if self.over {
            return;
        }
        self.over = true;
        if let Some(upstream) = self.upstream.take() {
            upstream.release(&self.worker.pool, self.worker.now());
        }
    }

    /// The endpoint broke off in the middle of its response.
    pub(super) fn upstream_failed(&mut self) {
        self.over = true;
        self.upstream = None;
        self.note(|record| {
            record.flag = Some(ResponseFlag::UpstreamConnectionTermination);
            record.details = "upstream_reset_after_response_started{connection_termination}".into();
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.client.request_ended(self.worker.now());
        let Some(log) = self.log.take() else {
            return;
        };
        let Log {
            started,
            mut record,
        } = *log;
        if !self.over {
            record.flag = Some(ResponseFlag::DownstreamConnectionTermination);
            record.details = "downstream_remote_disconnect".into();
        }
        if let Some(progress) = &self.request_body {
            record.bytes_received = progress.bytes();
        }
        record.duration = started.elapsed();
        self.worker.tap.send(Record::Request(record));
    }
}

/// A record of which nothing is known but who asked for what.
pub(super) fn blank_record(
    client: std::net::SocketAddr,
    listener: u16,
    parts: &http::request::Parts,
) -> RequestRecord {
    RequestRecord {
        time: Timestamp::now(),
        client,
        listener,
        method: parts.method.as_str().to_owned(),
        authority: super::request::authority(parts)
            .unwrap_or_default()
            .to_owned(),
        path: parts
            .uri
            .path_and_query()
            .map(|path| path.as_str().to_owned())
            .unwrap_or_default(),
        rewritten_path: None,
        request_id: String::new(),
        decision: Decision::default(),
        status: 0,
        flag: None,
        details: Cow::Borrowed(""),
        duration: std::time::Duration::ZERO,
        bytes_received: 0,
        bytes_sent: 0,
    }
}
