//! The server that the API server asks before it takes an object (admission.k8s.io/v1).
//!
//! | request | answer |
//! |---|---|
//! | `POST /validate` | an AdmissionReview with the answer to the one that was sent |
//! | `GET /healthz/ready` | 200 once the cluster has been read, else 503 |
//!
//! The port is open to all who reach the pod. What they can keep busy is bounded; what they learn is what is
//! wrong with an object of their own in this cluster.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::core::{DynamicObject, admission::AdmissionReview};
use nodegate_source::combined::Inputs;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task, time,
};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use crate::review::Reviewer;

/// As many connections as are served at once.
const CONNECTIONS: usize = 64;

/// As many questions as are answered at once: each may take a look at all objects.
const QUESTIONS: usize = 2;

/// Largest question, in bytes: an object of as many bytes as etcd takes (1.5 MiB) as it is and as it was, in
/// JSON with the rest of the review.
const MAX_QUESTION: usize = 8 << 20;

/// How long a handshake, or the rest of a request whose beginning is there, may take.
const LIMIT: Duration = Duration::from_secs(10);

/// How long a connection may wait for its next request.
const IDLE: Duration = Duration::from_secs(90);

/// What the server needs.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Who answers.
    pub reviewer: Arc<Reviewer>,
    /// The objects in force.
    pub inputs: watch::Receiver<Arc<Inputs>>,
    /// The certificate; none: there is none yet.
    pub tls: watch::Receiver<Option<Arc<ServerConfig>>>,
}

/// Why a question has no answer.
#[derive(Debug)]
struct NoAnswer(StatusCode, String);

// === impl Webhook ===

impl Webhook {
    /// Serves until the future is dropped.
    pub async fn serve(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let questions = Arc::new(Semaphore::new(QUESTIONS));
        loop {
            // More wait in the kernel's queue.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (webhook, questions) = (self.clone(), Arc::clone(&questions));
                    tokio::spawn(async move {
                        webhook.connection(stream, questions).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    debug!(%error, "accepting on the webhook's port");
                    time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream, questions: Arc<Semaphore>) {
        let Some(tls) = self.tls.borrow().clone() else {
            return debug!("a connection before there is a certificate");
        };
        let handshake = TlsAcceptor::from(tls).accept(stream);
        let stream = match time::timeout(LIMIT, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return debug!(%error, "a handshake with the webhook"),
            Err(_) => return debug!("a handshake with the webhook takes longer than {LIMIT:?}"),
        };
        let service = service_fn(|request| {
            let (webhook, questions) = (self.clone(), Arc::clone(&questions));
            async move { Ok::<_, Infallible>(webhook.respond(request, &questions).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            debug!(%error, "a connection to the webhook");
        }
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        questions: &Semaphore,
    ) -> Response<Full<Bytes>> {
        let answer = match (request.method(), request.uri().path()) {
            (&Method::POST, "/validate") => self.answer(request, questions).await,
            (&Method::GET | &Method::HEAD, "/healthz/ready") => {
                if self.inputs.borrow().version > 0 {
                    Ok(Bytes::from_static(b"ready\n"))
                } else {
                    let told = "the cluster has not been read yet";
                    Err(NoAnswer(StatusCode::SERVICE_UNAVAILABLE, told.into()))
                }
            }
            _ => {
                let told = "there are POST /validate and GET /healthz/ready";
                Err(NoAnswer(StatusCode::NOT_FOUND, told.into()))
            }
        };
        let is_json = answer.as_ref().is_ok_and(|body| body.starts_with(b"{"));
        let (status, body) = match answer {
            Ok(body) => (StatusCode::OK, body),
            Err(NoAnswer(status, told)) => (status, Bytes::from(told + "\n")),
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        let kind = if is_json {
            "application/json"
        } else {
            "text/plain; charset=utf-8"
        };
        let kind = http::HeaderValue::from_static(kind);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        questions: &Semaphore,
    ) -> Result<Bytes, NoAnswer> {
        let bad = |told: String| NoAnswer(StatusCode::BAD_REQUEST, told);
        let body = Limited::new(request.into_body(), MAX_QUESTION).collect();
        let body = match time::timeout(LIMIT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return Err(bad(format!("the review cannot be read: {error}"))),
            Err(_) => return Err(bad(format!("the review takes longer than {LIMIT:?}"))),
        };
        let review: AdmissionReview<DynamicObject> = serde_json::from_slice(&body)
            .map_err(|error| bad(format!("not an AdmissionReview: {error}")))?;
        let asked = review.try_into();
        let asked = asked.map_err(|_| bad("an AdmissionReview without a request".to_owned()))?;
        let _turn = questions.acquire().await;
        let (reviewer, inputs) = (Arc::clone(&self.reviewer), self.inputs.borrow().clone());
        // It takes the time of a look at all objects.
        let answer = task::spawn_blocking(move || reviewer.review(&inputs.resources, &asked));
        let failed = |told: String| NoAnswer(StatusCode::INTERNAL_SERVER_ERROR, told);
        let answer = answer.await.map_err(|error| failed(error.to_string()))?;
        let review = serde_json::to_vec(&answer.into_review());
        Ok(review.map_err(|error| failed(error.to_string()))?.into())
    }
}
