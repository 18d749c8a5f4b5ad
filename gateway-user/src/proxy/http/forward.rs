//! Over which connection a request goes, and what to do when that one turns out to be dead.

use std::{io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode, header::EXPECT};
use hyper::body::{Body as _, Incoming};
use tokio::{task, time};

use super::body::{Gate, RequestBody};
use crate::proxy::{
    pool::{ConnectError, Upstream},
    worker::Worker,
};

/// How long an endpoint is given to ask for a body that waits for that.
const EXPECTATION: Duration = Duration::from_secs(1);

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
    let gate = hold_body(&mut request);
    let answer = over_any_connection(worker, endpoint, request).await;
    if let Some(gate) = gate {
        gate.close();
    }
    answer
}

/// Lets a client that asks before it sends its body hear the endpoint's answer, not ours.
// Istio: ENABLE_100_CONTINUE_HEADERS, which sets Envoy's `proxy_100_continue`.
fn hold_body(request: &mut Request<RequestBody>) -> Option<Arc<Gate>> {
    let expect = request.headers().get(EXPECT)?;
    if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") {
        return None;
    }
    let gate = request.body_mut().hold()?;
    let opener = Arc::clone(&gate);
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            opener.open();
        }
    });
    // An endpoint may know nothing of this and wait for the body. Nobody may wait for ever (RFC 9110,
    // section 10.1.1), and it is us whom the client waits for.
    let patience = Arc::downgrade(&gate);
    task::spawn_local(async move {
        time::sleep(EXPECTATION).await;
        if let Some(gate) = patience.upgrade() {
            gate.open();
        }
    });
    Some(gate)
}

async fn over_any_connection(
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
