//! The Unix socket and its requests.

use std::{
    convert::Infallible,
    future::Future,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{fs::FileTypeExt as _, net::UnixStream as BlockingStream},
    },
    path::Path,
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{Interest, Ready, unix::AsyncFd},
    net::{UnixListener, UnixStream},
};
use tracing::debug;

use super::{
    metrics,
    status::Status,
    trace::{TraceError, Traces},
    wanted::{Format, Wanted},
};
use nodegate_explain::{
    answer::{Answer, Brief},
    ask::Ask,
};
use nodegate_iptables::{config::KubeProxyArgs, node::KubeProxyNode};

/// On answers of `/explain`: whether the connection or request gets where it should.
pub const ANSWER_IS_GOOD: HeaderName = HeaderName::from_static("nodegate-good");

/// Largest body of a request, in bytes.
const MAX_QUESTION: usize = 64 << 10;

/// On answers of `/trace`: the kernel's decisions are among the lines.
pub const TRACES_KERNEL: HeaderName = HeaderName::from_static("nodegate-traces-kernel");

type Body = BoxBody<Bytes, Infallible>;

/// What the server asks of the process that it speaks for.
pub trait Subject: Send + Sync + 'static {
    /// Its state now.
    fn status(&self) -> Status;
    /// Whether connections may be sent here: the first Snapshot is applied, and the process was not told to
    /// end.
    fn is_ready(&self) -> bool;
    /// Reads the source again and waits until all of it is applied.
    fn sync(&self) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + '_>>;
    /// Its decisions.
    fn traces(&self) -> &Traces;
    /// What becomes of a connection or a request here, and why. Takes a while where there are many
    /// Services.
    ///
    /// # Errors
    /// Says what cannot be asked, and what is not known here.
    fn explain(&self, ask: Ask) -> anyhow::Result<Answer>;
    /// What a kube-proxy with these flags would go by here; what is not given is as it is for this
    /// process.
    ///
    /// # Errors
    /// Says what is wrong with the flags, and what is not known here.
    fn kube_proxy(&self, args: KubeProxyArgs) -> anyhow::Result<KubeProxyNode>;
}

/// Binds the socket, in place of one that a process left that is gone.
///
/// # Errors
/// Fails if a process listens there, if something else than a socket is there, or if the directory
/// cannot be made.
pub fn bind(socket: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = socket.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match std::fs::symlink_metadata(socket) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "it is there, and is no socket (fix: another name for --admin or NODEGATE_ADMIN)",
            ));
        }
        Ok(_) if BlockingStream::connect(socket).is_ok() => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another nodegate listens there (fix: stop it, or name another socket with --admin \
                 or NODEGATE_ADMIN)",
            ));
        }
        Ok(_) => std::fs::remove_file(socket)?,
    }
    UnixListener::bind(socket)
}

/// Serves until the future is dropped.
pub async fn serve(listener: UnixListener, subject: Arc<impl Subject>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, Arc::clone(&subject)))),
            Err(error) => {
                debug!(%error, "accepting on the admin socket");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, subject: Arc<impl Subject>) {
    let client = match stream.as_fd().try_clone_to_owned() {
        Ok(client) => client,
        Err(error) => {
            debug!(%error, "admin connection");
            return;
        }
    };
    let service = service_fn(move |request| {
        let subject = Arc::clone(&subject);
        async move { Ok::<_, Infallible>(answer(&subject, request).await) }
    });
    let connection = http1::Builder::new()
        // A trace's client may close its sending side and go on reading.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            debug!(%error, "admin connection");
        },
        // A trace that nobody sees costs the kernel programs something.
        ended = client_ends(client) => if let Err(error) = ended {
            debug!(%error, "admin connection");
        },
    }
}

/// Waits until the other end has closed both directions: nobody reads any more.
async fn client_ends(client: OwnedFd) -> io::Result<()> {
    // SAFETY: an `OwnedFd` gives the same descriptor until it is dropped.
    let client = unsafe { AsyncFd::register_with_interest(client, Interest::WRITABLE) }?;
    loop {
        let mut ready = client.ready(Interest::WRITABLE).await?;
        if ready.ready().is_write_closed() {
            return Ok(());
        }
        ready.clear_ready_matching(Ready::WRITABLE);
    }
}

async fn answer(subject: &Arc<impl Subject>, request: Request<Incoming>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/ready") => {
            if subject.is_ready() {
                text(StatusCode::OK, "ready\n")
            } else {
                text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "not ready: no Snapshot applied yet\n",
                )
            }
        }
        (&Method::GET, "/status") => status(&**subject),
        (&Method::GET, "/metrics") => response(
            StatusCode::OK,
            metrics::CONTENT_TYPE,
            metrics::text(&subject.status()).into_bytes(),
        ),
        (&Method::POST, "/sync") => match subject.sync().await {
            Ok(()) => status(&**subject),
            Err(error) => text(StatusCode::GATEWAY_TIMEOUT, format!("{error}\n")),
        },
        (&Method::GET, "/trace") => trace(&**subject, request.uri().query().unwrap_or_default()),
        (&Method::POST, "/explain") => explain(subject, request).await,
        (&Method::POST, "/kube-proxy") => kube_proxy(subject, request).await,
        _ => text(
            StatusCode::NOT_FOUND,
            "there are GET /ready, GET /status, GET /metrics, POST /sync, GET /trace, POST /explain and POST /kube-proxy\n",
        ),
    }
}

fn status(subject: &impl Subject) -> Response<Body> {
    match serde_json::to_vec(&subject.status()) {
        Ok(json) => response(StatusCode::OK, "application/json", json),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Reads a question in JSON.
async fn question<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Response<Body>> {
    let wrong = |error: String| text(StatusCode::BAD_REQUEST, error);
    let body = Limited::new(request.into_body(), MAX_QUESTION).collect();
    let body = body.await.map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| wrong(error.to_string()))
}

async fn kube_proxy(subject: &Arc<impl Subject>, request: Request<Incoming>) -> Response<Body> {
    let args = match question(request).await {
        Ok(args) => args,
        Err(response) => return response,
    };
    let subject = Arc::clone(subject);
    let answered = tokio::task::spawn_blocking(move || {
        let node = subject.kube_proxy(args)?;
        anyhow::Ok(serde_json::to_vec(&node)?)
    });
    match answered.await {
        Ok(Ok(json)) => response(StatusCode::OK, "application/json", json),
        Ok(Err(error)) => text(StatusCode::BAD_REQUEST, error.to_string()),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn explain(subject: &Arc<impl Subject>, request: Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let (is_json, is_brief) = (query == "output=json", query == "output=brief");
    let ask: Ask = match question(request).await {
        Ok(ask) => ask,
        Err(response) => return response,
    };
    let subject = Arc::clone(subject);
    let answered = tokio::task::spawn_blocking(move || {
        let answer = subject.explain(ask)?;
        let written = if is_json {
            serde_json::to_string_pretty(&answer)? + "\n"
        } else if is_brief {
            Brief(&answer).to_string()
        } else {
            answer.to_string()
        };
        anyhow::Ok((answer.result.good, written))
    });
    let (good, written) = match answered.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, error.to_string()),
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let kind = if is_json {
        "application/json"
    } else {
        "text/plain; charset=utf-8"
    };
    let mut response = response(StatusCode::OK, kind, written);
    let good = HeaderValue::from_static(if good { "true" } else { "false" });
    response.headers_mut().insert(ANSWER_IS_GOOD, good);
    response
}

fn trace(subject: &impl Subject, query: &str) -> Response<Body> {
    let wanted = match Wanted::parse(query) {
        Ok(wanted) => wanted,
        Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let lines = match subject.traces().listen(&wanted) {
        Ok(lines) => lines,
        Err(error @ TraceError::NoRedirector(_)) => {
            return text(StatusCode::BAD_REQUEST, error.to_string());
        }
        Err(error @ TraceError::Datapath(_)) => {
            return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        }
    };
    let frames = futures_util::stream::unfold(lines, |mut lines| async move {
        let line = lines.recv().await?;
        Some((Ok(Frame::data(Bytes::from(line))), lines))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames.fuse())));
    let kind = match wanted.format {
        Format::Text if !wanted.joinable => "text/plain; charset=utf-8",
        Format::Text | Format::Json => "application/x-ndjson",
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if subject.traces().kernel.is_some() {
        headers.insert(TRACES_KERNEL, HeaderValue::from_static("true"));
    }
    response
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    response(status, "text/plain; charset=utf-8", text)
}

fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// One that has said all may go on reading.
    #[tokio::test]
    async fn a_client_has_ended_when_it_reads_no_more() {
        let (client, server) = UnixStream::pair().unwrap();
        let end = server.as_fd().try_clone_to_owned().unwrap();
        let ended = tokio::spawn(client_ends(end));
        let client = client.into_std().unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        // What a stream says of both is said at once.
        server.ready(Interest::READABLE).await.unwrap();
        tokio::task::yield_now().await;
        assert!(!ended.is_finished());
        drop(client);
        ended.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_at_makes_way() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("letter.txt");
        fs::write(&file, "keep").unwrap();
        let error = bind(&file).unwrap_err().to_string();
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "keep");

        let socket = directory.path().join("run/admin.sock");
        let first = bind(&socket).unwrap();
        let error = bind(&socket).unwrap_err().to_string();
        assert!(error.contains("another nodegate"), "{error}");
        // As a process leaves it that was killed.
        drop(first);
        assert!(socket.exists());
        bind(&socket).unwrap();
    }
}
