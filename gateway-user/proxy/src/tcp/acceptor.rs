//! The acceptor of connections that are passed on byte by byte.

use std::rc::Rc;

use tokio::task;

use super::relay::serve;
use crate::{
    accept::{Acceptor, Arrival, Transport},
    worker::Worker,
};

/// Passes on what it accepts.
#[derive(Debug)]
pub(crate) struct TcpAcceptor {
    worker: Rc<Worker>,
}

impl TcpAcceptor {
    pub(crate) fn new(worker: Rc<Worker>) -> Self {
        Self { worker }
    }
}

impl<S: Transport> Acceptor<S> for TcpAcceptor {
    fn accept(&self, arrival: Arrival<S>) {
        task::spawn_local(serve(Rc::clone(&self.worker), arrival));
    }
}
