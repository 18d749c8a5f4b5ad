//! Over which connection a request goes, and what to do when that one turns out to be dead.

use std::{io, net::SocketAddr, rc::Rc};

use http::{Request, Response};
use hyper::body::{Body as _, Incoming};

use super::body::RequestBody;
use crate::proxy::{
    pool::{ConnectError, Upstream},
    worker::Worker,
};

/// Why an endpoint gave no response.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection.
    Connect(io::Error),
    /// No connection in time.
    ConnectTimeout,
    /// It closed or reset the connection.
    Terminated,
    /// What it sent is not HTTP/1.1.
    Protocol,
}

/// Sends a request to an endpoint and waits for the head of the response.
///
/// A pooled connection may have been closed by the endpoint in the very moment in which it is used.
/// The request is then sent again over a fresh one, once, if that can't do harm: either none of it
/// was written, or it has no body and may be repeated (RFC 9110, section 9.2.2).
pub(super) async fn send(
    worker: &Rc<Worker>,
    endpoint: SocketAddr,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Upstream), Failure> {
    if let Some(mut upstream) = worker.pool.take(endpoint) {
        let copy = repeatable(&request);
        match upstream.send(request).await {
            Ok(response) => return Ok((response, upstream)),
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => match (Failure::of(error.error()), copy) {
                    (Failure::Terminated, Some(copy)) => request = copy,
                    (failure, _) => return Err(failure),
                },
            },
        }
    }

    let mut upstream = Upstream::connect(endpoint, worker.options.connect_timeout)
        .await
        .map_err(|error| match error {
            ConnectError::Io(error) => Failure::Connect(error),
            ConnectError::Timeout => Failure::ConnectTimeout,
        })?;
    match upstream.send(request).await {
        Ok(response) => Ok((response, upstream)),
        Err(error) => Err(Failure::of(error.error())),
    }
}

/// A copy of a request that may be sent twice.
fn repeatable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !request.body().is_end_stream() || !request.method().is_idempotent() {
        return None;
    }
    let mut copy = Request::new(RequestBody::EMPTY);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

impl Failure {
    fn of(error: &hyper::Error) -> Self {
        if error.is_parse() {
            Self::Protocol
        } else {
            Self::Terminated
        }
    }
}
