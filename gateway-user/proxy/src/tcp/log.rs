//! The record of a TCP connection.

use std::{cell::Cell, io, sync::Arc, time::Instant};

use jiff::Timestamp;
use nodegate_observe::{ConnectionRecord, ConnectionState, Record, ResponseFlag, RouteDecision};

use crate::{
    accept::Peers,
    counters::{Counted, Counters},
    worker::Worker,
};

/// Why a connection ended.
struct EndCause {
    flag: Option<ResponseFlag>,
    details: String,
}

/// The record of a connection, sent when it is opened and when it is over.
pub(super) struct ConnectionLog<'a> {
    pub(super) worker: &'a Worker,
    /// Those of the route.
    counters: Option<Arc<Counters>>,
    time: Timestamp,
    started: Instant,
    peers: Peers,
    listener: u16,
    decision: RouteDecision,
    /// Why the connection ended, unless both sides ended it.
    ending: Option<EndCause>,
    /// Which side broke the connection off.
    pub(super) blame: Cell<Option<ResponseFlag>>,
    /// Bytes from the client.
    pub(super) received: Cell<u64>,
    /// Bytes from the endpoint.
    pub(super) sent: Cell<u64>,
}

impl<'a> ConnectionLog<'a> {
    pub(super) fn new(worker: &'a Worker, peers: Peers, listener: u16) -> Self {
        Self {
            worker,
            counters: None,
            time: Timestamp::now(),
            started: Instant::now(),
            peers,
            listener,
            decision: RouteDecision::default(),
            ending: None,
            blame: Cell::new(None),
            received: Cell::new(0),
            sent: Cell::new(0),
        }
    }

    /// Notes what was decided.
    pub(super) fn note(&mut self, note: impl FnOnce(&mut RouteDecision)) {
        note(&mut self.decision);
    }

    /// The connection counts as one of a route.
    pub(super) fn set_counters(&mut self, counters: &Arc<Counters>) {
        self.counters = Some(Arc::clone(counters));
    }

    fn count(&self, counted: Counted) {
        if let Some(counters) = &self.counters {
            counters.add(self.worker.index, counted);
        }
    }

    /// There is no connection to an endpoint.
    pub(super) fn failed(&mut self, flag: ResponseFlag, details: &str) {
        self.count(Counted::Failed);
        self.ending = Some(EndCause {
            flag: Some(flag),
            details: details.replace(' ', "_"),
        });
    }

    /// The connection has broken.
    pub(super) fn broken(&mut self, error: &io::Error) {
        let details = match self.blame.get() {
            None => "idle_timeout".to_owned(),
            Some(_) => error.to_string().replace(' ', "_"),
        };
        self.ending = Some(EndCause {
            flag: self.blame.get(),
            details,
        });
    }

    /// Both sides are connected.
    pub(super) fn opened(&self) {
        self.count(Counted::Opened);
        self.send(ConnectionState::Opened);
    }

    fn send(&self, state: ConnectionState) {
        if !self.worker.tap.is_active() {
            return;
        }
        let (flag, details) = match &self.ending {
            None => (None, String::new()),
            Some(EndCause { flag, details }) => (*flag, details.clone()),
        };
        let record = ConnectionRecord {
            time: self.time,
            client: self.peers.client,
            local: self.peers.local,
            listener: self.listener,
            state,
            decision: self.decision.clone(),
            flags: flag.into(),
            details: details.into(),
            duration: self.started.elapsed(),
            bytes_received: self.received.get(),
            bytes_sent: self.sent.get(),
        };
        self.worker.tap.send(Record::Connection(Box::new(record)));
    }
}

impl Drop for ConnectionLog<'_> {
    fn drop(&mut self) {
        self.send(ConnectionState::Closed);
    }
}
