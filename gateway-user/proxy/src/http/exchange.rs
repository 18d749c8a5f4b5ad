//! What belongs to a request until its response is over: the endpoint that is at work on it, its place
//! among the cluster's requests, and the record of it.

use std::{
    borrow::Cow,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{
    HeaderMap, HeaderValue, Version,
    header::{HOST, USER_AGENT},
    request::Parts,
};
use jiff::Timestamp;
use nodegate_observe::{Record, RequestRecord, ResponseFlag, ResponseFlags, RouteDecision};
use nodegate_route::edge::{X_FORWARDED_FOR, X_REQUEST_ID};

use super::{
    authority::authority,
    body::{BodyError, Progress, RequestBody},
    client::Client,
    facts::RequestFacts,
    failure::{self, Broken},
};
use crate::{
    cluster::{Engaged, Permit, RetryPermit},
    deadlines::Deadline,
    pool::UpstreamBody,
};

/// One request and its response. If it is dropped before it is complete, the client has left.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) client: Rc<Client>,
    version: Version,
    /// Whether the client wants the head of the response only.
    pub(crate) head_only: bool,
    /// Whether the client waits to be asked for its body.
    pub(crate) expects: bool,
    /// When the head of the request had come.
    pub(crate) started: Instant,
    /// The address that the connection to the endpoint has on this side.
    upstream_local: Option<SocketAddr>,
    /// The endpoint at work.
    engaged: Option<Engaged>,
    permit: Option<Permit>,
    retry: Option<RetryPermit>,
    request_body: Option<Rc<Progress>>,
    /// When the response has to be over.
    deadline: Option<Deadline>,
    /// What headers of the response are made from, if that includes the request.
    pub(crate) request: Option<Box<RequestFacts>>,
    /// How often the request has been sent.
    pub(crate) attempts: u32,
    pub(crate) flags: ResponseFlags,
    log: Option<PendingRecord>,
    ending: Ending,
}

/// How far a response has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// More of it is to come.
    Open,
    /// The client has got all that was announced; the endpoint's end may be to come.
    Whole,
    /// Nothing more comes.
    Over,
}

/// A record in the making: only while anything listens to records.
#[derive(Debug)]
struct PendingRecord(Box<RequestRecord>);

impl Exchange {
    /// Starts with the head of a request. Boxed, because it is passed on by many functions.
    pub(crate) fn new(client: &Rc<Client>, version: Version) -> Box<Self> {
        client.handle.request_began(client.worker.now());
        Box::new(Self {
            client: Rc::clone(client),
            version,
            head_only: false,
            expects: false,
            started: Instant::now(),
            upstream_local: None,
            engaged: None,
            permit: None,
            retry: None,
            request_body: None,
            deadline: None,
            request: None,
            attempts: 0,
            flags: ResponseFlags::default(),
            log: None,
            ending: Ending::Open,
        })
    }

    /// When the head of the request had come, by the clock on the wall.
    pub(crate) fn time(&self) -> Timestamp {
        let since = self.started.elapsed();
        Timestamp::now()
            .checked_sub(since)
            .unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Whether the client speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.version == Version::HTTP_2
    }

    /// `HTTP/1.1` or `HTTP/2`, as Envoy writes them.
    pub(crate) fn protocol(&self) -> &'static str {
        match self.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 | Version::HTTP_09 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
    }

    /// Keeps the request as the endpoint sees it, for headers of the response that are made from it.
    pub(crate) fn request_changed(&mut self, parts: &Parts) {
        if let Some(facts) = &mut self.request {
            **facts = RequestFacts::new(parts);
        }
    }

    /// Keeps a record, if anything listens to records.
    pub(crate) fn record(&mut self, parts: &Parts) {
        if self.client.worker.tap.is_active() {
            self.log = Some(PendingRecord(Box::new(self.blank_record(parts))));
        }
    }

    /// Adds to the record, if one is kept.
    pub(crate) fn note(&mut self, note: impl FnOnce(&mut RequestRecord)) {
        if let Some(log) = &mut self.log {
            note(&mut log.0);
        }
    }

    /// Notes what the matcher decided, if a record is kept.
    pub(crate) fn note_decision(&mut self, decision: impl FnOnce(&mut RouteDecision)) {
        self.note(|record| decision(&mut record.decision));
    }

    /// Notes what the endpoint sees of the client.
    pub(crate) fn note_identity(&mut self, headers: &HeaderMap) {
        self.note(|record| {
            record.request_id = text(headers.get(X_REQUEST_ID)).unwrap_or_default();
            record.forwarded_for = text(headers.get(X_FORWARDED_FOR));
        });
    }

    /// Notes what the endpoint sees of what a route has changed.
    pub(crate) fn note_changes(&mut self, headers: &HeaderMap) {
        self.note(|record| {
            let host = text(headers.get(HOST));
            record.rewritten_authority = host.filter(|host| *host != record.authority);
            record.user_agent = text(headers.get(USER_AGENT));
        });
    }

    /// Notes what went wrong.
    pub(crate) fn flag(&mut self, flag: ResponseFlag) {
        self.flags.insert(flag);
    }

    /// Notes how it was answered.
    pub(crate) fn note_answer(&mut self, status: u16, details: impl Into<Cow<'static, str>>) {
        self.note(|record| {
            record.status = status;
            record.details = details.into();
        });
    }

    /// Watches the body of the request.
    pub(crate) fn set_request_body(&mut self, progress: Option<Rc<Progress>>) {
        self.request_body = progress;
    }

    /// How far the request's body has come; none if there is none.
    pub(crate) fn request_body(&self) -> Option<&Rc<Progress>> {
        self.request_body.as_ref()
    }

    /// Whether the client still waits to be asked for its body when it gets a response. What it sends
    /// next might be that body or not, so the connection ends (RFC 9110, section 10.1.1).
    pub(crate) fn leaves_body(&self) -> bool {
        self.expects
            && self
                .request_body
                .as_ref()
                .is_some_and(|body| !body.is_asked())
    }

    /// How long it took until the whole request had come; none if it has not.
    pub(crate) fn request_duration(&self) -> Option<Duration> {
        match &self.request_body {
            None => Some(Duration::ZERO),
            Some(body) => Some(body.over_since()?.saturating_duration_since(self.started)),
        }
    }

    /// The client gets the head of a response.
    pub(crate) fn answered(&self) {
        self.client.handle.answered();
    }

    /// An endpoint is being asked; an earlier one no longer is.
    pub(crate) fn engage(&mut self, engaged: Engaged, permit: Permit) {
        let address = engaged.address();
        self.upstream_local = None;
        self.engaged = Some(engaged);
        self.permit = Some(permit);
        self.note(|record| {
            record.decision.endpoint = Some(address);
            record.upstream_local = None;
        });
    }

    /// The endpoint that is being asked.
    pub(crate) fn engaged(&self) -> Option<&Engaged> {
        self.engaged.as_ref()
    }

    /// The endpoint has failed and is left alone.
    pub(crate) fn disengage(&mut self) {
        self.upstream_local = None;
        self.engaged = None;
        self.permit = None;
    }

    /// Counts as no retry any more: that one is over.
    pub(crate) fn end_retry(&mut self) {
        self.retry = None;
    }

    /// Counts as a retry until it is over.
    pub(crate) fn set_retry(&mut self, retry: RetryPermit) {
        self.retry = Some(retry);
    }

    /// The response comes over a connection with this address on this side.
    pub(crate) fn set_upstream_local(&mut self, local: Option<SocketAddr>) {
        self.note(|record| record.upstream_local = local);
        self.upstream_local = local;
    }

    /// The address that the connection to the endpoint has on this side.
    pub(crate) fn upstream_local(&self) -> Option<SocketAddr> {
        self.upstream_local
    }

    /// The response has to be over by then.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Deadline>) {
        self.deadline = deadline;
    }

    /// Waits until the response has to be over.
    pub(crate) fn poll_deadline(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.deadline {
            Some(deadline) => deadline.poll(cx),
            None => Poll::Pending,
        }
    }

    /// Counts bytes of the response's body.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.note(|record| record.bytes_sent += bytes);
    }

    /// Sets what went through a tunnel. If the client has ended it, it has left.
    pub(crate) fn tunnelled(&mut self, received: u64, sent: u64, by_client: bool) {
        if !by_client {
            self.ending = Ending::Over;
        }
        self.note(|record| {
            record.bytes_received = received;
            record.bytes_sent = sent;
        });
    }

    /// The whole response has been handed over. If it is an endpoint's, its connection is given back.
    pub(crate) fn complete(&mut self, body: Option<&mut UpstreamBody<RequestBody>>) {
        if self.ending == Ending::Over {
            return;
        }
        self.ending = Ending::Over;
        if let (Some(body), Some(engaged)) = (body, &self.engaged) {
            let limits = &engaged.cluster().model.policy.limits;
            body.release(self.client.worker.now(), limits);
        }
    }

    /// All that was announced of the response has been handed over. In HTTP/1.1 nobody asks for more.
    pub(crate) fn announced(&mut self) {
        if self.ending == Ending::Open && !self.is_http2() {
            self.ending = Ending::Whole;
        }
    }

    /// The endpoint broke off in the middle of its response.
    pub(crate) fn upstream_failed(&mut self, error: &BodyError) {
        self.ending = Ending::Over;
        let (flag, reason) = match failure::broken_answer(error) {
            Broken::Reset { refused } => {
                let reason = if refused {
                    "remote_refused_stream_reset"
                } else {
                    "remote_reset"
                };
                (ResponseFlag::UpstreamRemoteReset, reason)
            }
            Broken::Early => (ResponseFlag::UpstreamProtocolError, "protocol_error"),
            Broken::Off => (
                ResponseFlag::UpstreamConnectionTermination,
                "connection_termination",
            ),
        };
        self.flag(flag);
        self.note(|record| {
            record.details = format!("upstream_reset_after_response_started{{{reason}}}").into();
        });
    }

    /// The response took too long.
    pub(crate) fn timed_out(&mut self) {
        self.ending = Ending::Over;
        self.flag(ResponseFlag::UpstreamRequestTimeout);
        self.note(|record| record.details = "response_timeout".into());
    }

    /// How the client has left before its response was over.
    fn departure(&self) -> (ResponseFlag, &'static str) {
        // Else its stream has ended alone: hyper lets go of it, and does not say why.
        if !self.is_http2() || self.client.handle.ends_requests() {
            return (
                ResponseFlag::DownstreamConnectionTermination,
                "downstream_remote_disconnect",
            );
        }
        let body = self.request_body.as_ref();
        let flag = if body.is_some_and(|body| body.is_malformed()) {
            ResponseFlag::DownstreamProtocolError
        } else {
            ResponseFlag::DownstreamRemoteReset
        };
        // Envoy says so of both.
        (flag, "http2.remote_reset")
    }

    /// A record that says which client asked for what.
    fn blank_record(&self, parts: &Parts) -> RequestRecord {
        RequestRecord {
            time: Timestamp::now(),
            client: self.client.address,
            local: self.client.local,
            listener: self.client.listener.port,
            server_name: self.client.server_name().map(ToOwned::to_owned),
            protocol: self.protocol(),
            method: parts.method.as_str().to_owned(),
            authority: authority(parts).unwrap_or_default().to_owned(),
            path: parts
                .uri
                .path_and_query()
                .map(|path| path.as_str().to_owned())
                .unwrap_or_default(),
            rewritten_authority: None,
            rewritten_path: None,
            request_id: text(parts.headers.get(X_REQUEST_ID)).unwrap_or_default(),
            forwarded_for: text(parts.headers.get(X_FORWARDED_FOR)),
            user_agent: text(parts.headers.get(USER_AGENT)),
            decision: RouteDecision::default(),
            attempts: 0,
            upstream_local: None,
            upstream_service_time: None,
            transport_failure: None,
            status: 0,
            flags: ResponseFlags::default(),
            details: Cow::Borrowed(""),
            duration: Duration::ZERO,
            connection: Some(self.client.number),
            request_duration: None,
            response_duration: None,
            bytes_received: 0,
            bytes_sent: 0,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let request_duration = self.request_duration();
        if let Some(progress) = &self.request_body {
            progress.leave();
        }
        let worker = &self.client.worker;
        self.client.handle.request_ended(worker.now());
        let Some(PendingRecord(mut record)) = self.log.take() else {
            return;
        };
        if self.ending == Ending::Open {
            let (flag, details) = self.departure();
            self.flags.insert(flag);
            record.details = details.into();
        }
        record.flags = self.flags;
        record.attempts = self.attempts;
        if let Some(progress) = &self.request_body {
            record.bytes_received = record.bytes_received.max(progress.bytes());
        }
        record.request_duration = request_duration;
        record.duration = self.started.elapsed();
        worker.tap.send(Record::Request(record));
    }
}

fn text(value: Option<&HeaderValue>) -> Option<String> {
    value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}
