//! The acceptor of connections over which HTTP is spoken.

use std::rc::Rc;

use tokio::task;

use super::{
    client::{Arrived, Client, HttpPool},
    connection::serve,
    stream::ClientStream,
};
use crate::{
    accept::{Acceptor, Arrival, Transport},
    worker::Worker,
};

/// Serves HTTP over what it accepts.
#[derive(Debug)]
pub(crate) struct HttpAcceptor {
    worker: Rc<Worker>,
    /// Connections to endpoints.
    pool: Rc<HttpPool>,
}

impl HttpAcceptor {
    pub(crate) fn new(worker: Rc<Worker>, pool: Rc<HttpPool>) -> Self {
        Self { worker, pool }
    }
}

impl<S: Transport> Acceptor<S> for HttpAcceptor {
    fn accept(&self, arrival: Arrival<S>) {
        let Arrival {
            stream,
            peers,
            listener,
            registration,
            security,
        } = arrival;
        let handle = &registration.handle;
        // A request that is being served is finished before the connection closes.
        handle.set_gentle();
        let arrived = Arrived {
            peers,
            listener,
            security,
        };
        let Some(client) = Client::new(&self.worker, &self.pool, handle, arrived) else {
            return;
        };
        let stream = ClientStream::new(stream, peers, Rc::clone(handle), Rc::clone(&self.worker));
        task::spawn_local(async move {
            serve(client, stream).await;
            drop(registration);
        });
    }
}
