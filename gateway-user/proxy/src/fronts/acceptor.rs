//! The acceptor of ports that fronts connect to: connections from them begin with whose they are.

use std::rc::Rc;

use tokio::{task, time};

use super::header::{self, Told};
use crate::{
    accept::{Acceptor, Arrival, Peers},
    tcp::ConnectionLog,
    worker::Worker,
};

/// Reads the header of connections from trusted fronts, and hands all connections on.
///
/// Who is not trusted is served as he comes: what looks like a header is no request then. Who is trusted and says
/// nothing is not served: a front that does not speak the protocol would pass for the client of all requests.
#[derive(Debug)]
pub(crate) struct FrontsAcceptor<A> {
    worker: Rc<Worker>,
    inner: Rc<A>,
}

impl<A> FrontsAcceptor<A> {
    pub(crate) fn new(worker: Rc<Worker>, inner: A) -> Self {
        Self {
            worker,
            inner: Rc::new(inner),
        }
    }
}

impl<A: Acceptor + 'static> Acceptor for FrontsAcceptor<A> {
    fn accept(&self, arrival: Arrival) {
        let fronts = &self.worker.options.fronts;
        let client = arrival.peers.client.ip();
        if !fronts.are_trusted(arrival.listener.port, client) {
            return self.inner.accept(arrival);
        }
        let (worker, inner) = (Rc::clone(&self.worker), Rc::clone(&self.inner));
        task::spawn_local(async move {
            if let Some(arrival) = told(&worker, arrival).await {
                inner.accept(arrival);
            }
        });
    }
}

/// The connection as that of the client that the front names; none if it is not to be served.
async fn told(worker: &Worker, mut arrival: Arrival) -> Option<Arrival> {
    let mut log = ConnectionLog::new(worker, arrival.peers, arrival.listener.port);
    let reading = header::read(&mut arrival.stream);
    let details = match time::timeout(worker.options.header_timeout, reading).await {
        Ok(Ok(told)) => {
            log.leave_to_others();
            if let Told::Client { client, local } = told {
                arrival.peers = Peers { client, local };
            }
            return Some(arrival);
        }
        Ok(Err(error)) => format!("the front's connection {error}"),
        Err(_) => "the front's connection has no PROXY header yet".to_owned(),
    };
    // If the kernel refuses, the stream ends with a FIN.
    let _ = arrival.stream.set_zero_linger();
    log.refused(None, &details);
    None
}
