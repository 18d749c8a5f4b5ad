//! HTTP from clients: HTTP/1.1, one request after the other over a connection, and HTTP/2 by prior
//! knowledge, many at once. Each request goes through phases.
//!
//! `request` (is it proper, which route, what does the endpoint see of it), `forward` (to which
//! endpoint, over which connection, how often), `response` (what the client sees of the answer),
//! `reply` (answers of our own).

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, request::Parts};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use tokio::net::TcpStream;

pub(crate) mod body;
mod deadline;
mod direct;
mod exchange;
mod expect;
mod extended;
mod facts;
mod failure;
mod fault;
mod forward;
mod grpc;
mod hashing;
mod headers;
mod mirror;
mod own;
mod refusal;
mod reply;
mod request;
mod response;
mod retry;
mod stream;
mod tunnel;

use super::{
    config::{Listener, Protocol, Routed},
    connections::{Handle, Order, Registration},
    parity::{Difference, Parity},
    pool::{CONNECTION_WINDOW, Local, MAX_BUFFER, STREAM_WINDOW},
    worker::Worker,
};
use crate::model::gateway::{Forward, HttpAction, HttpRoute};
use crate::route::{
    cors::{self, CorsDecision},
    redirect, timeout,
};
use body::{RequestBody, ResponseBody};
use direct::Turn;
use exchange::Exchange;
use failure::Failure;
use forward::{Answer, Errand, Outgoing};
use own::{Identity, Survey};
use reply::{Context, LocalReply};
use request::Plan;
use response::Extras;
use stream::ClientStream;
use tunnel::Tunnel;

/// Largest request head: Envoy's `max_request_headers_kb`.
const MAX_HEAD: usize = 60 * 1024;
/// Requests at once over an HTTP/2 connection: Envoy's `max_concurrent_streams`.
const MAX_STREAMS: u32 = 1024;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Client {
    worker: Rc<Worker>,
    handle: Rc<Handle>,
    address: SocketAddr,
    /// Where it connected to.
    local: SocketAddr,
    /// What endpoints are told of it.
    identity: Rc<Identity>,
    /// As it was when the connection was accepted: for when the port has no HTTP listener any more,
    /// but a request had already been sent.
    listener: Arc<Listener>,
    /// What the connection becomes after this response.
    tunnel: RefCell<Option<Tunnel>>,
}

/// Serves a connection until either side closes it.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    (address, local): (SocketAddr, SocketAddr),
    listener: Arc<Listener>,
    registration: Registration,
) {
    let Some(identity) = Identity::new(address.ip()) else {
        return;
    };
    let handle = &registration.handle;
    let client = Rc::new(Client {
        worker: Rc::clone(&worker),
        handle: Rc::clone(handle),
        address,
        local,
        identity: Rc::new(identity),
        listener,
        tunnel: RefCell::new(None),
    });
    let mut stream = ClientStream::new(stream, address, local, Rc::clone(handle), worker);
    let first = poll_fn(|cx| match handle.order(cx) {
        // A beginning of which nothing came is refused as HTTP/1.1.
        Order::Serve if handle.rejection().is_some() => Poll::Ready(Some(Ok(false))),
        Order::Serve => stream.poll_preface(cx).map(Some),
        // Nothing has been asked yet.
        Order::Finish | Order::Close => Poll::Ready(None),
    });
    let served = match first.await {
        // Boxed: whoever speaks HTTP/1.1 needs no room for it.
        Some(Ok(true)) => Box::pin(serve_http2(stream, client, handle)).await,
        Some(Ok(false)) => serve_http1(stream, &client).await,
        Some(Err(_)) | None => return,
    };
    if let Err(error) = served {
        tracing::debug!(client = %address, %error, "connection ended");
    }
}

async fn serve_http1(mut stream: ClientStream, client: &Rc<Client>) -> hyper::Result<()> {
    loop {
        let prepared = match direct::serve(&mut stream, client).await {
            Turn::Over => return Ok(()),
            Turn::Hyper(prepared) => prepared,
        };
        stream.begin();
        client.handle.set_buffered(true);
        // Boxed: there is no room for it while a connection is served directly.
        let rested = Box::pin(serve_hyper(stream, client, prepared)).await?;
        client.handle.set_buffered(false);
        match rested {
            Some(rested) => stream = rested,
            None => return Ok(()),
        }
    }
}

/// Serves a connection until it ends, or until it rests: then it comes back. The first request may
/// have its answer already.
async fn serve_hyper(
    stream: ClientStream,
    client: &Rc<Client>,
    prepared: Option<Response<ResponseBody>>,
) -> hyper::Result<Option<ClientStream>> {
    let handle = &client.handle;
    let prepared = Cell::new(prepared);
    let service = service_fn(|request| {
        let answered = match prepared.take() {
            Some(response) => Ok(response),
            // Before anything else is read from the client: what it means depends on this.
            None => Err(client.begin(request)),
        };
        async move {
            Ok::<_, Infallible>(match answered {
                Ok(response) => response,
                Err((request, exchange)) => answer(request, exchange).await,
            })
        }
    });
    let mut connection = http1::Builder::new()
        // One flat write of head and small body is cheaper than a gathering one.
        .writev(false)
        .max_buf_size(MAX_BUFFER)
        .max_header_size(MAX_HEAD)
        // Slow heads and idle connections are swept; a timer for each would cost every request.
        .header_read_timeout(None)
        .serve_connection(stream, service);
    let mut finishing = false;
    let mut rests = false;
    let served = poll_fn(|cx| {
        match handle.order(cx) {
            Order::Serve => {}
            Order::Finish if finishing => {}
            Order::Finish => {
                finishing = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            Order::Close => return Ok(()).into(),
        }
        let served = Pin::new(&mut connection).poll(cx);
        rests = served.is_pending() && !finishing && handle.rests(client.worker.now());
        if rests { Ok(()).into() } else { served }
    })
    .await;
    // Taken whatever happened: it holds on to what holds it.
    let tunnel = client.tunnel.take();
    served?;
    if let Some(tunnel) = tunnel {
        let parts = connection.into_parts();
        tunnel.run(parts.io, parts.read_buf, handle).await;
        return Ok(None);
    }
    Ok(rests.then(|| {
        let mut parts = connection.into_parts();
        parts.io.put_back(&parts.read_buf);
        parts.io
    }))
}

async fn serve_http2(
    stream: ClientStream,
    client: Rc<Client>,
    handle: &Handle,
) -> hyper::Result<()> {
    // The preface is no head of a request.
    handle.head_ended();
    let parity = client.worker.options.parity;
    let offers = client.worker.options.extended_connect;
    let service = service_fn(move |mut request| {
        let client = Rc::clone(&client);
        let stream = extended::Stream::translate(&mut request, parity);
        let (request, exchange) = client.begin(request);
        async move {
            let response = answer(request, exchange).await;
            Ok::<_, Infallible>(match stream {
                Some(stream) => stream.answer(response, &client),
                None => response,
            })
        }
    });
    let mut builder = http2::Builder::new(Local);
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    if offers {
        builder.enable_connect_protocol();
    }
    let connection = builder.serve_connection(stream, service);
    let mut connection = pin!(connection);
    let mut finishing = false;
    poll_fn(|cx| {
        match handle.order(cx) {
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
    .await
}

impl Client {
    /// Notes that there is a request.
    fn begin(self: &Rc<Self>, request: Request<Incoming>) -> (Request<RequestBody>, Box<Exchange>) {
        let mut exchange = Exchange::new(self, request.version());
        exchange.head_only = request.method() == Method::HEAD;
        if request.version() < Version::HTTP_11 {
            self.handle.set_outdated();
        }
        let (parts, incoming) = request.into_parts();
        let (body, progress) = RequestBody::new(incoming, &self.handle);
        exchange.set_request_body(progress);
        (Request::from_parts(parts, body), exchange)
    }

    /// Finds the route that is in force now.
    fn route(&self, parts: &Parts, exchange: &mut Exchange) -> Result<Routed, LocalReply> {
        let config = self.worker.config();
        let current = config.listener(self.listener.port);
        for listener in current.into_iter().chain([&self.listener]) {
            if let Protocol::Http(http) = &listener.protocol {
                return request::find(http, parts, exchange);
            }
        }
        // Not reached: connections come here only from HTTP listeners.
        Err(LocalReply::no_route())
    }
}

/// Answers a request.
async fn answer(
    request: Request<RequestBody>,
    mut exchange: Box<Exchange>,
) -> Response<ResponseBody> {
    let client = Rc::clone(&exchange.client);
    let (mut parts, body) = request.into_parts();
    let parity = client.worker.options.parity;
    if parity != Parity::default() {
        request::adapt(&mut parts, parity);
    }
    let survey = Survey::of(&parts.headers);
    exchange.expects = survey.expect && expect::asks_first(&parts.headers);
    let mut context = Context {
        grpc: survey.content && timeout::is_grpc(&parts.headers),
        ..Context::default()
    };
    let (upgrade, routed) = match admit(&mut parts, survey, &mut exchange) {
        Ok(admitted) => admitted,
        Err(reply) => return reply.into_response(exchange, context),
    };
    let route = routed.route();
    context.routed = Some(&routed);
    if route.fault.is_some() && matches!(route.action, HttpAction::Forward(_)) {
        // What a fault answers has the headers of a destination, too. Otherwise CORS may answer yet,
        // and takes nobody's turn.
        context.destination = Some(routed.state().target.choose().index);
    }
    request::keep_facts(&parts, &routed, context.destination, &mut exchange);
    // Faults come first, and what they answer is none of CORS's (Istio: buildHTTPConnectionManager).
    if let Some(fault) = &route.fault
        && let Some(reply) = Box::pin(fault::inject(fault, context.grpc, &mut exchange)).await
    {
        return reply.into_response(exchange, context);
    }
    let origin = match cross_origin(route, &parts) {
        Ok(origin) => origin,
        Err(reply) => {
            context.routed = None;
            return reply.into_response(exchange, context);
        }
    };
    context.origin = origin.as_ref();
    match &route.action {
        HttpAction::Redirect(redirect) => {
            let location = redirect::location(redirect, request::requested(&parts));
            LocalReply::redirect(redirect.status, &location).into_response(exchange, context)
        }
        HttpAction::DirectResponse(direct) => {
            let location = redirect::own_location(direct.status, request::requested(&parts));
            LocalReply::direct(direct, location).into_response(exchange, context)
        }
        HttpAction::Forward(forward) => {
            let request = Request::from_parts(parts, body);
            pass_on(
                forward,
                &routed,
                request,
                (upgrade, survey),
                exchange,
                context,
            )
            .await
        }
    }
}

/// What a request wants the connection to become, if anything, and its route.
fn admit(
    parts: &mut Parts,
    survey: Survey,
    exchange: &mut Exchange,
) -> Result<(Option<HeaderValue>, Routed), LocalReply> {
    let client = Rc::clone(&exchange.client);
    let valid = request::validate(parts, survey);
    let normalized = request::normalize(parts);
    exchange.record(parts);
    if let Err(reply) = valid.and(normalized) {
        // With Envoy it ends the connection, but for `OPTIONS *`.
        let parity = client.worker.options.parity;
        let closes = parity.has(Difference::EarlyReply) && reply != LocalReply::no_path();
        return Err(if closes { reply.closing() } else { reply });
    }
    // Which is named in `Connection`, too.
    let upgrade = if survey.hop_by_hop {
        request::upgrade(parts)?
    } else {
        None
    };
    Ok((upgrade, client.route(parts, exchange)?))
}

/// The origin whose pages may use the answer, if that is to be said; or what a preflight is answered.
// Envoy's filter looks for a policy at routes that lead to a cluster, and nowhere else
// (CorsFilter::initializeCorsPolicies).
fn cross_origin(route: &HttpRoute, parts: &Parts) -> Result<Option<HeaderValue>, LocalReply> {
    let (Some(policy), HttpAction::Forward(_)) = (&route.cors, &route.action) else {
        return Ok(None);
    };
    match cors::decide(policy, &parts.method, &parts.headers) {
        CorsDecision::Unconcerned => Ok(None),
        CorsDecision::Allowed(origin) => Ok(Some(origin)),
        CorsDecision::Answer(headers) => {
            Err(LocalReply::new(StatusCode::OK, "cors_response").with_headers(&headers))
        }
    }
}

/// Passes a request on and its answer back.
async fn pass_on(
    forward: &Forward,
    routed: &Routed,
    request: Request<RequestBody>,
    (upgrade, survey): (Option<HeaderValue>, Survey),
    mut exchange: Box<Exchange>,
    mut context: Context<'_>,
) -> Response<ResponseBody> {
    let client = Rc::clone(&exchange.client);
    let (mut parts, body) = request.into_parts();
    let target = &routed.state().target;
    let chosen = match context.destination {
        Some(index) => target.chosen(index),
        None => target.choose(),
    };
    context.destination = Some(chosen.index);
    request::keep_facts(&parts, routed, context.destination, &mut exchange);
    exchange.note_decision(|decision| decision.cluster = Some(chosen.name.to_owned()));
    let Some(cluster) = chosen.cluster else {
        return LocalReply::no_cluster().into_response(exchange, context);
    };
    let parity = client.worker.options.parity;
    let (timeout, try_timeout) =
        if routed.route().fault.is_some() && !parity.has(Difference::TimeoutWithFault) {
            (None, None)
        } else {
            timeouts(forward, &parts, context.grpc)
        };
    let plan = Plan {
        routed,
        forward,
        destination: chosen.index,
        timeout,
        try_timeout,
        upgrade,
        survey,
    };
    let (hash, cookie) = hashing::hash(cluster, &parts, &client);
    let own = match request::prepare(&mut parts, &plan, &client, &mut exchange) {
        Ok(own) => own,
        Err(reply) => return reply.into_response(exchange, context),
    };
    let mirrors: Vec<_> = routed
        .state()
        .mirrors
        .iter()
        .filter(|mirror| mirror.percentage.includes(fastrand::u64(..)))
        .collect();
    let errand = Errand {
        cluster,
        hash,
        // With a fault policy there are no retries (Istio: HTTPFaultInjection).
        retry: forward
            .retry
            .as_ref()
            .filter(|_| routed.route().fault.is_none() || parity.has(Difference::TimeoutWithFault)),
        timeout,
        try_timeout,
        upgrade: plan.upgrade.is_some(),
        keep_body: !mirrors.is_empty(),
        grpc: context.grpc,
        expects: survey.expect,
    };
    let mut outgoing = Outgoing::new(parts, own, body, &errand);
    mirror::send(&mirrors, &mut outgoing, &exchange, timeout);
    match forward::run(&errand, &mut outgoing, &mut exchange).await {
        Ok(answer) => {
            let extras = Extras {
                service_time: answer.asked.elapsed(),
                cookie,
                upgrade: None,
            };
            give_back(answer, plan.upgrade, exchange, context, extras)
        }
        // Nobody hears this; the record says that the client has left.
        Err(Failure::ClientGone) => {
            let mut response = Response::new(ResponseBody::none());
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
        Err(failure) => {
            let retried = exchange.attempts > 1;
            let mut reply = LocalReply::failure(&failure, retried);
            if parity.has(Difference::TransportFailure) {
                reply = reply.without_transport_failure();
            }
            reply.into_response(exchange, context)
        }
    }
}

/// How long a request may take in all, and how long a try.
// Envoy: FilterUtility::finalTimeout, which ignores a try's limit that is not below that of all.
fn timeouts(forward: &Forward, parts: &Parts, grpc: bool) -> (Option<Duration>, Option<Duration>) {
    let timeout = if grpc {
        timeout::of_request(forward.timeout, &parts.headers)
    } else {
        forward.timeout
    };
    let try_timeout = forward
        .retry
        .as_ref()
        .and_then(|policy| policy.per_try_timeout)
        .filter(|per_try| timeout.is_none_or(|timeout| *per_try < timeout));
    (timeout, try_timeout)
}

/// Gives an answer back to the client.
fn give_back(
    answer: Answer,
    upgrade: Option<HeaderValue>,
    mut exchange: Box<Exchange>,
    context: Context<'_>,
    mut extras: Extras,
) -> Response<ResponseBody> {
    if answer.response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return response::finish(answer.response, exchange, context, extras);
    }
    let (Some(upgrade), Some(raw)) = (upgrade, answer.raw) else {
        // Nobody asked for it.
        return LocalReply::failure(&Failure::Protocol, false).into_response(exchange, context);
    };
    extras.upgrade = Some(upgrade);
    let (head, _) = response::head(answer.response, &mut exchange, context, extras);
    let client = Rc::clone(&exchange.client);
    client.tunnel.replace(Some(Tunnel { raw, exchange }));
    head.map(|()| ResponseBody::none())
}
