//! HTTP/1.1 from clients: one request after the other over a connection, each in phases.
//!
//! `request` (is it proper, where does it go, what does the endpoint see of it), `forward` (over
//! which connection), `response` (what the client sees of the answer), `reply` (answers of our own).

use std::{
    convert::Infallible, future::poll_fn, net::SocketAddr, pin::pin, rc::Rc, sync::Arc,
    time::Instant,
};

use http::{HeaderValue, Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use tokio::net::TcpStream;

pub(in crate::proxy) mod body;
mod exchange;
mod forward;
mod headers;
mod path;
mod refusal;
mod reply;
mod request;
mod response;
mod stream;

use super::{
    config::{Listener, Protocol},
    connections::{Handle, Order, Registration},
    pool::MAX_BUFFER,
    worker::Worker,
};
use body::{RequestBody, ResponseBody};
use exchange::Exchange;
use reply::LocalReply;
use stream::ClientStream;

/// Largest request head: Envoy's `max_request_headers_kb`.
const MAX_HEAD: usize = 60 * 1024;

/// A client's connection.
struct Client {
    worker: Rc<Worker>,
    handle: Rc<Handle>,
    address: SocketAddr,
    /// The address as it goes into `x-forwarded-for`.
    forwarded_for: HeaderValue,
    /// As it was when the connection was accepted: for when the port has no HTTP listener any more,
    /// but a request had already been sent.
    listener: Arc<Listener>,
}

/// Serves a connection until either side closes it.
pub(super) async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    address: SocketAddr,
    listener: Arc<Listener>,
    registration: Registration,
) {
    let Ok(forwarded_for) = HeaderValue::try_from(address.ip().to_string()) else {
        return;
    };
    let client = Rc::new(Client {
        worker: Rc::clone(&worker),
        handle: Rc::clone(&registration.handle),
        address,
        forwarded_for,
        listener,
    });
    let service = service_fn(move |request| {
        let client = Rc::clone(&client);
        // Before anything else is read from the client: what it means depends on this.
        let begun = client.begin(request);
        async move { Ok::<_, Infallible>(client.answer(begun).await) }
    });
    let stream = ClientStream::new(stream, address, Rc::clone(&registration.handle), worker);
    let connection = http1::Builder::new()
        // One flat write of head and small body is cheaper than a gathering one.
        .writev(false)
        .max_buf_size(MAX_BUFFER)
        .max_header_size(MAX_HEAD)
        // Idle connections are swept; a timer for each would cost every request.
        .header_read_timeout(None)
        .serve_connection(stream, service);

    let mut connection = pin!(connection);
    let mut finishing = false;
    let served = poll_fn(|cx| {
        match registration.handle.order(cx) {
            Order::Serve => {}
            Order::Finish if finishing => {}
            Order::Finish => {
                finishing = true;
                connection.as_mut().graceful_shutdown();
            }
            Order::Close => return Ok(()).into(),
        }
        connection.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = served {
        tracing::debug!(client = %address, %error, "connection ended");
    }
}

impl Client {
    /// Notes that there is a request.
    fn begin(&self, request: Request<Incoming>) -> (Request<RequestBody>, Exchange) {
        let mut exchange = Exchange::new(&self.worker, &self.handle);
        let (parts, incoming) = request.into_parts();
        let (body, progress) = RequestBody::new(incoming, &self.handle);
        exchange.set_request_body(progress);
        (Request::from_parts(parts, body), exchange)
    }

    /// Answers one request.
    async fn answer(
        &self,
        (request, mut exchange): (Request<RequestBody>, Exchange),
    ) -> Response<ResponseBody> {
        let started = Instant::now();
        let (mut parts, body) = request.into_parts();
        let normalized = request::normalize(&mut parts);
        exchange.record(started, || {
            exchange::blank_record(self.address, self.listener.port, &parts)
        });

        let choice = match normalized.and_then(|()| self.decide(&parts, &mut exchange)) {
            Ok(choice) => choice,
            Err(reply) => return reply.into_response(exchange),
        };
        request::prepare(&mut parts, choice.path, &self.forwarded_for, &mut exchange);

        let request = Request::from_parts(parts, body);
        match forward::send(&self.worker, choice.endpoint, request).await {
            Ok((response, upstream)) => {
                exchange.set_upstream(upstream);
                response::finish(response, started, exchange)
            }
            Err(failure) => LocalReply::from(failure).into_response(exchange),
        }
    }

    /// Decides by the routes that are in force now.
    fn decide(
        &self,
        parts: &http::request::Parts,
        exchange: &mut Exchange,
    ) -> Result<request::Choice, LocalReply> {
        request::validate(parts)?;
        let config = self.worker.config();
        let current = config.listener(self.listener.port);
        for listener in current.into_iter().chain([&self.listener]) {
            if let Protocol::Http(http) = &listener.protocol {
                return request::decide(http, parts, exchange);
            }
        }
        // Not reached: connections come here only from HTTP listeners.
        Err(LocalReply::no_route())
    }
}
