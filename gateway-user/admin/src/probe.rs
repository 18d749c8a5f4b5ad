//! What probes and Prometheus ask for, on a TCP port: nothing that changes anything, or tells of objects.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz/ready` | 200 once the first Snapshot is applied and until nodegate is told to end, else 503 |
//! | `GET /metrics` | as on the admin socket |
//!
//! The port is open to all who reach the pod. What they can keep busy is bounded.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};
use tracing::debug;

use crate::{metrics, server::Subject};

/// How many are answered at once.
const AT_ONCE: usize = 32;

/// How long a connection may take altogether.
const LIMIT: Duration = Duration::from_secs(10);

/// Binds the port; with an unspecified address of IPv6 it is IPv4's, too.
///
/// # Errors
/// Fails if the port is taken, or may not be had.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, subject: Arc<impl Subject>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        // More wait in the kernel's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let subject = Arc::clone(&subject);
                tokio::spawn(async move {
                    connection(stream, subject).await;
                    drop(place);
                });
            }
            Err(error) => {
                debug!(%error, "accepting on the port for probes");
                time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, subject: Arc<impl Subject>) {
    let service = service_fn(move |request| {
        let answer = answer(&*subject, &request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match time::timeout(LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "probe"),
        Err(_) => debug!("a probe took longer than {LIMIT:?}"),
    }
}

fn answer(subject: &impl Subject, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz/ready") => {
            if subject.is_ready() {
                (StatusCode::OK, TEXT, Bytes::from_static(b"ready\n"))
            } else {
                let told = Bytes::from_static(b"not ready: `nodegate status` in here tells why\n");
                (StatusCode::SERVICE_UNAVAILABLE, TEXT, told)
            }
        }
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let text = metrics::text(&subject.status());
            (StatusCode::OK, metrics::CONTENT_TYPE, text.into())
        }
        _ => {
            let told = Bytes::from_static(b"there are GET /healthz/ready and GET /metrics\n");
            (StatusCode::NOT_FOUND, TEXT, told)
        }
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
