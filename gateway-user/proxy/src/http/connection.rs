//! A client's connection: HTTP/1.1, one request after the other, or HTTP/2 by prior knowledge, many at
//! once.

use std::{
    cell::Cell,
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
};

use http::{HeaderValue, Method, Request, Response, Version, header::CONNECTION};
use hyper::{body::Incoming, service::service_fn};

use super::{
    answer::answer,
    body::RequestBody,
    client::Client,
    direct::{self, Turn},
    exchange::Exchange,
    extended::ExtendedConnect,
    resets::{Resets, Unanswered},
    response_body::ResponseBody,
    stream::ClientStream,
    validate::asks_to_switch,
};
use crate::{
    accept::Transport,
    connections::{Handle, Order},
    http1::{self, MAX_REQUEST_HEADERS},
    http2,
    overload::Refusal,
};

/// Serves a connection until either side closes it.
pub(super) async fn serve<S: Transport>(client: Rc<Client>, mut stream: ClientStream<S>) {
    let handle = &Rc::clone(&client.handle);
    let address = client.address;
    let first = poll_fn(|cx| match handle.order(cx) {
        // A head of which nothing has come in time is refused as one of HTTP/1.1.
        Order::Serve if handle.rejection().is_some() => Poll::Ready(Some(Ok(false))),
        Order::Serve => stream.poll_preface(cx).map(Some),
        // No request has come yet.
        Order::Finish | Order::Close => Poll::Ready(None),
    });
    let served = match first.await {
        // Boxed: a connection in HTTP/1.1 needs no room for HTTP/2.
        Some(Ok(true)) => Box::pin(serve_http2(stream, client, handle)).await,
        Some(Ok(false)) => serve_http1(stream, &client).await,
        Some(Err(_)) | None => return,
    };
    if let Err(error) = served {
        tracing::debug!(client = %address, %error, "connection ended");
    }
}

/// Serves HTTP/1.1: directly while requests and answers are ordinary, otherwise by hyper.
async fn serve_http1<S: Transport>(
    mut stream: ClientStream<S>,
    client: &Rc<Client>,
) -> hyper::Result<()> {
    loop {
        let prepared = match direct::serve(&mut stream, client).await {
            Turn::Over => return Ok(()),
            Turn::Hyper(prepared) => prepared,
        };
        stream.begin(prepared.is_some());
        client.handle.set_buffered(true);
        // Boxed: a connection that is served directly needs no room for hyper.
        let rested = Box::pin(serve_hyper(stream, client, prepared)).await?;
        client.handle.set_buffered(false);
        match rested {
            Some(rested) => stream = rested,
            None => return Ok(()),
        }
    }
}

/// Serves a connection by hyper until it ends, or until it rests: then it comes back. The first request
/// may have its answer already.
async fn serve_hyper<S: Transport>(
    stream: ClientStream<S>,
    client: &Rc<Client>,
    prepared: Option<Box<Response<ResponseBody>>>,
) -> hyper::Result<Option<ClientStream<S>>> {
    let handle = &client.handle;
    let prepared = Cell::new(prepared);
    let tunnel = Cell::new(None);
    let service = service_fn(|request: Request<Incoming>| {
        let switches = asks_to_switch(request.method(), request.headers());
        let answered = match prepared.take() {
            Some(response) => Ok(*response),
            // At once, and not when the answer is first polled: what is read from the client until then
            // means something else once a request is being served.
            None => Err(begin(client, request)),
        };
        let tunnel = &tunnel;
        async move {
            let mut response = match answered {
                Ok(response) => response,
                Err((request, exchange)) => answer(request, exchange).await,
            };
            if let Some(becomes) = response.body_mut().take_tunnel() {
                tunnel.set(Some(becomes));
            } else if switches {
                // What comes next may be meant for what the connection has not become (Envoy takes it for that, too).
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = http1::server_builder().serve_connection(stream, service);
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
    served?;
    if let Some(tunnel) = tunnel.take() {
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

/// Requests of a connection over HTTP/2 that may have more headers than are allowed. Over HTTP/1.1 the first ends it.
const MOST_OVERLONG: u32 = 16;

/// Serves HTTP/2, by hyper.
async fn serve_http2<S: Transport>(
    stream: ClientStream<S>,
    client: Rc<Client>,
    handle: &Handle,
) -> hyper::Result<()> {
    // The preface is no head of a request.
    handle.head_ended();
    let parity = client.worker.options.parity;
    let offers = client.worker.options.extended_connect;
    let resets = Rc::<Resets>::default();
    let counted = Rc::clone(&resets);
    let overlong = Rc::<Cell<u32>>::default();
    let refused = Rc::clone(&overlong);
    let service = service_fn(move |mut request: Request<Incoming>| {
        if request.headers().len() > MAX_REQUEST_HEADERS {
            refused.set(refused.get() + 1);
        }
        let client = Rc::clone(&client);
        let worker = Rc::clone(&client.worker);
        let unanswered = Unanswered::new(&counted, move || worker.now());
        let extended = ExtendedConnect::translate(&mut request, parity);
        let (request, exchange) = begin(&client, request);
        async move {
            let response = answer(request, exchange).await;
            unanswered.answered();
            Ok::<_, Infallible>(match extended {
                Some(extended) => extended.answer(response),
                None => response,
            })
        }
    });
    let connection = http2::server_builder(offers).serve_connection(stream, service);
    let mut connection = pin!(connection);
    let mut finishing = false;
    let served = poll_fn(|cx| {
        match handle.order(cx) {
            Order::Serve => {}
            Order::Finish if finishing => {}
            Order::Finish => {
                finishing = true;
                connection.as_mut().graceful_shutdown();
            }
            Order::Close => return Ok(()).into(),
        }
        let served = connection.as_mut().poll(cx);
        if served.is_pending() && resets.are_too_many() {
            Refusal::Resets.note();
            return Ok(()).into();
        }
        if overlong.get() > MOST_OVERLONG {
            Refusal::Floods.note();
            return Ok(()).into();
        }
        served
    })
    .await;
    // Before the tasks of its streams hear of it.
    handle.set_over();
    served
}

/// Begins to serve a request.
fn begin(client: &Rc<Client>, request: Request<Incoming>) -> (Request<RequestBody>, Box<Exchange>) {
    let version = request.version();
    let mut exchange = Exchange::new(client, version);
    exchange.head_only = request.method() == Method::HEAD;
    // Where HTTP/1.0 is accepted, it is spoken (Envoy: `supportsHttp10`).
    if version < Version::HTTP_11 && !client.worker.options.accept_http10 {
        client.handle.set_outdated();
    }
    let (parts, incoming) = request.into_parts();
    let (body, progress) = RequestBody::new(incoming, version, &client.handle);
    exchange.set_request_body(progress);
    (Request::from_parts(parts, body), exchange)
}
