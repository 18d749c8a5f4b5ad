//! The record of a TCP connection.

use std::{cell::Cell, io, net::SocketAddr, sync::Arc, time::Instant};

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
pub(crate) struct ConnectionLog<'a> {
    pub(crate) worker: &'a Worker,
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
    pub(crate) blame: Cell<Option<ResponseFlag>>,
    /// Bytes from the client.
    pub(crate) received: Cell<u64>,
    /// Bytes from the endpoint.
    pub(crate) sent: Cell<u64>,
    /// The address that the connection to the endpoint has on this side.
    upstream_local: Option<SocketAddr>,
    /// The name that the client asked for in its TLS.
    server_name: Option<String>,
    /// Whether somebody else keeps the record.
    is_left: bool,
}

impl<'a> ConnectionLog<'a> {
    pub(crate) fn new(worker: &'a Worker, peers: Peers, listener: u16) -> Self {
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
            upstream_local: None,
            server_name: None,
            is_left: false,
        }
    }

    /// Notes what was decided.
    pub(crate) fn note(&mut self, note: impl FnOnce(&mut RouteDecision)) {
        note(&mut self.decision);
    }

    /// Notes the name that the client asked for in its TLS.
    pub(crate) fn asked_for(&mut self, server_name: Option<String>) {
        self.server_name = server_name;
    }

    /// Somebody else serves the connection, and keeps its record.
    pub(crate) fn leave_to_others(&mut self) {
        self.is_left = true;
    }

    /// The connection is not served.
    pub(crate) fn refused(&mut self, flag: Option<ResponseFlag>, details: &str) {
        self.ending = Some(EndCause {
            flag,
            details: details.replace(' ', "_"),
        });
    }

    /// The connection counts as one of a route.
    pub(crate) fn set_counters(&mut self, counters: &Arc<Counters>) {
        self.counters = Some(Arc::clone(counters));
    }

    fn count(&self, counted: Counted) {
        if let Some(counters) = &self.counters {
            counters.add(self.worker.index, counted);
        }
    }

    /// There is no connection to an endpoint.
    pub(crate) fn failed(&mut self, flag: ResponseFlag, details: &str) {
        self.count(Counted::Failed);
        self.ending = Some(EndCause {
            flag: Some(flag),
            details: details.replace(' ', "_"),
        });
    }

    /// The connection has broken.
    pub(crate) fn broken(&mut self, error: &io::Error) {
        let details = match self.blame.get() {
            None => "idle_timeout".to_owned(),
            Some(_) => error.to_string().replace(' ', "_"),
        };
        // Envoy: TcpProxy::Filter::onUpstreamEvent tells a reset from an end.
        let flag = self.blame.get().map(|flag| match flag {
            ResponseFlag::UpstreamConnectionTermination
                if error.kind() == io::ErrorKind::ConnectionReset =>
            {
                ResponseFlag::UpstreamRemoteReset
            }
            flag => flag,
        });
        self.ending = Some(EndCause { flag, details });
    }

    /// Both sides are connected; the one to the endpoint has this address here.
    pub(crate) fn opened(&mut self, upstream_local: Option<SocketAddr>) {
        self.upstream_local = upstream_local;
        self.count(Counted::Opened);
        self.send(ConnectionState::Opened);
    }

    fn send(&self, state: ConnectionState) {
        if self.is_left || !self.worker.tap.is_active() {
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
            server_name: self.server_name.clone(),
            state,
            decision: self.decision.clone(),
            upstream_local: self.upstream_local,
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
